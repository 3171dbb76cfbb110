;; Ever more of the host's memory: responses with bodies.
(loop (call $new-body (call $new-response (call $new-fields)) (i32.const 0)) (br 0))
