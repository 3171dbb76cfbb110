"""Provokes what only a server in trouble answers: damaged code, no memory, folders that are gone, an interpreter that is gone.

It has servers of its own, whose data it may damage: LAMBIC is the program. `errors` gives what was seen.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading
import types
import urllib.parse
import uuid

from common import PATIENCE, connect, created, eventually, plain, sql, succeeded, zipped
from each_error import STREAM, is_error, told
from listed import BODILESS, REASONS_EXCUSED

# All memory for bodies (`server.http_bodies_bytes_max`), in as many requests as it takes; each may have 70 MB.
HOLDERS, HELD_BYTES = 4, 64 << 20
NODE_VERSION = subprocess.run(["node", "--version"], capture_output=True, check=True, text=True).stdout.split(".")[0].lstrip("v")


class Server:
    """`lambic serve` on a folder of ours; a node that can be taken away."""

    def __init__(self, folder):
        self.folder = folder
        self.node, self.data = folder / "node", folder / "data"
        settings = folder / "settings.toml"
        settings.write_text(f'[functions]\nmemory_mb_max = 512\nnode = "{self.node}"\nspares = 0\n')
        command = [os.environ["LAMBIC"], "serve", "--data", self.data, "--http", "127.0.0.1:0", "--pg", "127.0.0.1:0"]
        # Whatever node is on the path would do as well.
        surroundings = {**os.environ, "PATH": path_without_node(folder)}
        self.process = subprocess.Popen([*command, "--config", settings], stderr=subprocess.PIPE, text=True, env=surroundings)
        said = []
        for line in self.process.stderr:
            said.append(line)
            if line.startswith("ready"):
                break
        else:
            raise AssertionError(f"the server did not start: {''.join(said)}")
        self.url = "http://" + next(word for word in said[-1].split() if word.startswith("http=")).removeprefix("http=")
        # It would wait for whoever reads.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def path_without_node(folder):
    """The folders of programs; those that have a node are replaced by links to what else they have."""
    folders = []
    for number, place in enumerate(os.environ["PATH"].split(os.pathsep)):
        place = pathlib.Path(place)
        if (place / "node").exists():
            links = folder / f"path-{number}"
            links.mkdir(exist_ok=True)
            for program in place.iterdir():
                link = links / program.name
                if program.name != "node" and not link.is_symlink():
                    link.symlink_to(program)
            place = links
        folders.append(str(place))
    return os.pathsep.join(folders)


def source(text):
    # Different for each, so that no two have the same code.
    return f"def handler(event, context):\n    {text}\n    return {uuid.uuid4().hex!r}\n"


def make(world):
    """A function with a version, an alias and all that can be set, so that it can be unset."""
    client, world.name, world.layer = world.client, "trouble", "trouble-layer"
    world.zip = zipped({"app.py": source("pass")})
    world.arn = created(client, world.name, world.zip)["FunctionArn"]
    of = {"FunctionName": world.name}
    client.publish_version(**of)
    client.create_alias(Name="live", FunctionVersion="1", **of)
    client.add_permission(StatementId="there", Action="lambda:InvokeFunction", Principal="s3.amazonaws.com", **of)
    client.put_function_event_invoke_config(MaximumRetryAttempts=1, **of)
    client.create_function_url_config(AuthType="NONE", **of)
    layer = {"LayerName": world.layer, "VersionNumber": 1}
    client.publish_layer_version(LayerName=world.layer, Content={"ZipFile": world.zip})
    client.add_layer_version_permission(StatementId="there", Action="lambda:GetLayerVersion", Principal="*", **layer)
    sql(world.url, "CREATE STREAM trouble (n BIGINT)")
    mapping = client.create_event_source_mapping(
        EventSourceArn=f"{STREAM}/trouble", StartingPosition="LATEST", Enabled=False, **of
    )
    world.uuid = mapping["UUID"]


def changes(world):
    """All that changes something, as it would succeed in better times."""
    of, layer = {"FunctionName": world.name}, {"LayerName": world.layer, "VersionNumber": 1}
    new = zipped({"app.py": source("pass")})
    return {
        "CreateFunction": {
            "FunctionName": "new", "Runtime": "python3.11", "Role": "arn:aws:iam::123456789012:role/r", "Handler": "app.handler",
            "Code": {"ZipFile": new},
        },
        "UpdateFunctionCode": {**of, "ZipFile": new},
        "UpdateFunctionConfiguration": {**of, "Timeout": 7},
        "PublishVersion": {**of, "Description": "another"},
        "CreateAlias": {**of, "Name": "new", "FunctionVersion": "1"},
        "UpdateAlias": {**of, "Name": "live", "Description": "another"},
        "DeleteAlias": {**of, "Name": "live"},
        "AddPermission": {**of, "StatementId": "new", "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com"},
        "RemovePermission": {**of, "StatementId": "there"},
        "TagResource": {"Resource": world.arn, "Tags": {"c": "d"}},
        "UntagResource": {"Resource": world.arn, "TagKeys": ["a"]},
        "PutFunctionConcurrency": {**of, "ReservedConcurrentExecutions": 5},
        "DeleteFunctionConcurrency": of,
        "PutProvisionedConcurrencyConfig": {**of, "Qualifier": "1", "ProvisionedConcurrentExecutions": 1},
        "DeleteProvisionedConcurrencyConfig": {**of, "Qualifier": "1"},
        "PutFunctionEventInvokeConfig": {**of, "MaximumRetryAttempts": 0},
        "UpdateFunctionEventInvokeConfig": {**of, "MaximumRetryAttempts": 0},
        "DeleteFunctionEventInvokeConfig": of,
        "CreateFunctionUrlConfig": {**of, "Qualifier": "live", "AuthType": "NONE"},
        "UpdateFunctionUrlConfig": {**of, "AuthType": "AWS_IAM"},
        "DeleteFunctionUrlConfig": of,
        "PublishLayerVersion": {"LayerName": world.layer, "Content": {"ZipFile": new}},
        "DeleteLayerVersion": layer,
        "AddLayerVersionPermission": {**layer, "StatementId": "new", "Action": "lambda:GetLayerVersion", "Principal": "*"},
        "RemoveLayerVersionPermission": {**layer, "StatementId": "there"},
        "CreateEventSourceMapping": {
            "FunctionName": f"{world.name}:live", "EventSourceArn": f"{STREAM}/trouble", "StartingPosition": "LATEST",
        },
        "UpdateEventSourceMapping": {"UUID": world.uuid, "BatchSize": 7},
        "DeleteEventSourceMapping": {"UUID": world.uuid},
        "PutFunctionRecursionConfig": {**of, "RecursiveLoop": "Allow"},
        "PutRuntimeManagementConfig": {**of, "UpdateRuntimeOn": "FunctionUpdate"},
        "DeleteFunction": of,
    }


INVOKED = {"Invoke": {"Payload": b"{}"}, "InvokeWithResponseStream": {"Payload": b"{}"}}


def call_of(client, operation):
    return getattr(client, next(name for name, one in client.meta.method_to_api_mapping.items() if one == operation))


def invoked(world, name):
    return [told(call_of(world.client, operation), FunctionName=name, **more) for operation, more in INVOKED.items()]


@contextlib.contextmanager
def gone(world, *folders):
    """Folders of functions are not there for a while."""
    there = [world.server.data / "functions" / folder for folder in folders]
    for folder in there:
        folder.rename(folder.with_name(f"{folder.name}.gone"))
    try:
        yield
    finally:
        for folder in there:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_name(f"{folder.name}.gone").rename(folder)


def damaged_code(world):
    """A version is made ready when it is invoked first."""
    code = world.server.data / "functions/code"
    before = set(code.iterdir())
    created(world.client, "damaged", zipped({"app.py": source("pass")}), Publish=True)
    new = next(path for path in code.iterdir() if path not in before and path.is_dir())
    (new / "app.py").write_text("def handler(event, context):\n    return 'another'\n")
    for answer in invoked(world, "damaged:1"):
        is_error(answer, 502, "InvalidZipFileException")


def throttled(world):
    """By what was reserved, and by the memory of all."""
    client = world.client

    def reasons(name):
        answers = invoked(world, name)
        for answer in answers:
            is_error(answer, 429, "TooManyRequestsException")
        reasons = {answer["Reason"] for answer in answers}
        world.reasons |= reasons
        return reasons

    client.put_function_concurrency(FunctionName=world.name, ReservedConcurrentExecutions=0)
    assert reasons(world.name) == {"ReservedFunctionConcurrentInvocationLimitExceeded"}
    client.delete_function_concurrency(FunctionName=world.name)
    sleeper = zipped({"app.py": source("import time; time.sleep(event.get('seconds', 0))")})
    created(client, "large", sleeper, MemorySize=512, Timeout=60)
    created(client, "small", zipped({"app.py": source("pass")}), Timeout=1)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(succeeded, client, "large", {"seconds": 8})
        eventually("it has all memory", lambda: f"lambic_environments_memory_bytes {512 << 20}\n" in metrics(world))
        assert reasons("small") == {"ConcurrentInvocationLimitExceeded"}
        running.result()


def metrics(world):
    return plain(world.url, "GET", "/metrics").body.decode()


def folders_gone(world):
    """What cannot be kept is refused, and changes nothing."""
    client, of = world.client, {"FunctionName": world.name}
    # So that there is something to change: what changes nothing is not written.
    client.update_function_configuration(Timeout=9, **of)
    client.tag_resource(Resource=world.arn, Tags={"a": "b"})
    client.put_function_concurrency(ReservedConcurrentExecutions=4, **of)
    client.put_provisioned_concurrency_config(Qualifier="1", ProvisionedConcurrentExecutions=2, **of)
    before = client.get_function(**of)
    with gone(world, "functions", "layers"):
        for operation, arguments in changes(world).items():
            try:
                is_error(told(call_of(client, operation), **arguments), 500, "ServiceException")
            except AssertionError as error:
                raise AssertionError(f"{operation}: {error}") from error
    after = client.get_function(**of)
    for answer in (before, after):
        del answer["ResponseMetadata"]
    assert before == after, (before, after)
    with gone(world, "code"):
        for answer in invoked(world, world.name):
            is_error(answer, 500, "ServiceException")
    succeeded(client, world.name, {})


def no_memory_for_bodies(world):
    """Others hold all of it, and do not go on."""
    address = urllib.parse.urlsplit(world.url)
    head = (
        f"POST /2015-03-31/functions HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-length: {HELD_BYTES}\r\n"
        "expect: 100-continue\r\n\r\n"
    )
    holders = [socket.create_connection((address.hostname, address.port), PATIENCE) for _ in range(HOLDERS)]
    for holder in holders:
        holder.sendall(head.encode())
    for holder in holders:
        # The body is read when there is room for it.
        said = holder.recv(1 << 10)
        assert said.startswith(b"HTTP/1.1 100"), said
    # All wait together.
    asked = {name: arguments for name, arguments in changes(world).items() if name not in BODILESS}
    asked |= {name: {"FunctionName": world.name, **more} for name, more in INVOKED.items()}
    with concurrent.futures.ThreadPoolExecutor(len(asked)) as pool:
        calls = {name: pool.submit(told, call_of(world.client, name), **arguments) for name, arguments in asked.items()}
        for name, call in calls.items():
            is_error(call.result(), 429, "TooManyRequestsException")
            assert call.result()["Reason"] == "CallerRateLimitExceeded", f"{name}: {call.result()}"
            world.reasons.add(call.result()["Reason"])
    for holder in holders:
        holder.close()
    eventually("there is memory again", lambda: world.client.tag_resource(Resource=world.arn, Tags={"a": "b"}))


def no_interpreter(world):
    """Of a function that ran until the server was started again without it."""
    files = {"index.mjs": "export const handler = async (event) => event;\n"}
    created(world.client, "lost", zipped(files), runtime=f"nodejs{NODE_VERSION}.x", handler="index.handler")
    succeeded(world.client, "lost", {})
    world.server.stop()
    world.server.node.unlink()
    start(world)
    for answer in invoked(world, "lost"):
        is_error(answer, 502, "InvalidRuntimeException")
    succeeded(world.client, world.name, {})


def all_reasons(world):
    """What throttles says one of AWS's reasons, and each of them was heard."""
    wanted = set(world.client.meta.service_model.shape_for("ThrottleReason").enum)
    assert wanted == world.reasons | set(REASONS_EXCUSED), (wanted, world.reasons)


def start(world):
    world.server = Server(world.folder)
    world.url, world.client = world.server.url, connect(world.server.url, parameter_validation=False)
    world.clients.append(world.client)


def errors():
    """All pairs of an operation and an error that were seen."""
    with tempfile.TemporaryDirectory() as folder:
        world = types.SimpleNamespace(folder=pathlib.Path(folder), clients=[], reasons=set())
        (world.folder / "node").symlink_to(shutil.which("node"))
        start(world)
        try:
            for part in (make, damaged_code, throttled, folders_gone, no_memory_for_bodies, all_reasons, no_interpreter):
                print(f"{part.__name__.replace('_', ' ')} …", flush=True)
                part(world)
        finally:
            world.server.stop()
    return set().union(*(client.errors_seen for client in world.clients))
