# An answer that is over the cap, from the program itself: a shell's arguments hold no more.
handler() {
    { printf '"'; head -c 7M /dev/zero | tr '\0' x; printf '"'; } |
        curl --noproxy '*' -sS -o /dev/null "$api/invocation/$id/response" --data-binary @-
    sleep 1000
}
