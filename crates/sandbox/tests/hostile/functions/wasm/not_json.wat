;; An answer that is no JSON.
(component
  (import "log" (func $log (param "line" string)))
  (core module $lib
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (global.get $free))
      (global.set $free (i32.add (global.get $free) (local.get 3)))
      (local.get $at)))
  (core instance $lib (instantiate $lib))
  (core func $log (canon lower (func $log) (memory (core memory $lib "memory"))))
  (core module $m
    (import "lib" "memory" (memory 1))
    (import "lib" "log" (func $log (param i32 i32)))
    (func (export "handle") (param $at i32) (param $length i32) (result i32)
      (i32.store8 (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (i32.const 0))
      (i32.store (i32.const 24) (i32.const 3))
      (i32.const 16)))
  (core instance $i (instantiate $m
    (with "lib" (instance (export "memory" (memory $lib "memory")) (export "log" (func $log))))))
  (func (export "handle") (param "event" string) (result (result string (error string)))
    (canon lift (core func $i "handle") (memory (core memory $lib "memory"))
      (realloc (core func $lib "realloc")))))
