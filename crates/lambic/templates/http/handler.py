"""Answers HTTP requests: the event is a request as AWS's function URLs describe it, the answer a response."""

import json


def handler(event, context):
    request = event.get("requestContext", {}).get("http", {})
    name = (event.get("queryStringParameters") or {}).get("name", "world")
    print(request.get("method"), event.get("rawPath"))  # a line of `lambic function logs {{name}}`
    if request.get("method") not in ("GET", "HEAD"):
        return {"statusCode": 405, "headers": {"allow": "GET, HEAD"}}
    return {
        "statusCode": 200,
        "headers": {"content-type": "application/json"},
        "body": json.dumps({"message": f"hello {name}", "path": event.get("rawPath")}),
    }
