;; A component of HTTP, for the bench and for tests of what is around it. By the first letter of the path: `/echo` answers 201
;; with the request's headers, `x-path`, `x-method` and each part of the body as it comes, and writes `seen` to its log; `/trap`
;; traps, `/none` returns without an answer, `/loop` never does, `/partial` traps in the middle of its body, `/big` has
;; 8,388,613 bytes, and all else is `hello`.
;; What follows is what `wit-component` makes of a module of a hundred lines, as text.
(component
  (type $ty-wasi:io/error@0.2.0 (;0;)
    (instance
      (export (;0;) "error" (type (sub resource)))
    )
  )
  (import "wasi:io/error@0.2.0" (instance $wasi:io/error@0.2.0 (;0;) (type $ty-wasi:io/error@0.2.0)))
  (alias export $wasi:io/error@0.2.0 "error" (type $error (;1;)))
  (type $ty-wasi:io/streams@0.2.0 (;2;)
    (instance
      (export (;0;) "input-stream" (type (sub resource)))
      (alias outer 1 $error (type (;1;)))
      (export (;2;) "error" (type (eq 1)))
      (type (;3;) (own 2))
      (type (;4;) (variant (case "last-operation-failed" 3) (case "closed")))
      (export (;5;) "stream-error" (type (eq 4)))
      (export (;6;) "output-stream" (type (sub resource)))
      (type (;7;) (borrow 0))
      (type (;8;) (list u8))
      (type (;9;) (result 8 (error 5)))
      (type (;10;) (func (param "self" 7) (param "len" u64) (result 9)))
      (export (;0;) "[method]input-stream.blocking-read" (func (type 10)))
      (type (;11;) (borrow 6))
      (type (;12;) (result (error 5)))
      (type (;13;) (func (param "self" 11) (param "contents" 8) (result 12)))
      (export (;1;) "[method]output-stream.blocking-write-and-flush" (func (type 13)))
    )
  )
  (import "wasi:io/streams@0.2.0" (instance $wasi:io/streams@0.2.0 (;1;) (type $ty-wasi:io/streams@0.2.0)))
  (alias export $wasi:io/streams@0.2.0 "output-stream" (type $output-stream (;3;)))
  (type $ty-wasi:cli/stderr@0.2.0 (;4;)
    (instance
      (alias outer 1 $output-stream (type (;0;)))
      (export (;1;) "output-stream" (type (eq 0)))
      (type (;2;) (own 1))
      (type (;3;) (func (result 2)))
      (export (;0;) "get-stderr" (func (type 3)))
    )
  )
  (import "wasi:cli/stderr@0.2.0" (instance $wasi:cli/stderr@0.2.0 (;2;) (type $ty-wasi:cli/stderr@0.2.0)))
  (alias export $wasi:io/streams@0.2.0 "input-stream" (type $input-stream (;5;)))
  (alias export $wasi:io/streams@0.2.0 "output-stream" (type $"#type6 output-stream" (@name "output-stream") (;6;)))
  (type $ty-wasi:http/types@0.2.0 (;7;)
    (instance
      (export (;0;) "fields" (type (sub resource)))
      (type (;1;) string)
      (export (;2;) "field-key" (type (eq 1)))
      (export (;3;) "field-name" (type (eq 2)))
      (type (;4;) (list u8))
      (export (;5;) "field-value" (type (eq 4)))
      (type (;6;) (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
      (export (;7;) "header-error" (type (eq 6)))
      (export (;8;) "incoming-request" (type (sub resource)))
      (type (;9;) (variant (case "get") (case "head") (case "post") (case "put") (case "delete") (case "connect") (case "options") (case "trace") (case "patch") (case "other" string)))
      (export (;10;) "method" (type (eq 9)))
      (export (;11;) "headers" (type (eq 0)))
      (export (;12;) "incoming-body" (type (sub resource)))
      (alias outer 1 $input-stream (type (;13;)))
      (export (;14;) "input-stream" (type (eq 13)))
      (export (;15;) "outgoing-response" (type (sub resource)))
      (type (;16;) u16)
      (export (;17;) "status-code" (type (eq 16)))
      (export (;18;) "outgoing-body" (type (sub resource)))
      (alias outer 1 $"#type6 output-stream" (type (;19;)))
      (export (;20;) "output-stream" (type (eq 19)))
      (export (;21;) "trailers" (type (eq 0)))
      (type (;22;) (option string))
      (type (;23;) (option u16))
      (type (;24;) (record (field "rcode" 22) (field "info-code" 23)))
      (export (;25;) "DNS-error-payload" (type (eq 24)))
      (type (;26;) (option u8))
      (type (;27;) (record (field "alert-id" 26) (field "alert-message" 22)))
      (export (;28;) "TLS-alert-received-payload" (type (eq 27)))
      (type (;29;) (option u32))
      (type (;30;) (record (field "field-name" 22) (field "field-size" 29)))
      (export (;31;) "field-size-payload" (type (eq 30)))
      (type (;32;) (option u64))
      (type (;33;) (option 31))
      (type (;34;) (variant (case "DNS-timeout") (case "DNS-error" 25) (case "destination-not-found") (case "destination-unavailable") (case "destination-IP-prohibited") (case "destination-IP-unroutable") (case "connection-refused") (case "connection-terminated") (case "connection-timeout") (case "connection-read-timeout") (case "connection-write-timeout") (case "connection-limit-reached") (case "TLS-protocol-error") (case "TLS-certificate-error") (case "TLS-alert-received" 28) (case "HTTP-request-denied") (case "HTTP-request-length-required") (case "HTTP-request-body-size" 32) (case "HTTP-request-method-invalid") (case "HTTP-request-URI-invalid") (case "HTTP-request-URI-too-long") (case "HTTP-request-header-section-size" 29) (case "HTTP-request-header-size" 33) (case "HTTP-request-trailer-section-size" 29) (case "HTTP-request-trailer-size" 31) (case "HTTP-response-incomplete") (case "HTTP-response-header-section-size" 29) (case "HTTP-response-header-size" 31) (case "HTTP-response-body-size" 32) (case "HTTP-response-trailer-section-size" 29) (case "HTTP-response-trailer-size" 31) (case "HTTP-response-transfer-coding" 22) (case "HTTP-response-content-coding" 22) (case "HTTP-response-timeout") (case "HTTP-upgrade-failed") (case "HTTP-protocol-error") (case "loop-detected") (case "configuration-error") (case "internal-error" 22)))
      (export (;35;) "error-code" (type (eq 34)))
      (export (;36;) "response-outparam" (type (sub resource)))
      (type (;37;) (own 0))
      (type (;38;) (func (result 37)))
      (export (;0;) "[constructor]fields" (func (type 38)))
      (type (;39;) (borrow 0))
      (type (;40;) (result (error 7)))
      (type (;41;) (func (param "self" 39) (param "name" 3) (param "value" 5) (result 40)))
      (export (;1;) "[method]fields.append" (func (type 41)))
      (type (;42;) (tuple 2 5))
      (type (;43;) (list 42))
      (type (;44;) (func (param "self" 39) (result 43)))
      (export (;2;) "[method]fields.entries" (func (type 44)))
      (type (;45;) (borrow 8))
      (type (;46;) (func (param "self" 45) (result 10)))
      (export (;3;) "[method]incoming-request.method" (func (type 46)))
      (type (;47;) (own 11))
      (type (;48;) (func (param "self" 45) (result 47)))
      (export (;4;) "[method]incoming-request.headers" (func (type 48)))
      (type (;49;) (func (param "self" 45) (result 22)))
      (export (;5;) "[method]incoming-request.path-with-query" (func (type 49)))
      (type (;50;) (own 12))
      (type (;51;) (result 50))
      (type (;52;) (func (param "self" 45) (result 51)))
      (export (;6;) "[method]incoming-request.consume" (func (type 52)))
      (type (;53;) (own 36))
      (type (;54;) (own 15))
      (type (;55;) (result 54 (error 35)))
      (type (;56;) (func (param "param" 53) (param "response" 55)))
      (export (;7;) "[static]response-outparam.set" (func (type 56)))
      (type (;57;) (borrow 12))
      (type (;58;) (own 14))
      (type (;59;) (result 58))
      (type (;60;) (func (param "self" 57) (result 59)))
      (export (;8;) "[method]incoming-body.stream" (func (type 60)))
      (type (;61;) (func (param "headers" 47) (result 54)))
      (export (;9;) "[constructor]outgoing-response" (func (type 61)))
      (type (;62;) (borrow 15))
      (type (;63;) (result))
      (type (;64;) (func (param "self" 62) (param "status-code" 17) (result 63)))
      (export (;10;) "[method]outgoing-response.set-status-code" (func (type 64)))
      (type (;65;) (own 18))
      (type (;66;) (result 65))
      (type (;67;) (func (param "self" 62) (result 66)))
      (export (;11;) "[method]outgoing-response.body" (func (type 67)))
      (type (;68;) (borrow 18))
      (type (;69;) (own 20))
      (type (;70;) (result 69))
      (type (;71;) (func (param "self" 68) (result 70)))
      (export (;12;) "[method]outgoing-body.write" (func (type 71)))
      (type (;72;) (own 21))
      (type (;73;) (option 72))
      (type (;74;) (result (error 35)))
      (type (;75;) (func (param "this" 65) (param "trailers" 73) (result 74)))
      (export (;13;) "[static]outgoing-body.finish" (func (type 75)))
    )
  )
  (import "wasi:http/types@0.2.0" (instance $wasi:http/types@0.2.0 (;3;) (type $ty-wasi:http/types@0.2.0)))
  (core module $main (;0;)
    (type (;0;) (func (param i32 i64 i32)))
    (type (;1;) (func (param i32 i32 i32 i32)))
    (type (;2;) (func (param i32)))
    (type (;3;) (func (result i32)))
    (type (;4;) (func (param i32 i32 i32 i32 i32 i32)))
    (type (;5;) (func (param i32 i32)))
    (type (;6;) (func (param i32) (result i32)))
    (type (;7;) (func (param i32 i32) (result i32)))
    (type (;8;) (func (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (type (;9;) (func (param i32 i32 i32 i32) (result i32)))
    (import "wasi:io/streams@0.2.0" "[method]input-stream.blocking-read" (func $read (;0;) (type 0)))
    (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush" (func $write (;1;) (type 1)))
    (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop-output (;2;) (type 2)))
    (import "wasi:io/streams@0.2.0" "[resource-drop]input-stream" (func $drop-input (;3;) (type 2)))
    (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (;4;) (type 3)))
    (import "wasi:http/types@0.2.0" "[constructor]fields" (func $new-fields (;5;) (type 3)))
    (import "wasi:http/types@0.2.0" "[method]fields.append" (func $append (;6;) (type 4)))
    (import "wasi:http/types@0.2.0" "[method]fields.entries" (func $entries (;7;) (type 5)))
    (import "wasi:http/types@0.2.0" "[method]incoming-request.method" (func $method (;8;) (type 5)))
    (import "wasi:http/types@0.2.0" "[method]incoming-request.path-with-query" (func $path (;9;) (type 5)))
    (import "wasi:http/types@0.2.0" "[method]incoming-request.headers" (func $headers (;10;) (type 6)))
    (import "wasi:http/types@0.2.0" "[method]incoming-request.consume" (func $consume (;11;) (type 5)))
    (import "wasi:http/types@0.2.0" "[method]incoming-body.stream" (func $body-stream (;12;) (type 5)))
    (import "wasi:http/types@0.2.0" "[constructor]outgoing-response" (func $new-response (;13;) (type 6)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-response.set-status-code" (func $set-status (;14;) (type 7)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-response.body" (func $new-body (;15;) (type 5)))
    (import "wasi:http/types@0.2.0" "[method]outgoing-body.write" (func $body-write (;16;) (type 5)))
    (import "wasi:http/types@0.2.0" "[static]outgoing-body.finish" (func $body-finish (;17;) (type 1)))
    (import "wasi:http/types@0.2.0" "[static]response-outparam.set" (func $set (;18;) (type 8)))
    (memory (;0;) 1)
    (global $free (;0;) (mut i32) i32.const 1024)
    (global $fields (;1;) (mut i32) i32.const 0)
    (global $out (;2;) (mut i32) i32.const 0)
    (export "memory" (memory 0))
    (export "cabi_realloc" (func 19))
    (export "wasi:http/incoming-handler@0.2.0#handle" (func 24))
    (func (;19;) (type 9) (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      global.get $free
      i32.const 7
      i32.add
      i32.const -8
      i32.and
      local.set $at
      local.get $at
      local.get 3
      i32.add
      global.set $free
      global.get $free
      memory.size
      i32.const 65536
      i32.mul
      i32.gt_u
      if ;; label = @1
        i32.const 1
        local.get 3
        i32.const 16
        i32.shr_u
        i32.add
        memory.grow
        drop
      end
      local.get $at
    )
    (func $answer (;20;) (type 7) (param $outparam i32) (param $status i32) (result i32)
      (local $response i32) (local $body i32)
      global.get $fields
      call $new-response
      local.set $response
      local.get $response
      local.get $status
      call $set-status
      drop
      local.get $response
      i32.const 0
      call $new-body
      i32.const 4
      i32.load
      local.set $body
      local.get $body
      i32.const 0
      call $body-write
      i32.const 4
      i32.load
      global.set $out
      local.get $outparam
      i32.const 0
      local.get $response
      i32.const 0
      i64.const 0
      i32.const 0
      i32.const 0
      i32.const 0
      i32.const 0
      call $set
      local.get $body
    )
    (func $finish (;21;) (type 2) (param $body i32)
      global.get $out
      call $drop-output
      local.get $body
      i32.const 0
      i32.const 0
      i32.const 0
      call $body-finish
    )
    (func $put (;22;) (type 5) (param $at i32) (param $length i32)
      (local $part i32)
      loop $more
        local.get $length
        if ;; label = @2
          local.get $length
          i32.const 4096
          local.get $length
          i32.const 4096
          i32.lt_u
          select
          local.set $part
          global.get $out
          local.get $at
          local.get $part
          i32.const 0
          call $write
          i32.const 0
          i32.load8_u
          if ;; label = @3
            return
          end
          local.get $at
          local.get $part
          i32.add
          local.set $at
          local.get $length
          local.get $part
          i32.sub
          local.set $length
          br $more
        end
      end
    )
    (func $echo (;23;) (type 5) (param $request i32) (param $outparam i32)
      (local $at i32) (local $end i32) (local $body i32) (local $in i32) (local $mark i32) (local $log i32)
      call $stderr
      local.set $log
      local.get $log
      i32.const 176
      i32.const 5
      i32.const 0
      call $write
      local.get $log
      call $drop-output
      global.get $fields
      i32.const 128
      i32.const 6
      i32.const 64
      i32.load
      i32.const 68
      i32.load
      i32.const 0
      call $append
      local.get $request
      i32.const 32
      call $method
      i32.const 32
      i32.const 48
      i32.const 32
      i32.load8_u
      i32.add
      i32.store8
      global.get $fields
      i32.const 144
      i32.const 8
      i32.const 32
      i32.const 1
      i32.const 0
      call $append
      local.get $request
      call $headers
      i32.const 0
      call $entries
      i32.const 0
      i32.load
      local.set $at
      local.get $at
      i32.const 4
      i32.load
      i32.const 4
      i32.shl
      i32.add
      local.set $end
      block $done
        loop $more
          local.get $at
          local.get $end
          i32.ge_u
          br_if $done
          global.get $fields
          local.get $at
          i32.load
          local.get $at
          i32.load offset=4
          local.get $at
          i32.load offset=8
          local.get $at
          i32.load offset=12
          i32.const 0
          call $append
          local.get $at
          i32.const 16
          i32.add
          local.set $at
          br $more
        end
      end
      local.get $request
      i32.const 0
      call $consume
      i32.const 4
      i32.load
      i32.const 0
      call $body-stream
      i32.const 4
      i32.load
      local.set $in
      local.get $outparam
      i32.const 201
      call $answer
      local.set $body
      global.get $free
      local.set $mark
      block $end
        loop $more
          local.get $mark
          global.set $free
          local.get $in
          i64.const 65536
          i32.const 0
          call $read
          i32.const 0
          i32.load8_u
          br_if $end
          i32.const 4
          i32.load
          i32.const 8
          i32.load
          call $put
          br $more
        end
      end
      local.get $body
      call $finish
    )
    (func (;24;) (type 5) (param $request i32) (param $outparam i32)
      (local $body i32) (local $kind i32) (local $count i32)
      call $new-fields
      global.set $fields
      local.get $request
      i32.const 0
      call $path
      i32.const 64
      i32.const 4
      i32.load
      i32.store
      i32.const 68
      i32.const 8
      i32.load
      i32.store
      i32.const 68
      i32.load
      i32.const 1
      i32.gt_u
      if ;; label = @1
        i32.const 64
        i32.load
        i32.load8_u offset=1
        local.set $kind
      end
      local.get $kind
      i32.const 101
      i32.eq
      if ;; label = @1
        local.get $request
        local.get $outparam
        call $echo
        return
      end
      local.get $kind
      i32.const 116
      i32.eq
      if ;; label = @1
        unreachable
      end
      local.get $kind
      i32.const 110
      i32.eq
      if ;; label = @1
        return
      end
      local.get $kind
      i32.const 108
      i32.eq
      if ;; label = @1
        loop $ever
          br $ever
        end
      end
      local.get $outparam
      i32.const 200
      call $answer
      local.set $body
      i32.const 160
      i32.const 5
      call $put
      local.get $kind
      i32.const 112
      i32.eq
      if ;; label = @1
        unreachable
      end
      local.get $kind
      i32.const 98
      i32.eq
      if ;; label = @1
        loop $more
          i32.const 0
          i32.const 4096
          call $put
          local.get $count
          i32.const 1
          i32.add
          local.set $count
          local.get $count
          i32.const 2048
          i32.lt_u
          br_if $more
        end
      end
      local.get $body
      call $finish
    )
    (data (;0;) (i32.const 128) "x-path")
    (data (;1;) (i32.const 144) "x-method")
    (data (;2;) (i32.const 160) "hello")
    (data (;3;) (i32.const 176) "seen\0a")
    (@producers
      (processed-by "wit-component" "0.259.0")
    )
  )
  (core module $wit-component-shim-module (;1;)
    (type (;0;) (func (param i32 i64 i32)))
    (type (;1;) (func (param i32 i32 i32 i32)))
    (type (;2;) (func (param i32 i32 i32 i32 i32 i32)))
    (type (;3;) (func (param i32 i32)))
    (type (;4;) (func (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (table (;0;) 12 12 funcref)
    (export "0" (func 0))
    (export "1" (func 1))
    (export "2" (func 2))
    (export "3" (func 3))
    (export "4" (func 4))
    (export "5" (func 5))
    (export "6" (func 6))
    (export "7" (func 7))
    (export "8" (func 8))
    (export "9" (func 9))
    (export "10" (func 10))
    (export "11" (func 11))
    (export "$imports" (table 0))
    (func (;0;) (type 0) (param i32 i64 i32)
      local.get 0
      local.get 1
      local.get 2
      i32.const 0
      call_indirect (type 0)
    )
    (func (;1;) (type 1) (param i32 i32 i32 i32)
      local.get 0
      local.get 1
      local.get 2
      local.get 3
      i32.const 1
      call_indirect (type 1)
    )
    (func (;2;) (type 2) (param i32 i32 i32 i32 i32 i32)
      local.get 0
      local.get 1
      local.get 2
      local.get 3
      local.get 4
      local.get 5
      i32.const 2
      call_indirect (type 2)
    )
    (func (;3;) (type 3) (param i32 i32)
      local.get 0
      local.get 1
      i32.const 3
      call_indirect (type 3)
    )
    (func (;4;) (type 3) (param i32 i32)
      local.get 0
      local.get 1
      i32.const 4
      call_indirect (type 3)
    )
    (func (;5;) (type 3) (param i32 i32)
      local.get 0
      local.get 1
      i32.const 5
      call_indirect (type 3)
    )
    (func (;6;) (type 3) (param i32 i32)
      local.get 0
      local.get 1
      i32.const 6
      call_indirect (type 3)
    )
    (func (;7;) (type 3) (param i32 i32)
      local.get 0
      local.get 1
      i32.const 7
      call_indirect (type 3)
    )
    (func (;8;) (type 3) (param i32 i32)
      local.get 0
      local.get 1
      i32.const 8
      call_indirect (type 3)
    )
    (func (;9;) (type 3) (param i32 i32)
      local.get 0
      local.get 1
      i32.const 9
      call_indirect (type 3)
    )
    (func (;10;) (type 1) (param i32 i32 i32 i32)
      local.get 0
      local.get 1
      local.get 2
      local.get 3
      i32.const 10
      call_indirect (type 1)
    )
    (func (;11;) (type 4) (param i32 i32 i32 i32 i64 i32 i32 i32 i32)
      local.get 0
      local.get 1
      local.get 2
      local.get 3
      local.get 4
      local.get 5
      local.get 6
      local.get 7
      local.get 8
      i32.const 11
      call_indirect (type 4)
    )
    (@producers
      (processed-by "wit-component" "0.259.0")
    )
  )
  (core instance $wit-component-shim-instance (;0;) (instantiate $wit-component-shim-module))
  (alias export $wasi:http/types@0.2.0 "incoming-request" (type $incoming-request (;8;)))
  (alias export $wasi:http/types@0.2.0 "response-outparam" (type $response-outparam (;9;)))
  (alias core export $wit-component-shim-instance "0" (core func $"indirect-wasi:io/streams@0.2.0-[method]input-stream.blocking-read" (;0;)))
  (alias core export $wit-component-shim-instance "1" (core func $"indirect-wasi:io/streams@0.2.0-[method]output-stream.blocking-write-and-flush" (;1;)))
  (alias export $wasi:io/streams@0.2.0 "output-stream" (type $"#type10 output-stream" (@name "output-stream") (;10;)))
  (core func $resource.drop (;2;) (canon resource.drop $"#type10 output-stream"))
  (alias export $wasi:io/streams@0.2.0 "input-stream" (type $"#type11 input-stream" (@name "input-stream") (;11;)))
  (core func $"#core-func3 resource.drop" (@name "resource.drop") (;3;) (canon resource.drop $"#type11 input-stream"))
  (core instance $wasi:io/streams@0.2.0 (;1;)
    (export "[method]input-stream.blocking-read" (func $"indirect-wasi:io/streams@0.2.0-[method]input-stream.blocking-read"))
    (export "[method]output-stream.blocking-write-and-flush" (func $"indirect-wasi:io/streams@0.2.0-[method]output-stream.blocking-write-and-flush"))
    (export "[resource-drop]output-stream" (func $resource.drop))
    (export "[resource-drop]input-stream" (func $"#core-func3 resource.drop"))
  )
  (alias export $wasi:cli/stderr@0.2.0 "get-stderr" (func $get-stderr (;0;)))
  (core func $get-stderr (;4;) (canon lower (func $get-stderr)))
  (core instance $wasi:cli/stderr@0.2.0 (;2;)
    (export "get-stderr" (func $get-stderr))
  )
  (alias export $wasi:http/types@0.2.0 "[constructor]fields" (func $"[constructor]fields" (;1;)))
  (core func $"[constructor]fields" (;5;) (canon lower (func $"[constructor]fields")))
  (alias core export $wit-component-shim-instance "2" (core func $"indirect-wasi:http/types@0.2.0-[method]fields.append" (;6;)))
  (alias core export $wit-component-shim-instance "3" (core func $"indirect-wasi:http/types@0.2.0-[method]fields.entries" (;7;)))
  (alias core export $wit-component-shim-instance "4" (core func $"indirect-wasi:http/types@0.2.0-[method]incoming-request.method" (;8;)))
  (alias core export $wit-component-shim-instance "5" (core func $"indirect-wasi:http/types@0.2.0-[method]incoming-request.path-with-query" (;9;)))
  (alias export $wasi:http/types@0.2.0 "[method]incoming-request.headers" (func $"[method]incoming-request.headers" (;2;)))
  (core func $"[method]incoming-request.headers" (;10;) (canon lower (func $"[method]incoming-request.headers")))
  (alias core export $wit-component-shim-instance "6" (core func $"indirect-wasi:http/types@0.2.0-[method]incoming-request.consume" (;11;)))
  (alias core export $wit-component-shim-instance "7" (core func $"indirect-wasi:http/types@0.2.0-[method]incoming-body.stream" (;12;)))
  (alias export $wasi:http/types@0.2.0 "[constructor]outgoing-response" (func $"[constructor]outgoing-response" (;3;)))
  (core func $"[constructor]outgoing-response" (;13;) (canon lower (func $"[constructor]outgoing-response")))
  (alias export $wasi:http/types@0.2.0 "[method]outgoing-response.set-status-code" (func $"[method]outgoing-response.set-status-code" (;4;)))
  (core func $"[method]outgoing-response.set-status-code" (;14;) (canon lower (func $"[method]outgoing-response.set-status-code")))
  (alias core export $wit-component-shim-instance "8" (core func $"indirect-wasi:http/types@0.2.0-[method]outgoing-response.body" (;15;)))
  (alias core export $wit-component-shim-instance "9" (core func $"indirect-wasi:http/types@0.2.0-[method]outgoing-body.write" (;16;)))
  (alias core export $wit-component-shim-instance "10" (core func $"indirect-wasi:http/types@0.2.0-[static]outgoing-body.finish" (;17;)))
  (alias core export $wit-component-shim-instance "11" (core func $"indirect-wasi:http/types@0.2.0-[static]response-outparam.set" (;18;)))
  (core instance $wasi:http/types@0.2.0 (;3;)
    (export "[constructor]fields" (func $"[constructor]fields"))
    (export "[method]fields.append" (func $"indirect-wasi:http/types@0.2.0-[method]fields.append"))
    (export "[method]fields.entries" (func $"indirect-wasi:http/types@0.2.0-[method]fields.entries"))
    (export "[method]incoming-request.method" (func $"indirect-wasi:http/types@0.2.0-[method]incoming-request.method"))
    (export "[method]incoming-request.path-with-query" (func $"indirect-wasi:http/types@0.2.0-[method]incoming-request.path-with-query"))
    (export "[method]incoming-request.headers" (func $"[method]incoming-request.headers"))
    (export "[method]incoming-request.consume" (func $"indirect-wasi:http/types@0.2.0-[method]incoming-request.consume"))
    (export "[method]incoming-body.stream" (func $"indirect-wasi:http/types@0.2.0-[method]incoming-body.stream"))
    (export "[constructor]outgoing-response" (func $"[constructor]outgoing-response"))
    (export "[method]outgoing-response.set-status-code" (func $"[method]outgoing-response.set-status-code"))
    (export "[method]outgoing-response.body" (func $"indirect-wasi:http/types@0.2.0-[method]outgoing-response.body"))
    (export "[method]outgoing-body.write" (func $"indirect-wasi:http/types@0.2.0-[method]outgoing-body.write"))
    (export "[static]outgoing-body.finish" (func $"indirect-wasi:http/types@0.2.0-[static]outgoing-body.finish"))
    (export "[static]response-outparam.set" (func $"indirect-wasi:http/types@0.2.0-[static]response-outparam.set"))
  )
  (core instance $main (;4;) (instantiate $main
      (with "wasi:io/streams@0.2.0" (instance $wasi:io/streams@0.2.0))
      (with "wasi:cli/stderr@0.2.0" (instance $wasi:cli/stderr@0.2.0))
      (with "wasi:http/types@0.2.0" (instance $wasi:http/types@0.2.0))
    )
  )
  (alias core export $main "memory" (core memory $memory (;0;)))
  (core module $wit-component-fixup (;2;)
    (type (;0;) (func (param i32 i64 i32)))
    (type (;1;) (func (param i32 i32 i32 i32)))
    (type (;2;) (func (param i32 i32 i32 i32 i32 i32)))
    (type (;3;) (func (param i32 i32)))
    (type (;4;) (func (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (import "actual" "0" (func (;0;) (type 0)))
    (import "actual" "1" (func (;1;) (type 1)))
    (import "actual" "2" (func (;2;) (type 2)))
    (import "actual" "3" (func (;3;) (type 3)))
    (import "actual" "4" (func (;4;) (type 3)))
    (import "actual" "5" (func (;5;) (type 3)))
    (import "actual" "6" (func (;6;) (type 3)))
    (import "actual" "7" (func (;7;) (type 3)))
    (import "actual" "8" (func (;8;) (type 3)))
    (import "actual" "9" (func (;9;) (type 3)))
    (import "actual" "10" (func (;10;) (type 1)))
    (import "actual" "11" (func (;11;) (type 4)))
    (import "shim" "$imports" (table (;0;) 12 12 funcref))
    (elem (;0;) (i32.const 0) func 0 1 2 3 4 5 6 7 8 9 10 11)
    (@producers
      (processed-by "wit-component" "0.259.0")
    )
  )
  (alias export $wasi:io/streams@0.2.0 "[method]input-stream.blocking-read" (func $"[method]input-stream.blocking-read" (;5;)))
  (alias core export $main "cabi_realloc" (core func $cabi_realloc (;19;)))
  (core func $"#core-func20 indirect-wasi:io/streams@0.2.0-[method]input-stream.blocking-read" (@name "indirect-wasi:io/streams@0.2.0-[method]input-stream.blocking-read") (;20;) (canon lower (func $"[method]input-stream.blocking-read") (memory $memory) (realloc $cabi_realloc)))
  (alias export $wasi:io/streams@0.2.0 "[method]output-stream.blocking-write-and-flush" (func $"[method]output-stream.blocking-write-and-flush" (;6;)))
  (core func $"#core-func21 indirect-wasi:io/streams@0.2.0-[method]output-stream.blocking-write-and-flush" (@name "indirect-wasi:io/streams@0.2.0-[method]output-stream.blocking-write-and-flush") (;21;) (canon lower (func $"[method]output-stream.blocking-write-and-flush") (memory $memory)))
  (alias export $wasi:http/types@0.2.0 "[method]fields.append" (func $"[method]fields.append" (;7;)))
  (core func $"#core-func22 indirect-wasi:http/types@0.2.0-[method]fields.append" (@name "indirect-wasi:http/types@0.2.0-[method]fields.append") (;22;) (canon lower (func $"[method]fields.append") (memory $memory) string-encoding=utf8))
  (alias export $wasi:http/types@0.2.0 "[method]fields.entries" (func $"[method]fields.entries" (;8;)))
  (core func $"#core-func23 indirect-wasi:http/types@0.2.0-[method]fields.entries" (@name "indirect-wasi:http/types@0.2.0-[method]fields.entries") (;23;) (canon lower (func $"[method]fields.entries") (memory $memory) (realloc $cabi_realloc) string-encoding=utf8))
  (alias export $wasi:http/types@0.2.0 "[method]incoming-request.method" (func $"[method]incoming-request.method" (;9;)))
  (core func $"#core-func24 indirect-wasi:http/types@0.2.0-[method]incoming-request.method" (@name "indirect-wasi:http/types@0.2.0-[method]incoming-request.method") (;24;) (canon lower (func $"[method]incoming-request.method") (memory $memory) (realloc $cabi_realloc) string-encoding=utf8))
  (alias export $wasi:http/types@0.2.0 "[method]incoming-request.path-with-query" (func $"[method]incoming-request.path-with-query" (;10;)))
  (core func $"#core-func25 indirect-wasi:http/types@0.2.0-[method]incoming-request.path-with-query" (@name "indirect-wasi:http/types@0.2.0-[method]incoming-request.path-with-query") (;25;) (canon lower (func $"[method]incoming-request.path-with-query") (memory $memory) (realloc $cabi_realloc) string-encoding=utf8))
  (alias export $wasi:http/types@0.2.0 "[method]incoming-request.consume" (func $"[method]incoming-request.consume" (;11;)))
  (core func $"#core-func26 indirect-wasi:http/types@0.2.0-[method]incoming-request.consume" (@name "indirect-wasi:http/types@0.2.0-[method]incoming-request.consume") (;26;) (canon lower (func $"[method]incoming-request.consume") (memory $memory)))
  (alias export $wasi:http/types@0.2.0 "[method]incoming-body.stream" (func $"[method]incoming-body.stream" (;12;)))
  (core func $"#core-func27 indirect-wasi:http/types@0.2.0-[method]incoming-body.stream" (@name "indirect-wasi:http/types@0.2.0-[method]incoming-body.stream") (;27;) (canon lower (func $"[method]incoming-body.stream") (memory $memory)))
  (alias export $wasi:http/types@0.2.0 "[method]outgoing-response.body" (func $"[method]outgoing-response.body" (;13;)))
  (core func $"#core-func28 indirect-wasi:http/types@0.2.0-[method]outgoing-response.body" (@name "indirect-wasi:http/types@0.2.0-[method]outgoing-response.body") (;28;) (canon lower (func $"[method]outgoing-response.body") (memory $memory)))
  (alias export $wasi:http/types@0.2.0 "[method]outgoing-body.write" (func $"[method]outgoing-body.write" (;14;)))
  (core func $"#core-func29 indirect-wasi:http/types@0.2.0-[method]outgoing-body.write" (@name "indirect-wasi:http/types@0.2.0-[method]outgoing-body.write") (;29;) (canon lower (func $"[method]outgoing-body.write") (memory $memory)))
  (alias export $wasi:http/types@0.2.0 "[static]outgoing-body.finish" (func $"[static]outgoing-body.finish" (;15;)))
  (core func $"#core-func30 indirect-wasi:http/types@0.2.0-[static]outgoing-body.finish" (@name "indirect-wasi:http/types@0.2.0-[static]outgoing-body.finish") (;30;) (canon lower (func $"[static]outgoing-body.finish") (memory $memory) (realloc $cabi_realloc) string-encoding=utf8))
  (alias export $wasi:http/types@0.2.0 "[static]response-outparam.set" (func $"[static]response-outparam.set" (;16;)))
  (core func $"#core-func31 indirect-wasi:http/types@0.2.0-[static]response-outparam.set" (@name "indirect-wasi:http/types@0.2.0-[static]response-outparam.set") (;31;) (canon lower (func $"[static]response-outparam.set") (memory $memory) string-encoding=utf8))
  (core instance $actual (;5;)
    (export "0" (func $"#core-func20 indirect-wasi:io/streams@0.2.0-[method]input-stream.blocking-read"))
    (export "1" (func $"#core-func21 indirect-wasi:io/streams@0.2.0-[method]output-stream.blocking-write-and-flush"))
    (export "2" (func $"#core-func22 indirect-wasi:http/types@0.2.0-[method]fields.append"))
    (export "3" (func $"#core-func23 indirect-wasi:http/types@0.2.0-[method]fields.entries"))
    (export "4" (func $"#core-func24 indirect-wasi:http/types@0.2.0-[method]incoming-request.method"))
    (export "5" (func $"#core-func25 indirect-wasi:http/types@0.2.0-[method]incoming-request.path-with-query"))
    (export "6" (func $"#core-func26 indirect-wasi:http/types@0.2.0-[method]incoming-request.consume"))
    (export "7" (func $"#core-func27 indirect-wasi:http/types@0.2.0-[method]incoming-body.stream"))
    (export "8" (func $"#core-func28 indirect-wasi:http/types@0.2.0-[method]outgoing-response.body"))
    (export "9" (func $"#core-func29 indirect-wasi:http/types@0.2.0-[method]outgoing-body.write"))
    (export "10" (func $"#core-func30 indirect-wasi:http/types@0.2.0-[static]outgoing-body.finish"))
    (export "11" (func $"#core-func31 indirect-wasi:http/types@0.2.0-[static]response-outparam.set"))
  )
  (core instance $fixup (;6;) (instantiate $wit-component-fixup
      (with "actual" (instance $actual))
      (with "shim" (instance $wit-component-shim-instance))
    )
  )
  (type (;12;) (own $incoming-request))
  (type (;13;) (own $response-outparam))
  (type (;14;) (func (param "request" 12) (param "response-out" 13)))
  (alias core export $main "wasi:http/incoming-handler@0.2.0#handle" (core func $wasi:http/incoming-handler@0.2.0#handle (;32;)))
  (func $handle (;17;) (type 14) (canon lift (core func $wasi:http/incoming-handler@0.2.0#handle)))
  (component $wasi:http/incoming-handler@0.2.0-shim-component (;0;)
    (import "import-type-incoming-request" (type (;0;) (sub resource)))
    (import "import-type-response-outparam" (type (;1;) (sub resource)))
    (import "import-type-incoming-request0" (type (;2;) (eq 0)))
    (type (;3;) (own 2))
    (import "import-type-response-outparam0" (type (;4;) (eq 1)))
    (type (;5;) (own 4))
    (type (;6;) (func (param "request" 3) (param "response-out" 5)))
    (import "import-func-handle" (func (;0;) (type 6)))
    (export (;7;) "incoming-request" (type 0))
    (export (;8;) "response-outparam" (type 1))
    (type (;9;) (own 7))
    (type (;10;) (own 8))
    (type (;11;) (func (param "request" 9) (param "response-out" 10)))
    (export (;1;) "handle" (func 0) (func (type 11)))
  )
  (instance $wasi:http/incoming-handler@0.2.0-shim-instance (;4;) (instantiate $wasi:http/incoming-handler@0.2.0-shim-component
      (with "import-func-handle" (func $handle))
      (with "import-type-incoming-request" (type $incoming-request))
      (with "import-type-response-outparam" (type $response-outparam))
      (with "import-type-incoming-request0" (type $incoming-request))
      (with "import-type-response-outparam0" (type $response-outparam))
    )
  )
  (export $wasi:http/incoming-handler@0.2.0 (;5;) "wasi:http/incoming-handler@0.2.0" (instance $wasi:http/incoming-handler@0.2.0-shim-instance))
  (@producers
    (processed-by "wit-component" "0.259.0")
  )
)
