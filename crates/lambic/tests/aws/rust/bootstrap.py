"""A zip with a program on AWS's `lambda_runtime` for Rust, named `bootstrap`.

Usage: bootstrap.py URL, with the program's path in PROGRAM.
"""

import os
import pathlib
import re
import sys
import types
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from common import connect, created, failed, steps, succeeded, tail, updated, zipped  # noqa: E402


def create(world):
    zip_ = zipped({"bootstrap": pathlib.Path(os.environ["PROGRAM"]).read_bytes()}, {"bootstrap"})
    more = {"runtime": "provided.al2023", "handler": "any.thing", "Environment": {"Variables": {"COLOUR": "amber"}}}
    world.arn = created(world.client, world.name, zip_, MemorySize=256, **more)["FunctionArn"]


def invoke(world):
    for number in range(3):
        event = {"number": number, "name": "Ünï"}
        value, answer = succeeded(world.client, world.name, event, LogType="Tail")
        request = answer["ResponseMetadata"]["RequestId"]
        assert 0 < value.pop("remaining_ms") <= 30_000, value
        assert re.match(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}", value.pop("trace")), value
        assert value == {
            "event": event, "request": request, "arn": world.arn, "name": world.name, "version": "$LATEST", "memory": 256,
            "colour": "amber", "calls": number + 1,
        }, value
        assert f"event {request}" in tail(answer), tail(answer)


def fail(world):
    value, _ = failed(world.client, world.name, {"fail": True})
    assert value["errorMessage"] == "no such luck" and value["errorType"], value
    # The runtime catches it, and goes on.
    value, _ = failed(world.client, world.name, {"panic": True})
    assert "a panic" in value["errorMessage"], value
    assert succeeded(world.client, world.name, {})[0]["calls"] > 1


def version(world):
    world.client.publish_version(FunctionName=world.name)
    world.client.update_function_configuration(FunctionName=world.name, Environment={"Variables": {"COLOUR": "green"}})
    updated(world.client, world.name)
    assert succeeded(world.client, world.name, {})[0]["colour"] == "green"
    value, _ = succeeded(world.client, world.name, {}, Qualifier="1")
    assert (value["colour"], value["version"]) == ("amber", "1"), value


def end(world):
    world.client.delete_function(FunctionName=world.name)


def main(url):
    world = types.SimpleNamespace(client=connect(url), name=f"rust-{uuid.uuid4().hex[:8]}")
    steps(create, invoke, fail, version, end)(world)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
