;; As much memory as it can get.
(loop (drop (memory.grow (i32.const 16))) (br 0))
