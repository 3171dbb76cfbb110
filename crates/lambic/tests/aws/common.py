"""What the scripts of this folder share: a watched client, zips made in memory, waiting with a bound, plain HTTP."""

import base64
import hashlib
import http.client
import io
import json
import time
import urllib.parse
import zipfile

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

import shapes

REGION = "us-east-1"
ROLE = "arn:aws:iam::123456789012:role/r"
KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
# Long enough for a busy machine; nothing waits this long on purpose.
PATIENCE = 120


def connect(url, **config):
    """boto3's own client, each answer to which is held against the model; it does not try again by itself."""
    settings = Config(retries={"total_max_attempts": 1}, read_timeout=PATIENCE, max_pool_connections=50, **config)
    client = boto3.client(
        "lambda",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=settings,
    )
    client.operations_seen, client.errors_seen = shapes.watch(client)
    return client


def zipped(files, executable=()):
    """The bytes of a zip with these files, by path; times are fixed, so that the same files make the same zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0))
            entry.create_system, entry.compress_type = 3, zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if path in executable else 0o100644) << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def sha256(content):
    """As `CodeSha256` has it."""
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def eventually(what, check, seconds=PATIENCE):
    """Asks until the answer is true, and gives that answer; fails after this many seconds."""
    end = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < end, f"still not after {seconds} s: {what}; the last answer was {answer!r}"
        time.sleep(0.1)


def created(client, name, content, runtime="python3.11", handler="app.handler", **more):
    """A new function that is active."""
    more.setdefault("Timeout", 30)
    function = client.create_function(
        FunctionName=name, Runtime=runtime, Role=ROLE, Handler=handler, Code={"ZipFile": content}, **more
    )
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": PATIENCE})
    return function


def updated(client, name):
    client.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": PATIENCE})


def invoked(client, name, event=None, **more):
    """A synchronous invocation: its payload, and the whole answer."""
    if event is not None:
        more["Payload"] = json.dumps(event)
    answer = client.invoke(FunctionName=name, **more)
    assert answer["StatusCode"] == 200, answer
    raw = answer["Payload"].read()
    try:
        return json.loads(raw), answer
    except ValueError as error:
        raise AssertionError(f"the payload is not JSON: {error}: {raw[:500]!r}") from error


def succeeded(client, name, event=None, **more):
    """The same, and the function must not have failed."""
    value, answer = invoked(client, name, event, **more)
    assert "FunctionError" not in answer, (answer["FunctionError"], value)
    return value, answer


def failed(client, name, event=None, **more):
    """The same, and the function must have failed."""
    value, answer = invoked(client, name, event, **more)
    assert answer.get("FunctionError") == "Unhandled", (answer.get("FunctionError"), value)
    return value, answer


def tail(answer):
    """The log that `LogType=Tail` gives."""
    return base64.b64decode(answer["LogResult"], validate=True).decode("utf-8", "replace")


def refused(code, status, call, **arguments):
    """Makes a call that must fail so, and gives the error's answer."""
    from botocore.exceptions import ClientError

    try:
        answer = call(**arguments)
    except ClientError as error:
        told = error.response
        was = (told["Error"]["Code"], told["ResponseMetadata"]["HTTPStatusCode"])
        assert was == (code, status), f"{was} instead of {(code, status)}: {told['Error']['Message']}"
        return told
    raise AssertionError(f"{arguments} was let through, not refused with {code}: {answer}")


class Answer:
    """A plain HTTP answer, whatever its status."""

    def __init__(self, response):
        self.status, self.body = response.status, response.read()
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.cookies = response.headers.get_all("set-cookie") or []

    def json(self):
        return json.loads(self.body)


def plain(url, method, target, body=None, headers=None):
    """One HTTP request without a client's help: the path is sent as it stands."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=PATIENCE)
    try:
        connection.request(method, target, body=body, headers=headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def signed(url, method, target, body=b"", headers=None):
    """The same, signed as AWS's clients do it."""
    request = AWSRequest(method=method, url=url + target, data=body, headers=headers or {})
    SigV4Auth(Credentials(KEY, SECRET), "lambda", REGION).add_auth(request)
    return plain(url, method, target, body, dict(request.headers.items()))


def sql(url, text):
    """Runs statements of Lambic's own SQL."""
    answer = plain(url, "POST", "/v1/sql", text.encode(), {"content-type": "text/plain", "accept": "application/json"})
    assert answer.status == 200, (text, answer.status, answer.body)
    return answer.json()


def steps(*functions):
    """Runs the parts of a script in order, and says which one runs, so that a failure shows its place."""

    def run(*arguments):
        for function in functions:
            print(f"{function.__name__.replace('_', ' ')} …", flush=True)
            function(*arguments)
        print(f"{len(functions)} parts passed", flush=True)

    return run
