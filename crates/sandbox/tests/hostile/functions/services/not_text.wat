;; A key that is no text.
(i32.store8 (i32.const 1028) (i32.const 255))
(call $get (i32.const 1024) (i32.const 4) (i32.const 1028) (i32.const 1) (i32.const 0))
