# Large files, many files, open files: says where each of them ended.
handler() {
    local ended=() file
    for file in a b; do
        head -c 1G /dev/zero 2>/dev/null >"/tmp/$file" && ended+=("\"no end\"") || ended+=('"full"')
    done
    rm /tmp/a /tmp/b
    local number=0
    while : 2>/dev/null >"/tmp/$number"; do number=$((number + 1)); done 2>/dev/null
    ended+=('"full"')
    rm -rf /tmp/[0-9]*
    local descriptor count=0
    while exec {descriptor}</dev/null && [ "$count" -lt 100000 ]; do count=$((count + 1)); done 2>/dev/null
    [ "$count" -lt 100000 ] && ended+=('"full"') || ended+=('"no end"')
    local IFS=,
    echo "[${ended[*]}]"
}
