;; A log without end.
(local.set $out (call $stderr))
(loop (call $put (local.get $out) (i32.const 0) (i32.const 4096)) (br 0))
(unreachable)
