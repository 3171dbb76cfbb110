;; Never ends.
(loop (br 0))
