"""Signatures and policies, as unmodified boto3, botocore and the AWS CLI meet them on a server that has keys.

Usage: signed.py --settings prints the settings of such a server; signed.py URL runs against it. With AWS=path/to/aws the AWS
CLI runs, too.
"""

import base64
import datetime
import http.client
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import types
import urllib.parse
import uuid

import boto3
import botocore.auth
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from common import KEY, PATIENCE, REGION, SECRET, connect, created, plain, refused, steps, succeeded, zipped

OTHER_KEY, OTHER_SECRET, OTHER_ACCOUNT = "AKIAI44QH8DHBEXAMPLE", "je7MtGbClwBF/2Zp9Utk/h3yCo8nvbEXAMPLEKEY", "210987654321"
SHORT_KEY, SHORT_SECRET, SHORT_TOKEN = "ASIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY", "IQoJb3JpZ2luX2VjEXAMPLE//+="

SETTINGS = f"""
[[auth.keys]]
id = "{KEY}"
secret = "{SECRET}"
name = "alice"

[[auth.keys]]
id = "{OTHER_KEY}"
secret = "{OTHER_SECRET}"
account = "{OTHER_ACCOUNT}"
name = "bob"

[[auth.keys]]
id = "{SHORT_KEY}"
secret = "{SHORT_SECRET}"
session_token = "{SHORT_TOKEN}"
"""

CODE = """
import json


def handler(event, context):
    if "requestContext" in event:
        return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": json.dumps(event)}
    return event
"""

MISMATCH = "The request signature we calculated does not match the signature you provided."
LIST = "/2015-03-31/functions/"


def another(url, key=KEY, secret=SECRET, token=None):
    return boto3.client(
        "lambda", endpoint_url=url, region_name=REGION, aws_access_key_id=key, aws_secret_access_key=secret,
        aws_session_token=token, config=Config(retries={"total_max_attempts": 1}, read_timeout=PATIENCE),
    )


class Clock:
    """botocore's clock, off by some seconds."""

    def __init__(self, seconds):
        self.by, self.true = datetime.timedelta(seconds=seconds), botocore.auth.get_current_datetime

    def __enter__(self):
        botocore.auth.get_current_datetime = lambda *arguments, **more: self.true(*arguments, **more) + self.by

    def __exit__(self, *_):
        botocore.auth.get_current_datetime = self.true


def made(url, method, target, body=b"", headers=None, key=KEY, secret=SECRET, token=None, by=SigV4Auth, **more):
    """A signed request that is not sent yet: its target and its headers."""
    request = AWSRequest(method=method, url=url + target, data=body, headers=headers or {})
    by(Credentials(key, secret, token), "lambda", REGION, **more).add_auth(request)
    return request.url.removeprefix(url), dict(request.headers.items())


def sent(url, method, target, body=b"", **more):
    target, headers = made(url, method, target, body, **more)
    return plain(url, method, target, body or None, headers)


def answers(answer, status, code=None, text=""):
    kind = answer.headers.get("x-amzn-errortype")
    assert (answer.status, kind) == (status, code), (answer.status, answer.headers, answer.body[:500])
    assert text.encode() in answer.body, answer.body[:500]
    return answer


def right_key(run):
    client = run.client
    function = created(client, run.name, zipped({"app.py": CODE}))
    run.arn = function["FunctionArn"]
    assert run.arn.startswith(f"arn:aws:lambda:{REGION}:"), run.arn
    for name in (run.name, run.arn, f"{run.arn}:$LATEST"):
        value, _ = succeeded(client, name, {"größe": "1 + 1"})
        assert value == {"größe": "1 + 1"}, value
    odd = {"a b": "ü", "plus+": "", "slash/": "= @:"}
    client.tag_resource(Resource=run.arn, Tags=odd)
    assert client.list_tags(Resource=run.arn)["Tags"] == odd
    client.untag_resource(Resource=run.arn, TagKeys=list(odd))
    assert client.list_tags(Resource=run.arn)["Tags"] == {}
    page = client.list_functions(MaxItems=1)
    assert len(page["Functions"]) == 1, page


def wrong_keys(run):
    call = {"FunctionName": run.name}
    told = refused("InvalidSignatureException", 403, another(run.url, secret=SECRET[:-1] + "X").get_function, **call)
    assert told["Error"]["Message"].startswith(MISMATCH), told
    told = refused("UnrecognizedClientException", 403, another(run.url, key="AKIAUNKNOWNEXAMPLE").get_function, **call)
    assert told["Error"]["Message"] == "The security token included in the request is invalid.", told
    refused("UnrecognizedClientException", 403, another(run.url, token="unexpected").get_function, **call)
    answers(plain(run.url, "GET", LIST), 403, "MissingAuthenticationTokenException", '"message":"Missing Authentication Token"')
    for text in ("AWS4-HMAC-SHA256", f"AWS4-HMAC-SHA256 Credential={KEY}/x, SignedHeaders=host, Signature=0"):
        answer = plain(run.url, "GET", LIST, headers={"authorization": text})
        answers(answer, 400, "IncompleteSignatureException")


def session_tokens(run):
    assert another(run.url, SHORT_KEY, SHORT_SECRET, SHORT_TOKEN).list_functions()["Functions"]
    for token in (None, SHORT_TOKEN[:-1]):
        refused("UnrecognizedClientException", 403, another(run.url, SHORT_KEY, SHORT_SECRET, token).list_functions)


def clocks(run):
    for seconds in (-290, 290):
        with Clock(seconds):
            run.client.get_function(FunctionName=run.name)
    for seconds, words in ((-310, "Signature expired: "), (310, "Signature not yet current: ")):
        with Clock(seconds):
            told = refused("InvalidSignatureException", 403, run.client.get_function, FunctionName=run.name)
        message = told["Error"]["Message"]
        assert message.startswith(words) and " 5 min.)" in message, message


def tampering(run):
    target = f"{LIST}{run.name}/invocations"
    headers = {"x-amz-log-type": "None", "content-type": "application/json"}
    _, right = made(run.url, "POST", target, b'{"a": 1}', headers)
    answers(plain(run.url, "POST", target, b'{"a": 1}', right), 200)
    # The same again is no forgery: two requests of one second look alike.
    answers(plain(run.url, "POST", target, b'{"a": 1}', right), 200)
    for changed in (
        plain(run.url, "POST", target, b'{"a": 2}', right),
        plain(run.url, "POST", target, b"", right),
        plain(run.url, "POST", target + "?Qualifier=1", b'{"a": 1}', right),
        plain(run.url, "POST", target.replace(run.name, "other"), b'{"a": 1}', right),
        plain(run.url, "PUT", target, b'{"a": 1}', right),
        plain(run.url, "POST", target, b'{"a": 1}', {**right, "x-amz-log-type": "Tail"}),
        plain(run.url, "POST", target, b'{"a": 1}', {**right, "content-type": "text/plain"}),
    ):
        answers(changed, 403, "InvalidSignatureException", MISMATCH)
    more = plain(run.url, "POST", target, b'{"a": 1}', {**right, "x-amz-invocation-type": "Event"})
    answers(more, 403, "InvalidSignatureException", "x-amz-invocation-type")
    unsigned = {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    answers(sent(run.url, "POST", target, b"{}", headers=unsigned), 403, "InvalidSignatureException", "unsigned")
    for service, region, status in (("s3", REGION, 403), ("lambda", "eu-west-1", 200)):
        request = AWSRequest(method="GET", url=run.url + LIST)
        SigV4Auth(Credentials(KEY, SECRET), service, region).add_auth(request)
        answer = plain(run.url, "GET", LIST, headers=dict(request.headers.items()))
        assert answer.status == status, (service, region, answer.body)


def presigned(run):
    def fetch(url):
        return plain(run.url, "GET", url.removeprefix(run.url))

    arguments = {"FunctionName": f"{run.arn}:$LATEST", "Qualifier": "$LATEST"}
    url = run.client.generate_presigned_url("get_function", arguments, ExpiresIn=60)
    assert answers(fetch(url), 200).json()["Configuration"]["FunctionName"] == run.name
    answers(fetch(url.replace("Qualifier=%24LATEST", "Qualifier=1")), 403, "InvalidSignatureException", MISMATCH)
    answers(fetch(url.replace("Expires=60", "Expires=600")), 403, "InvalidSignatureException", MISMATCH)
    with Clock(-1200):
        late = run.client.generate_presigned_url("get_function", arguments, ExpiresIn=60)
        long = run.client.generate_presigned_url("get_function", arguments, ExpiresIn=3600)
    answers(fetch(late), 403, "InvalidSignatureException", "Signature expired")
    answers(fetch(long), 200)


def other_accounts(run):
    bob = another(run.url, OTHER_KEY, OTHER_SECRET)
    told = refused("AccessDeniedException", 403, bob.invoke, FunctionName=run.name)
    words = told["Error"]["Message"]
    assert words.startswith(f"User: arn:aws:iam::{OTHER_ACCOUNT}:user/bob is not authorized to perform: lambda:InvokeFunction"), words
    # Not even whether there is one.
    refused("AccessDeniedException", 403, bob.get_function, FunctionName="no-such-function")
    refused("AccessDeniedException", 403, bob.list_functions)
    run.client.add_permission(FunctionName=run.name, StatementId="bob", Action="lambda:InvokeFunction", Principal=OTHER_ACCOUNT)
    assert json.load(bob.invoke(FunctionName=run.arn, Payload=b'{"by": "bob"}')["Payload"]) == {"by": "bob"}
    refused("AccessDeniedException", 403, bob.delete_function, FunctionName=run.name)
    refused("AccessDeniedException", 403, bob.invoke, FunctionName=run.name, Qualifier="1")
    run.client.remove_permission(FunctionName=run.name, StatementId="bob")
    refused("AccessDeniedException", 403, bob.invoke, FunctionName=run.name)
    answers(sent(run.url, "POST", "/v1/sql", b"SELECT 1", key=OTHER_KEY, secret=OTHER_SECRET), 403)


def function_urls(run):
    client = run.client
    address = client.create_function_url_config(FunctionName=run.name, AuthType="AWS_IAM")["FunctionUrl"]
    path = urllib.parse.urlsplit(address).path
    told = answers(plain(run.url, "GET", path), 403, "AccessDeniedException").json()
    assert told["Message"].startswith("Forbidden. For troubleshooting Function URL authorization issues, see: https://"), told
    for target in ("", "a%20b/%C3%BC?x=2&x=1&e=&f&sp=a%20b", "a:b/$LATEST//c/"):
        event = answers(sent(run.url, "POST", path + target, b'{"a": 1}', token=None), 200).json()
        assert base64.b64decode(event["body"]) == b'{"a": 1}' if event["isBase64Encoded"] else event["body"] == '{"a": 1}', event
    context = event["requestContext"]
    assert context["accountId"] == run.arn.split(":")[4], context
    iam = context["authorizer"]["iam"]
    assert (iam["accessKey"], iam["userArn"]) == (KEY, f"arn:aws:iam::{context['accountId']}:user/alice"), iam
    assert "authorization" not in event["headers"], "the function sees a signature"
    presigned, _ = made(run.url, "GET", path, by=SigV4QueryAuth, expires=60)
    query = answers(plain(run.url, "GET", presigned), 200).json()["rawQueryString"]
    assert "X-Amz-Date=" in query and "X-Amz-Signature" not in query, "the function sees a signature"
    _, headers = made(run.url, "POST", path, b"a")
    answers(plain(run.url, "POST", path, b"b", headers), 403, "InvalidSignatureException", MISMATCH)
    answers(sent(run.url, "GET", path, secret="wrong"), 403, "InvalidSignatureException", MISMATCH)
    # Browsers send these by themselves.
    answers(plain(run.url, "GET", path, headers=user_and_password()), 403, "AccessDeniedException")
    # Another account needs a statement.
    bob = {"key": OTHER_KEY, "secret": OTHER_SECRET}
    answers(sent(run.url, "GET", path, **bob), 403, "AccessDeniedException")
    permission = {"StatementId": "url", "Action": "lambda:InvokeFunctionUrl", "FunctionName": run.name}
    client.add_permission(**permission, Principal=OTHER_ACCOUNT, FunctionUrlAuthType="NONE")
    answers(sent(run.url, "GET", path, **bob), 403, "AccessDeniedException")
    client.remove_permission(FunctionName=run.name, StatementId="url")
    client.add_permission(**permission, Principal=OTHER_ACCOUNT, FunctionUrlAuthType="AWS_IAM")
    answers(sent(run.url, "GET", path, **bob), 200)
    client.remove_permission(FunctionName=run.name, StatementId="url")
    # A public one needs a statement for everybody, and then no signature.
    client.update_function_url_config(FunctionName=run.name, AuthType="NONE")
    answers(plain(run.url, "GET", path), 403, "AccessDeniedException")
    client.add_permission(**permission, Principal="*", FunctionUrlAuthType="NONE")
    event = answers(plain(run.url, "GET", path, headers=user_and_password()), 200).json()
    assert event["requestContext"]["accountId"] == "anonymous" and "authorizer" not in event["requestContext"], event
    assert "authorization" not in event["headers"], "the function sees a secret"
    mine = {"authorization": "Bearer mine", "origin": "https://evil.example"}
    assert answers(plain(run.url, "GET", path, headers=mine), 200).json()["headers"]["authorization"] == "Bearer mine"
    client.delete_function_url_config(FunctionName=run.name)


def user_and_password(key=KEY, secret=SECRET):
    return {"authorization": "Basic " + base64.b64encode(f"{key}:{secret}".encode()).decode()}


def other_paths(run):
    json_text = {"accept": "application/json"}
    for path in ("/", "/metrics", "/v1/streams", "/nowhere"):
        answer = plain(run.url, "GET", path)
        assert answer.status == 401 and answer.headers["www-authenticate"].startswith("Basic "), (path, vars(answer))
    assert plain(run.url, "GET", "/health").status == 200
    query = lambda headers: plain(run.url, "POST", "/v1/sql", b"SELECT 1 AS one", {**json_text, **headers})
    assert query({}).status == 401
    assert query(user_and_password(secret="wrong")).status == 401
    assert query(user_and_password(OTHER_KEY, OTHER_SECRET)).status == 403
    assert query({**user_and_password(), "origin": "https://evil.example"}).status == 403
    assert query(user_and_password()).json()["rows"] == [[1]]
    assert sent(run.url, "POST", "/v1/sql", b"SELECT 1 AS one", headers=json_text).json()["rows"] == [[1]]
    answers(plain(run.url, "GET", LIST, headers=user_and_password()), 200)
    code = urllib.parse.urlsplit(run.client.get_function(FunctionName=run.name)["Code"]["Location"]).path
    assert plain(run.url, "GET", code).status == 200


def connections(run):
    """A request that is refused before its body is read leaves its connection to the next one, or says that it closes."""
    address = urllib.parse.urlsplit(run.url)
    target = f"{LIST}{run.name}/invocations"
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=PATIENCE)
    connection.connect()
    socket = connection.sock
    for body in (b"x", b"x" * 65536, b"x" * 1_000_000):
        connection.request("POST", target, body=body)
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (403, None), (len(body), answer.status, answer.headers)
        answer.read()
    _, headers = made(run.url, "GET", LIST)
    connection.request("GET", LIST, headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200 and connection.sock is socket, answer.status
    answer.read()
    connection.request("POST", target, body=b"x" * 20_000_000)
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("connection")) == (403, "close"), (answer.status, answer.headers)
    assert b"MissingAuthenticationToken" in answer.read() or answer.getheader("x-amzn-errortype")
    connection.close()


def command_line(run):
    if "AWS" not in os.environ:
        print("  without the AWS CLI: AWS is not set")
        return
    environment = {
        **os.environ, "AWS_DEFAULT_REGION": REGION, "AWS_PAGER": "", "AWS_MAX_ATTEMPTS": "1", "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }

    def aws(*arguments, **other):
        command = [os.environ["AWS"], "--endpoint-url", run.url, "--output", "text", "lambda", *arguments]
        return subprocess.run(command, env={**environment, **other}, capture_output=True, text=True, timeout=PATIENCE)

    done = aws("get-function", "--function-name", run.arn, "--query", "Configuration.FunctionName")
    assert (done.returncode, done.stdout.strip()) == (0, run.name), done
    with tempfile.TemporaryDirectory() as folder:
        event = pathlib.Path(folder, "event.json")
        event.write_text('{"by": "cli"}')
        done = aws("invoke", "--function-name", run.name, "--payload", f"fileb://{event}", "/dev/stdout")
    assert done.returncode == 0 and '{"by":"cli"}' in done.stdout.replace(" ", ""), done
    for changed, code in (
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "InvalidSignatureException"),
        ({"AWS_ACCESS_KEY_ID": "AKIAUNKNOWNEXAMPLE"}, "UnrecognizedClientException"),
    ):
        done = aws("list-functions", **changed)
        assert done.returncode != 0 and f"({code})" in done.stderr, done


def delete(run):
    run.client.delete_function(FunctionName=run.name)
    refused("ResourceNotFoundException", 404, run.client.get_function, FunctionName=run.name)


def main(url):
    run = types.SimpleNamespace(url=url, client=connect(url), name=f"signed-{uuid.uuid4().hex[:8]}")
    all_parts = steps(
        right_key, wrong_keys, session_tokens, clocks, tampering, presigned, other_accounts, function_urls, other_paths,
        connections, command_line, delete,
    )
    all_parts(run)


if __name__ == "__main__":
    if sys.argv[1] == "--settings":
        print(SETTINGS)
    else:
        main(sys.argv[1].rstrip("/"))
