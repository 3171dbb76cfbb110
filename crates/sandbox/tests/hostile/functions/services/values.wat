;; Values without end.
(loop (call $set-value (i32.const 1024) (i32.const 4) (i32.const 1024) (i32.const 4)
  (i32.const 0) (i32.const 65536) (i32.const 0)) (br 0))
