;; Ends in the middle.
(unreachable)
