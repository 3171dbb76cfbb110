;; Ever more of the host's memory: sets of headers.
(loop (drop (call $new-fields)) (br 0))
