#!/usr/bin/env bash
# What Rust people type: `cargo lambda deploy` and `cargo lambda invoke`, unmodified.
# Usage: PROGRAM=path/to/program cargo_lambda.sh URL, with cargo-lambda on the PATH.
set -euo pipefail

url="$1"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"

export AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
export AWS_DEFAULT_REGION=us-east-1 AWS_ENDPOINT_URL_LAMBDA="$url"
unset AWS_ENDPOINT_URL

role=arn:aws:iam::123456789012:role/r
function="cargo-$$-$RANDOM"
# It asks for the package in this folder, although the program is there already.
mkdir src
printf '[package]\nname = "greeter"\nversion = "0.1.0"\nedition = "2021"\n' >Cargo.toml
echo 'fn main() {}' >src/main.rs
cp "$PROGRAM" greeter

step() { echo "$* …"; }

# has WHAT TEXT PART
has() {
    case "$2" in
        *"$3"*) ;;
        *)
            echo "$1: no '$3' in '$2'" >&2
            exit 1
            ;;
    esac
}

deploy() { cargo lambda deploy --binary-path greeter --output-format json "$@" "$function" 2>&1; }
invoke() { cargo lambda invoke --remote "$@" "$function" | tr -d ' \n'; }

step deploy
said="$(deploy --role "$role" --env-var COLOUR=amber --memory 256 --timeout 20 --tag team=blue --alias live --enable-function-url)"
has arn "$said" "\"function_arn\": \"arn:aws:lambda:us-east-1:000000000000:function:$function\""
has version "$said" '"version": "1"'
has alias "$said" '"alias": "live"'
has url "$said" "\"function_url\": \"$url/lambda-url/"

step invoke
answer="$(invoke --data-ascii '{"command": "hi"}')"
has event "$answer" '"event":{"command":"hi"}'
has variable "$answer" '"colour":"amber"'
has memory "$answer" '"memory":256'
echo '{"from": "a file"}' >event.json
has file "$(invoke --data-file event.json)" '"event":{"from":"afile"}'
has alias "$(invoke --alias live --data-ascii '{}')" '"version":"1"'
has context "$(invoke --data-ascii '{}' --client-context-ascii '{"custom": {"a": "b"}}')" '"name":'
has failure "$(cargo lambda invoke --remote --data-ascii '{"fail": true}' "$function" 2>&1 || true)" 'no such luck'

step deploy again
said="$(deploy --alias live --env-var COLOUR=green --memory 256 --description another)"
has version "$said" '"version": "2"'
has variable "$(invoke --data-ascii '{}')" '"colour":"green"'
has moved "$(invoke --alias live --data-ascii '{}')" '"version":"2"'
# Another endpoint by an option, for those who set no variable.
has option "$(env -u AWS_ENDPOINT_URL_LAMBDA cargo lambda invoke --remote --endpoint-url "$url" --data-ascii '{}' "$function")" green

step extension
said="$(cargo lambda deploy --extension --binary-path greeter --output-format json --compatible-runtimes provided.al2023 "$function" 2>&1)"
has layer "$said" "\"extension_arn\": \"arn:aws:lambda:us-east-1:000000000000:layer:$function:1\""

step what is not there
if said="$(cargo lambda invoke --remote --data-ascii '{}' "$function-nowhere" 2>&1)"; then
    echo "let through: $said" >&2
    exit 1
fi
has missing "$said" ResourceNotFoundException
echo "the life of $function is over"
