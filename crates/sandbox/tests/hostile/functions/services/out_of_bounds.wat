;; A key that is not there.
(call $get (i32.const 1024) (i32.const 4) (i32.const -8) (i32.const 1) (i32.const 0))
