# Tries the host, the metadata address and private ranges: straight, and through the proxy. Says what answered.
handler() {
    local host port shown status
    sed 's/.*"targets":\[\[\(.*\)\]\].*/\1/; s/\],\[/\n/g; s/[",]/ /g' <<<"$1" | while read -r host port; do
        timeout 0.3 bash -c ": <>/dev/tcp/$host/$port" 2>/dev/null && echo "\"$host $port\""
        case "$host" in *:*) shown="[$host]:$port" ;; *) shown="$host:$port" ;; esac
        for option in "" -p; do
            status=$(curl -s $option -m 5 -o /dev/null -w '%{http_connect} %{http_code}' -x "${HTTP_PROXY:-http://127.0.0.1:9002}" "http://$shown/")
            case "$status" in
                "000 000" | "000 400" | "000 403" | "000 502" | "000 504" | "40"[03]" "* | "50"[24]" "*) ;;
                *) echo "\"$shown by the proxy: $status\"" ;;
            esac
        done
    done | paste -sd, | sed 's/^/[/; s/$/]/' | grep . || echo '[]'
}
