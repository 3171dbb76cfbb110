;; A string that is not there.
(call $header (i32.const -16) (i32.const 100) (i32.const 128) (i32.const 1))
