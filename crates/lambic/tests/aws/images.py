"""Container images as functions: from a folder, an archive and a registry, with AWS's conventions, as boto3 sees them.

Usage: images.py URL FOLDER PORT. The server reads images in FOLDER and from a registry at 127.0.0.1:PORT, which this script is.
Images are made of this machine's own bash and Python; nothing comes from a registry elsewhere.
"""

import gzip
import hashlib
import http.server
import io
import json
import pathlib
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
import threading
import types
import uuid

from common import ROLE, connect, failed, refused, steps, succeeded, tail, updated
from runtimes import BASH, BOOTSTRAP, text

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
INVALID = "InvalidParameterValueException"

# As AWS's base images have it: with a Runtime API, there is no emulator between.
ENTRYPOINT = """
    #!/bin/sh
    if [ $# -ne 1 ]; then
        echo "the handler is the only argument" >&2
        exit 142
    fi
    export _HANDLER="$1"
    if [ -z "${AWS_LAMBDA_RUNTIME_API}" ]; then
        exec /usr/local/bin/aws-lambda-rie /var/runtime/bootstrap
    fi
    exec /var/runtime/bootstrap
"""


class Image:
    """Parts by their digests. Layers are lists of files, links and folders by their paths."""

    def __init__(self, layers, **run):
        self.parts, described, plain = {}, [], []
        for layer in layers:
            packed = gzip.compress(layer, 1, mtime=0)
            plain.append(f"sha256:{hashlib.sha256(layer).hexdigest()}")
            described.append(self.put("application/vnd.oci.image.layer.v1.tar+gzip", packed))
        self.layers = layers
        self.config = {
            "architecture": ARCHITECTURE, "os": "linux", "config": run, "rootfs": {"type": "layers", "diff_ids": plain},
        }
        config = self.put("application/vnd.oci.image.config.v1+json", json.dumps(self.config).encode())
        self.manifest = self.put(MANIFEST, json.dumps({"schemaVersion": 2, "config": config, "layers": described}).encode())
        self.digest = self.manifest["digest"]

    def put(self, kind, content):
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.parts[digest] = content
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    def layout(self, folder):
        blobs = folder / "blobs/sha256"
        blobs.mkdir(parents=True)
        for digest, content in self.parts.items():
            (blobs / digest.removeprefix("sha256:")).write_bytes(content)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [self.manifest]}))
        return f"oci-layout:{folder}"

    def saved(self, path, tag):
        """As `docker save` writes it."""
        names = [f"{number}/layer.tar" for number in range(len(self.layers))]
        files = dict(zip(names, self.layers))
        files["config.json"] = json.dumps(self.config)
        files["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": [tag], "Layers": names}])
        path.write_bytes(tarred(files))
        return f"docker-archive:{path}:{tag}"


def tarred(files):
    """A layer: text or bytes are files, for all to execute; a path is where a link leads."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.mode = 0o755
            if isinstance(content, pathlib.PurePath):
                entry.type, entry.linkname = tarfile.SYMTYPE, str(content)
                archive.addfile(entry)
                continue
            content = content.encode() if isinstance(content, str) else content
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def libraries(*programs):
    """What the linker finds for them, by path."""
    found = {}
    for program in programs:
        said = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        for path in re.findall(r"(/\S+) \(0x", said):
            found[path] = pathlib.Path(path).read_bytes()
    return found


def bash():
    """The smallest image that can run a script, and what a later layer hides."""
    shell = pathlib.Path("/bin/bash").read_bytes()
    return tarred({"/bin/bash": shell, "/bin/sh": pathlib.PurePath("bash"), "/srv/gone": "1", **libraries("/bin/bash")})


def python():
    """This interpreter with its library, as it is found below /python."""
    home = pathlib.Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program = pathlib.Path(sys.executable).resolve()
    files = {"/python/bin/python3": program.read_bytes(), **libraries(str(program))}
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "idlelib", "tkinter", "ensurepip", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
    for path in sorted(library.rglob("*")):
        inside = path.relative_to(library)
        if left_out.isdisjoint(inside.parts) and path.is_file() and not inside.parts[0].startswith("config-"):
            files[f"/python/lib/{version}/{inside}"] = path.read_bytes()
            if path.suffix == ".so":
                files.update(libraries(str(path)))
    assert home.exists() and f"/python/lib/{version}/os.py" in files
    return tarred(files)


def registry(world, port):
    """The distribution specification, as far as it takes to pull."""

    class Door(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            world.asked.append(self.path)
            found = re.fullmatch(r"/v2/(team/[a-z]+)/(manifests|blobs)/(\S+)", self.path)
            images = world.images.get(found[1], {}) if found else {}
            image = images.get(found[3]) if found else None
            parts = [one.parts for one in images.values() if found[3] in one.parts]
            content = image.parts[image.digest] if image else parts[0][found[3]] if parts else None
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Door)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def create(world, kind, uri, **more):
    name = f"{world.name}-{kind}"
    function = world.client.create_function(
        FunctionName=name, PackageType="Image", Role=ROLE, Code={"ImageUri": uri}, Timeout=30, **more
    )
    world.made.append(name)
    world.client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    return name, function


def the_convention_of_aws(world):
    app = tarred({
        "/lambda-entrypoint.sh": text(ENTRYPOINT), "/var/runtime/bootstrap": text(BOOTSTRAP), "/var/task/app.sh": text(BASH),
        "/srv/.wh.gone": "",
    })
    world.hello = Image(
        [world.bash, app], Entrypoint=["/lambda-entrypoint.sh"], Cmd=["app.handler"], WorkingDir="/var/task",
        Env=["LAMBDA_TASK_ROOT=/var/task", "PATH=/bin"],
    )
    uri = world.hello.layout(world.folder / "hello")
    name, function = create(world, "hello", uri)
    wanted = {"PackageType": "Image", "CodeSize": 0, "CodeSha256": world.hello.digest.removeprefix("sha256:"), "State": "Pending"}
    differs = {key: (function.get(key), one) for key, one in wanted.items() if function.get(key) != one}
    assert not differs, differs
    for absent in ("Runtime", "Handler", "ImageConfigResponse", "RuntimeVersionConfig"):
        assert absent not in function, function
    found = world.client.get_function(FunctionName=name)
    assert found["Code"] == {"RepositoryType": "ECR", "ImageUri": uri, "ResolvedImageUri": f"{uri}@{world.hello.digest}"}, found["Code"]
    value, answer = succeeded(world.client, name, {"a": [1]}, LogType="Tail")
    assert value == {"event": {"a": [1]}, "version": "$LATEST", "task": "/var/task"}, value
    assert "told on stderr" in tail(answer), tail(answer)
    assert failed(world.client, name, {"fail": 1})[0]["errorType"] == "Bash.Failed"
    listed = [one for one in world.client.list_functions()["Functions"] if one["FunctionName"] == name]
    assert listed[0]["PackageType"] == "Image" and "Runtime" not in listed[0], listed


def a_function_stands_above_its_image(world):
    client, name = world.client, f"{world.name}-hello"
    config = {"EntryPoint": ["/bin/bash", "-c", "exec /var/runtime/bootstrap"], "WorkingDirectory": "/srv"}
    client.update_function_configuration(FunctionName=name, ImageConfig=config)
    updated(client, name)
    found = client.get_function_configuration(FunctionName=name)
    assert found["ImageConfigResponse"] == {"ImageConfig": config}, found
    # Nobody has told it a handler.
    assert failed(client, name, {})[0]["errorType"].startswith("Runtime."), "it ran"
    client.update_function_configuration(FunctionName=name, ImageConfig={"WorkingDirectory": "/nowhere"})
    updated(client, name)
    assert failed(client, name, {})[0]["errorType"] == "Runtime.InvalidWorkingDir"
    client.update_function_configuration(FunctionName=name, ImageConfig={})
    updated(client, name)
    assert "ImageConfigResponse" not in client.get_function_configuration(FunctionName=name)
    assert succeeded(client, name, {})[0]["task"] == "/var/task"


def a_registry(world):
    client = world.client
    first = Image([world.bash, tarred({"/run": ONCE.format(looks="one")})], Cmd=["/run"])
    second = Image([world.bash, tarred({"/run": ONCE.format(looks="two")})], Cmd=["/run"])
    world.images["team/app"] = {"1": first, first.digest: first, "2": second, second.digest: second}
    repository = f"127.0.0.1:{world.port}/team/app"
    name, _ = create(world, "registry", f"{repository}:1", Publish=True)
    assert succeeded(client, name, {})[0] == "one"
    asked = len(world.asked)
    client.update_function_code(FunctionName=name, ImageUri=f"{repository}:2", DryRun=True)
    assert len(world.asked) == asked
    client.update_function_code(FunctionName=name, ImageUri=f"{repository}:2")
    updated(client, name)
    assert succeeded(client, name, {})[0] == "two" and succeeded(client, name, {}, Qualifier="1")[0] == "one"
    code = client.get_function(FunctionName=name)["Code"]
    assert code["ResolvedImageUri"] == f"{repository}@{second.digest}", code
    # The base was there already.
    base = json.loads(first.parts[first.digest])["layers"][0]["digest"]
    assert sum(base in path for path in world.asked) <= 1, world.asked
    client.update_function_code(FunctionName=name, ImageUri=f"{repository}@{first.digest}")
    updated(client, name)
    assert succeeded(client, name, {})[0] == "one"


# Answers every event with one word, in bash.
ONCE = """#!/bin/bash
api="${{AWS_LAMBDA_RUNTIME_API%:*}}/${{AWS_LAMBDA_RUNTIME_API##*:}}"
ask() {{
    exec 3<>"/dev/tcp/$api"
    printf '%s /2018-06-01/runtime/%s HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n%s' "$1" "$2" "${{#3}}" "$3" >&3
    while IFS= read -r line <&3; do
        case "${{line,,}}" in lambda-runtime-aws-request-id:*) id="${{line#*: }}" id="${{id%$'\\r'}}" ;; esac
    done
    exec 3<&- 3>&-
}}
while true; do
    ask GET invocation/next ""
    ask POST "invocation/$id/response" '"{looks}"'
done
"""


def the_official_client_of_python(world):
    packages = world.folder / "packages"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", packages, "awslambdaric==4.2.2"],
        check=True,
    )
    files = {
        f"/function/{path.relative_to(packages)}": path.read_bytes()
        for path in sorted(packages.rglob("*")) if path.is_file() and "__pycache__" not in path.parts
    }
    for path in packages.rglob("*.so"):
        files.update(libraries(str(path)))
    files["/function/app.py"] = "import os\ndef handler(event, context):\n    return [event, context.function_name, os.getcwd()]\n"
    image = Image(
        [python(), tarred(files)], Entrypoint=["python3", "-m", "awslambdaric"], Cmd=["app.handler"], WorkingDir="/function",
        Env=["PATH=/python/bin", "PYTHONHOME=/python"],
    )
    uri = image.saved(world.folder / "python.tar", "team/python:1")
    name, _ = create(world, "python", uri, MemorySize=256)
    assert succeeded(world.client, name, {"b": 2})[0] == [{"b": 2}, name, "/function"]


def what_is_wrong_is_told(world):
    client = world.client
    create_function = {"FunctionName": f"{world.name}-wrong", "Role": ROLE, "PackageType": "Image"}
    hello = f"{world.name}-hello"
    broken = Image([world.bash, tarred({"/x": "lost"})], Cmd=["/x"])
    lost = json.loads(broken.parts[broken.digest])["layers"][1]["digest"]
    del broken.parts[lost]
    world.images["team/broken"] = {"1": broken, broken.digest: broken}
    registry = f"127.0.0.1:{world.port}"
    not_there = r"^Source image {} does not exist\. Provide a valid source image\."
    not_valid = r"^Source image {} is not valid\. Provide a valid source image\."
    other = r"^Please don't provide Handler or Runtime or Layer when the intended function PackageType is Image\.$"
    for uri, pattern in [
        (f"{registry}/team/app:none", not_there),
        (f"{registry}/team/none:1", not_there),
        (f"oci-layout:{world.folder}/none", not_there),
        (f"{registry}/team/broken:1", not_valid + rf".*{lost}"),
        ("oci-layout:/etc", r"functions\.images"),
        ("localhost:1/app", not_valid + r".*functions\.images"),
        ("Not An Image", not_valid),
    ]:
        told = refused(INVALID, 400, client.create_function, Code={"ImageUri": uri}, **create_function)["Error"]["Message"]
        assert re.search(pattern.replace("{}", re.escape(uri)), told, re.DOTALL), told
    for call, arguments, pattern in [
        (client.create_function, {"Code": {"ImageUri": "a"}, "Handler": "a.b", **create_function}, other),
        (client.create_function, {"Code": {"ZipFile": b"PK"}, **create_function}, r"^Please provide ImageUri"),
        (client.update_function_configuration, {"FunctionName": hello, "Handler": "a.b"}, other),
        (client.update_function_code, {"FunctionName": hello, "ZipFile": b"PK"}, r"^Please provide ImageUri when updating"),
    ]:
        told = refused(INVALID, 400, call, **arguments)["Error"]["Message"]
        assert re.search(pattern, told), told
    # The former one serves on.
    refused(INVALID, 400, client.update_function_code, FunctionName=hello, ImageUri=f"{registry}/team/broken:1")
    assert succeeded(client, hello, {})[0]["event"] == {}
    odd = Image([world.bash], Entrypoint=["/nothing"]).layout(world.folder / "odd")
    name, _ = create(world, "odd", odd)
    assert failed(client, name, {})[0]["errorType"] == "Runtime.InvalidEntrypoint"


def end(world):
    for name in world.made:
        world.client.delete_function(FunctionName=name)


def main(url, folder, port):
    world = types.SimpleNamespace(
        client=connect(url), name=f"image-{uuid.uuid4().hex[:8]}", made=[], folder=pathlib.Path(folder), port=port, images={}, asked=[],
        bash=bash(),
    )
    registry(world, port)
    steps(
        the_convention_of_aws, a_function_stands_above_its_image, a_registry, the_official_client_of_python, what_is_wrong_is_told, end,
    )(world)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), sys.argv[2], int(sys.argv[3]))
