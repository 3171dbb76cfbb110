# A log of more than anybody reads.
handler() {
    head -c 30M /dev/zero | tr '\0' x | fold -w 100 >&2
    echo '[]'
}
