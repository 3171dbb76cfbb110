"""Holds every answer of Lambda's API against the model that botocore ships (`service-2.json`).

`watch(client)` checks what the server really sent, before botocore makes the best of it: an unknown member, a wrong type,
a value outside of an enumeration, a missing required member or another status than the model's is an error. Values such as
ARNs are the business of those who ask for them.

Run as a program, it checks itself.
"""

import base64
import binascii
import email.utils
import json
import math


class Mismatch(AssertionError):
    """An answer that the model does not allow."""


def watch(client):
    """From now on every answer to this client is checked; gives the operations that succeeded so far, and the pairs of an
    operation and the error that it was refused with, as two sets."""
    succeeded, refused = set(), set()

    def after(http_response, model, **_):
        body = None if streams(model, http_response.status_code) else http_response.content
        errors = problems(model, http_response.status_code, http_response.headers, body)
        if errors:
            shown = b"(a stream)" if body is None else body[:2000]
            told = "\n  ".join(errors)
            raise Mismatch(f"{model.name} answered {http_response.status_code} {shown!r}:\n  {told}")
        if http_response.status_code < 300:
            succeeded.add(model.name)
        else:
            refused.add((model.name, http_response.headers["x-amzn-errortype"].split(":")[0]))

    client.meta.events.register("after-call.lambda.*", after)
    return succeeded, refused


def streams(model, status):
    """Whether the body is for the caller to read: a payload, or an event stream."""
    return status < 300 and (model.has_streaming_output or model.has_event_stream_output)


def problems(model, status, headers, body):
    """What is wrong with an answer to the operation `model`, as sentences; `body` is None if it streams."""
    headers = {name.lower(): value for name, value in headers.items()}
    errors = []
    if not headers.get("x-amzn-requestid"):
        errors.append("no x-amzn-RequestId header")
    if status >= 300:
        return errors + error_problems(model, status, headers, body)
    shape = model.output_shape
    members = dict(shape.members) if shape else {}
    located = {name: member for name, member in members.items() if "location" in member.serialization}
    # A model with a member for the status leaves it open: Invoke, DeleteFunction.
    open_status = any(member.serialization["location"] == "statusCode" for member in located.values())
    wanted = model.http.get("responseCode", 200)
    if status != wanted and not open_status:
        errors.append(f"status {status} instead of {wanted}")
    for name, member in located.items():
        errors += header_problems(name, member, headers)
    if body is None:
        return errors
    payload = shape.serialization.get("payload") if shape else None
    if payload:
        expected, required, inner = members[payload].members, members[payload].required_members, members[payload]
    else:
        expected = {name: member for name, member in members.items() if name not in located}
        required = [name for name in (shape.required_members if shape else []) if name not in located]
        inner = None
    if not body:
        if expected and status != 204:
            errors.append("an empty body")
        return errors + [f"$.{name}: required, but not there" for name in required]
    if status == 204:
        return errors + ["a body where there is no content"]
    if not headers.get("content-type", "").startswith("application/json"):
        errors.append(f"content type {headers.get('content-type')!r}")
    value, told = parsed(body)
    if told:
        return errors + told
    if inner is not None:
        return errors + value_problems("$", inner, value)
    return errors + members_problems("$", expected, required, value)


def error_problems(model, status, headers, body):
    """The same for an error: a modelled one has its own status and members, any other at least a message."""
    errors = []
    code = headers.get("x-amzn-errortype", "").split(":")[0]
    if not code:
        errors.append("no x-amzn-ErrorType header")
    if not headers.get("content-type", "").startswith("application/json"):
        errors.append(f"content type {headers.get('content-type')!r}")
    value, told = parsed(body or b"")
    if told:
        return errors + told
    if not isinstance(value, dict):
        return errors + [f"$: an error is an object, not {value!r}"]
    known = {shape.name: shape for shape in model.service_model.error_shapes}
    if code not in known:
        text = value.get("message", value.get("Message"))
        # AWS gives no reason to whom it denies access, but a member for it.
        unsaid = code == "AccessDeniedException" and text is None and {"message", "Message"} & set(value)
        if not isinstance(text, str) and not unsaid:
            errors.append(f"$: an error without a message: {value!r}")
        return errors
    shape = known[code]
    # Those that no operation lists, such as a request that is too large, may come from any of them.
    listed = {shape.name for shape in model.error_shapes}
    if code not in listed | {"InvalidRequestContentException", "RequestTooLargeException", "UnsupportedMediaTypeException"}:
        errors.append(f"{code} is none of the errors of {model.name}: {sorted(listed)}")
    wanted = shape.metadata["error"]["httpStatusCode"]
    if status != wanted:
        errors.append(f"status {status} instead of the {wanted} of {code}")
    expected = {name: member for name, member in shape.members.items() if "location" not in member.serialization}
    errors += members_problems("$", expected, shape.required_members, value)
    message = next(name for name in expected if name.lower() == "message")
    if not isinstance(value.get(message), str):
        errors.append(f"$.{message}: an error says what is wrong")
    fault = "User" if shape.metadata["error"].get("senderFault") else "Service"
    if value.get("Type", fault) not in (fault, "Server" if fault == "Service" else fault):
        errors.append(f"$.Type: {value['Type']!r} instead of {fault!r}")
    return errors


def parsed(body):
    def constant(text):
        raise ValueError(f"{text} is not JSON")

    def once(pairs):
        names = [name for name, _ in pairs]
        if len(names) != len(set(names)):
            raise ValueError(f"a member twice: {names}")
        return dict(pairs)

    try:
        return json.loads(body, parse_constant=constant, object_pairs_hook=once), []
    except ValueError as error:
        return None, [f"the body is not JSON: {error}"]


def header_problems(name, member, headers):
    location = member.serialization["location"]
    if location == "headers":
        prefix = member.serialization.get("name", "").lower()
        return [f"{name}: not text" for key, value in headers.items() if key.startswith(prefix) and not isinstance(value, str)]
    if location != "header":
        return []
    key = member.serialization.get("name", name)
    value = headers.get(key.lower())
    if value is None:
        return []
    where = f"header {key}"
    kind = member.type_name
    if kind in ("integer", "long"):
        return [] if value.lstrip("-").isascii() and value.lstrip("-").isdigit() else [f"{where}: {value!r} is no whole number"]
    if kind in ("float", "double"):
        return [] if number(value) else [f"{where}: {value!r} is no number"]
    if kind == "boolean":
        return [] if value in ("true", "false") else [f"{where}: {value!r} is neither true nor false"]
    if kind == "timestamp":
        return timestamp_problems(where, member.serialization.get("timestampFormat", "rfc822"), value)
    return enumerated(where, member, value)


def number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def enumerated(where, shape, value):
    allowed = shape.metadata.get("enum")
    # Ours, beyond AWS's.
    if shape.name == "Runtime" and value == "wasm":
        return []
    return [] if not allowed or value in allowed else [f"{where}: {value!r} is none of {allowed}"]


def members_problems(where, members, required, value):
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is not an object"]
    names = {member.serialization.get("name", name): (name, member) for name, member in members.items()}
    errors = []
    for key, given in value.items():
        if key not in names:
            errors.append(f"{where}.{key}: not in the model, which has {sorted(names)}")
        elif given is not None:
            errors += value_problems(f"{where}.{key}", names[key][1], given)
    for key, (name, _) in names.items():
        if name in required and value.get(key) is None:
            errors.append(f"{where}.{key}: required, but not there")
    return errors


def value_problems(where, shape, value):
    kind = shape.type_name
    if kind == "structure":
        errors = members_problems(where, shape.members, shape.required_members, value)
        if not errors and shape.is_tagged_union and len([one for one in value.values() if one is not None]) != 1:
            errors = [f"{where}: exactly one member of a union is set"]
        return errors
    if kind == "list":
        if not isinstance(value, list):
            return [f"{where}: {value!r} is not a list"]
        return [error for at, one in enumerate(value) for error in value_problems(f"{where}[{at}]", shape.member, one)]
    if kind == "map":
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is not a map"]
        errors = []
        for key, one in value.items():
            errors += value_problems(f"{where} key", shape.key, key)
            errors += value_problems(f"{where}[{key}]", shape.value, one)
        return errors
    if kind == "timestamp":
        return timestamp_problems(where, shape.serialization.get("timestampFormat", "unixTimestamp"), value)
    if kind == "boolean":
        return [] if isinstance(value, bool) else [f"{where}: {value!r} is not a boolean"]
    if kind in ("integer", "long"):
        return [] if isinstance(value, int) and not isinstance(value, bool) else [f"{where}: {value!r} is not a whole number"]
    if kind in ("float", "double"):
        return [] if isinstance(value, (int, float)) and not isinstance(value, bool) else [f"{where}: {value!r} is not a number"]
    if not isinstance(value, str):
        return [f"{where}: {value!r} is not text"]
    if kind == "blob":
        try:
            base64.b64decode(value, validate=True)
        except binascii.Error as error:
            return [f"{where}: not base64: {error}"]
        return []
    return enumerated(where, shape, value)


def timestamp_problems(where, form, value):
    if form == "unixTimestamp":
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
    elif form == "rfc822":
        try:
            good = email.utils.parsedate_to_datetime(value) is not None
        except (TypeError, ValueError):
            good = False
    else:
        good = isinstance(value, str) and value[4:5] == "-" and value[10:11] == "T"
    return [] if good else [f"{where}: {value!r} is not a time of the form {form}"]


def check_itself():
    """Good answers have no problems, and each bad one has the problem that it was made with."""
    import botocore.session

    service = botocore.session.get_session().get_service_model("lambda")
    plain = {"x-amzn-RequestId": "1", "Content-Type": "application/json"}

    def of(name, status, body, headers=None):
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return problems(service.operation_model(name), status, {**plain, **(headers or {})}, raw)

    function = {"FunctionName": "f", "Timeout": 3, "State": "Active", "Environment": {"Variables": {"A1": "b"}}, "KMSKeyArn": None}
    url = {"FunctionUrl": "u", "FunctionArn": "a", "AuthType": "NONE", "CreationTime": "t"}
    missing = {"Type": "User", "Message": "Function not found: f"}
    good = [
        of("CreateFunction", 201, function),
        of("GetFunctionConfiguration", 200, {**function, "Layers": [{"Arn": "a", "CodeSize": 1}]}),
        of("CreateFunctionUrlConfig", 201, url),
        of("GetFunction", 200, {"Configuration": function, "Code": {"Location": "l"}, "Tags": {"a": "b"}}),
        of("TagResource", 204, b""),
        of("DeleteFunction", 204, b""),
        of("DeleteFunction", 200, b""),
        of("Invoke", 202, None, {"X-Amz-Executed-Version": "1"}),
        of("GetAlias", 200, {"RoutingConfig": {"AdditionalVersionWeights": {"2": 0.5}}}),
        of("GetFunctionEventInvokeConfig", 200, {"LastModified": 1.5, "MaximumRetryAttempts": 0}),
        of("GetFunction", 404, missing, {"x-amzn-ErrorType": "ResourceNotFoundException"}),
        of("CreateFunction", 400, {"message": "1 validation error"}, {"x-amzn-ErrorType": "ValidationException"}),
        of("GetFunction", 403, {"Message": None}, {"x-amzn-ErrorType": "AccessDeniedException"}),
        of("Invoke", 429, {"Type": "User", "message": "Rate Exceeded.", "Reason": "ConcurrentInvocationLimitExceeded"},
           {"x-amzn-ErrorType": "TooManyRequestsException", "Retry-After": "1"}),
        of("ListFunctions", 500, {"Type": "Service", "Message": "m"}, {"x-amzn-ErrorType": "ServiceException"}),
    ]
    for at, errors in enumerate(good):
        assert not errors, (at, errors)
    bad = [
        (of("CreateFunction", 200, function), "status 200 instead of 201"),
        (of("CreateFunction", 201, {**function, "Naem": 1}), "$.Naem: not in the model"),
        (of("CreateFunction", 201, {**function, "Timeout": "3"}), "$.Timeout: '3' is not a whole number"),
        (of("CreateFunction", 201, {**function, "Timeout": True}), "$.Timeout: True is not a whole number"),
        (of("CreateFunction", 201, {**function, "State": "Good"}), "$.State: 'Good' is none of"),
        (of("CreateFunction", 201, {**function, "Environment": {"Variables": {"A1": 5}}}), "$.Environment.Variables[A1]: 5 is not text"),
        (of("CreateFunction", 201, {**function, "Layers": {}}), "$.Layers: {} is not a list"),
        (of("CreateFunction", 201, {**function, "Layers": [{"Size": 1}]}), "$.Layers[0].Size: not in the model"),
        (of("CreateFunction", 201, [function]), "is not an object"),
        (of("CreateFunction", 201, b"{"), "the body is not JSON"),
        (of("CreateFunction", 201, b'{"Timeout": 1, "Timeout": 2}'), "a member twice"),
        (of("CreateFunction", 201, b'{"Timeout": NaN}'), "NaN is not JSON"),
        (of("CreateFunction", 201, b""), "an empty body"),
        (of("CreateFunction", 201, function, {"Content-Type": "text/html"}), "content type 'text/html'"),
        (of("CreateFunction", 201, function, {"x-amzn-RequestId": ""}), "no x-amzn-RequestId"),
        (of("CreateFunctionUrlConfig", 201, {**url, "AuthType": None}), "$.AuthType: required, but not there"),
        (of("TagResource", 204, {}), "a body where there is no content"),
        (of("GetAlias", 200, {"RoutingConfig": {"AdditionalVersionWeights": {"2": "0.5"}}}), "is not a number"),
        (of("GetFunctionEventInvokeConfig", 200, {"LastModified": "2026-01-01T00:00:00"}), "not a time of the form unixTimestamp"),
        (of("GetFunction", 404, missing), "no x-amzn-ErrorType"),
        (of("GetFunction", 400, missing, {"x-amzn-ErrorType": "ResourceNotFoundException"}), "status 400 instead of the 404"),
        (of("GetFunction", 404, {"message": "m"}, {"x-amzn-ErrorType": "ResourceNotFoundException"}), "$.message: not in the model"),
        (of("GetFunction", 404, {**missing, "Type": "Server"}, {"x-amzn-ErrorType": "ResourceNotFoundException"}), "$.Type: 'Server'"),
        (of("GetFunction", 404, b"<html>", {"x-amzn-ErrorType": "ResourceNotFoundException"}), "the body is not JSON"),
        (of("ListFunctions", 404, missing, {"x-amzn-ErrorType": "ResourceNotFoundException"}), "none of the errors of ListFunctions"),
        (of("CreateFunction", 400, {}, {"x-amzn-ErrorType": "ValidationException"}), "an error without a message"),
        (of("Invoke", 429, {"message": "m", "Reason": "Why"}, {"x-amzn-ErrorType": "TooManyRequestsException"}), "'Why' is none of"),
    ]
    for errors, wanted in bad:
        assert any(wanted in error for error in errors), (wanted, errors)
    print(f"{len(good)} good answers let through, {len(bad)} bad ones caught")


if __name__ == "__main__":
    check_itself()
