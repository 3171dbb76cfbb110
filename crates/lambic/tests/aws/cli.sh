#!/usr/bin/env bash
# The life of a function in the words of the unmodified AWS CLI.
# Usage: AWS=path/to/aws PYTHON=path/to/python cli.sh URL
set -euo pipefail

url="$1"
aws="${AWS:-aws}"
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"

# Nothing of whoever runs this.
export AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
export AWS_DEFAULT_REGION=us-east-1 AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_PAGER=""
export AWS_EC2_METADATA_DISABLED=true AWS_MAX_ATTEMPTS=1
unset AWS_SESSION_TOKEN AWS_PROFILE AWS_ENDPOINT_URL AWS_ENDPOINT_URL_LAMBDA

function="cli-$$-$RANDOM"
role=arn:aws:iam::123456789012:role/r

lambda() { "$aws" --endpoint-url "$url" --output text lambda "$@"; }

step() { echo "$* …"; }

# is WHAT ACTUAL EXPECTED
is() {
    if [ "$2" != "$3" ]; then
        echo "$1: '$2' instead of '$3'" >&2
        exit 1
    fi
}

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

# refused CODE COMMAND …: the command must fail with this error.
refused() {
    local code="$1" said
    shift
    if said="$(lambda "$@" 2>&1)"; then
        echo "$*: let through instead of $code: $said" >&2
        exit 1
    fi
    has "$*" "$said" "($code)"
}

zip_of() { # zip_of ZIP FILE …
    "$python" -m zipfile -c "$@"
}

app() { # app WORD
    printf 'import os\n\n\ndef handler(event, context):\n    print("seen")\n    return ["%s", event, os.environ.get("WHO")]\n' "$1" >app.py
    zip_of app.zip app.py
}

invoke() { # invoke OPTION …: prints the payload, without its spaces
    lambda invoke --function-name "$function" "$@" answer.json >invoked.txt
    tr -d ' ' <answer.json
}

step create
app one
is state "$(lambda create-function --function-name "$function" --runtime python3.11 --role "$role" --handler app.handler \
    --zip-file fileb://app.zip --environment 'Variables={WHO=me}' --tags team=blue --query FunctionName)" "$function"
lambda wait function-active-v2 --function-name "$function"
arn="$(lambda get-function --function-name "$function" --query Configuration.FunctionArn)"
has arn "$arn" ":function:$function"
is memory "$(lambda get-function-configuration --function-name "$function" --query MemorySize)" 128
has listed "$(lambda list-functions --query 'Functions[].FunctionName')" "$function"

step invoke
is answer "$(invoke --payload '{"a": 1}')" '["one",{"a":1},"me"]'
has version "$(cat invoked.txt)" '$LATEST'
is asynchronous "$(lambda invoke --function-name "$function" --invocation-type Event --payload '{}' answer.json --query StatusCode)" 202
is "dry run" "$(lambda invoke --function-name "$function" --invocation-type DryRun answer.json --query StatusCode)" 204
log="$(lambda invoke --function-name "$function" --log-type Tail answer.json --query LogResult | base64 -d)"
for word in "START RequestId" seen "END RequestId" "REPORT RequestId"; do has log "$log" "$word"; done

step update
app two
lambda update-function-code --function-name "$function" --zip-file fileb://app.zip --publish >/dev/null
lambda wait function-updated-v2 --function-name "$function"
is answer "$(invoke --qualifier 1)" '["two",{},"me"]'
lambda update-function-configuration --function-name "$function" --timeout 7 --memory-size 256 --environment 'Variables={WHO=you}' >/dev/null
lambda wait function-updated-v2 --function-name "$function"
is configuration "$(lambda get-function-configuration --function-name "$function" --query '[Timeout, MemorySize]' | tr '\t' ' ')" "7 256"
is answer "$(invoke)" '["two",{},"you"]'

step versions and aliases
app three
lambda update-function-code --function-name "$function" --zip-file fileb://app.zip >/dev/null
lambda wait function-updated-v2 --function-name "$function"
is version "$(lambda publish-version --function-name "$function" --query Version)" 2
is versions "$(lambda list-versions-by-function --function-name "$function" --query 'Versions[].Version' | tr '\t' ' ')" '$LATEST 1 2'
is alias "$(lambda create-alias --function-name "$function" --name live --function-version 1 --query AliasArn)" "$arn:live"
is answer "$(invoke --qualifier live)" '["two",{},"me"]'
lambda update-alias --function-name "$function" --name live --routing-config 'AdditionalVersionWeights={2=0.5}' >/dev/null
is weight "$(lambda get-alias --function-name "$function" --name live --query 'RoutingConfig.AdditionalVersionWeights."2"')" 0.5
lambda update-alias --function-name "$function" --name live --function-version 2 --routing-config '{}' >/dev/null
is answer "$(invoke --qualifier live)" '["three",{},"you"]'

step permissions, tags, concurrency
has statement "$(lambda add-permission --function-name "$function" --statement-id s3 --action lambda:InvokeFunction \
    --principal s3.amazonaws.com)" s3.amazonaws.com
has policy "$(lambda get-policy --function-name "$function" --query Policy)" '"Sid":'
lambda remove-permission --function-name "$function" --statement-id s3
refused ResourceNotFoundException get-policy --function-name "$function"
lambda tag-resource --resource "$arn" --tags stage=test
is tags "$(lambda list-tags --resource "$arn" --query 'Tags.[stage, team]' | tr '\t' ' ')" "test blue"
lambda untag-resource --resource "$arn" --tag-keys stage
is limit "$(lambda get-account-settings --query AccountLimit.ConcurrentExecutions)" 1000
is reserved "$(lambda put-function-concurrency --function-name "$function" --reserved-concurrent-executions 0 \
    --query ReservedConcurrentExecutions)" 0
refused TooManyRequestsException invoke --function-name "$function" answer.json
lambda delete-function-concurrency --function-name "$function"
lambda put-function-event-invoke-config --function-name "$function" --maximum-retry-attempts 0 >/dev/null
is retries "$(lambda get-function-event-invoke-config --function-name "$function" --query MaximumRetryAttempts)" 0
lambda delete-function-event-invoke-config --function-name "$function"

step url
address="$(lambda create-function-url-config --function-name "$function" --auth-type NONE --query FunctionUrl)"
lambda add-permission --function-name "$function" --statement-id url --action lambda:InvokeFunctionUrl --principal '*' \
    --function-url-auth-type NONE >/dev/null
lambda add-permission --function-name "$function" --statement-id through-url --action lambda:InvokeFunction --principal '*' \
    --invoked-via-function-url >/dev/null
rest="${address#*://}"
has answer "$(curl -sS --fail --max-time 60 -H "host: ${rest%%/*}" "$url/${rest#*/}")" '"rawPath"'
lambda delete-function-url-config --function-name "$function"

step layer
mkdir python
echo 'WORD = "from the layer"' >python/words.py
zip_of layer.zip python
layer="$(lambda publish-layer-version --layer-name "$function" --zip-file fileb://layer.zip --query LayerVersionArn)"
has layers "$(lambda list-layers --query 'Layers[].LayerName')" "$function"
printf 'import words\n\n\ndef handler(event, context):\n    return words.WORD\n' >app.py
zip_of app.zip app.py
lambda update-function-configuration --function-name "$function" --layers "$layer" >/dev/null
lambda wait function-updated-v2 --function-name "$function"
lambda update-function-code --function-name "$function" --zip-file fileb://app.zip >/dev/null
lambda wait function-updated-v2 --function-name "$function"
is answer "$(invoke)" '"fromthelayer"'
lambda delete-layer-version --layer-name "$function" --version-number 1

step mapping
stream="cli_$$_$RANDOM"
sql() { curl -sS --fail --max-time 60 -H 'content-type: text/plain' --data-binary "$1" "$url/v1/sql" >/dev/null; }
sql "CREATE STREAM $stream (at timestamptz NOT NULL, n bigint) WITH (event_time = 'at', partitions = '1')"
mapping="$(lambda create-event-source-mapping --function-name "$function" --batch-size 5 --starting-position TRIM_HORIZON \
    --event-source-arn "arn:aws:lambic:local:000000000000:stream/$stream" --query UUID)"
is batch "$(lambda get-event-source-mapping --uuid "$mapping" --query BatchSize)" 5
is mappings "$(lambda list-event-source-mappings --function-name "$function" --query 'EventSourceMappings[].UUID')" "$mapping"
# state_becomes STATE: with a bound
state_becomes() {
    local state tries
    for ((tries = 0; tries < 100; tries++)); do
        state="$(lambda get-event-source-mapping --uuid "$mapping" --query State)"
        [ "$state" != "$1" ] || return 0
        sleep 0.2
    done
    echo "the mapping is $state, not $1" >&2
    exit 1
}
state_becomes Enabled
lambda update-event-source-mapping --uuid "$mapping" --no-enabled >/dev/null
state_becomes Disabled
is deleted "$(lambda delete-event-source-mapping --uuid "$mapping" --query State)" Deleting

step delete
refused ResourceConflictException delete-function --function-name "$function" --qualifier 2
lambda delete-alias --function-name "$function" --name live
lambda delete-function --function-name "$function" --qualifier 1 >/dev/null
is versions "$(lambda list-versions-by-function --function-name "$function" --query 'Versions[].Version' | tr '\t' ' ')" '$LATEST 2'
lambda delete-function --function-name "$function" >/dev/null
refused ResourceNotFoundException get-function --function-name "$function"
refused ResourceNotFoundException invoke --function-name "$function" answer.json
sql "DROP STREAM $stream"
echo "the life of $function is over"
