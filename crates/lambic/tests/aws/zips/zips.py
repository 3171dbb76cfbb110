"""Code as others package it: AWS's Powertools, AWS's own runtime client, an extension in a layer, components of Python.

Usage: zips.py URL. The packages are taken from this interpreter's own, as `pip install --target` puts them.
"""

import base64
import concurrent.futures
import hashlib
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys
import sysconfig
import textwrap
import types
import urllib.parse
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from common import connect, created, failed, plain, steps, succeeded, tail, zipped  # noqa: E402

# Packages with native parts fit one version only.
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = pathlib.Path(sysconfig.get_paths()["purelib"])
WIT = pathlib.Path(__file__).parents[5] / "crates/sandbox/wit"


def text(source):
    return textwrap.dedent(source).lstrip("\n")


def installed(*names):
    """The files of these packages and of what they need, by their paths in a zip."""
    files, seen, wanted = {}, set(), list(names)
    while wanted:
        name = re.split(r"[^A-Za-z0-9._-]", wanted.pop())[0].lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            # For another machine, or an extra that nobody asked for.
            continue
        wanted += [one for one in package.requires or [] if "extra ==" not in one]
        for path in package.files:
            if ".." not in path.parts and "__pycache__" not in path.parts:
                files[path.as_posix()] = path.locate().read_bytes()
    return files


def make(world, kind, files, executable=(), **more):
    name = f"{world.name}-{kind}"
    more.setdefault("runtime", PYTHON)
    function = created(world.client, name, zipped(files, executable), **more)
    world.made.append(name)
    return name, function


def address_of(world, name):
    """A URL that is open to all: its path, and the host that its requests name."""
    made = world.client.create_function_url_config(FunctionName=name, AuthType="NONE")
    for action, more in (("InvokeFunctionUrl", {"FunctionUrlAuthType": "NONE"}), ("InvokeFunction", {"InvokedViaFunctionUrl": True})):
        world.client.add_permission(FunctionName=name, StatementId=action, Action=f"lambda:{action}", Principal="*", **more)
    address = urllib.parse.urlsplit(made["FunctionUrl"])
    return address.path, address.netloc


def powertools(world):
    """AWS's library for Python functions: logs, metrics, routes, checked events."""
    source = text("""
        from aws_lambda_powertools import Logger, Metrics
        from aws_lambda_powertools.event_handler import LambdaFunctionUrlResolver, Response
        from aws_lambda_powertools.metrics import MetricUnit
        from aws_lambda_powertools.utilities.parser import BaseModel, event_parser
        from pydantic import PositiveInt

        logger = Logger(service="orders")
        metrics = Metrics(namespace="shop", service="orders")
        app = LambdaFunctionUrlResolver()


        class Order(BaseModel):
            id: PositiveInt
            items: list[str]


        @app.get("/orders/<id>")
        def order(id):
            return {"id": int(id), "q": app.current_event.query_string_parameters.get("q")}


        @app.not_found
        def nothing(error):
            return Response(status_code=404, content_type="text/plain", body="nothing here")


        @event_parser(model=Order)
        def taken(event, context):
            metrics.add_metric(name="items", unit=MetricUnit.Count, value=len(event.items))
            return {"id": event.id, "items": len(event.items)}


        @logger.inject_lambda_context(log_event=True)
        @metrics.log_metrics(capture_cold_start_metric=True)
        def handler(event, context):
            if "requestContext" in event:
                return app.resolve(event, context)
            logger.info("an order", extra={"order": event})
            return taken(event, context)
    """)
    files = {**installed("aws-lambda-powertools", "pydantic"), "app.py": source}
    name, _ = make(world, "powertools", files, MemorySize=256)
    value, answer = succeeded(world.client, name, {"id": 7, "items": ["a", "b"]}, LogType="Tail")
    assert value == {"id": 7, "items": 2}, value
    lines = [json.loads(line) for line in tail(answer).splitlines() if line.startswith("{")]
    said = next(line for line in lines if line.get("message") == "an order")
    request = answer["ResponseMetadata"]["RequestId"]
    wanted = {
        "level": "INFO", "service": "orders", "cold_start": True, "function_name": name, "function_memory_size": "256",
        "function_request_id": request, "order": {"id": 7, "items": ["a", "b"]},
    }
    differs = {key: (said.get(key), one) for key, one in wanted.items() if said.get(key) != one}
    assert not differs, f"(said, wanted): {differs}"
    assert any(line.get("items") == [2.0] and "_aws" in line for line in lines), lines
    value, _ = failed(world.client, name, {"id": -1, "items": []})
    assert value["errorType"] == "ValidationError" and "greater than 0" in value["errorMessage"], value
    path, host = address_of(world, name)
    answer = plain(world.url, "GET", f"{path}orders/42?q=x", headers={"host": host})
    assert (answer.status, answer.json()) == (200, {"id": 42, "q": "x"}), vars(answer)
    answer = plain(world.url, "GET", f"{path}nowhere", headers={"host": host})
    assert (answer.status, answer.body) == (404, b"nothing here"), vars(answer)


def aws_runtime_client(world):
    """AWS's own client of the Runtime API, which a zip brings and starts."""
    files = installed("awslambdaric")
    files["app.py"] = "from awslambdaric.__main__ import main\n\nmain(['awslambdaric', 'real.handler'])\n"
    files["real.py"] = text("""
        def handler(event, context):
            print("by AWS's client")
            if event.get("fail"):
                raise KeyError("no such luck")
            return [event, context.aws_request_id, context.function_name, context.invoked_function_arn]
    """)
    name, function = make(world, "ric", files)
    for number in range(3):
        value, answer = succeeded(world.client, name, {"number": number, "name": "Ünï"}, LogType="Tail")
        request = answer["ResponseMetadata"]["RequestId"]
        assert value == [{"number": number, "name": "Ünï"}, request, name, function["FunctionArn"]], value
        assert "by AWS's client" in tail(answer), tail(answer)
    value, _ = failed(world.client, name, {"fail": True})
    assert (value["errorType"], value["errorMessage"]) == ("KeyError", "'no such luck'"), value


def extension(world):
    """A program beside the runtime, from a layer, which hears of every invocation."""
    source = text("""
        #!/usr/bin/env python3
        import http.client, json, os, sys

        def ask(method, path, headers, body=None):
            connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
            connection.request(method, "/2020-01-01/extension/" + path, body, headers)
            response = connection.getresponse()
            return response.headers, json.loads(response.read())

        named = {"Lambda-Extension-Name": os.path.basename(sys.argv[0])}
        headers, about = ask("POST", "register", named, json.dumps({"events": ["INVOKE", "SHUTDOWN"]}))
        me = {"Lambda-Extension-Identifier": headers["Lambda-Extension-Identifier"]}
        print("watching", about["functionName"], about["functionVersion"], about["handler"], flush=True)
        while True:
            event = ask("GET", "event/next", me)[1]
            if event["eventType"] == "SHUTDOWN":
                break
            print("heard of", event["requestId"], event["invokedFunctionArn"], flush=True)
    """)
    layer = world.client.publish_layer_version(
        LayerName=f"{world.name}-watch", Content={"ZipFile": zipped({"extensions/watch": source}, {"extensions/watch"})}
    )
    world.layers.append(f"{world.name}-watch")
    files = {"app.py": "def handler(event, context):\n    return event\n"}
    name, function = make(world, "watched", files, Layers=[layer["LayerVersionArn"]])
    for number in range(3):
        value, answer = succeeded(world.client, name, number, LogType="Tail")
        assert value == number, value
        log = tail(answer)
        assert f"heard of {answer['ResponseMetadata']['RequestId']} {function['FunctionArn']}" in log, log
        assert number or f"watching {name} $LATEST app.handler" in log, log
    files = {"index.js": "exports.handler = async (event) => event;\n"}
    node = subprocess.run(["node", "--version"], capture_output=True, check=True, text=True).stdout.split(".")[0].lstrip("v")
    name, _ = make(world, "watched-node", files, runtime=f"nodejs{node}.x", handler="index.handler", Layers=[layer["LayerVersionArn"]])
    value, answer = succeeded(world.client, name, 7, LogType="Tail")
    assert value == 7 and "heard of" in tail(answer), (value, tail(answer))


HANDLER = """
    import json

    import wit_world
    from componentize_py_types import Err


    class WitWorld(wit_world.WitWorld):
        def handle(self, event: str) -> str:
            event = json.loads(event)
            wit_world.log("handling " + json.dumps(event))
            if event.get("fail"):
                raise Err(json.dumps({"errorType": "Component.Failed", "errorMessage": "no such luck"}))
            return json.dumps({"words": sorted(event), "lower": event.get("name", "").lower()}, ensure_ascii=False)
"""

HTTP = """
    import json

    from componentize_py_types import Err, Ok
    from wit_world import exports
    from wit_world.imports.streams import StreamError_Closed
    from wit_world.imports.types import Fields, OutgoingBody, OutgoingResponse, ResponseOutparam


    class IncomingHandler(exports.IncomingHandler):
        def handle(self, request, response_out):
            # A body may not go before its stream.
            incoming = request.consume()
            with incoming.stream() as stream:
                content = read(stream)
            said = {
                "method": type(request.method()).__name__, "path": request.path_with_query(),
                "mine": [value.decode() for name, value in request.headers().entries() if name == "x-mine"],
                "body": content,
            }
            response = OutgoingResponse(Fields.from_list([("content-type", b"application/json"), ("x-yours", b"yes")]))
            response.set_status_code(201)
            body = response.body()
            ResponseOutparam.set(response_out, Ok(response))
            with body.write() as stream:
                content = json.dumps(said).encode()
                for at in range(0, len(content), 4096):
                    stream.blocking_write_and_flush(content[at : at + 4096])
            OutgoingBody.finish(body, None)


    def read(stream):
        content = bytearray()
        while True:
            try:
                content += stream.blocking_read(65536)
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return content.decode()
                raise
"""


def component(source, wit, world):
    """Python as a component of that world; kept, since it takes a while."""
    source = text(source)
    key = hashlib.sha256(f"{source}{world}{importlib.metadata.version('componentize-py')}".encode()).hexdigest()
    made = pathlib.Path(sys.prefix) / "components" / key
    if not (made / "app.wasm").exists():
        made.mkdir(parents=True, exist_ok=True)
        (made / "app.py").write_text(source)
        tool = pathlib.Path(sys.executable).with_name("componentize-py")
        command = [tool, "-q", "-d", wit, "-w", world, "componentize", "-p", made, "app", "-o", made / "part.wasm"]
        run = subprocess.run(command, cwd=made, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
        (made / "part.wasm").rename(made / "app.wasm")
    return (made / "app.wasm").read_bytes()


def components(world):
    """Both are made at the same time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        handler = pool.submit(component, HANDLER, WIT, "handler")
        http = pool.submit(component, HTTP, PACKAGES / "spin_sdk/wit", "wasi:http/proxy@0.2.0")
        world.handler, world.http = handler.result(), http.result()


def typed_component(world):
    name, _ = make(world, "component", {"app.wasm": world.handler}, runtime="wasm", handler="app.wasm", MemorySize=256)
    value, answer = succeeded(world.client, name, {"name": "Ünï", "also": 1}, LogType="Tail")
    assert value == {"words": ["also", "name"], "lower": "ünï"}, value
    log = tail(answer)
    assert 'handling {"name"' in log and "REPORT RequestId" in log, log
    value, _ = failed(world.client, name, {"fail": True})
    assert value == {"errorType": "Component.Failed", "errorMessage": "no such luck"}, value


def http_component(world):
    """A component of `wasi:http` answers requests to its URL, and events in the shape of those."""
    name, _ = make(world, "http", {"app.wasm": world.http}, runtime="wasm", handler="app.wasm", MemorySize=256)
    path, host = address_of(world, name)
    answer = plain(world.url, "POST", f"{path}some/path?q=1", "größe".encode(), {"host": host, "x-mine": "a"})
    assert (answer.status, answer.headers.get("x-yours")) == (201, "yes"), vars(answer)
    wanted = {"method": "Method_Post", "path": "/some/path?q=1", "mine": ["a"], "body": "größe"}
    assert answer.json() == wanted, answer.body
    event = {
        "version": "2.0", "routeKey": "$default", "rawPath": "/some/path", "rawQueryString": "q=1", "headers": {"x-mine": "a"},
        "requestContext": {"http": {"method": "POST", "path": "/some/path", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}},
        "body": base64.b64encode("größe".encode()).decode(), "isBase64Encoded": True,
    }
    value, _ = succeeded(world.client, name, event)
    assert value["statusCode"] == 201 and value["headers"]["x-yours"] == "yes", value
    body = base64.b64decode(value["body"]) if value.get("isBase64Encoded") else value["body"]
    assert json.loads(body) == wanted, value
    # Any other event is posted to `/`, and an answer in JSON is the function's.
    value, _ = succeeded(world.client, name, {"a": 1})
    assert (value["method"], value["path"], json.loads(value["body"])) == ("Method_Post", "/", {"a": 1}), value


def end(world):
    for name in world.made:
        world.client.delete_function(FunctionName=name)
    for layer in world.layers:
        world.client.delete_layer_version(LayerName=layer, VersionNumber=1)


def main(url):
    world = types.SimpleNamespace(url=url, client=connect(url), name=f"zip-{uuid.uuid4().hex[:8]}", made=[], layers=[])
    steps(powertools, aws_runtime_client, extension, components, typed_component, http_component, end)(world)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
