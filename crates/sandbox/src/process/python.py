"""Lambic's runtime client for Python: asks AWS's Runtime API for events and calls the handler.

It needs nothing but the standard library. Errors have the shape of AWS's own client.
"""

import http.client
import importlib
import json
import os
import sys
import time
import traceback

API = "/2018-06-01/runtime"


class Identity:
    def __init__(self, given):
        self.cognito_identity_id = given.get("cognitoIdentityId")
        self.cognito_identity_pool_id = given.get("cognitoIdentityPoolId")


class Client:
    def __init__(self, given):
        for name in ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name"):
            setattr(self, name, given.get(name))


class ClientContext:
    def __init__(self, given):
        self.client = Client(given["client"]) if given.get("client") else None
        self.custom = given.get("custom")
        self.env = given.get("env")


def parsed(header):
    """The JSON of a header; headers are read as Latin-1, but hold UTF-8."""
    return json.loads(header.encode("latin-1")) if header else None


class Context:
    def __init__(self, headers):
        self.aws_request_id = headers["Lambda-Runtime-Aws-Request-Id"]
        self.invoked_function_arn = headers["Lambda-Runtime-Invoked-Function-Arn"]
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = os.environ["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = os.environ["AWS_LAMBDA_LOG_STREAM_NAME"]
        self.identity = Identity(parsed(headers["Lambda-Runtime-Cognito-Identity"]) or {})
        client_context = parsed(headers["Lambda-Runtime-Client-Context"])
        self.client_context = ClientContext(client_context) if client_context else None
        self._deadline_ms = int(headers["Lambda-Runtime-Deadline-Ms"])

    def get_remaining_time_in_millis(self):
        return max(0, self._deadline_ms - int(time.time() * 1000))

    def log(self, message):
        print(message)


def error(kind, message, stack=()):
    return {"errorMessage": message, "errorType": kind, "stackTrace": list(stack)}


def load(handler):
    """The handler, or the error that says why there is none."""
    module_name, dot, function_name = handler.rpartition(".")
    if not dot or not module_name or not function_name:
        return None, error("Runtime.MalformedHandlerName", f"Bad handler '{handler}': not enough values to unpack (expected 2, got 1)")
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except ImportError as e:
        return None, error("Runtime.ImportModuleError", f"Unable to import module '{module_name}': {e}", stack_of(e))
    except SyntaxError as e:
        where = f'  File "{e.filename}" Line {e.lineno}\n    {(e.text or "").rstrip()}'
        return None, error("Runtime.UserCodeSyntaxError", f"Syntax error in module '{module_name}': {e}", [where])
    except Exception as e:
        return None, error(type(e).__name__, str(e), stack_of(e))
    function = getattr(module, function_name, None)
    if not callable(function):
        return None, error("Runtime.HandlerNotFound", f"Handler '{function_name}' missing on module '{module_name}'")
    return function, None


def stack_of(exception):
    """The user's part of the traceback."""
    frames = traceback.extract_tb(exception.__traceback__)
    own = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
    return traceback.format_list(own)


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def post(connection, path, body, headers=None):
    connection.request("POST", API + path, body, headers or {})
    connection.getresponse().read()


def set_trace(trace_id):
    if trace_id:
        os.environ["_X_AMZN_TRACE_ID"] = trace_id
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)


def encode(value):
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")


def show(failure):
    print(f"[ERROR] {failure['errorType']}: {failure['errorMessage']}")
    if failure["stackTrace"]:
        print("Traceback (most recent call last):")
        print("".join(failure["stackTrace"]).rstrip("\n"))


def set_path():
    """The code stands before the layers, and the layers before what the interpreter has."""
    layers = os.environ.pop("LAMBIC_LAYERS", "/opt")
    site = f"{layers}/python/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    own = [os.environ["LAMBDA_TASK_ROOT"], site, f"{layers}/python"]
    # The first one is the folder of this file.
    sys.path[:] = own + [path for path in sys.path[1:] if path not in own]


def take_assignment():
    """Waits until this process belongs to a function, and takes its variables."""
    # What many functions import, read while nobody waits for it.
    for name in (
        "base64 collections concurrent.futures contextlib dataclasses datetime decimal enum functools hashlib io "
        "logging pathlib random re socket ssl tempfile threading typing urllib.parse urllib.request uuid"
    ).split():
        try:
            importlib.import_module(name)
        except ImportError:
            pass
    import resource

    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request("GET", "/lambic/assignment")
    variables = json.loads(connection.getresponse().read())
    connection.close()
    data_bytes = int(variables.pop("LAMBIC_DATA_BYTES"))
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
    os.environ.clear()
    os.environ.update(variables)
    time.tzset()
    # The folder that was here is covered by the code, and layers are where nothing was.
    os.chdir(os.environ["LAMBDA_TASK_ROOT"])
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def main():
    if os.environ.get("LAMBIC_SPARE"):
        take_assignment()
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    set_path()
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    handler, failure = load(os.environ["_HANDLER"])
    if failure:
        show(failure)
        flush()
        kind = {"Lambda-Runtime-Function-Error-Type": failure["errorType"]}
        post(connection, "/init/error", encode(failure), kind)
        sys.exit(1)
    while True:
        connection.request("GET", API + "/invocation/next")
        response = connection.getresponse()
        payload = response.read()
        if response.status != 200:
            sys.exit(f"the Runtime API answered {response.status}")
        request_id = response.headers["Lambda-Runtime-Aws-Request-Id"]
        set_trace(response.headers["Lambda-Runtime-Trace-Id"])
        try:
            answer = handler(json.loads(payload), Context(response.headers))
        except MemoryError as e:
            path, body = "/error", encode(error("MemoryError", str(e) or "out of memory"))
        except Exception as e:
            failure = error(type(e).__name__, str(e), stack_of(e))
            failure["requestId"] = request_id
            show(failure)
            path, body = "/error", encode(failure)
        else:
            try:
                path, body = "/response", encode(answer)
            except (TypeError, ValueError) as e:
                failure = error("Runtime.MarshalError", f"Unable to marshal response: {e}")
                show(failure)
                path, body = "/error", encode(failure)
            answer = None
        flush()
        post(connection, f"/invocation/{request_id}{path}", body)


if __name__ == "__main__":
    main()
