# Greets. The event is $1, in JSON; what is printed is the answer, and stderr is the log.
handler() {
    local name
    name=$(printf '%s' "$1" | sed -n 's/.*"name" *: *"\([^"]*\)".*/\1/p')
    echo "greeting ${name:-world}" >&2
    printf '{"message": "hello %s"}' "${name:-world}"
}
