# Never ends.
handler() { while :; do :; done; }
