"""Unmodified zips in every managed runtime: with a dependency, by a bash bootstrap, with layers, and all the ways to fail.

Usage: runtimes.py URL. `python-slugify` is taken from this interpreter's own packages, as `pip install --target` puts it.
"""

import json
import pathlib
import re
import subprocess
import sys
import sysconfig
import textwrap
import types
import uuid

from common import REGION, connect, created, failed, invoked, steps, succeeded, tail, updated, zipped

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
# The machine's, whichever version that is.
NODE_MAJOR = subprocess.run(["node", "--version"], capture_output=True, check=True, text=True).stdout.split(".")[0].lstrip("v")
NODE_RUNTIME = f"nodejs{NODE_MAJOR}.x"
NODE = {"runtime": NODE_RUNTIME, "handler": "index.handler"}
MOST = 6 * 1024 * 1024 + 100

# A runtime in nothing but bash: two requests of AWS's Runtime API, by hand.
BOOTSTRAP = r"""
    #!/bin/bash
    set -euo pipefail
    # Lengths are in bytes.
    export LC_ALL=C
    source "$LAMBDA_TASK_ROOT/${_HANDLER%%.*}.sh"
    api="${AWS_LAMBDA_RUNTIME_API%:*}/${AWS_LAMBDA_RUNTIME_API##*:}"

    # Sends a request on a connection of its own; leaves the headers in `headers` and the body in `body`.
    ask() {
        local method="$1" path="$2" text="$3" line length=0
        exec 3<>"/dev/tcp/$api"
        printf '%s /2018-06-01/runtime/%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
            "$method" "$path" "$AWS_LAMBDA_RUNTIME_API" "${#text}" "$text" >&3
        headers=""
        while IFS= read -r line <&3; do
            line="${line%$'\r'}"
            [ -n "$line" ] || break
            headers+="$line"$'\n'
            case "$(lower "$line")" in "content-length: "*) length="${line#*: }" ;; esac
        done
        body=""
        if [ "$length" -gt 0 ]; then IFS= read -r -d '' -N "$length" body <&3; fi
        exec 3<&- 3>&-
    }

    lower() { printf '%s' "${1,,}"; }

    header() {
        local line
        while IFS= read -r line; do
            case "$(lower "$line")" in "$1: "*) printf '%s' "${line#*: }" ;; esac
        done <<<"$headers"
    }

    while true; do
        ask GET invocation/next ""
        id="$(header lambda-runtime-aws-request-id)"
        if answer="$("${_HANDLER#*.}" "$body")"; then
            ask POST "invocation/$id/response" "$answer"
        else
            ask POST "invocation/$id/error" '{"errorType": "Bash.Failed", "errorMessage": "the function failed"}'
        fi
    done
"""

BASH = r"""
    handler() {
        echo "told on stderr" >&2
        case "$1" in *fail*) return 1 ;; esac
        printf '{"event": %s, "version": "%s", "task": "%s"}' "$1" "$AWS_LAMBDA_FUNCTION_VERSION" "$PWD"
    }
"""


def text(source):
    return textwrap.dedent(source).lstrip("\n")


def make(world, kind, files, executable=(), **more):
    name = f"{world.name}-{kind}"
    created(world.client, name, zipped(files, executable), **more)
    world.made.append(name)
    return name


def python_with_a_dependency(world):
    packages = pathlib.Path(sysconfig.get_paths()["purelib"])
    files = {
        path.relative_to(packages).as_posix(): path.read_bytes()
        for package in ("slugify", "text_unidecode")
        for path in sorted((packages / package).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "slugify/__init__.py" in files, sorted(files)
    files["app.py"] = "from slugify import slugify\n\n\ndef handler(event, context):\n    return slugify(event['title'])\n"
    name = make(world, "dependency", files)
    assert succeeded(world.client, name, {"title": "Größe & 影師嗎"})[0] == "grosse-ying-shi-ma"


def python_in_folders(world):
    files = {"src/inner/app.py": "def handler(event, context):\n    return __name__\n", "src/__init__.py": "", "src/inner/__init__.py": ""}
    for at, handler in enumerate(("src/inner/app.handler", "src.inner.app.handler")):
        assert succeeded(world.client, make(world, f"folders{at}", files, handler=handler))[0] == "src.inner.app"


def node(world):
    files = {"index.js": text("""
        exports.handler = async (event, context) => {
            console.log("looking", JSON.stringify(event));
            return {
                event,
                name: context.functionName, version: context.functionVersion, arn: context.invokedFunctionArn,
                memory: context.memoryLimitInMB, request: context.awsRequestId, group: context.logGroupName,
                stream: context.logStreamName, remaining: context.getRemainingTimeInMillis(),
                waits: context.callbackWaitsForEmptyEventLoop, version_of_node: process.version,
            };
        };
        exports.callback = (event, context, callback) => setTimeout(() => callback(null, "called back"), 5);
        exports.failing = async () => { throw new TypeError("no such luck"); };
    """)}
    name = make(world, "node", files, **NODE)
    event = {"name": "Ünï", "list": [1, 2.5, None]}
    value, answer = succeeded(world.client, name, event, LogType="Tail")
    request = answer["ResponseMetadata"]["RequestId"]
    wanted = {
        "event": event, "name": name, "version": "$LATEST", "memory": "128", "request": request, "group": f"/aws/lambda/{name}",
        "waits": True,
    }
    differs = {key: (value.get(key), one) for key, one in wanted.items() if value.get(key) != one}
    assert not differs, differs
    assert re.fullmatch(rf"arn:aws:lambda:{REGION}:\d{{12}}:function:{name}", value["arn"]), value["arn"]
    assert "[$LATEST]" in value["stream"] and 0 < value["remaining"] <= 30000, value
    assert value["version_of_node"].startswith(f"v{NODE_MAJOR}."), value["version_of_node"]
    log = tail(answer)
    assert re.search(rf'^\d{{4}}-\d\d-\d\dT\S+Z\t{request}\tINFO\tlooking {re.escape(json.dumps(event, ensure_ascii=False, separators=(",", ":")))}$', log, re.MULTILINE), log
    callback = make(world, "node-callback", files, runtime=NODE_RUNTIME, handler="index.callback")
    assert succeeded(world.client, callback)[0] == "called back"
    failing = make(world, "node-failing", files, runtime=NODE_RUNTIME, handler="index.failing")
    value, _ = failed(world.client, failing)
    assert (value["errorType"], value["errorMessage"]) == ("TypeError", "no such luck"), value
    assert value["trace"][0] == "TypeError: no such luck" and any("/var/task/index.js" in line for line in value["trace"]), value
    module = make(world, "node-module", {"index.mjs": "export const handler = async (event) => import.meta.url;\n"}, **NODE)
    assert succeeded(world.client, module)[0] == "file:///var/task/index.mjs"


def bash_bootstrap(world):
    files = {"bootstrap": text(BOOTSTRAP), "function.sh": text(BASH)}
    name = make(world, "bash", files, {"bootstrap"}, runtime="provided.al2023", handler="function.handler")
    for number in range(3):
        value, answer = succeeded(world.client, name, {"number": number, "name": "Ünï"}, LogType="Tail")
        assert value == {"event": {"number": number, "name": "Ünï"}, "version": "$LATEST", "task": "/var/task"}, value
        assert "told on stderr" in tail(answer), tail(answer)
    value, _ = failed(world.client, name, {"fail": True})
    assert value == {"errorType": "Bash.Failed", "errorMessage": "the function failed"}, value
    succeeded(world.client, name, {"after": "that"})
    bare = make(world, "no-bootstrap", {"function.sh": text(BASH)}, runtime="provided.al2023", handler="function.handler")
    value, _ = failed(world.client, bare)
    assert value["errorType"] in ("Runtime.InvalidEntrypoint", "Runtime.ExitError"), value
    assert "bootstrap" in value["errorMessage"], value


def layers(world):
    client = world.client
    arns = []
    for kind, files in {
        "python": {"python/greetings.py": "def hello(who):\n    return 'hello, ' + who\n", "data.txt": "from /opt\n"},
        "node": {"nodejs/node_modules/greetings/index.js": "exports.hello = (who) => 'hello, ' + who;\n", "data.txt": "later wins\n"},
    }.items():
        layer = client.publish_layer_version(LayerName=f"{world.name}-{kind}", Content={"ZipFile": zipped(files)})
        arns.append(layer["LayerVersionArn"])
    both = """
        import pathlib

        import greetings


        def handler(event, context):
            return [greetings.hello(event), pathlib.Path("/opt/data.txt").read_text()]
    """
    python = make(world, "layer-python", {"app.py": text(both)}, Layers=arns)
    # Layers lie over each other in their order.
    assert succeeded(client, python, "you")[0] == ["hello, you", "later wins\n"]
    source = "const { hello } = require('greetings');\nexports.handler = async (event) => hello(event);\n"
    javascript = make(world, "layer-node", {"index.js": source}, Layers=[arns[1]], **NODE)
    assert succeeded(client, javascript, "you")[0] == "hello, you"
    client.update_function_configuration(FunctionName=javascript, Layers=[])
    updated(client, javascript)
    assert failed(client, javascript, "you")[0]["errorType"] == "Runtime.ImportModuleError"
    world.layers += arns


def surroundings(world):
    """What AWS documents of the environment, for Python; Node's own are looked at last."""
    source = text("""
        import os, sys


        def handler(event, context):
            with open("/tmp/scratch", "w") as file:
                file.write("x")
            return {
                "env": dict(os.environ), "folder": os.getcwd(), "path": sys.path, "tmp": os.listdir("/tmp"),
                "context": {
                    "function_name": context.function_name, "function_version": context.function_version,
                    "invoked_function_arn": context.invoked_function_arn, "memory_limit_in_mb": context.memory_limit_in_mb,
                    "aws_request_id": context.aws_request_id, "log_group_name": context.log_group_name,
                    "log_stream_name": context.log_stream_name, "client_context": context.client_context,
                    "identity": context.identity.cognito_identity_id if context.identity else None,
                    "remaining": context.get_remaining_time_in_millis(),
                },
            }
    """)
    name = make(world, "env", {"app.py": source}, MemorySize=256, Environment={"Variables": {"MINE": "ünï\n=x"}})
    value, answer = succeeded(world.client, name, {})
    env, context = value["env"], value["context"]
    wanted = {
        "MINE": "ünï\n=x", "_HANDLER": "app.handler", "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION,
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.11", "AWS_LAMBDA_FUNCTION_NAME": name, "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256", "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}", "LAMBDA_TASK_ROOT": "/var/task", "LAMBDA_RUNTIME_DIR": "/var/runtime",
        # AWS has en_US.UTF-8, which not every machine knows.
        "TZ": ":UTC", "LANG": "C.UTF-8",
    }
    differs = {key: (env.get(key), one) for key, one in wanted.items() if env.get(key) != one}
    assert not differs, f"(is, AWS has): {differs}"
    for key in ("AWS_LAMBDA_RUNTIME_API", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PATH", "LD_LIBRARY_PATH"):
        assert env.get(key), f"no {key} in {sorted(env)}"
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}", env["AWS_LAMBDA_LOG_STREAM_NAME"]), env["AWS_LAMBDA_LOG_STREAM_NAME"]
    assert re.match(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}", env["_X_AMZN_TRACE_ID"]), env["_X_AMZN_TRACE_ID"]
    foreign = [key for key in env if key.startswith(("LAMBIC", "CARGO", "RUST"))]
    assert not foreign, f"the server's own surroundings are a function's: {foreign}"
    assert value["folder"] == "/var/task" and "/var/task" in value["path"] and "/opt/python" in value["path"], value
    assert value["tmp"] == ["scratch"], value["tmp"]
    wanted = {
        "function_name": name, "function_version": "$LATEST", "memory_limit_in_mb": "256",
        "aws_request_id": answer["ResponseMetadata"]["RequestId"], "log_group_name": f"/aws/lambda/{name}",
        "log_stream_name": env["AWS_LAMBDA_LOG_STREAM_NAME"], "client_context": None, "identity": None,
    }
    differs = {key: (context.get(key), one) for key, one in wanted.items() if context.get(key) != one}
    assert not differs, f"(is, AWS has): {differs}"
    assert re.fullmatch(rf"arn:aws:lambda:{REGION}:\d{{12}}:function:{name}", context["invoked_function_arn"]), context
    assert 0 < context["remaining"] <= 30000, context
    source = "exports.handler = async () => ({ env: process.env, folder: process.cwd() });\n"
    value, _ = succeeded(world.client, make(world, "env-node", {"index.js": source}, **NODE), {})
    assert value["env"]["AWS_EXECUTION_ENV"] == f"AWS_Lambda_{NODE_RUNTIME}" and value["folder"] == "/var/task", value
    assert "/opt/nodejs/node_modules" in value["env"]["NODE_PATH"].split(":"), value["env"]["NODE_PATH"]


# (kind, files, handler, event, errorType, pattern of the whole errorMessage); `<id>` is the id of the request.
PYTHON_FAILURES = [
    ("handler", {"app.py": "x = 1\n"}, "app.nope", {}, "Runtime.HandlerNotFound", r"Handler 'nope' missing on module 'app'"),
    ("file", {"app.py": "x = 1\n"}, "nope.handler", {}, "Runtime.ImportModuleError", r"Unable to import module 'nope': No module named 'nope'"),
    ("module", {"app.py": "import nothing\n"}, "app.handler", {}, "Runtime.ImportModuleError", r"Unable to import module 'app': No module named 'nothing'"),
    ("syntax", {"app.py": "def handler(event, context)\n    return 1\n"}, "app.handler", {}, "Runtime.UserCodeSyntaxError", r"Syntax error in module 'app': expected ':' \(app\.py, line 1\)"),
    ("name", {"app.py": "x = 1\n"}, "noperiod", {}, "Runtime.MalformedHandlerName", r"Bad handler 'noperiod': not enough values to unpack \(expected 2, got 1\)"),
    ("init", {"app.py": "raise KeyError('at init')\n"}, "app.handler", {}, "KeyError", r"'at init'"),
    ("leaves", {"app.py": "import sys\nsys.exit(7)\n"}, "app.handler", {}, "Runtime.ExitError", r"RequestId: <id> Error: Runtime exited with error: exit status 7"),
    ("exit", {"app.py": "import os\ndef handler(e, c):\n    os._exit(3)\n"}, "app.handler", {}, "Runtime.ExitError", r"RequestId: <id> Error: Runtime exited with error: exit status 3"),
    ("quiet", {"app.py": "import os\ndef handler(e, c):\n    os._exit(0)\n"}, "app.handler", {}, "Runtime.ExitError", r"RequestId: <id> Error: Runtime exited without providing a reason"),
    ("json", {"app.py": "def handler(e, c):\n    return {1, 2}\n"}, "app.handler", {}, "Runtime.MarshalError", r"Unable to marshal response: Object of type set is not JSON serializable"),
]
NODE_FAILURES = [
    ("handler", {"index.js": "exports.x = 1;\n"}, "index.nope", {}, "Runtime.HandlerNotFound", r"index\.nope is undefined or not exported"),
    ("file", {"index.js": "exports.x = 1;\n"}, "nope.handler", {}, "Runtime.ImportModuleError", r"Error: Cannot find module 'nope'\n?(?s:.*)"),
    ("module", {"index.js": "require('nothing');\n"}, "index.handler", {}, "Runtime.ImportModuleError", r"Error: Cannot find module 'nothing'\n(?s:.*)"),
    ("syntax", {"index.js": "exports.handler = async ( => 1;\n"}, "index.handler", {}, "Runtime.UserCodeSyntaxError", r"SyntaxError: (?s:.*)"),
    ("name", {"index.js": "exports.x = 1;\n"}, "noperiod", {}, "Runtime.MalformedHandlerName", r"Bad handler 'noperiod': .*"),
    ("exit", {"index.js": "exports.handler = async () => process.exit(3);\n"}, "index.handler", {}, "Runtime.ExitError", r"RequestId: <id> Error: Runtime exited with error: exit status 3"),
    ("rejected", {"index.js": "exports.handler = async () => { Promise.reject(new Error('later')); await new Promise((r) => setTimeout(r, 1000)); };\n"}, "index.handler", {}, "Runtime.UnhandledPromiseRejection", r"Error: later"),
]


def failures(world):
    wrong = []
    for language, runtime, rows in (("python", "python3.11", PYTHON_FAILURES), ("node", NODE_RUNTIME, NODE_FAILURES)):
        for kind, files, handler, event, error, message in rows:
            name = make(world, f"failing-{language}-{kind}", files, runtime=runtime, handler=handler)
            # The second time finds what the first one left.
            for _ in range(2):
                value, answer = invoked(world.client, name, event, LogType="Tail")
                wanted = message.replace("<id>", answer["ResponseMetadata"]["RequestId"])
                if answer.get("FunctionError") != "Unhandled":
                    wrong.append(f"{language} {kind}: it did not fail: {value}")
                elif value.get("errorType") != error or not re.fullmatch(wanted, value.get("errorMessage", "")):
                    wrong.append(f"{language} {kind}: {value} instead of {error}: {wanted}")
                elif error not in tail(answer) and error.startswith("Runtime."):
                    wrong.append(f"{language} {kind}: no {error} in its log: {tail(answer)}")
    assert not wrong, "\n".join(wrong)


def timeout(world):
    source = "import time\nRUNS = []\ndef handler(event, context):\n    RUNS.append(1)\n    while event.get('loop'): pass\n    time.sleep(event.get('sleep', 0))\n    return len(RUNS)\n"
    name = make(world, "timeout", {"app.py": source}, Timeout=1)
    assert succeeded(world.client, name, {})[0] == 1
    for event in ({"sleep": 60}, {"loop": True}):
        value, answer = failed(world.client, name, event, LogType="Tail")
        request = answer["ResponseMetadata"]["RequestId"]
        assert value == {"errorType": "Sandbox.Timedout", "errorMessage": f"RequestId: {request} Error: Task timed out after 1.00 seconds"}, value
        log = tail(answer)
        assert re.search(rf"^\S+Z {request} Task timed out after 1\.00 seconds\s*$", log, re.MULTILINE), log
        assert re.search(rf"^REPORT RequestId: {request}\tDuration: \d+\.\d\d ms\tBilled Duration: \d+ ms\t", log, re.MULTILINE), log
        # What timed out is not used again.
        assert succeeded(world.client, name, {})[0] == 1


def large_responses(world):
    name = make(world, "large", {"app.py": "def handler(event, context):\n    return 'x' * event\n"}, MemorySize=512)
    # Two quotes are a part of it.
    assert len(succeeded(world.client, name, MOST - 2)[0]) == MOST - 2
    value, _ = failed(world.client, name, MOST - 1)
    assert value["errorType"] == "Function.ResponseSizeTooLarge", value
    told = rf"Response payload size( \({MOST + 1} bytes\))? exceeded maximum allowed payload size \({MOST} bytes\)\."
    assert re.fullmatch(told, value["errorMessage"]), value
    assert len(succeeded(world.client, name, 10)[0]) == 10


def log_tail(world):
    source = "def handler(event, context):\n    for number in range(1000):\n        print(f'line {number:04}')\n"
    name = make(world, "log", {"app.py": source})
    value, answer = succeeded(world.client, name, {}, LogType="Tail")
    assert value is None, value
    log = tail(answer)
    assert 3500 < len(log.encode()) <= 4096, len(log)
    assert "line 0999" in log and "line 0000" not in log and "START RequestId" not in log, log
    last = log.rstrip().splitlines()[-1]
    assert last.startswith(f"REPORT RequestId: {answer['ResponseMetadata']['RequestId']}\tDuration: "), last
    numbers = [int(number) for number in re.findall(r"^line (\d{4})$", log, re.MULTILINE)]
    assert numbers == list(range(numbers[0], 1000)), numbers


def end(world):
    for name in world.made:
        world.client.delete_function(FunctionName=name)
    for arn in world.layers:
        layer, version = arn.split(":")[6:8]
        world.client.delete_layer_version(LayerName=layer, VersionNumber=int(version))


def main(url):
    world = types.SimpleNamespace(client=connect(url), name=f"run-{uuid.uuid4().hex[:8]}", made=[], layers=[])
    steps(
        python_with_a_dependency, python_in_folders, node, bash_bootstrap, layers, surroundings, failures, timeout, large_responses,
        log_tail, end,
    )(world)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
