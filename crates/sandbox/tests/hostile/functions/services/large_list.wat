;; Lists that fill its own memory.
(loop (call $keys (i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1000)
  (i32.const 0)) (br 0))
