"""Lambic's runtime client for Python: asks AWS's Runtime API for events and calls the handler.

It needs nothing but the standard library, and little of that: each module that it imports is waited for at each cold
start. `http.client` alone takes longer than the interpreter itself, and so may `site`, which this is started without.
Errors have the shape of AWS's own client.
"""

import _socket
import itertools
import json
import os
import sys
import time

API = "/2018-06-01/runtime"
# Asks for the next event with a response.
NEXT = [("Lambic-Runtime-Next", "1")]


class Connection:
    """HTTP as far as Lambic's own endpoint speaks it: one request after the other, answers with a length."""

    def __init__(self):
        self.host = os.environ["AWS_LAMBDA_RUNTIME_API"]
        self.socket = None

    def connect(self):
        name, _, port = self.host.rpartition(":")
        self.socket = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        self.socket.connect((name, int(port)))
        self.socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)

    def request(self, method, path, body=b"", headers=()):
        """The status, the headers by their names in small letters, and the body of the answer."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if self.socket is None:
            self.connect()
        try:
            self.socket.sendall("\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body)
        except ConnectionError:
            # A body that is too large is refused before all of it was read: the answer is there.
            pass
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            self.receive(received)
        status, *lines = received[:end].decode("utf-8", "replace").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        del received[: end + 4]
        length = int(headers.get("content-length", 0))
        while len(received) < length:
            self.receive(received)
        if headers.get("connection") == "close":
            self.socket.close()
            self.socket = None
        return int(status.split()[1]), headers, bytes(received)

    def receive(self, received):
        part = self.socket.recv(1 << 18)
        if not part:
            sys.exit("the Runtime API has gone away")
        received += part


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
    return json.loads(header) if header else None


class Context:
    def __init__(self, headers):
        self.aws_request_id = headers["lambda-runtime-aws-request-id"]
        self.invoked_function_arn = headers["lambda-runtime-invoked-function-arn"]
        self.function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
        self.function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
        self.memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name = os.environ["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name = os.environ["AWS_LAMBDA_LOG_STREAM_NAME"]
        self.identity = Identity(parsed(headers.get("lambda-runtime-cognito-identity")) or {})
        client_context = parsed(headers.get("lambda-runtime-client-context"))
        self.client_context = ClientContext(client_context) if client_context else None
        self._deadline_ms = int(headers["lambda-runtime-deadline-ms"])

    def get_remaining_time_in_millis(self):
        return max(0, self._deadline_ms - int(time.time() * 1000))

    def log(self, message):
        print(message)


def error(kind, message, stack=()):
    return {"errorMessage": message, "errorType": kind, "stackTrace": list(stack)}


def text_of(value):
    """What it says of itself; a class of the function's may fail at that."""
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__} that has no text>"


def failure_of(exception):
    """The error object of what the function's code raised."""
    try:
        if isinstance(exception, MemoryError):
            let_go(exception)
        stack = stack_of(exception)
    except Exception:
        # Memory is still short, or the source cannot be read: the error is told without it.
        stack = []
    return error(type(exception).__name__, text_of(exception), stack)


def let_go(exception):
    """Drops what the frames that failed hold, so that there is memory to tell of it. Their places stay known."""
    exception.__cause__ = exception.__context__ = None
    trace = exception.__traceback__
    while trace is not None:
        try:
            trace.tb_frame.clear()
        except RuntimeError:
            # It runs: this client's own.
            pass
        trace = trace.tb_next


def load(handler):
    """The handler, or the error that says why there is none."""
    module_name, dot, function_name = handler.rpartition(".")
    if not dot or not module_name or not function_name:
        return None, error("Runtime.MalformedHandlerName", f"Bad handler '{handler}': not enough values to unpack (expected 2, got 1)")
    try:
        name = module_name.replace("/", ".")
        __import__(name)
        module = sys.modules[name]
    except ImportError as e:
        return None, error("Runtime.ImportModuleError", f"Unable to import module '{module_name}': {text_of(e)}", failure_of(e)["stackTrace"])
    except SyntaxError as e:
        where = f'  File "{e.filename}" Line {e.lineno}\n    {(e.text or "").rstrip()}'
        return None, error("Runtime.UserCodeSyntaxError", f"Syntax error in module '{module_name}': {text_of(e)}", [where])
    except Exception as e:
        return None, failure_of(e)
    function = getattr(module, function_name, None)
    if not callable(function):
        return None, error("Runtime.HandlerNotFound", f"Handler '{function_name}' missing on module '{module_name}'")
    return function, None


def stack_of(exception):
    """The user's part of the traceback."""
    import traceback

    frames = traceback.extract_tb(exception.__traceback__)
    own = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
    return traceback.format_list(own)


def flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def set_trace(trace_id):
    if trace_id:
        os.environ["_X_AMZN_TRACE_ID"] = trace_id
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)


def encode(value):
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=number_of).encode("utf-8")


def number_of(value):
    """Databases give decimals, which AWS's client writes as numbers. Who has one has the module."""
    decimal = sys.modules.get("decimal")
    if decimal and isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def encode_error(failure):
    """Always succeeds: an error that cannot be sent would be taken for another one."""
    return log_object(failure).encode("utf-8")


def is_log_json():
    return os.environ.get("AWS_LAMBDA_LOG_FORMAT") == "JSON"


def moment(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


def log_object(members):
    """One line of JSON, whatever the members are. Where JSON has no word for something it is `null` or its text."""
    try:
        line = json.dumps(members, ensure_ascii=False, allow_nan=False, default=text_of)
    except Exception:
        line = json.dumps(Plain().of(members), ensure_ascii=False, allow_nan=False)
    try:
        line.encode("utf-8")
        return line
    except UnicodeEncodeError:
        # Half a character is not UTF-8, and its escape nothing that all readers take: it becomes text, where it stands.
        pass
    return "".join(f"\\\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in line)


class Plain:
    """Values in what JSON knows, as far as it goes: what stands in itself, or too deep, or is too much, is told by its kind."""

    DEPTH_MAX = 20
    VALUES_MAX = 1_000

    def __init__(self):
        self.count = 0

    def of(self, value, around=()):
        """`around`: in which objects and lists it stands."""
        self.count += 1
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, float):
            # Neither infinite nor no number.
            return value if value - value == 0 else None
        if isinstance(value, int):
            # Python does not write all of them, for the time that it takes.
            return value if value.bit_length() < 4096 else text_of(value)
        if not isinstance(value, (dict, list, tuple)):
            return text_of(value)
        if len(around) >= self.DEPTH_MAX or id(value) in around or self.count > self.VALUES_MAX:
            return f"<{type(value).__name__}>"
        around = (*around, id(value))
        # Another thread may change them meanwhile.
        if isinstance(value, dict):
            return {text_of(name): self.of(member, around) for name, member in self.first(list(value.items()))}
        return [self.of(member, around) for member in self.first(list(value))]

    def first(self, values):
        return itertools.takewhile(lambda _: self.count < self.VALUES_MAX, values)


def show(failure):
    try:
        write_error(failure)
    except Exception:
        # The function may have closed its stdout: the error is sent all the same.
        pass


def write_error(failure):
    if is_log_json():
        print(log_object({"timestamp": moment(time.time()), "log_level": "ERROR", **failure}))
        return
    kind, message = failure["errorType"], failure["errorMessage"]
    print(f"[ERROR] {kind}: {message}" if message else f"[ERROR] {kind}")
    if failure["stackTrace"]:
        print("Traceback (most recent call last):")
        print("".join(failure["stackTrace"]).rstrip("\n"))


VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def own_path():
    """Where the modules of the function are: its code stands before its layers."""
    layers = os.environ.get("LAMBIC_LAYERS", "/opt")
    return [os.environ["LAMBDA_TASK_ROOT"], f"{layers}/python/lib/{VERSION}/site-packages", f"{layers}/python"]


def set_path():
    """What is the function's own stands before what the interpreter has."""
    own = own_path()
    os.environ.pop("LAMBIC_LAYERS", None)
    # The first one is the folder of this file; the function finds there what AWS's has, behind everything else.
    rest = [path for path in sys.path[1:] if path not in own]
    sys.path[:] = own + rest + packages(VERSION) + [os.path.dirname(__file__)]


def packages(version):
    """Where the interpreter has what was installed into it; `site` would also run what stands there in `.pth` files."""
    venv = os.path.dirname(os.path.dirname(sys.executable))
    prefix = venv if os.path.exists(f"{venv}/pyvenv.cfg") else sys.prefix
    # Debian has folders of its own.
    return [
        f"{prefix}/lib/{version}/site-packages",
        f"{prefix}/local/lib/{version}/dist-packages",
        f"{prefix}/lib/python3/dist-packages",
    ]


def add_builtins():
    """What `site` gives to scripts."""
    import builtins
    from _sitebuiltins import Quitter, _Helper

    builtins.exit = Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = Quitter("quit", "Ctrl-D (i.e. EOF)")
    builtins.help = _Helper()


def hooks(which):
    """What the function has registered, in the form of AWS's package: it has imported that, or has none."""
    registered = getattr(sys.modules.get("snapshot_restore_py"), which, None)
    return registered() if registered else []


def give_up(connection, path, failure, kind):
    show(failure)
    flush()
    # What a header may have.
    kind = "".join(c if " " <= c <= "~" else "?" for c in kind)[:256]
    connection.request("POST", API + path, encode_error(failure), [("Lambda-Runtime-Function-Error-Type", kind)])
    sys.exit(1)


def wait_for_restore(connection):
    """Runs the function's hooks, in AWS's orders. Hooks may register others."""
    before, after = hooks("get_before_snapshot"), hooks("get_after_restore")
    path, kind = "/init/error", "Runtime.BeforeSnapshotError"
    try:
        while before:
            function, arguments, named = before.pop()
            function(*arguments, **named)
        flush()
        if not after:
            return
        connection.request("GET", API + "/restore/next")
        path, kind = "/restore/error", "Runtime.AfterRestoreError"
        for function, arguments, named in after:
            function(*arguments, **named)
        flush()
    except BaseException as e:
        give_up(connection, path, failure_of(e), kind)


# What a log line says of the invocation.
invocation = {"id": ""}


# AWS's names of Python's levels.
LEVELS = {"TRACE": 0, "DEBUG": 10, "INFO": 20, "WARN": 30, "ERROR": 40, "FATAL": 50}


def json_form(logging):
    """One object a line, with the members of AWS's."""
    # What any record has; the rest is what the caller adds.
    of_any = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "aws_request_id"}

    class Json(logging.Formatter):
        def format(self, record):
            line = {
                "timestamp": moment(record.created),
                "level": record.levelname,
                "message": record.getMessage(),
                "logger": record.name,
                "requestId": record.aws_request_id or None,
            }
            if record.exc_info and record.exc_info[1] is not None:
                import traceback

                kind, value, trace = record.exc_info
                line["stackTrace"] = traceback.format_tb(trace)
                line["errorType"] = kind.__name__
                line["errorMessage"] = text_of(value)
                line["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
            for name, value in record.__dict__.items():
                if name not in of_any:
                    line.setdefault(name, value)
            return log_object({name: value for name, value in line.items() if value is not None})

    return Json()


def add_log_handler(logging):
    """As AWS's client does for the root logger, whose messages would go nowhere."""

    class Invocation(logging.Filter):
        def filter(self, record):
            record.aws_request_id = invocation["id"]
            return True

    class Handler(logging.StreamHandler):
        @property
        def stream(self):
            return sys.stdout

        @stream.setter
        def stream(self, stream):
            pass

    handler = Handler()
    if is_log_json():
        form = json_form(logging)
        level = LEVELS.get(os.environ.get("AWS_LAMBDA_LOG_LEVEL"))
        if level is not None:
            logging.getLogger().setLevel(level)
    else:
        form = logging.Formatter("[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s", "%Y-%m-%dT%H:%M:%S")
        form.converter = time.gmtime
    handler.setFormatter(form)
    handler.addFilter(Invocation())
    logging.getLogger().addHandler(handler)


class WithLogHandler:
    """Finds `logging` when it is imported first, and adds the handler then: without it nobody waits for that module."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "logging":
            return None
        sys.meta_path.remove(WithLogHandler)
        for finder in sys.meta_path:
            if spec := finder.find_spec(name, path, target):
                break
        else:
            return None
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            if hasattr(module, "StreamHandler"):
                add_log_handler(module)

        spec.loader.exec_module = exec_module
        return spec


def main():
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    set_path()
    add_builtins()
    if logging := sys.modules.get("logging"):
        add_log_handler(logging)
    else:
        sys.meta_path.insert(0, WithLogHandler)
    connection = Connection()
    handler, failure = load(os.environ["_HANDLER"])
    if failure:
        give_up(connection, "/init/error", failure, failure["errorType"])
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        wait_for_restore(connection)
    status = 0
    while True:
        # The answer to a response is the next event, if the response was taken.
        if status != 200:
            status, headers, payload = connection.request("GET", API + "/invocation/next")
        if status != 200:
            sys.exit(f"the Runtime API answered {status}")
        request_id = invocation["id"] = headers["lambda-runtime-aws-request-id"]
        set_trace(headers.get("lambda-runtime-trace-id"))
        failure = None
        try:
            answer = handler(json.loads(payload), Context(headers))
        except Exception as e:
            failure = failure_of(e)
        else:
            try:
                path, body = "/response", encode(answer)
            except Exception as e:
                failure = error("Runtime.MarshalError", f"Unable to marshal response: {text_of(e)}")
            answer = None
        if failure:
            failure["requestId"] = request_id
            show(failure)
            path, body = "/error", encode_error(failure)
        flush()
        status, headers, payload = connection.request("POST", f"{API}/invocation/{request_id}{path}", body, NEXT)


if __name__ == "__main__":
    main()
