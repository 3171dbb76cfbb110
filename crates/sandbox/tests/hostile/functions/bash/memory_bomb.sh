# As much memory as it can get.
handler() {
    local keep=x
    while true; do keep=$keep$keep; done
}
