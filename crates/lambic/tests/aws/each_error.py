"""Provokes what an operation lists and the cases of `errors.py` do not come to: wrong parameters, what is missing, what is stale.

A case is a row as those of `errors.py`; `World` is its.
"""

import uuid

from botocore.exceptions import ClientError

INVALID = "InvalidParameterValueException"
MISSING = "ResourceNotFoundException"
CONFLICT = "ResourceConflictException"
REVISION = "PreconditionFailedException"
CONTENT = "InvalidRequestContentException"
STREAM = "arn:aws:lambic:us-east-1:000000000000:stream"


def cases(world):
    f, arn = world.name, world.arn
    nowhere, other = f"nowhere-{uuid.uuid4().hex[:8]}", str(uuid.uuid4())
    gone = arn.replace(f, nowhere)
    permission = {"StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*"}
    of_layer = {"StatementId": "s", "Action": "lambda:GetLayerVersion", "Principal": "*"}
    one_retry, provisioned = {"MaximumRetryAttempts": 1}, {"ProvisionedConcurrentExecutions": 1}
    recursive, automatic = {"RecursiveLoop": "Allow"}, {"UpdateRuntimeOn": "Auto"}
    rows = []

    two_qualifiers = r"^The derived qualifier from the function name does not match the specified qualifier\.$"
    for operation, more in {
        "GetFunctionConfiguration": {}, "Invoke": {}, "InvokeWithResponseStream": {}, "DeleteFunction": {}, "GetPolicy": {},
        "AddPermission": permission, "RemovePermission": {"StatementId": "s"},
        "PutFunctionEventInvokeConfig": one_retry, "UpdateFunctionEventInvokeConfig": one_retry,
        "GetFunctionEventInvokeConfig": {}, "DeleteFunctionEventInvokeConfig": {},
        "PutProvisionedConcurrencyConfig": provisioned, "GetProvisionedConcurrencyConfig": {}, "DeleteProvisionedConcurrencyConfig": {},
        "GetRuntimeManagementConfig": {}, "PutRuntimeManagementConfig": automatic,
    }.items():
        rows.append(("two qualifiers", operation, {"FunctionName": f"{arn}:1", "Qualifier": "2", **more}, 400, INVALID, two_qualifiers))
    for operation, more in {
        "CreateFunctionUrlConfig": {"AuthType": "NONE"}, "GetFunctionUrlConfig": {}, "UpdateFunctionUrlConfig": {}, "DeleteFunctionUrlConfig": {},
    }.items():
        named = {"FunctionName": f"{arn}:live", "Qualifier": "other", **more}
        rows.append(("two qualifiers", operation, named, 400, INVALID, two_qualifiers))

    whole = r"^This operation is permitted on Lambda functions only\. Aliases and versions do not support this operation\."
    for operation, more in {
        "PutFunctionConcurrency": {"ReservedConcurrentExecutions": 1}, "GetFunctionConcurrency": {}, "DeleteFunctionConcurrency": {},
        "GetFunctionRecursionConfig": {}, "PutFunctionRecursionConfig": recursive, "GetFunctionCodeSigningConfig": {},
        "CreateAlias": {"Name": "a", "FunctionVersion": "1"}, "GetAlias": {"Name": "live"}, "UpdateAlias": {"Name": "live"},
        "DeleteAlias": {"Name": "live"}, "PublishVersion": {}, "UpdateFunctionCode": {"ZipFile": world.zip},
        "UpdateFunctionConfiguration": {"Timeout": 5},
    }.items():
        rows.append(("a version for the whole", operation, {"FunctionName": f"{arn}:1", **more}, 400, INVALID, whole))

    for operation, more in {
        "ListVersionsByFunction": {"FunctionName": f}, "ListAliases": {"FunctionName": f}, "ListFunctionEventInvokeConfigs": {"FunctionName": f},
        "ListFunctionUrlConfigs": {"FunctionName": f}, "ListProvisionedConcurrencyConfigs": {"FunctionName": f}, "ListLayers": {},
        "ListLayerVersions": {"LayerName": world.layer}, "ListEventSourceMappings": {},
    }.items():
        rows.append(("a marker that is none", operation, {"Marker": "not a marker", **more}, 400, INVALID, r"^Invalid marker$"))

    for operation, more in {
        "DeleteLayerVersion": {}, "GetLayerVersionPolicy": {}, "AddLayerVersionPermission": of_layer,
        "RemoveLayerVersionPermission": {"StatementId": "s"},
    }.items():
        nought = {"LayerName": world.layer, "VersionNumber": 0, **more}
        rows.append(("version nought", operation, nought, 400, INVALID, r"^Layer Version Cannot be less than 1\.?$"))
    nought = world.layer_arn.rsplit(":", 1)[0] + ":0"
    rows.append(("version nought", "GetLayerVersionByArn", {"Arn": nought}, 400, INVALID, r"^Layer Version Cannot be less than 1\.?$"))

    tags = r"^Tags on function aliases and versions are not supported\. Please specify a function ARN\.$"
    rows += [
        ("tags of a version", "ListTags", {"Resource": f"{arn}:1"}, 400, INVALID, tags),
        ("tags of a version", "UntagResource", {"Resource": f"{arn}:1", "TagKeys": ["a"]}, 400, INVALID, tags),
    ]

    not_found = rf"^Function not found: {gone}"
    for operation, more in {
        "DeleteAlias": {"Name": "a"}, "DeleteFunctionConcurrency": {}, "DeleteProvisionedConcurrencyConfig": {"Qualifier": "1"},
        "GetProvisionedConcurrencyConfig": {"Qualifier": "1"}, "ListProvisionedConcurrencyConfigs": {}, "GetFunctionRecursionConfig": {},
        "PutFunctionRecursionConfig": recursive, "GetRuntimeManagementConfig": {}, "PutRuntimeManagementConfig": automatic,
        "InvokeWithResponseStream": {},
    }.items():
        rows.append(("no such function", operation, {"FunctionName": nowhere, **more}, 404, MISSING, not_found))
    rows += [
        ("no event invoke configuration", "DeleteFunctionEventInvokeConfig", {"FunctionName": nowhere}, 404, MISSING, nowhere),
        ("a stale revision", "RemoveLayerVersionPermission", {"LayerName": world.layer, "VersionNumber": 1, "StatementId": "there", "RevisionId": other}, 412, REVISION, r"^The Revision Id provided does not match the latest Revision Id\."),
        ("code that is to be signed", "CreateFunction", {"FunctionName": nowhere, "Runtime": "python3.11", "Role": "arn:aws:iam::123456789012:role/r", "Handler": "app.handler", "Code": {"ZipFile": world.zip}, "CodeSigningConfigArn": f"arn:aws:lambda:us-east-1:{world.account}:code-signing-config:csc-0123456789abcdef0"}, 404, "CodeSigningConfigNotFoundException", r"^The code signing configuration cannot be found\."),
        ("no JSON, for later", "InvokeAsync", {"FunctionName": f, "InvokeArgs": b"{'a': 1}"}, 400, CONTENT, r"^Could not parse request body into json: "),
        ("no JSON, streamed", "InvokeWithResponseStream", {"FunctionName": f, "Payload": b"{'a': 1}"}, 400, CONTENT, r"^Could not parse request body into json: "),
        ("too large a payload, streamed", "InvokeWithResponseStream", {"FunctionName": f, "Payload": b'"' + b"x" * 6291500 + b'"'}, 413, "RequestTooLargeException", r"^6291502 byte payload is too large for the RequestResponse invocation type "),
    ]
    return rows


def told(call, **arguments):
    """The answer of an error, which must come."""
    try:
        answer = call(**arguments)
    except ClientError as error:
        return error.response
    raise AssertionError(f"let through: {answer}")


def is_error(answer, status, code):
    was = (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"])
    assert was == (status, code), f"{was} instead of {(status, code)}: {answer['Error'].get('Message')}"


def long_policies(world):
    """A policy ends at 20 KB."""
    client = world.client

    def until_full(call, **arguments):
        for number in range(100):
            try:
                call(StatementId=f"{number:0100}", **arguments)
            except ClientError as error:
                return error.response
        raise AssertionError("a policy of a hundred statements")

    far = {"Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com", "SourceArn": "arn:aws:s3:::" + "b" * 190}
    is_error(until_full(client.add_permission, FunctionName=world.name, Qualifier="2", **far), 400, "PolicyLengthExceededException")
    far = {"Action": "lambda:GetLayerVersion", "Principal": "arn:aws:iam::123456789012:root"}
    full = until_full(client.add_layer_version_permission, LayerName=world.layer, VersionNumber=2, **far)
    is_error(full, 400, "PolicyLengthExceededException")


def mappings(world):
    """A stream feeds a version or an alias once."""
    from common import sql

    client, stream = world.client, f"errors_{uuid.uuid4().hex[:8]}"
    sql(world.url, f"CREATE STREAM {stream} (n BIGINT)")
    of = {"EventSourceArn": f"{STREAM}/{stream}", "StartingPosition": "LATEST"}
    first = client.create_event_source_mapping(FunctionName=world.name, Enabled=False, **of)
    is_error(told(client.create_event_source_mapping, FunctionName=world.name, **of), 409, CONFLICT)
    second = client.create_event_source_mapping(FunctionName=f"{world.name}:live", Enabled=False, **of)
    is_error(told(client.update_event_source_mapping, UUID=second["UUID"], FunctionName=world.name), 409, CONFLICT)
    other = told(client.update_event_source_mapping, UUID=second["UUID"], FunctionName=f"{world.name}-other")
    is_error(other, 400, INVALID)
    for made in (first, second):
        client.delete_event_source_mapping(UUID=made["UUID"])
    sql(world.url, f"DROP STREAM {stream}")


def provisioned_twice(world):
    """A version and an alias of it are not provisioned both."""
    client, of = world.client, {"FunctionName": world.name}
    client.put_provisioned_concurrency_config(Qualifier="1", ProvisionedConcurrentExecutions=1, **of)
    twice = told(client.put_provisioned_concurrency_config, Qualifier="live", ProvisionedConcurrentExecutions=1, **of)
    is_error(twice, 409, CONFLICT)
    client.delete_provisioned_concurrency_config(Qualifier="1", **of)


def other_media(world):
    """A payload that is no JSON, and says what it is."""
    client = world.client

    def as_xml(params, **_):
        params["headers"]["Content-Type"] = "text/xml"

    for name, call in (("Invoke", client.invoke), ("InvokeWithResponseStream", client.invoke_with_response_stream)):
        client.meta.events.register(f"before-call.lambda.{name}", as_xml)
        is_error(told(call, FunctionName=world.name, Payload=b"<a/>"), 415, "UnsupportedMediaTypeException")
        # JSON is JSON, whatever it is called.
        assert call(FunctionName=world.name, Payload=b'{"a": 1}')["ResponseMetadata"]["HTTPStatusCode"] == 200
        client.meta.events.unregister(f"before-call.lambda.{name}", as_xml)


PARTS = [long_policies, mappings, provisioned_twice, other_media]
