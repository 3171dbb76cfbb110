;; Waits for a host that does not answer.
(call $get (i32.const 1032) (i32.const 5) (i32.const 1024) (i32.const 4) (i32.const 0))
