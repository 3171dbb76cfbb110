# Leaves a process behind, in a session of its own, and answers.
handler() {
    local mark
    mark=$(sed 's/.*"mark":"\([^"]*\)".*/\1/' <<<"$1")
    setsid sh -c 'sleep 1000; exit' "$mark" >/dev/null 2>&1 </dev/null &
    disown
    echo '[]'
}
