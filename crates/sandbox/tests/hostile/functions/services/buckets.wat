;; Buckets without end.
(loop (call $open (i32.const 1024) (i32.const 4) (i32.const 0)) (br 0))
