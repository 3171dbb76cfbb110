"""The parts of `life.py` that are about the rest: what is kept without an effect, a streamed answer, and whether all operations
that the docs name were answered, and no others."""

import re
import urllib.parse

from common import refused, signed
from listed import OPERATIONS, documented


def recursion(life):
    client, of = life.client, {"FunctionName": life.name}
    assert client.get_function_recursion_config(**of)["RecursiveLoop"] == "Terminate"
    assert client.put_function_recursion_config(RecursiveLoop="Allow", **of)["RecursiveLoop"] == "Allow"
    assert client.get_function_recursion_config(**of)["RecursiveLoop"] == "Allow"
    client.put_function_recursion_config(RecursiveLoop="Terminate", **of)


def runtime_management(life):
    client, of = life.client, {"FunctionName": life.name}
    found = client.get_runtime_management_config(**of)
    assert (found["UpdateRuntimeOn"], found["FunctionArn"]) == ("Auto", f"{life.arn}:$LATEST"), found
    put = client.put_runtime_management_config(UpdateRuntimeOn="FunctionUpdate", Qualifier="1", **of)
    assert (put["UpdateRuntimeOn"], put["FunctionArn"]) == ("FunctionUpdate", f"{life.arn}:1"), put
    # Each version has its own.
    assert client.get_runtime_management_config(Qualifier="1", **of)["UpdateRuntimeOn"] == "FunctionUpdate"
    assert client.get_runtime_management_config(**of)["UpdateRuntimeOn"] == "Auto"
    runtime = f"arn:aws:lambda:us-east-1::runtime:{'0' * 64}"
    put = client.put_runtime_management_config(UpdateRuntimeOn="Manual", RuntimeVersionArn=runtime, **of)
    assert (put["UpdateRuntimeOn"], put["RuntimeVersionArn"]) == ("Manual", runtime), put
    refused("InvalidParameterValueException", 400, client.put_runtime_management_config, UpdateRuntimeOn="Manual", **of)
    client.put_runtime_management_config(UpdateRuntimeOn="Auto", **of)
    found = client.get_runtime_management_config(**of)
    assert found["UpdateRuntimeOn"] == "Auto" and found.get("RuntimeVersionArn") is None, found


def streamed(life):
    answer = life.client.invoke_with_response_stream(FunctionName=life.name, Payload=b'{"a": 1}')
    events = list(answer["EventStream"])
    assert b'"a": 1' in b"".join(event["PayloadChunk"]["Payload"] for event in events if "PayloadChunk" in event), events
    assert events[-1]["InvokeComplete"].get("ErrorCode") is None, events


def everything(life):
    """The docs, the routes and what was answered here are the same."""
    has = documented()
    seen = life.client.operations_seen
    assert seen == has, f"never answered: {sorted(has - seen)}; not in the docs: {sorted(seen - has)}"
    nothing = urllib.parse.quote("arn:aws:lambda:us-east-1:000000000000:nothing:here", safe="")
    for name, operation in OPERATIONS.items():
        path = re.sub(r"\{\w+\}", nothing, operation.path)
        answer = signed(life.url, operation.method, path, b"{}" if operation.method in ("POST", "PUT") else b"")
        is_unknown = answer.headers.get("x-amzn-errortype") == "UnknownOperationException"
        assert is_unknown == (name not in has), f"{name}: {answer.status} {answer.body!r}"
