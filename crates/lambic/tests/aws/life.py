"""The life of a function, from its creation to its end, as unmodified boto3 lives it.

Usage: life.py URL. Every answer is also held against botocore's model, by `shapes.py`.
"""

import base64
import json
import re
import sys
import textwrap
import types
import urllib.parse
import uuid

import rest
from common import (
    REGION, ROLE, connect, created, eventually, failed, plain, refused, sha256, sql, steps, succeeded, tail, updated, zipped,
)

APP = """
    import json, os

    LOOKS = {looks!r}
    REMEMBERED = []


    def handler(event, context):
        if "requestContext" in event:
            return answer(event)
        print("looking at", json.dumps(event))
        if event.get("fail"):
            raise ValueError("no such luck")
        if event.get("remember"):
            REMEMBERED.append(event["remember"])
        client = context.client_context
        return {{
            "looks": LOOKS,
            "event": event,
            "remembered": REMEMBERED,
            "function": context.function_name,
            "version": context.function_version,
            "arn": context.invoked_function_arn,
            "request": context.aws_request_id,
            "memory": context.memory_limit_in_mb,
            "remaining": context.get_remaining_time_in_millis(),
            "custom": client.custom if client else None,
            "greeting": os.environ.get("GREETING"),
        }}


    def answer(event):
        return {{
            "statusCode": 201,
            "headers": {{"content-type": "application/json", "x-looks": LOOKS}},
            "cookies": ["a=1; Secure", "b=2"],
            "body": json.dumps(event),
        }}


    def other(event, context):
        return "by the other handler"


    def layered(event, context):
        import greetings

        return greetings.hello(event["who"])


    def records(event, context):
        print(json.dumps(event))
"""

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000"


def code(looks):
    return zipped({"app.py": textwrap.dedent(APP).format(looks=looks)})


def matches(pattern, text):
    assert re.fullmatch(pattern, text), f"{text!r} is not of the form {pattern}"


def pages(call, key, **arguments):
    """All items that a list operation gives, one a page, by their markers."""
    items, marker, rounds = [], None, 0
    while True:
        page = call(MaxItems=1, **arguments, **({"Marker": marker} if marker else {}))
        assert len(page[key]) <= 1, page
        items += page[key]
        marker = page.get("NextMarker")
        rounds += 1
        assert rounds < 200, "the pages have no end"
        if not marker:
            return items


def create(life):
    client = life.client
    life.code = code("one")
    function = client.create_function(
        FunctionName=life.name,
        Runtime="python3.11",
        Role=ROLE,
        Handler="app.handler",
        Code={"ZipFile": life.code},
        Description="a life",
        Environment={"Variables": {"GREETING": "hello"}},
        Tags={"team": "blue"},
    )
    life.arn = function["FunctionArn"]
    matches(rf"arn:aws:lambda:{REGION}:\d{{12}}:function:{life.name}", life.arn)
    life.account = life.arn.split(":")[4]
    wanted = {
        "FunctionName": life.name, "Runtime": "python3.11", "Role": ROLE, "Handler": "app.handler", "Description": "a life",
        "CodeSize": len(life.code), "CodeSha256": sha256(life.code), "Timeout": 3, "MemorySize": 128, "Version": "$LATEST",
        "PackageType": "Zip", "Architectures": ["x86_64"], "Environment": {"Variables": {"GREETING": "hello"}},
        "EphemeralStorage": {"Size": 512}, "TracingConfig": {"Mode": "PassThrough"},
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
    }
    life.wanted = wanted
    holds(function, wanted)
    assert function["State"] in ("Pending", "Active"), function
    if function["State"] == "Pending":
        assert function["StateReasonCode"] == "Creating", function
        assert function["StateReason"] == "The function is being created.", function
    matches(UUID, function["RevisionId"])
    matches(TIME, function["LastModified"])
    assert function["LoggingConfig"] == {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{life.name}"}, function
    client.get_waiter("function_active_v2").wait(FunctionName=life.name)
    client.get_waiter("function_exists").wait(FunctionName=life.name)


def holds(has, wanted):
    differs = {name: (has.get(name), value) for name, value in wanted.items() if has.get(name) != value}
    assert not differs, f"(has, wanted): {differs}"


def get(life):
    client = life.client
    whole = client.get_function(FunctionName=life.name)
    holds(whole["Configuration"], {**life.wanted, "FunctionArn": life.arn, "State": "Active", "LastUpdateStatus": "Successful"})
    assert whole["Tags"] == {"team": "blue"}, whole["Tags"]
    assert whole["Code"]["RepositoryType"] == "S3", whole["Code"]
    location = urllib.parse.urlsplit(whole["Code"]["Location"])
    fetched = plain(life.url, "GET", location._replace(scheme="", netloc="").geturl())
    assert fetched.status == 200 and fetched.body == life.code, "Code.Location does not give the zip back"
    configuration = client.get_function_configuration(FunctionName=life.name)
    holds(configuration, {**life.wanted, "FunctionArn": life.arn, "State": "Active"})
    # The same function by every form of its name.
    for name in (life.arn, f"{life.account}:function:{life.name}", f"function:{life.name}"):
        assert client.get_function_configuration(FunctionName=name)["FunctionArn"] == life.arn, name
    latest = client.get_function_configuration(FunctionName=life.name, Qualifier="$LATEST")
    assert latest["FunctionArn"] == f"{life.arn}:$LATEST", latest["FunctionArn"]
    assert client.get_function_configuration(FunctionName=f"{life.arn}:$LATEST")["FunctionArn"] == f"{life.arn}:$LATEST"


def list_functions(life):
    client = life.client
    others = {f"{life.name}-{number}" for number in range(3)}
    for name in others:
        created(client, name, code("others"))
    mine = {life.name} | others
    for found in (
        client.list_functions()["Functions"],
        pages(client.list_functions, "Functions"),
        [one for page in client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2}) for one in page["Functions"]],
    ):
        names = [function["FunctionName"] for function in found]
        assert mine <= set(names) and len(names) == len(set(names)), names
    listed = next(one for one in client.list_functions()["Functions"] if one["FunctionName"] == life.name)
    holds(listed, {**life.wanted, "FunctionArn": life.arn})
    assert "State" not in listed or listed["State"] is None, "a list says nothing of the state"
    client.publish_version(FunctionName=life.name)
    everything = client.list_functions(FunctionVersion="ALL")["Functions"]
    arns = {one["FunctionArn"] for one in everything}
    assert {f"{life.arn}:$LATEST", f"{life.arn}:1"} <= arns, arns
    for name in others:
        assert client.delete_function(FunctionName=name)["StatusCode"] in (200, 204)
    left = {one["FunctionName"] for one in client.list_functions()["Functions"]}
    assert not left & others, left


def invoke(life):
    client = life.client
    context = base64.b64encode(json.dumps({"custom": {"colour": "green"}}).encode()).decode()
    event = {"name": "Ünï", "list": [1, 2.5, None, True]}
    value, answer = succeeded(client, life.name, event, LogType="Tail", ClientContext=context)
    assert answer["ExecutedVersion"] == "$LATEST", answer
    request = answer["ResponseMetadata"]["RequestId"]
    matches(UUID, request)
    holds(value, {
        "looks": "one", "event": event, "function": life.name, "version": "$LATEST", "arn": life.arn, "request": request,
        "custom": {"colour": "green"}, "greeting": "hello",
    })
    assert str(value["memory"]) == "128", value["memory"]
    assert 0 < value["remaining"] <= 3000, value["remaining"]
    log = tail(answer)
    report = (
        rf"REPORT RequestId: {request}\tDuration: \d+\.\d\d ms\tBilled Duration: \d+ ms\tMemory Size: 128 MB"
        r"\tMax Memory Used: \d+ MB\t(Init Duration: \d+\.\d\d ms\t)?"
    )
    for line in (rf"START RequestId: {request} Version: \$LATEST", "looking at .*", rf"END RequestId: {request}", report):
        assert re.search(rf"^{line}\s*$", log, re.MULTILINE), f"no line {line!r} in the log:\n{log}"
    order = [log.index(word) for word in ("START ", "looking at", "END ", "REPORT ")]
    assert order == sorted(order), log
    assert "LogResult" not in succeeded(client, life.name, {}, LogType="None")[1]
    # Nothing is an empty object, and any JSON is a payload.
    assert succeeded(client, life.name)[0]["event"] == {}
    trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    assert plain(life.url, "POST", f"/2015-03-31/functions/{life.name}/invocations", b"{}", {"X-Amzn-Trace-Id": trace}).status == 200


def fail(life):
    value, answer = failed(life.client, life.name, {"fail": True}, LogType="Tail")
    assert answer["ExecutedVersion"] == "$LATEST", answer
    holds(value, {"errorType": "ValueError", "errorMessage": "no such luck"})
    assert isinstance(value["stackTrace"], list) and value["stackTrace"], value
    assert '"/var/task/app.py"' in value["stackTrace"][-1] and "in handler" in value["stackTrace"][-1], value["stackTrace"]
    log = tail(answer)
    assert "[ERROR] ValueError: no such luck" in log and "Traceback (most recent call last):" in log, log
    succeeded(life.client, life.name, {"after": "a failure"})


def invoke_otherwise(life):
    client = life.client
    assert client.invoke(FunctionName=life.name, InvocationType="DryRun")["StatusCode"] == 204
    # With one environment at a time, what an asynchronous invocation left in it is seen by a later one.
    client.put_function_concurrency(FunctionName=life.name, ReservedConcurrentExecutions=1)
    answer = client.invoke(FunctionName=life.name, InvocationType="Event", Payload=json.dumps({"remember": "me"}))
    assert answer["StatusCode"] == 202 and answer["Payload"].read() == b"" and "FunctionError" not in answer, answer

    def remembered():
        try:
            return "me" in succeeded(client, life.name, {})[0]["remembered"]
        except client.exceptions.TooManyRequestsException:
            return False

    eventually("the asynchronous invocation has run", remembered)
    client.delete_function_concurrency(FunctionName=life.name)
    old = client.invoke_async(FunctionName=life.name, InvokeArgs=b"{}")
    assert old["Status"] == 202, old


def update_code(life):
    client = life.client
    before = client.get_function_configuration(FunctionName=life.name)
    new = code("two")
    dry = client.update_function_code(FunctionName=life.name, ZipFile=new, DryRun=True)
    assert dry["CodeSha256"] == sha256(new), dry
    unchanged = client.get_function_configuration(FunctionName=life.name)
    assert (unchanged["CodeSha256"], unchanged["RevisionId"]) == (before["CodeSha256"], before["RevisionId"]), unchanged
    refused(
        "PreconditionFailedException", 412, client.update_function_code,
        FunctionName=life.name, ZipFile=new, RevisionId=str(uuid.uuid4()),
    )
    after = client.update_function_code(FunctionName=life.name, ZipFile=new, RevisionId=before["RevisionId"])
    holds(after, {"CodeSha256": sha256(new), "CodeSize": len(new), "Version": "$LATEST", "FunctionArn": life.arn})
    assert after["RevisionId"] != before["RevisionId"], after
    assert after["LastUpdateStatus"] in ("InProgress", "Successful"), after
    updated(client, life.name)
    assert succeeded(client, life.name, {})[0]["looks"] == "two"
    # Version 1 was published while the function looked otherwise, and stays as it was.
    value, answer = succeeded(client, life.name, {}, Qualifier="1")
    assert (value["looks"], value["version"], answer["ExecutedVersion"]) == ("one", "1", "1"), (value, answer)
    assert value["arn"] == f"{life.arn}:1", value["arn"]
    assert succeeded(client, f"{life.arn}:1", {})[0]["looks"] == "one"
    published = client.update_function_code(FunctionName=life.name, ZipFile=code("three"), Publish=True)
    holds(published, {"Version": "2", "FunctionArn": f"{life.arn}:2"})
    updated(client, life.name)
    client.get_waiter("published_version_active").wait(FunctionName=life.name, Qualifier="2")
    assert succeeded(client, life.name, {}, Qualifier="2")[0]["looks"] == "three"


def update_configuration(life):
    client = life.client
    before = client.get_function_configuration(FunctionName=life.name)
    refused(
        "PreconditionFailedException", 412, client.update_function_configuration,
        FunctionName=life.name, Timeout=9, RevisionId=str(uuid.uuid4()),
    )
    change = {
        "Timeout": 9, "MemorySize": 256, "Environment": {"Variables": {"GREETING": "good evening"}}, "Description": "another",
        "Handler": "app.other",
    }
    after = client.update_function_configuration(FunctionName=life.name, RevisionId=before["RevisionId"], **change)
    holds(after, {**change, "CodeSha256": before["CodeSha256"], "Runtime": "python3.11"})
    assert after["RevisionId"] != before["RevisionId"], after
    updated(client, life.name)
    holds(client.get_function_configuration(FunctionName=life.name), {**change, "LastUpdateStatus": "Successful"})
    assert succeeded(client, life.name, {})[0] == "by the other handler"
    client.update_function_configuration(FunctionName=life.name, Handler="app.handler")
    updated(client, life.name)
    value = succeeded(client, life.name, {})[0]
    assert (str(value["memory"]), value["greeting"]) == ("256", "good evening"), value
    # What is not named stays, and a version keeps what it was published with.
    holds(client.get_function_configuration(FunctionName=life.name), {**change, "Handler": "app.handler"})
    holds(client.get_function_configuration(FunctionName=life.name, Qualifier="1"), {"Timeout": 3, "MemorySize": 128})
    assert succeeded(client, life.name, {}, Qualifier="1")[0]["greeting"] == "hello"


def versions(life):
    client = life.client
    latest = client.get_function_configuration(FunctionName=life.name)
    first = client.publish_version(FunctionName=life.name, CodeSha256=latest["CodeSha256"], Description="the third")
    holds(first, {"Version": "3", "FunctionArn": f"{life.arn}:3", "Description": "the third", "CodeSha256": latest["CodeSha256"]})
    again = client.publish_version(FunctionName=life.name, Description="not looked at")
    holds(again, {"Version": "3", "Description": "the third"})
    refused("InvalidParameterValueException", 400, client.publish_version, FunctionName=life.name, CodeSha256=sha256(b"another"))
    found = client.list_versions_by_function(FunctionName=life.name)["Versions"]
    assert [one["Version"] for one in found] == ["$LATEST", "1", "2", "3"], found
    assert [one["FunctionArn"] for one in found] == [f"{life.arn}:{one['Version']}" for one in found], found
    paged = pages(client.list_versions_by_function, "Versions", FunctionName=life.name)
    assert [one["Version"] for one in paged] == ["$LATEST", "1", "2", "3"], paged
    whole = client.get_function(FunctionName=life.name, Qualifier="1")
    holds(whole["Configuration"], {"Version": "1", "FunctionArn": f"{life.arn}:1", "CodeSha256": sha256(life.code)})


def snap_start(life):
    """A published version has it; `$LATEST` only says what its versions will have."""
    client, name = life.client, f"{life.name}-snap"
    created(client, name, code("snap"))
    off, on = ({"ApplyOn": "PublishedVersions", "OptimizationStatus": status} for status in ("Off", "On"))
    client.publish_version(FunctionName=name)
    changed = client.update_function_configuration(FunctionName=name, SnapStart={"ApplyOn": "PublishedVersions"})
    holds(changed, {"SnapStart": off})
    updated(client, name)
    published = client.publish_version(FunctionName=name)
    holds(published, {"Version": "2", "SnapStart": on})
    holds(client.get_function_configuration(FunctionName=name), {"SnapStart": off})
    holds(client.get_function_configuration(FunctionName=name, Qualifier="2"), {"SnapStart": on})
    never = {"ApplyOn": "None", "OptimizationStatus": "Off"}
    holds(client.get_function_configuration(FunctionName=name, Qualifier="1"), {"SnapStart": never})
    assert succeeded(client, name, {}, Qualifier="2")[0]["looks"] == "snap"
    client.delete_function(FunctionName=name)


def aliases(life):
    client = life.client
    made = client.create_alias(FunctionName=life.name, Name="live", FunctionVersion="1", Description="what is live")
    holds(made, {"AliasArn": f"{life.arn}:live", "Name": "live", "FunctionVersion": "1", "Description": "what is live"})
    matches(UUID, made["RevisionId"])
    client.create_alias(FunctionName=life.name, Name="beta", FunctionVersion="2")
    same = client.get_alias(FunctionName=life.name, Name="live")
    holds(same, {name: made[name] for name in ("AliasArn", "Name", "FunctionVersion", "Description", "RevisionId")})
    names = [one["Name"] for one in client.list_aliases(FunctionName=life.name)["Aliases"]]
    assert sorted(names) == ["beta", "live"], names
    only = client.list_aliases(FunctionName=life.name, FunctionVersion="2")["Aliases"]
    assert [one["Name"] for one in only] == ["beta"], only
    assert len(pages(client.list_aliases, "Aliases", FunctionName=life.name)) == 2
    value, answer = succeeded(client, life.name, {}, Qualifier="live")
    assert (value["looks"], value["version"], answer["ExecutedVersion"]) == ("one", "1", "1"), (value, answer)
    assert value["arn"] == f"{life.arn}:live", value["arn"]
    through = client.get_function_configuration(FunctionName=life.name, Qualifier="live")
    holds(through, {"FunctionArn": f"{life.arn}:live", "Version": "1"})
    refused(
        "PreconditionFailedException", 412, client.update_alias,
        FunctionName=life.name, Name="live", FunctionVersion="2", RevisionId=str(uuid.uuid4()),
    )
    moved = client.update_alias(
        FunctionName=life.name, Name="live", FunctionVersion="2", RevisionId=made["RevisionId"],
        RoutingConfig={"AdditionalVersionWeights": {"1": 0.5}},
    )
    holds(moved, {"FunctionVersion": "2", "Description": "what is live", "RoutingConfig": {"AdditionalVersionWeights": {"1": 0.5}}})
    assert moved["RevisionId"] != made["RevisionId"], moved
    seen = {}
    for _ in range(200):
        value, answer = succeeded(client, life.name, {}, Qualifier="live")
        assert {"1": "one", "2": "three"}[answer["ExecutedVersion"]] == value["looks"], (value, answer)
        seen[answer["ExecutedVersion"]] = seen.get(answer["ExecutedVersion"], 0) + 1
        if len(seen) == 2:
            break
    assert len(seen) == 2, f"half of the invocations go to each version, but 200 went to {seen}"
    whole = client.update_alias(FunctionName=life.name, Name="live", RoutingConfig={"AdditionalVersionWeights": {}})
    assert not (whole.get("RoutingConfig") or {}).get("AdditionalVersionWeights"), whole
    for _ in range(20):
        assert succeeded(client, life.name, {}, Qualifier="live")[1]["ExecutedVersion"] == "2"
    client.delete_alias(FunctionName=life.name, Name="beta")
    refused("ResourceNotFoundException", 404, client.get_alias, FunctionName=life.name, Name="beta")
    # What is not there cannot be deleted, but nobody is told.
    client.delete_alias(FunctionName=life.name, Name="beta")


def permissions(life):
    client = life.client
    source = f"arn:aws:s3:::{life.name}"
    added = client.add_permission(
        FunctionName=life.name, StatementId="from-s3", Action="lambda:InvokeFunction", Principal="s3.amazonaws.com",
        SourceArn=source, SourceAccount=life.account,
    )
    wanted = {
        "Sid": "from-s3", "Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": "lambda:InvokeFunction",
        "Resource": life.arn,
        "Condition": {"StringEquals": {"AWS:SourceAccount": life.account}, "ArnLike": {"AWS:SourceArn": source}},
    }
    assert json.loads(added["Statement"]) == wanted, added
    client.add_permission(FunctionName=life.name, StatementId="account", Action="lambda:GetFunction", Principal="123456789012")
    client.add_permission(
        FunctionName=life.name, StatementId="from-s3", Action="lambda:InvokeFunction", Principal="*", Qualifier="live"
    )
    policy = client.get_policy(FunctionName=life.name)
    matches(UUID, policy["RevisionId"])
    document = json.loads(policy["Policy"])
    assert (document["Version"], document["Id"]) == ("2012-10-17", "default"), document
    statements = {one["Sid"]: one for one in document["Statement"]}
    assert set(statements) == {"from-s3", "account"} and statements["from-s3"] == wanted, statements
    assert statements["account"]["Principal"] == {"AWS": "arn:aws:iam::123456789012:root"}, statements
    qualified = json.loads(client.get_policy(FunctionName=life.name, Qualifier="live")["Policy"])["Statement"]
    assert [(one["Sid"], one["Resource"]) for one in qualified] == [("from-s3", f"{life.arn}:live")], qualified
    refused(
        "PreconditionFailedException", 412, client.remove_permission,
        FunctionName=life.name, StatementId="account", RevisionId=str(uuid.uuid4()),
    )
    client.remove_permission(FunctionName=life.name, StatementId="account", RevisionId=policy["RevisionId"])
    left = json.loads(client.get_policy(FunctionName=life.name)["Policy"])["Statement"]
    assert [one["Sid"] for one in left] == ["from-s3"], left
    client.remove_permission(FunctionName=life.name, StatementId="from-s3")
    client.remove_permission(FunctionName=life.name, StatementId="from-s3", Qualifier="live")
    for qualifier in ({}, {"Qualifier": "live"}):
        refused("ResourceNotFoundException", 404, client.get_policy, FunctionName=life.name, **qualifier)


def tags(life):
    client = life.client
    client.tag_resource(Resource=life.arn, Tags={"stage": "test", "team": "red"})
    assert client.list_tags(Resource=life.arn)["Tags"] == {"stage": "test", "team": "red"}
    assert client.get_function(FunctionName=life.name)["Tags"] == {"stage": "test", "team": "red"}
    client.untag_resource(Resource=life.arn, TagKeys=["stage", "never-there"])
    assert client.list_tags(Resource=life.arn)["Tags"] == {"team": "red"}


def account(life):
    client = life.client
    settings = client.get_account_settings()
    assert settings["AccountLimit"]["ConcurrentExecutions"] == 1000, settings
    assert settings["AccountLimit"]["CodeSizeZipped"] == 52428800, settings
    assert settings["AccountLimit"]["CodeSizeUnzipped"] == 262144000, settings
    assert settings["AccountLimit"]["UnreservedConcurrentExecutions"] == 1000, settings
    assert settings["AccountLimit"]["TotalCodeSize"] > 0, settings
    assert settings["AccountUsage"]["FunctionCount"] >= 1, settings
    assert settings["AccountUsage"]["TotalCodeSize"] >= len(life.code), settings
    # Terraform reads it at every refresh.
    signing = client.get_function_code_signing_config(FunctionName=life.name)
    assert not signing.get("CodeSigningConfigArn"), signing


def reserved_concurrency(life):
    client = life.client
    assert "ReservedConcurrentExecutions" not in client.get_function_concurrency(FunctionName=life.name)
    assert client.put_function_concurrency(FunctionName=life.name, ReservedConcurrentExecutions=5)["ReservedConcurrentExecutions"] == 5
    assert client.get_function_concurrency(FunctionName=life.name)["ReservedConcurrentExecutions"] == 5
    assert client.get_function(FunctionName=life.name)["Concurrency"] == {"ReservedConcurrentExecutions": 5}
    assert client.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] == 995
    succeeded(client, life.name, {})
    client.put_function_concurrency(FunctionName=life.name, ReservedConcurrentExecutions=0)
    told = refused("TooManyRequestsException", 429, client.invoke, FunctionName=life.name, Payload=b"{}")
    holds(told, {"Reason": "ReservedFunctionConcurrentInvocationLimitExceeded", "Type": "User"})
    assert told["Error"]["Message"] == "Rate Exceeded.", told
    client.delete_function_concurrency(FunctionName=life.name)
    assert "Concurrency" not in client.get_function(FunctionName=life.name)
    succeeded(client, life.name, {})


def event_invoke_configuration(life):
    client = life.client
    put = client.put_function_event_invoke_config(FunctionName=life.name, MaximumRetryAttempts=1, MaximumEventAgeInSeconds=120)
    holds(put, {
        "FunctionArn": f"{life.arn}:$LATEST", "MaximumRetryAttempts": 1, "MaximumEventAgeInSeconds": 120,
        "DestinationConfig": {"OnSuccess": {}, "OnFailure": {}},
    })
    changed = client.update_function_event_invoke_config(FunctionName=life.name, MaximumRetryAttempts=0)
    holds(changed, {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 120})
    assert changed["LastModified"] >= put["LastModified"], (changed, put)
    holds(client.get_function_event_invoke_config(FunctionName=life.name), {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 120})
    client.put_function_event_invoke_config(FunctionName=life.name, Qualifier="live", MaximumRetryAttempts=2)
    listed = client.list_function_event_invoke_configs(FunctionName=life.name)["FunctionEventInvokeConfigs"]
    arns = [one["FunctionArn"] for one in listed]
    assert sorted(arns) == sorted([f"{life.arn}:$LATEST", f"{life.arn}:live"]), arns
    assert len(pages(client.list_function_event_invoke_configs, "FunctionEventInvokeConfigs", FunctionName=life.name)) == 2
    # To put is to replace: what is not named is gone.
    replaced = client.put_function_event_invoke_config(FunctionName=life.name, MaximumEventAgeInSeconds=60)
    assert replaced.get("MaximumRetryAttempts") is None, replaced
    client.delete_function_event_invoke_config(FunctionName=life.name)
    client.delete_function_event_invoke_config(FunctionName=life.name, Qualifier="live")
    refused("ResourceNotFoundException", 404, client.get_function_event_invoke_config, FunctionName=life.name)


def provisioned_concurrency(life):
    client = life.client
    of = {"FunctionName": life.name, "Qualifier": "live"}
    refused("ProvisionedConcurrencyConfigNotFoundException", 404, client.get_provisioned_concurrency_config, **of)
    put = client.put_provisioned_concurrency_config(**of, ProvisionedConcurrentExecutions=1)
    holds(put, {"RequestedProvisionedConcurrentExecutions": 1})
    assert put["Status"] in ("IN_PROGRESS", "READY"), put
    matches(TIME, put["LastModified"])
    ready = eventually(
        "provisioned concurrency is ready",
        lambda: (has := client.get_provisioned_concurrency_config(**of))["Status"] != "IN_PROGRESS" and has,
    )
    holds(ready, {
        "Status": "READY", "RequestedProvisionedConcurrentExecutions": 1, "AllocatedProvisionedConcurrentExecutions": 1,
        "AvailableProvisionedConcurrentExecutions": 1,
    })
    listed = client.list_provisioned_concurrency_configs(FunctionName=life.name)["ProvisionedConcurrencyConfigs"]
    assert [one["FunctionArn"] for one in listed] == [f"{life.arn}:live"], listed
    holds(listed[0], {"RequestedProvisionedConcurrentExecutions": 1, "Status": "READY"})
    assert succeeded(client, life.name, {}, Qualifier="live")[0]["looks"] == "three"
    client.delete_provisioned_concurrency_config(**of)
    assert client.list_provisioned_concurrency_configs(FunctionName=life.name)["ProvisionedConcurrencyConfigs"] == []


def function_url(life):
    client = life.client
    refused("ResourceNotFoundException", 404, client.get_function_url_config, FunctionName=life.name)
    made = client.create_function_url_config(
        FunctionName=life.name, AuthType="NONE", Cors={"AllowOrigins": ["https://example.com"], "AllowMethods": ["GET"], "MaxAge": 60}
    )
    holds(made, {"FunctionArn": life.arn, "AuthType": "NONE", "InvokeMode": "BUFFERED"})
    assert 40 <= len(made["FunctionUrl"]) <= 100 and made["FunctionUrl"].endswith("/"), made["FunctionUrl"]
    got = client.get_function_url_config(FunctionName=life.name)
    holds(got, {name: made[name] for name in ("FunctionUrl", "FunctionArn", "AuthType", "Cors", "InvokeMode", "CreationTime")})
    listed = client.list_function_url_configs(FunctionName=life.name)["FunctionUrlConfigs"]
    assert [one["FunctionUrl"] for one in listed] == [made["FunctionUrl"]], listed
    address = urllib.parse.urlsplit(made["FunctionUrl"])

    def ask(method, target, body=None, **headers):
        # Its name need not resolve here: the server tells functions apart by the Host header, and the path.
        named = {"host": address.netloc, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return plain(life.url, method, address.path.rstrip("/") + target, body, named)

    # Open as it may be, nobody is let in before the policy says so.
    closed = ask("GET", "/")
    assert closed.status == 403 and closed.headers.get("x-amzn-errortype", "").startswith("AccessDeniedException"), vars(closed)
    client.add_permission(
        FunctionName=life.name, StatementId="url", Action="lambda:InvokeFunctionUrl", Principal="*", FunctionUrlAuthType="NONE"
    )
    client.add_permission(
        FunctionName=life.name, StatementId="through-url", Action="lambda:InvokeFunction", Principal="*", InvokedViaFunctionUrl=True
    )
    answer = ask("POST", "/some/path?q=1&q=2&e=&s=%20", b"text", content_type="text/plain", x_mine="Yes", cookie="c=1; d=2")
    assert answer.status == 201, vars(answer)
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-looks"] == "three", answer.headers
    assert answer.cookies == ["a=1; Secure", "b=2"], answer.cookies
    event = answer.json()
    holds(event, {
        "version": "2.0", "routeKey": "$default", "rawPath": "/some/path", "rawQueryString": "q=1&q=2&e=&s=%20",
        "queryStringParameters": {"q": "1,2", "e": "", "s": " "}, "cookies": ["c=1", "d=2"], "body": "text", "isBase64Encoded": False,
    })
    assert (event["headers"]["x-mine"], event["headers"]["content-type"]) == ("Yes", "text/plain"), event["headers"]
    context = event["requestContext"]
    holds(context, {"routeKey": "$default", "stage": "$default", "accountId": "anonymous"})
    holds(context["http"], {"method": "POST", "path": "/some/path", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"})
    assert context["apiId"] and context["requestId"] and context["domainName"] in (address.netloc, address.hostname), context
    matches(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000", context["time"])
    assert isinstance(context["timeEpoch"], int), context
    binary = ask("PUT", "/", b"\x00\xff", content_type="application/octet-stream").json()
    assert (binary["isBase64Encoded"], base64.b64decode(binary["body"])) == (True, b"\x00\xff"), binary
    assert "body" not in ask("GET", "/").json()
    allowed = ask("GET", "/", origin="https://example.com")
    assert allowed.headers.get("access-control-allow-origin") == "https://example.com", allowed.headers
    changed = client.update_function_url_config(FunctionName=life.name, AuthType="AWS_IAM")
    holds(changed, {"AuthType": "AWS_IAM", "FunctionUrl": made["FunctionUrl"], "Cors": made["Cors"]})
    assert ask("GET", "/").status == 403
    client.delete_function_url_config(FunctionName=life.name)
    gone = ask("GET", "/")
    assert gone.status in (403, 404), vars(gone)
    client.remove_permission(FunctionName=life.name, StatementId="url")
    client.remove_permission(FunctionName=life.name, StatementId="through-url")


def layers(life):
    client, layer = life.client, f"{life.name}-layer"
    content = zipped({"python/greetings.py": "def hello(who):\n    return f'hello, {who}, from the layer'\n"})
    published = client.publish_layer_version(
        LayerName=layer, Description="greetings", Content={"ZipFile": content}, CompatibleRuntimes=["python3.11"],
        CompatibleArchitectures=["x86_64"], LicenseInfo="MIT",
    )
    arn = f"arn:aws:lambda:{REGION}:{life.account}:layer:{layer}"
    wanted = {
        "LayerArn": arn, "LayerVersionArn": f"{arn}:1", "Version": 1, "Description": "greetings",
        "CompatibleRuntimes": ["python3.11"], "CompatibleArchitectures": ["x86_64"], "LicenseInfo": "MIT",
    }
    holds(published, wanted)
    holds(published["Content"], {"CodeSha256": sha256(content), "CodeSize": len(content)})
    matches(TIME, published["CreatedDate"])
    for same in (client.get_layer_version(LayerName=layer, VersionNumber=1), client.get_layer_version_by_arn(Arn=f"{arn}:1")):
        holds(same, wanted)
        location = urllib.parse.urlsplit(same["Content"]["Location"])
        fetched = plain(life.url, "GET", location._replace(scheme="", netloc="").geturl())
        assert fetched.status == 200 and fetched.body == content, "Content.Location does not give the zip back"
    second = client.publish_layer_version(LayerName=layer, Content={"ZipFile": content})
    holds(second, {"Version": 2, "LayerVersionArn": f"{arn}:2"})
    found = [one["Version"] for one in client.list_layer_versions(LayerName=layer)["LayerVersions"]]
    assert found == [2, 1], found
    for_python = client.list_layer_versions(LayerName=layer, CompatibleRuntime="python3.11")["LayerVersions"]
    assert [one["Version"] for one in for_python] == [1], for_python
    listed = next(one for one in client.list_layers()["Layers"] if one["LayerName"] == layer)
    holds(listed, {"LayerArn": arn})
    holds(listed["LatestMatchingVersion"], {"Version": 2, "LayerVersionArn": f"{arn}:2"})
    of = {"LayerName": layer, "VersionNumber": 1}
    refused("ResourceNotFoundException", 404, client.get_layer_version_policy, **of)
    added = client.add_layer_version_permission(**of, StatementId="all", Action="lambda:GetLayerVersion", Principal="*")
    statement = {"Sid": "all", "Effect": "Allow", "Principal": "*", "Action": "lambda:GetLayerVersion", "Resource": f"{arn}:1"}
    assert json.loads(added["Statement"]) == statement and added["RevisionId"], added
    policy = client.get_layer_version_policy(**of)
    assert json.loads(policy["Policy"])["Statement"] == [statement], policy
    client.remove_layer_version_permission(**of, StatementId="all", RevisionId=policy["RevisionId"])
    # The handler of this function imports from the layer.
    name = f"{life.name}-layered"
    function = created(client, name, code("layered"), handler="app.layered", Layers=[f"{arn}:1"])
    assert [(one["Arn"], one["CodeSize"]) for one in function["Layers"]] == [(f"{arn}:1", len(content))], function["Layers"]
    assert succeeded(client, name, {"who": "you"})[0] == "hello, you, from the layer"
    client.delete_layer_version(**of)
    refused("ResourceNotFoundException", 404, client.get_layer_version, **of)
    left = [one["Version"] for one in client.list_layer_versions(LayerName=layer)["LayerVersions"]]
    assert left == [2], left
    # Who has a layer keeps it when its version is deleted.
    assert succeeded(client, name, {"who": "still"})[0] == "hello, still, from the layer"
    client.delete_function(FunctionName=name)
    client.delete_layer_version(LayerName=layer, VersionNumber=2)
    # What is not there can be deleted, and has no versions.
    client.delete_layer_version(LayerName=layer, VersionNumber=2)
    assert client.list_layer_versions(LayerName=layer)["LayerVersions"] == []
    # A number is not given twice.
    third = client.publish_layer_version(LayerName=layer, Content={"ZipFile": content})
    assert third["Version"] == 3, third
    client.delete_layer_version(LayerName=layer, VersionNumber=3)


def event_source_mappings(life):
    client, stream = life.client, f"s{uuid.uuid4().hex[:12]}"
    sql(life.url, f"CREATE STREAM {stream} (at timestamptz NOT NULL, n bigint) WITH (event_time = 'at', partitions = '1')")
    name = f"{life.name}-records"
    function = created(client, name, code("records"), handler="app.records")
    source = f"arn:aws:lambic:local:000000000000:stream/{stream}"
    made = client.create_event_source_mapping(
        EventSourceArn=source, FunctionName=name, BatchSize=7, StartingPosition="TRIM_HORIZON", MaximumRetryAttempts=3
    )
    matches(UUID, made["UUID"])
    wanted = {"EventSourceArn": source, "FunctionArn": function["FunctionArn"], "BatchSize": 7, "StartingPosition": "TRIM_HORIZON"}
    holds(made, {**wanted, "MaximumRetryAttempts": 3})
    matches(rf"arn:aws:lambda:{REGION}:{life.account}:event-source-mapping:{made['UUID']}", made["EventSourceMappingArn"])
    assert made["State"] in ("Creating", "Enabling", "Enabled"), made

    def becomes(state):
        return eventually(
            f"the mapping is {state}",
            lambda: (has := client.get_event_source_mapping(UUID=made["UUID"]))["State"] == state and has,
        )

    holds(becomes("Enabled"), wanted)
    for found in (
        client.list_event_source_mappings(FunctionName=name)["EventSourceMappings"],
        client.list_event_source_mappings(EventSourceArn=source)["EventSourceMappings"],
    ):
        assert [one["UUID"] for one in found] == [made["UUID"]], found
    assert client.list_event_source_mappings(FunctionName=life.name)["EventSourceMappings"] == []
    refused(
        "ResourceConflictException", 409, client.create_event_source_mapping,
        EventSourceArn=source, FunctionName=name, StartingPosition="TRIM_HORIZON",
    )
    sql(life.url, f"INSERT INTO {stream} (at, n) VALUES (now(), 1), (now(), 2)")
    eventually(
        "the function was given the records",
        lambda: client.get_event_source_mapping(UUID=made["UUID"]).get("LastProcessingResult") == "OK",
    )
    changed = client.update_event_source_mapping(UUID=made["UUID"], Enabled=False, BatchSize=9)
    holds(changed, {"BatchSize": 9})
    assert changed["State"] in ("Updating", "Disabling", "Disabled"), changed
    holds(becomes("Disabled"), {"BatchSize": 9})
    client.update_event_source_mapping(UUID=made["UUID"], Enabled=True)
    becomes("Enabled")
    assert client.delete_event_source_mapping(UUID=made["UUID"])["State"] == "Deleting"

    def gone():
        try:
            client.get_event_source_mapping(UUID=made["UUID"])
        except client.exceptions.ResourceNotFoundException:
            return True
        return False

    eventually("the mapping is gone", gone)
    assert client.list_event_source_mappings(FunctionName=name)["EventSourceMappings"] == []
    client.delete_function(FunctionName=name)
    sql(life.url, f"DROP STREAM {stream}")


def delete(life):
    client = life.client
    assert client.delete_function(FunctionName=life.name, Qualifier="1")["StatusCode"] in (200, 204)
    left = [one["Version"] for one in client.list_versions_by_function(FunctionName=life.name)["Versions"]]
    assert left == ["$LATEST", "2", "3"], left
    told = refused("ResourceNotFoundException", 404, client.invoke, FunctionName=life.name, Qualifier="1")
    assert told["Error"]["Message"] == f"Function not found: {life.arn}:1", told
    # An alias holds the version that it points to.
    refused("ResourceConflictException", 409, client.delete_function, FunctionName=life.name, Qualifier="2")
    succeeded(client, life.name, {}, Qualifier="live")
    assert client.delete_function(FunctionName=life.name)["StatusCode"] in (200, 204)
    for call in (client.get_function, client.get_function_configuration, client.invoke, client.delete_function):
        told = refused("ResourceNotFoundException", 404, call, FunctionName=life.name)
        assert told["Error"]["Message"] in (f"Function not found: {life.arn}", f"Function not found: {life.arn}:$LATEST"), told
    assert life.name not in {one["FunctionName"] for one in client.list_functions()["Functions"]}
    # A new function by the same name begins anew.
    again = created(client, life.name, code("again"), Publish=True)
    # The ARN has no version here, although the answer is about one.
    holds(again, {"Version": "1", "FunctionArn": life.arn})
    assert succeeded(client, life.name, {}, Qualifier="1")[0]["looks"] == "again"
    refused("ResourceNotFoundException", 404, client.get_alias, FunctionName=life.name, Name="live")
    assert client.list_tags(Resource=life.arn)["Tags"] == {}
    client.delete_function(FunctionName=life.name)


def main(url):
    life = types.SimpleNamespace(url=url, client=connect(url), name=f"life-{uuid.uuid4().hex[:8]}")
    run = steps(
        create, get, list_functions, invoke, fail, invoke_otherwise, update_code, update_configuration, versions,
        snap_start, aliases,
        permissions, tags, account, rest.recursion, rest.runtime_management, rest.streamed, reserved_concurrency,
        event_invoke_configuration, provisioned_concurrency, function_url, layers, event_source_mappings, delete, rest.everything,
    )
    run(life)
    print(f"{len(life.client.operations_seen)} operations held against the model")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
