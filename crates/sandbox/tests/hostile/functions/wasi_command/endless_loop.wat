;; Never ends.
(loop (br 0))
(unreachable)
