;; A body without end.
(local.set $body (call $answer (local.get $outparam) (i32.const 200)))
(loop (call $put (global.get $stream) (i32.const 0) (i32.const 4096)) (br 0))
