;; A string that is none.
(i32.store8 (i32.const 128) (i32.const 255))
(call $header (i32.const 128) (i32.const 1) (i32.const 128) (i32.const 1))
