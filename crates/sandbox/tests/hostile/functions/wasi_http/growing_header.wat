;; Ever more of the host's memory: one header that grows.
(i32.store8 (i32.const 128) (i32.const 97))
(loop (call $header (i32.const 128) (i32.const 1) (i32.const 2048) (i32.const 0)) (br 0))
