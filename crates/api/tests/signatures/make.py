"""Makes vectors.json: requests as botocore signs and sends them, caught on the wire. Usage: python make.py, with the
packages of crates/lambic/tests/aws/requirements.txt. The requests are of one moment and to one address, so that only what
is random in them (ids of attempts) changes from run to run.
"""

import datetime
import http.client
import json
import pathlib
import socket
import threading

import boto3
import botocore.auth
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

ADDRESS = ("127.0.0.1", 17070)
URL = f"http://{ADDRESS[0]}:{ADDRESS[1]}"
KEY, SECRET, TOKEN = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "IQoJb3JpZ2luX2VjEXAMPLE//+="
NOW = datetime.datetime(2026, 11, 27, 12, 30, 45, tzinfo=datetime.timezone.utc)
ARN = "arn:aws:lambda:eu-west-1:000000000000:function:f"

botocore.auth.get_current_datetime = lambda remove_tzinfo=True: NOW.replace(tzinfo=None) if remove_tzinfo else NOW


class Catcher:
    """Answers every request with `{}` and keeps its bytes."""

    def __init__(self):
        self.socket = socket.create_server(ADDRESS)
        self.caught = []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            connection, _ = self.socket.accept()
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = [line.split(":", 1) for line in lines[1:]]
                length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
                while len(body) < length:
                    body += connection.recv(65536)
                method, target, _ = lines[0].split(" ")
                # A header's value as a server sees it: without the blanks around it.
                headers = [[name.lower(), value.strip(" \t")] for name, value in headers]
                self.caught.append({"method": method, "target": target, "headers": headers, "body": body.decode()})
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")


catcher = Catcher()
vectors = []


def keep(name, token=False):
    vectors.append({"name": name, "token": token, **catcher.caught.pop()})
    assert not catcher.caught, "one request each"


def send(method, target, body, headers):
    connection = http.client.HTTPConnection(*ADDRESS)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    headers = [("host", f"{ADDRESS[0]}:{ADDRESS[1]}"), *headers]
    if body:
        headers.append(("content-length", str(len(body))))
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders(body or None)
    connection.getresponse().read()
    connection.close()


def signed(name, method, target, body=b"", headers=(), auth=SigV4Auth, token=None, **more):
    """By botocore's signer alone, with targets that no client of the API makes."""
    request = AWSRequest(method=method, url=URL + target, data=body, headers=dict(headers))
    auth(Credentials(KEY, SECRET, token), "lambda", "eu-west-1", **more).add_auth(request)
    target = request.url.removeprefix(URL)
    body = body if auth is SigV4Auth else b""
    send(method, target, body, [(name, value) for name, value in request.headers.items() if name.lower() != "host"])
    keep(name, token is not None)


def client(token=None):
    config = Config(retries={"total_max_attempts": 1}, parameter_validation=False)
    return boto3.client(
        "lambda", endpoint_url=URL, region_name="eu-west-1", config=config,
        aws_access_key_id=KEY, aws_secret_access_key=SECRET, aws_session_token=token,
    )


boto = client()
for name, call, arguments in [
    ("no body", "list_functions", {}),
    ("a page", "list_functions", {"Marker": "a+b/c=", "MaxItems": 10}),
    ("a name", "get_function", {"FunctionName": "f"}),
    ("a name with an alias", "get_function", {"FunctionName": "f:live"}),
    ("an ARN", "get_function", {"FunctionName": ARN}),
    ("an ARN with a qualifier", "get_function", {"FunctionName": f"{ARN}:$LATEST"}),
    ("a qualifier", "get_function_configuration", {"FunctionName": ARN, "Qualifier": "$LATEST"}),
    ("tags of an ARN", "list_tags", {"Resource": ARN}),
    ("a repeated parameter", "untag_resource", {"Resource": ARN, "TagKeys": ["z", "a b", "Ünï", "a&b=c", "", "~*'()!"]}),
    ("a body", "tag_resource", {"Resource": ARN, "Tags": {"größe": "1 + 1"}}),
    ("a payload", "invoke", {"FunctionName": "f", "Payload": '{"a": "ü"}', "LogType": "Tail", "ClientContext": "e30="}),
    ("an empty payload", "invoke", {"FunctionName": "f", "InvocationType": "Event"}),
    ("a zip", "create_function", {"FunctionName": "f", "Runtime": "python3.11", "Handler": "a.b", "Role": "r", "Code": {"ZipFile": b"PK\0" * 99}}),
    ("a name that is none", "get_function", {"FunctionName": "a b/c?d#e%f"}),
    ("a deletion", "delete_function", {"FunctionName": "f"}),
]:
    getattr(boto, call)(**arguments)
    keep(name)
client(TOKEN).list_functions()
keep("a session token", token=True)

U = "/lambda-url/0123456789abcdef0123456789abcdef"
signed("a URL", "GET", f"{U}/")
signed("a URL without a slash", "GET", U)
signed("a path with what is encoded", "GET", f"{U}/a%20b/%C3%BC/%3a%3A/%2F/%25")
signed("a path with what needs no encoding", "GET", f"{U}/a:b/$LATEST/~.-_/(x)*'!,;=@&+")
signed("a path with two slashes", "GET", f"{U}//a///b//")
signed("a path that ends with a slash", "GET", f"{U}/a/")
signed("parameters out of order", "GET", f"{U}/?b=2&a=2&a=1&B=3&A=4&a=10&aa=0")
signed("parameters that are empty", "GET", f"{U}/?empty=&flag&z")
signed("parameters with what is encoded", "GET", f"{U}/?sp=a%20b&plus=a%2Bb&%C3%BC=%E2%82%AC&tilde=~&slash=%2F")
signed("a body by a URL", "POST", f"{U}/", "{\"größe\": 1}".encode(), [("content-type", "application/json")])
signed("a header with blanks", "GET", f"{U}/", headers=[("x-amz-meta-a", "  a   b\t c  "), ("x-empty", "")])
signed("a date without x-amz", "GET", f"{U}/", headers=[("date", "now")])
signed("a body's digest that is told", "POST", f"{U}/", b"a", [("x-amz-content-sha256", "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb")])
signed("a token by a URL", "PUT", f"{U}/x", b"body", token=TOKEN)
signed("a presigned URL", "GET", f"{U}/a%20b?q=1&A=2&q=0", auth=SigV4QueryAuth, expires=900)
# Its body becomes parameters: this signer signs no bodies.
signed("a presigned URL by POST", "POST", f"{U}/", b'{"a": "b c"}', auth=SigV4QueryAuth, expires=60)
signed("a presigned URL with a token", "GET", f"{U}/", auth=SigV4QueryAuth, token=TOKEN, expires=604800)

presigned = boto.generate_presigned_url("get_function", {"FunctionName": f"{ARN}:$LATEST", "Qualifier": "$LATEST"}, ExpiresIn=300)
send("GET", presigned.removeprefix(URL), b"", [])
keep("a presigned operation")

out = {
    "key": KEY, "secret": SECRET, "token": TOKEN, "region": "eu-west-1",
    "now": NOW.strftime("%Y%m%dT%H%M%SZ"), "vectors": vectors,
}
path = pathlib.Path(__file__).with_name("vectors.json")
text = json.dumps(out, ensure_ascii=False)
path.write_text(text.replace('"vectors": [', '"vectors": [\n').replace('}, {"name"', '},\n{"name"') + "\n")
print(f"{len(vectors)} requests in {path}")
