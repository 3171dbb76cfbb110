;; A response that begins and never goes on.
(local.set $body (call $answer (local.get $outparam) (i32.const 200)))
(loop (br 0))
