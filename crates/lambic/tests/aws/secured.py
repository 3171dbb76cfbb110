"""boto3, unmodified, on a server with TLS and a key: what it verifies, and which URLs it is told.

Usage: secured.py URL AUTHORITY, where URL begins with https:// and AUTHORITY is a file of the certificate that signed the
server's.
"""

import json
import ssl
import sys
import types
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import SSLError

from common import KEY, PATIENCE, REGION, SECRET, created, steps, succeeded, zipped

CODE = """
def handler(event, context):
    return event.get("headers", event)
"""


def client(url, verify):
    config = Config(retries={"total_max_attempts": 1}, read_timeout=PATIENCE)
    return boto3.client(
        "lambda", endpoint_url=url, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET,
        verify=verify, config=config,
    )


def an_unknown_authority_is_refused(run):
    try:
        client(run.url, None).list_functions()
    except SSLError:
        return
    raise AssertionError("boto3 took a certificate that nobody whom it knows has signed")


def functions_live(run):
    aws = run.client = client(run.url, run.authority)
    created(aws, "secured", zipped({"app.py": CODE}))
    assert succeeded(aws, "secured", {"größe": 1})[0] == {"größe": 1}


def urls_say_https(run):
    place = run.client.get_function(FunctionName="secured")["Code"]["Location"]
    assert place.startswith(run.url + "/"), place
    trusted = ssl.create_default_context(cafile=run.authority)
    with urllib.request.urlopen(place, context=trusted, timeout=PATIENCE) as answer:
        assert answer.read(2) == b"PK"
    url = run.client.create_function_url_config(FunctionName="secured", AuthType="NONE")["FunctionUrl"]
    assert url.startswith(run.url + "/"), url
    run.client.add_permission(
        FunctionName="secured", StatementId="all", Principal="*", Action="lambda:InvokeFunctionUrl", FunctionUrlAuthType="NONE",
    )
    with urllib.request.urlopen(url, context=trusted, timeout=PATIENCE) as answer:
        seen = json.loads(answer.read())
    assert seen["x-forwarded-proto"] == "https", seen


run = types.SimpleNamespace(url=sys.argv[1], authority=sys.argv[2], client=None)
steps(an_unknown_authority_is_refused, functions_live, urls_say_https)(run)
