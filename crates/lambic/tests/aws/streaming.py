"""Responses that come while the function is still writing them: to boto3's `invoke_with_response_stream`, and at URLs.

Usage: streaming.py URL. That a piece has come before the end is never told by a clock: the function has more to write than
fits between it and its caller, so it cannot end before the caller reads on.
"""

import base64
import http.client
import json
import subprocess
import sys
import textwrap
import types
import urllib.parse
import uuid

from common import PATIENCE, connect, created, eventually, refused, sql, steps, succeeded, zipped

NODE_MAJOR = subprocess.run(["node", "--version"], capture_output=True, check=True, text=True).stdout.split(".")[0].lstrip("v")
NODE = {"runtime": f"nodejs{NODE_MAJOR}.x", "handler": "index.handler"}
EVENT_STREAM = "application/vnd.amazon.eventstream"
# More than connections, pipes and the server hold together.
LARGE = 64 << 20

NODE_SOURCE = """
    const { once } = require('events');
    const { pipeline } = require('stream/promises');
    const { Readable } = require('stream');

    async function large(stream, bytes) {
        const piece = Buffer.alloc(1 << 20, 'x');
        for (let left = bytes; left > 0; left -= piece.length) {
            if (!stream.write(piece.subarray(0, Math.min(left, piece.length)))) await once(stream, 'drain');
        }
        console.log('everything is written');
    }

    exports.handler = awslambda.streamifyResponse(async (event, stream, context) => {
        const mode = event.requestContext ? event.rawPath.slice(1) : event.mode;
        const head = (statusCode, headers, cookies) =>
            awslambda.HttpResponseStream.from(stream, { statusCode, headers: { ...headers, 'x-request': context.awsRequestId }, cookies });
        console.log('mode', mode);
        switch (mode) {
            case 'plain': stream.write('one '); stream.write('two'); break;
            case 'typed': stream.setContentType('text/plain'); stream.write('typed'); break;
            case 'empty': break;
            case 'echo': stream.write({ event, version: context.functionVersion, client: context.clientContext ?? null }); break;
            case 'head': stream = head(201, { 'content-type': 'text/html', 'x-mine': 'yes' }, ['a=1; Secure', 'b=2']); stream.write('<p>'); break;
            case 'head-only': stream = head(204); break;
            case 'large': stream = event.requestContext ? head(200) : stream; stream.write('begin'); await large(stream, event.bytes ?? LARGE); break;
            case 'pipeline': return await pipeline(Readable.from(['a', 'b', 'c']), stream);
            case 'early': throw new RangeError('before anything');
            case 'head-early': head(201); throw new RangeError('before anything');
            case 'late': stream.write('one '); throw new RangeError('in the middle');
            case 'head-late': stream = head(200); stream.write('one '); throw new RangeError('in the middle');
            case 'exit': stream.write('one '); setTimeout(() => process.exit(3), 50); return await new Promise(() => {});
            case 'hang': stream.write('one '); return await new Promise((resolve) => setTimeout(resolve, 1e6));
            case 'no-json': stream.setContentType('application/vnd.awslambda.http-integration-response'); stream.write('no\\0\\0\\0\\0\\0\\0\\0\\0'); break;
            case 'no-end': stream.setContentType('application/vnd.awslambda.http-integration-response'); stream.write('x'.repeat(20_000)); break;
        }
        stream.end();
    });
""".replace("LARGE", str(LARGE))

# AWS's tutorial, and a response that is streamed by hand; a failure behind its first bytes is told in trailers.
BOOTSTRAP = r"""
    #!/bin/bash
    set -u
    api="http://${AWS_LAMBDA_RUNTIME_API}/2018-06-01/runtime"
    ask() { curl --noproxy '*' -sS -o /dev/null "$@"; }
    cd "${TMPDIR:-/tmp}"
    while true; do
        event="$(curl --noproxy '*' -sS -D headers "$api/invocation/next")"
        id="$(sed -n 's/^lambda-runtime-aws-request-id: //Ip' headers | tr -d '\r')"
        case "$event" in
            *late*)
                exec 3<>"/dev/tcp/${AWS_LAMBDA_RUNTIME_API%:*}/${AWS_LAMBDA_RUNTIME_API##*:}"
                printf 'POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: api\r\nConnection: close\r\n' "$id" >&3
                printf 'Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n' >&3
                printf 'Trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n' >&3
                printf '4\r\none \r\n0\r\n' >&3
                printf 'Lambda-Runtime-Function-Error-Type: Bash.Late\r\n' >&3
                printf 'Lambda-Runtime-Function-Error-Body: %s\r\n\r\n' "$(printf '%s' '{"errorType": "Bash.Late", "errorMessage": "in the middle"}' | base64 -w 0)" >&3
                cat <&3 >/dev/null
                exec 3<&- 3>&-
                ;;
            *)
                { printf 'one '; cat <<<"$event"; } | ask -X POST -T - -H 'Expect:' -H 'Content-Type: text/plain' \
                    -H 'Transfer-Encoding: chunked' -H 'Lambda-Runtime-Function-Response-Mode: streaming' \
                    "$api/invocation/$id/response"
                ;;
        esac
    done
"""

PYTHON = """
    def handler(event, context):
        if event.get("fail"):
            raise KeyError("nothing")
        return {"statusCode": 418, "body": "x" * event.get("length", 1)}
"""


def text(source):
    return textwrap.dedent(source).lstrip("\n")


def make(world, kind, files, executable=(), **more):
    name = f"{world.name}-{kind}"
    created(world.client, name, zipped(files, executable), **more)
    return name


def streamed(world, name, event=None, **more):
    """An invocation whose events are still to come: the answer, and the events."""
    if event is not None:
        more["Payload"] = json.dumps(event)
    answer = world.client.invoke_with_response_stream(FunctionName=name, **more)
    assert answer["StatusCode"] == 200 and answer["ResponseStreamContentType"] == EVENT_STREAM, answer
    return answer, iter(answer["EventStream"])


def rest(events):
    """The payloads that come from now on, and the one event behind them."""
    chunks = []
    for event in events:
        if "InvokeComplete" in event:
            assert next(events, None) is None, "something comes behind the end"
            return chunks, event["InvokeComplete"]
        chunks.append(event["PayloadChunk"]["Payload"])
    raise AssertionError(f"no InvokeComplete behind {len(chunks)} chunks")


def whole(world, name, event=None, **more):
    answer, events = streamed(world, name, event, **more)
    chunks, complete = rest(events)
    return b"".join(chunks), complete, answer


def of(answer):
    return answer["ResponseMetadata"]["RequestId"]


def kept(world, request, columns="outcome"):
    return sql(world.url, f"SELECT {columns} FROM lambic_invocations WHERE request_id = '{request}'")["rows"]


def has_not_ended(world, request):
    """An invocation that ends now is recorded; one that had ended before it would be recorded before it."""
    _, answer = succeeded(world.client, world.python, {})
    eventually("the other invocation is recorded", lambda: kept(world, of(answer)))
    assert not kept(world, request), "it has ended, and its caller had only its first bytes"


def node(world):
    world.node = make(world, "node", {"index.js": text(NODE_SOURCE)}, MemorySize=256, **NODE)
    world.python = make(world, "python", {"app.py": text(PYTHON)})
    for mode, wanted in [("plain", b"one two"), ("typed", b"typed"), ("empty", b""), ("pipeline", b"abc")]:
        payload, complete, answer = whole(world, world.node, {"mode": mode})
        assert (payload, complete) == (wanted, {}), (mode, payload, complete)
        assert answer["ExecutedVersion"] == "$LATEST" and "x-amzn-trace-id" not in answer["ResponseMetadata"]["HTTPHeaders"], answer
    context = base64.b64encode(json.dumps({"custom": {"a": "b"}}).encode()).decode()
    payload, complete, answer = whole(world, world.node, {"mode": "echo"}, ClientContext=context, LogType="Tail")
    assert json.loads(payload) == {"event": {"mode": "echo"}, "version": "$LATEST", "client": {"custom": {"a": "b"}}}, payload
    log = base64.b64decode(complete["LogResult"], validate=True).decode()
    assert set(complete) == {"LogResult"} and "mode echo" in log and f"END RequestId: {of(answer)}" in log, complete
    # The prelude is a part of the response for whoever asks by the API.
    payload, _, _ = whole(world, world.node, {"mode": "head-only"})
    prelude, body = payload.split(b"\0" * 8)
    assert json.loads(prelude)["statusCode"] == 204 and body == b"", payload
    # Whoever asks for it in one piece has it so.
    answer = world.client.invoke(FunctionName=world.node, Payload=json.dumps({"mode": "plain"}))
    assert answer["Payload"].read() == b"one two" and "FunctionError" not in answer, answer


def comes_while_it_is_written(world):
    answer, events = streamed(world, world.node, {"mode": "large"})
    first = next(events)["PayloadChunk"]["Payload"]
    assert first.startswith(b"begin"), first[:20]
    has_not_ended(world, of(answer))
    chunks, complete = rest(events)
    assert complete == {}, complete
    assert len(first) + sum(map(len, chunks)) == len(b"begin") + LARGE and len(chunks) > 1
    eventually("the invocation is recorded", lambda: kept(world, of(answer)) == [["success"]])


def a_caller_goes_away(world):
    answer, events = streamed(world, world.node, {"mode": "large"})
    assert next(events)["PayloadChunk"]["Payload"].startswith(b"begin")
    has_not_ended(world, of(answer))
    answer["EventStream"].close()
    eventually("the function has run to its end", lambda: kept(world, of(answer)) == [["success"]])
    lines = sql(world.url, f"SELECT line FROM lambic_logs WHERE request_id = '{of(answer)}' ORDER BY _offset")["rows"]
    lines = [line for [line] in lines]
    assert lines[0].startswith("START ") and lines[1].endswith("\tmode large") and lines[2].endswith("\teverything is written"), lines
    assert lines[3].startswith("END ") and lines[4].startswith("REPORT "), lines


def failures(world):
    for mode, before, kind, message in [
        ("early", b"", "RangeError", "before anything"), ("head-early", b"", "RangeError", "before anything"),
        ("late", b"one ", "RangeError", "in the middle"), ("exit", None, "Runtime.ExitError", None),
    ]:
        payload, complete, answer = whole(world, world.node, {"mode": mode})
        assert before is None or payload == before, (mode, payload)
        assert complete["ErrorCode"] == "Unhandled" and set(complete) == {"ErrorCode", "ErrorDetails"}, (mode, complete)
        details = json.loads(complete["ErrorDetails"])
        wanted = message or f"RequestId: {of(answer)} Error: Runtime exited with error: exit status 3"
        assert (details["errorType"], details["errorMessage"]) == (kind, wanted), (mode, details)
    hanging = make(world, "hanging", {"index.js": text(NODE_SOURCE)}, Timeout=3, **NODE)
    payload, complete, answer = whole(world, hanging, {"mode": "hang"})
    details = json.loads(complete["ErrorDetails"])
    assert payload == b"one " and details["errorType"] == "Sandbox.Timedout", (payload, complete)
    eventually("the timeout is recorded", lambda: kept(world, of(answer), "error_type") == [["Sandbox.Timedout"]])
    # What failed does not spoil what comes after.
    assert whole(world, world.node, {"mode": "plain"})[0] == b"one two"


def bash_bootstrap(world):
    name = make(world, "bash", {"bootstrap": text(BOOTSTRAP)}, {"bootstrap"}, runtime="provided.al2023", handler="any")
    for number in range(2):
        payload, complete, _ = whole(world, name, {"number": number})
        assert (payload, complete) == (b'one {"number": %d}\n' % number, {}), (payload, complete)
    payload, complete, _ = whole(world, name, {"late": True})
    assert payload == b"one " and complete["ErrorCode"] == "Unhandled", (payload, complete)
    assert json.loads(complete["ErrorDetails"]) == {"errorType": "Bash.Late", "errorMessage": "in the middle"}, complete
    assert whole(world, name, {})[0] == b"one {}\n"


def python_in_one_piece(world):
    for length in (1, 5 << 20):
        answer, events = streamed(world, world.python, {"length": length})
        chunks, complete = rest(events)
        assert len(chunks) == 1 and json.loads(chunks[0])["body"] == "x" * length and complete == {}, (len(chunks), complete)
    payload, complete, _ = whole(world, world.python, {"fail": True})
    assert payload == b"" and json.loads(complete["ErrorDetails"])["errorType"] == "KeyError", (payload, complete)
    value, _, _ = whole(world, world.python)
    assert json.loads(value)["statusCode"] == 418, value


def refusals(world):
    invoke = world.client.invoke_with_response_stream
    dry = invoke(FunctionName=world.node, InvocationType="DryRun")
    assert dry["StatusCode"] == 204 and dry["ExecutedVersion"] == "$LATEST", dry
    refused("ResourceNotFoundException", 404, invoke, FunctionName="nobody")
    refused("ResourceNotFoundException", 404, invoke, FunctionName=world.node, Qualifier="none")
    refused("ResourceNotFoundException", 404, invoke, FunctionName=world.node, Qualifier="none", InvocationType="DryRun")
    refused("InvalidRequestContentException", 400, invoke, FunctionName=world.node, Payload=b"{")
    told = refused("ValidationException", 400, invoke, FunctionName=world.node, InvocationType="Event")
    assert "[RequestResponse, DryRun]" in told["Error"]["Message"], told
    refused("RequestTooLargeException", 413, invoke, FunctionName=world.node, Payload=json.dumps("x" * (6 << 20)))
    world.client.put_function_concurrency(FunctionName=world.python, ReservedConcurrentExecutions=0)
    refused("TooManyRequestsException", 429, invoke, FunctionName=world.python)
    world.client.delete_function_concurrency(FunctionName=world.python)


class Open:
    """An answer at a function's URL whose body is still to come."""

    def __init__(self, world, url, mode, method="GET", body=None):
        address, own = urllib.parse.urlsplit(world.url), urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(address.hostname, address.port, timeout=PATIENCE)
        self.connection.request(method, own.path.rstrip("/") + "/" + mode, body=body, headers={"host": own.netloc})
        self.response = self.connection.getresponse()
        self.status = self.response.status
        self.headers = {name.lower(): value for name, value in self.response.getheaders()}

    def read(self):
        try:
            return self.response.read()
        finally:
            self.connection.close()


def url_of(world, name):
    url = world.client.create_function_url_config(FunctionName=name, AuthType="NONE", InvokeMode="RESPONSE_STREAM")
    assert url["InvokeMode"] == "RESPONSE_STREAM", url
    world.client.add_permission(
        FunctionName=name, StatementId="url", Action="lambda:InvokeFunctionUrl", Principal="*", FunctionUrlAuthType="NONE"
    )
    return url["FunctionUrl"]


def urls(world):
    world.node_url = url_of(world, world.node)
    for mode, status, content_type, body in [
        ("plain", 200, "application/octet-stream", b"one two"), ("typed", 200, "text/plain", b"typed"),
        ("empty", 200, "application/octet-stream", b""), ("head", 201, "text/html", b"<p>"),
        ("head-only", 204, "application/octet-stream", b""), ("pipeline", 200, "application/octet-stream", b"abc"),
    ]:
        answer = Open(world, world.node_url, mode)
        found = (answer.status, answer.headers["content-type"], answer.read())
        assert found == (status, content_type, body), (mode, found)
        assert answer.headers["x-amzn-requestid"] and answer.headers["x-amzn-trace-id"], answer.headers
        if mode == "head":
            assert answer.headers["x-mine"] == "yes", answer.headers
            assert answer.response.headers.get_all("set-cookie") == ["a=1; Secure", "b=2"], answer.headers
    # Nothing that a function writes makes its pages those of the console.
    assert "sandbox" in answer.headers["content-security-policy"], answer.headers
    for mode in ("early", "head-early", "no-json", "no-end"):
        answer = Open(world, world.node_url, mode)
        assert (answer.status, answer.read()) == (502, b"Internal Server Error"), mode
    for mode in ("late", "head-late"):
        answer = Open(world, world.node_url, mode)
        assert answer.status == 200
        try:
            raise AssertionError(f"{mode}: what broke off counts as whole: {answer.read()}")
        except http.client.IncompleteRead as broken:
            assert broken.partial == b"one ", broken


def a_url_comes_while_it_is_written(world):
    answer = Open(world, world.node_url, "large")
    assert answer.status == 200 and answer.response.read(5) == b"begin", vars(answer)
    has_not_ended(world, answer.headers["x-request"])
    assert len(answer.read()) == LARGE
    eventually("the invocation is recorded", lambda: kept(world, answer.headers["x-request"]) == [["success"]])
    gone = Open(world, world.node_url, "large")
    assert gone.response.read(5) == b"begin"
    gone.response.close()
    gone.connection.close()
    eventually("it runs to its end for nobody", lambda: kept(world, gone.headers["x-request"]) == [["success"]])


def a_url_of_one_piece(world):
    url = url_of(world, world.python)
    answer = Open(world, url, "")
    # As on AWS, a response of the other mode is a body like any.
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), vars(answer)
    assert json.loads(answer.read()) == {"statusCode": 418, "body": "x"}
    world.client.update_function_url_config(FunctionName=world.python, InvokeMode="BUFFERED")
    answer = Open(world, url, "")
    assert (answer.status, answer.read()) == (418, b"x")


def phases(world):
    """What is kept of an invocation: its trace, and what it took besides the function."""
    trace = "1-5759e988-bd862e3fe1be46a994272793"

    def traced(request, **_):
        request.headers["X-Amzn-Trace-Id"] = f"Root={trace};Parent=53995c3f42cd8ad8;Sampled=1"

    world.client.meta.events.register("before-send.lambda.Invoke", traced)
    _, answer = succeeded(world.client, world.python, {})
    [row] = eventually("the invocation is recorded", lambda: kept(world, of(answer), "trace_id, duration_ms, billed_ms, overhead_ms"))
    found, duration, billed, overhead = row
    assert found == trace and 0 < duration <= billed and overhead >= 0, row


def end(world):
    for function in world.client.list_functions()["Functions"]:
        world.client.delete_function(FunctionName=function["FunctionName"])


def main(url):
    world = types.SimpleNamespace(client=connect(url), url=url, name=f"stream-{uuid.uuid4().hex[:8]}")
    steps(
        node, comes_while_it_is_written, a_caller_goes_away, failures, bash_bootstrap, python_in_one_piece, refusals, urls,
        a_url_comes_while_it_is_written, a_url_of_one_piece, phases, end,
    )(world)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
