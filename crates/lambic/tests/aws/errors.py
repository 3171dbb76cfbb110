"""Provokes every error of the operations once, and asks for AWS's code, status, header and message.

Usage: errors.py URL; LAMBIC is the program, for servers that get into trouble (`trouble.py`). A case is a row of `cases`: what
is wrong, operation, arguments, status, code, pattern of the message. A pattern is found anywhere in the message. Where AWS is
known to answer in two ways, codes stand together as `A|B`. All failures are told at the end, and among them each error that AWS
lists (`listed.py`) and nothing here provoked.
"""

import base64
import io
import json
import re
import reprlib
import stat
import struct
import sys
import uuid
import zipfile

from botocore.exceptions import ClientError

import each_error
import listed
import trouble
from common import ROLE, connect, created, eventually, sha256, signed, sql, zipped

APP = "def handler(event, context):\n    return event\n"
NAME = r"\(arn:\(aws\[a-zA-Z-\]\*\)\?:lambda:\)\?"
VALIDATION = "ValidationException"
INVALID = "InvalidParameterValueException"
MISSING = "ResourceNotFoundException"
CONFLICT = "ResourceConflictException"
REVISION = "PreconditionFailedException"
CONTENT = "InvalidRequestContentException"
NEITHER = f"{VALIDATION}|{INVALID}"
# Some arguments are megabytes.
SHOWN = reprlib.Repr()
SHOWN.maxdict = SHOWN.maxlist = 10
SHOWN.maxstring = SHOWN.maxother = 100


def constraint(value, at, said):
    """The form of AWS's validation errors; `said` is a pattern, the rest is not."""
    shown = "null" if value is None else f"'{value}'"
    return rf"^1 validation error detected: Value {re.escape(shown)} at '{re.escape(at)}' failed to satisfy constraint: {said}"


def at_most(value, at, most):
    return constraint(value, at, rf"Member must have value less than or equal to {most}")


def at_least(value, at, least):
    return constraint(value, at, rf"Member must have value greater than or equal to {least}")


def no_longer(value, at, most):
    return constraint(value, at, rf"Member must have length less than or equal to {most}")


def of_form(value, at, pattern=""):
    return constraint(value, at, rf"Member must satisfy regular expression pattern: {pattern}")


def one_of(value, at, *values):
    """AWS tells the values in no order that means anything."""
    each = "".join(rf"(?=.*[\[ ]{re.escape(one)}[,\]])" for one in values)
    return constraint(value, at, rf"Member must satisfy enum value set: {each}\[")


def zip_of(path, kind, content=b"x"):
    """A zip with a good file and an entry of that name and kind (`stat.S_IFLNK`, …)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("app.py", APP)
        entry = zipfile.ZipInfo(path)
        entry.create_system, entry.external_attr = 3, (kind | 0o644) << 16
        archive.writestr(entry, content)
    return buffer.getvalue()


def overlapping(copies):
    """A small zip whose directory names the same packed megabytes again and again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("00000", bytes(16 << 20))
    one = buffer.getvalue()
    at = one.index(b"PK\x01\x02")
    entry, end = one[at : one.index(b"PK\x05\x06")], one[one.index(b"PK\x05\x06") :]
    # Behind 46 bytes of header there is the name, of five characters.
    directory = b"".join(entry[:46] + b"%05d" % number + entry[51:] for number in range(copies))
    return one[:at] + directory + end[:8] + struct.pack("<HHII", copies, copies, len(directory), at) + end[20:]


class World:
    """What the cases find there: a function with two versions and an alias, a layer, and a client that lets wrong things out."""

    def __init__(self, url):
        self.url = url
        self.client = connect(url, parameter_validation=False)
        self.zip = zipped({"app.py": APP})
        self.name = f"errors-{uuid.uuid4().hex[:8]}"
        self.arn = created(self.client, self.name, self.zip)["FunctionArn"]
        self.account = self.arn.split(":")[4]
        self.client.publish_version(FunctionName=self.name)
        self.client.update_function_code(FunctionName=self.name, ZipFile=zipped({"app.py": APP + "\n"}))
        self.client.get_waiter("function_updated_v2").wait(FunctionName=self.name)
        self.client.publish_version(FunctionName=self.name)
        self.client.create_alias(FunctionName=self.name, Name="live", FunctionVersion="1")
        self.client.add_permission(
            FunctionName=self.name, StatementId="there", Action="lambda:InvokeFunction", Principal="s3.amazonaws.com"
        )
        self.layer = f"{self.name}-layer"
        layer = self.client.publish_layer_version(LayerName=self.layer, Content={"ZipFile": self.zip})
        self.layer_arn = layer["LayerVersionArn"]
        self.client.publish_layer_version(LayerName=self.layer, Content={"ZipFile": self.zip})
        self.client.add_layer_version_permission(
            LayerName=self.layer, VersionNumber=1, StatementId="there", Action="lambda:GetLayerVersion", Principal="*"
        )
        self.client.create_function_url_config(FunctionName=self.name, AuthType="NONE")

    def end(self):
        self.client.delete_function(FunctionName=self.name)
        for version in (1, 2):
            self.client.delete_layer_version(LayerName=self.layer, VersionNumber=version)


def cases(world):
    """(what is wrong, operation, arguments, status, code, pattern of the message)"""
    f, arn, nowhere = world.name, world.arn, f"nowhere-{uuid.uuid4().hex[:8]}"
    gone = arn.replace(f, nowhere)
    no_stream = "arn:aws:lambic:us-east-1:000000000000:stream/nowhere"
    of_system = "arn:aws:lambic:us-east-1:000000000000:stream/lambic_logs"
    other = str(uuid.uuid4())
    fresh = {"FunctionName": nowhere, "Runtime": "python3.11", "Role": ROLE, "Handler": "app.handler", "Code": {"ZipFile": world.zip}}
    not_found = rf"^Function not found: {re.escape(gone)}(:\$LATEST)?$"
    stale = r"^The Revision Id provided does not match the latest Revision Id\. Call the Get\w+(/GetAlias)? API to retrieve the latest Revision Id$"
    no_resource = r"^The resource you requested does not exist\.$"
    role = r"arn:\(aws\[a-zA-Z-\]\*\)\?:iam::\\d\{12\}:role/\?"

    def create(**changes):
        return {name: value for name, value in {**fresh, **changes}.items() if value is not ...}

    def configure(**changes):
        return {"FunctionName": f, **changes}

    big = "x" * 5000
    rows = [
        # Names and ARNs.
        ("a name with a space", "GetFunction", {"FunctionName": "not a name"}, 400, VALIDATION, of_form("not a name", "functionName", NAME)),
        ("a name with a slash", "GetFunction", {"FunctionName": "a/b"}, 400, VALIDATION, of_form("a/b", "functionName", NAME)),
        ("a name with a star", "Invoke", {"FunctionName": "a*b"}, 400, VALIDATION, of_form("a*b", "functionName", NAME)),
        ("a name that is too long", "CreateFunction", create(FunctionName="n" * 65), 400, INVALID, no_longer("n" * 65, "functionName", 64)),
        ("an ARN that is too long", "CreateFunction", create(FunctionName=gone + "n" * 100), 400, VALIDATION, no_longer(gone + "n" * 100, "functionName", 140)),
        ("a name that is far too long", "GetFunctionConfiguration", {"FunctionName": "n" * 300}, 400, VALIDATION, r"Member must have length less than or equal to \d+"),
        ("a name of a wrong form", "CreateFunction", create(FunctionName="no name!"), 400, VALIDATION, of_form("no name!", "functionName", NAME)),
        ("an ARN of another service", "GetFunction", {"FunctionName": "arn:aws:s3:::bucket"}, 400, VALIDATION, of_form("arn:aws:s3:::bucket", "functionName", NAME)),
        ("an ARN without a name", "GetFunction", {"FunctionName": f"arn:aws:lambda:us-east-1:{world.account}:function:"}, 400, VALIDATION, of_form(f"arn:aws:lambda:us-east-1:{world.account}:function:", "functionName", NAME)),
        ("an ARN with a part too many", "GetFunction", {"FunctionName": f"{arn}:1:2"}, 400, VALIDATION, of_form(f"{arn}:1:2", "functionName", NAME)),
        ("an ARN and another qualifier", "GetFunction", {"FunctionName": f"{arn}:1", "Qualifier": "2"}, 400, INVALID, r"^The derived qualifier from the function name does not match the specified qualifier\.$"),
        ("a qualifier of a wrong form", "GetFunction", {"FunctionName": f, "Qualifier": "a b"}, 400, VALIDATION, of_form("a b", "qualifier")),
        ("a qualifier that is too long", "GetFunction", {"FunctionName": f, "Qualifier": "q" * 129}, 400, VALIDATION, no_longer("q" * 129, "qualifier", 128)),
        # What is not there.
        ("no such version", "GetFunction", {"FunctionName": f, "Qualifier": "99"}, 404, MISSING, rf"^Function not found: {re.escape(arn)}:99$"),
        ("no such alias", "GetFunction", {"FunctionName": f, "Qualifier": "nobody"}, 404, MISSING, rf"^(Function not found|Cannot find alias arn): {re.escape(arn)}:nobody$"),
        ("no such version to invoke", "Invoke", {"FunctionName": f, "Qualifier": "99"}, 404, MISSING, rf"^Function not found: {re.escape(arn)}:99$"),
        ("no such alias to invoke", "Invoke", {"FunctionName": f, "Qualifier": "nobody"}, 404, MISSING, rf"^(Function not found|Cannot find alias arn): {re.escape(arn)}:nobody$"),
        ("no such alias", "GetAlias", {"FunctionName": f, "Name": "nobody"}, 404, MISSING, rf"^Cannot find alias arn: {re.escape(arn)}:nobody$"),
        ("no such alias", "UpdateAlias", {"FunctionName": f, "Name": "nobody", "Description": "d"}, 404, MISSING, rf"^(Alias not found|Cannot find alias arn): {re.escape(arn)}:nobody$"),
    ]
    for operation, more in {
        "GetFunction": {}, "GetFunctionConfiguration": {}, "DeleteFunction": {}, "Invoke": {"Payload": b"{}"},
        "UpdateFunctionCode": {"ZipFile": world.zip}, "UpdateFunctionConfiguration": {"Timeout": 5}, "PublishVersion": {},
        "ListVersionsByFunction": {}, "CreateAlias": {"Name": "a", "FunctionVersion": "1"}, "ListAliases": {},
        "AddPermission": {"StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*"},
        "PutFunctionConcurrency": {"ReservedConcurrentExecutions": 1}, "GetFunctionConcurrency": {},
        "GetFunctionCodeSigningConfig": {}, "InvokeAsync": {"InvokeArgs": b"{}"},
    }.items():
        rows.append(("no such function", operation, {"FunctionName": nowhere, **more}, 404, MISSING, not_found))
    rows += [
        ("no such function", "GetAlias", {"FunctionName": nowhere, "Name": "a"}, 404, MISSING, rf"^(Function not found: {re.escape(gone)}|Cannot find alias arn: {re.escape(gone)}:a)$"),
        ("no such function", "GetPolicy", {"FunctionName": nowhere}, 404, MISSING, not_found),
        ("no such function", "RemovePermission", {"FunctionName": nowhere, "StatementId": "s"}, 404, MISSING, rf"^No policy (found for: {re.escape(gone)}|is associated with the given resource\.)$"),
        ("no such function", "ListTags", {"Resource": gone}, 404, MISSING, not_found),
        ("no such function", "TagResource", {"Resource": gone, "Tags": {"a": "b"}}, 404, MISSING, not_found),
        ("no such function", "UntagResource", {"Resource": gone, "TagKeys": ["a"]}, 404, MISSING, not_found),
        ("no such function", "CreateFunctionUrlConfig", {"FunctionName": nowhere, "AuthType": "NONE"}, 404, MISSING, r"^Function does not exist$"),
        ("no such function", "GetFunctionUrlConfig", {"FunctionName": nowhere}, 404, MISSING, no_resource),
        ("no such function", "DeleteFunctionUrlConfig", {"FunctionName": nowhere}, 404, MISSING, no_resource),
        ("no such function", "UpdateFunctionUrlConfig", {"FunctionName": nowhere, "AuthType": "NONE"}, 404, MISSING, r"^Function does not exist$"),
        ("no such function", "ListFunctionUrlConfigs", {"FunctionName": nowhere}, 404, MISSING, r"^Function does not exist$"),
        ("no such function", "PutFunctionEventInvokeConfig", {"FunctionName": nowhere, "MaximumRetryAttempts": 0}, 404, MISSING, r"^The function doesn't exist\.$"),
        ("no such function", "UpdateFunctionEventInvokeConfig", {"FunctionName": nowhere, "MaximumRetryAttempts": 0}, 404, MISSING, r"^The function doesn't exist\.$"),
        ("no such function", "ListFunctionEventInvokeConfigs", {"FunctionName": nowhere}, 404, MISSING, r"^The function doesn't exist\.$"),
        ("no such function", "GetFunctionEventInvokeConfig", {"FunctionName": nowhere}, 404, MISSING, rf"^The function {re.escape(gone)}:\$LATEST doesn't have an EventInvokeConfig$"),
        ("no event invoke configuration", "GetFunctionEventInvokeConfig", {"FunctionName": f}, 404, MISSING, rf"^The function {re.escape(arn)}:\$LATEST doesn't have an EventInvokeConfig$"),
        ("no event invoke configuration", "UpdateFunctionEventInvokeConfig", {"FunctionName": f, "MaximumRetryAttempts": 0}, 404, MISSING, rf"^The function {re.escape(arn)}:\$LATEST doesn't have an EventInvokeConfig$"),
        ("no event invoke configuration", "DeleteFunctionEventInvokeConfig", {"FunctionName": f}, 404, MISSING, rf"^The function {re.escape(arn)}(:\$LATEST)? doesn't have an EventInvokeConfig$"),
        ("no such function", "CreateEventSourceMapping", {"FunctionName": nowhere, "EventSourceArn": "arn:aws:lambic:local:000000000000:stream/lambic_nowhere", "StartingPosition": "LATEST"}, 400, f"{INVALID}|{MISSING}", r"^(Function does not exist|Function not found: .*|Stream not found: .*)$"),
        ("no such mapping", "GetEventSourceMapping", {"UUID": other}, 404, MISSING, no_resource),
        ("no such mapping", "UpdateEventSourceMapping", {"UUID": other, "Enabled": True}, 404, MISSING, no_resource),
        ("no such mapping", "DeleteEventSourceMapping", {"UUID": other}, 404, MISSING, no_resource),
        ("no such layer", "GetLayerVersion", {"LayerName": nowhere, "VersionNumber": 1}, 404, MISSING, no_resource),
        ("no such layer version", "GetLayerVersion", {"LayerName": world.layer, "VersionNumber": 99}, 404, MISSING, no_resource),
        ("no such layer", "GetLayerVersionByArn", {"Arn": world.layer_arn.replace(world.layer, nowhere)}, 404, MISSING, no_resource),
        ("no such layer version", "GetLayerVersionPolicy", {"LayerName": world.layer, "VersionNumber": 99}, 404, MISSING, r"^Layer version arn:\S+:99 does not exist\.$"),
        ("no policy of a layer version", "GetLayerVersionPolicy", {"LayerName": world.layer, "VersionNumber": 2}, 404, MISSING, r"^No policy is associated with the given resource\.$"),
        ("no such layer version", "AddLayerVersionPermission", {"LayerName": world.layer, "VersionNumber": 99, "StatementId": "s", "Action": "lambda:GetLayerVersion", "Principal": "*"}, 404, MISSING, r"^Layer version arn:\S+:99 does not exist\.$"),
        ("no such statement of a layer", "RemoveLayerVersionPermission", {"LayerName": world.layer, "VersionNumber": 1, "StatementId": "nobody"}, 404, MISSING, r"^Statement nobody is not found in resource policy\.$"),
        ("no such statement", "RemovePermission", {"FunctionName": f, "StatementId": "nobody"}, 404, MISSING, r"^Statement nobody is not found in resource policy\.$"),
        ("no policy of a version", "RemovePermission", {"FunctionName": f, "StatementId": "s", "Qualifier": "1"}, 404, MISSING, r"^No policy is associated with the given resource\.$"),
        ("no policy of a version", "GetPolicy", {"FunctionName": f, "Qualifier": "1"}, 404, MISSING, no_resource),
        ("no such alias to permit", "AddPermission", {"FunctionName": f, "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*", "Qualifier": "nobody"}, 404, MISSING, rf"^Cannot find alias arn: {re.escape(arn)}:nobody$"),
        ("no such qualifier to permit", "AddPermission", {"FunctionName": f, "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*", "Qualifier": "a$b"}, 404, MISSING, rf"^Function not found: {re.escape(arn)}:a\$b$"),
        ("no such version to permit", "AddPermission", {"FunctionName": f, "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*", "Qualifier": "99"}, 404, MISSING, rf"^Function not found: {re.escape(arn)}:99$"),
        ("no provisioned concurrency", "GetProvisionedConcurrencyConfig", {"FunctionName": f, "Qualifier": "1"}, 404, "ProvisionedConcurrencyConfigNotFoundException", r"^No Provisioned Concurrency Config found for this function$"),
        ("no such alias to provision", "PutProvisionedConcurrencyConfig", {"FunctionName": f, "Qualifier": "nobody", "ProvisionedConcurrentExecutions": 1}, 404, MISSING, rf"^Cannot find alias arn: {re.escape(arn)}:nobody$"),
        ("no such version to provision", "PutProvisionedConcurrencyConfig", {"FunctionName": f, "Qualifier": "99", "ProvisionedConcurrentExecutions": 1}, 404, MISSING, rf"^Function not found: {re.escape(arn)}:99$"),
        # What is there already.
        ("a function twice", "CreateFunction", create(FunctionName=f), 409, CONFLICT, rf"^Function already exist: {f}$"),
        ("an alias twice", "CreateAlias", {"FunctionName": f, "Name": "live", "FunctionVersion": "1"}, 409, CONFLICT, rf"^Alias already exists: {re.escape(arn)}:live$"),
        ("a statement twice", "AddPermission", {"FunctionName": f, "StatementId": "there", "Action": "lambda:InvokeFunction", "Principal": "*"}, 409, CONFLICT, r"^The statement id \(there\) provided already exists\. Please provide a new statement id, or remove the existing statement\.$"),
        ("a statement of a layer twice", "AddLayerVersionPermission", {"LayerName": world.layer, "VersionNumber": 1, "StatementId": "there", "Action": "lambda:GetLayerVersion", "Principal": "*"}, 409, CONFLICT, r"^The statement id \(there\) provided already exists\. Please provide a new statement id, or remove the existing statement\.$"),
        ("a URL twice", "CreateFunctionUrlConfig", {"FunctionName": f, "AuthType": "NONE"}, 409, CONFLICT, rf"^Failed to create function url config for \[functionArn = {re.escape(arn)}\]\. Error message:  FunctionUrlConfig exists for this Lambda function$"),
        # Code.
        ("a zip that is none", "CreateFunction", create(Code={"ZipFile": b"not a zip"}), 400, INVALID, r"^Could not unzip uploaded file\. Please check your file, then try to upload again\.$"),
        ("half a zip", "CreateFunction", create(Code={"ZipFile": world.zip[: len(world.zip) // 2]}), 400, INVALID, r"^Could not unzip uploaded file\."),
        ("a zip that is none", "UpdateFunctionCode", configure(ZipFile=b"not a zip"), 400, INVALID, r"^Could not unzip uploaded file\. Please check your file, then try to upload again\.$"),
        ("a zip that is none", "PublishLayerVersion", {"LayerName": nowhere, "Content": {"ZipFile": b"not a zip"}}, 400, INVALID, r"^Could not unzip uploaded file\. Please check your file, then try to upload again\.$"),
        ("an empty zip", "CreateFunction", create(Code={"ZipFile": zipped({})}), 400, INVALID, r"^Uploaded file must be a non-empty zip$"),
        *(
            (what, *where, 400, INVALID, r"^Could not unzip uploaded file\. Please check your file, then try to upload again\.$")
            for what, zip_ in {
                "a file above the zip": zip_of("../mine.py", stat.S_IFREG),
                "a file above, by a detour": zip_of("a/../../mine.py", stat.S_IFREG),
                "a file with a path from the root": zip_of("/etc/mine", stat.S_IFREG),
                "a file in the server's folder": zip_of("../" * 40 + "tmp/mine", stat.S_IFREG),
                "a link that leads out": zip_of("link", stat.S_IFLNK, b"/etc/passwd"),
                "a link that climbs": zip_of("a/link", stat.S_IFLNK, b"../../mine"),
                "a link to itself": zip_of("link", stat.S_IFLNK, b"link"),
                "a block device": zip_of("disk", stat.S_IFBLK, b""),
                "a character device": zip_of("null", stat.S_IFCHR, b""),
                "a pipe": zip_of("pipe", stat.S_IFIFO, b""),
                "a socket": zip_of("socket", stat.S_IFSOCK, b""),
                "a file where a folder is": zip_of("app.py/mine", stat.S_IFREG),
                "more files than anybody needs": zipped({str(number): "" for number in range(20_001)}),
            }.items()
            for where in (
                ("CreateFunction", create(Code={"ZipFile": zip_})),
                ("UpdateFunctionCode", configure(ZipFile=zip_)),
                ("PublishLayerVersion", {"LayerName": nowhere, "Content": {"ZipFile": zip_}}),
            )
        ),
        ("a bomb of one file again and again", "CreateFunction", create(Code={"ZipFile": overlapping(1_000)}), 400, INVALID, r"^(Unzipped size must be smaller than 262144000 bytes|Could not unzip uploaded file\. .*)$"),
        ("a bomb in a layer", "PublishLayerVersion", {"LayerName": nowhere, "Content": {"ZipFile": overlapping(1_000)}}, 400, INVALID, r"^(Unzipped size must be smaller than 262144000 bytes|Could not unzip uploaded file\. .*)$"),
        ("no code", "CreateFunction", create(Code=...), 400, VALIDATION, constraint(None, "code", "Member must not be null")),
        ("no code in it", "CreateFunction", create(Code={}), 400, INVALID, r"^Please provide a source for function code\."),
        ("no code to update to", "UpdateFunctionCode", configure(), 400, INVALID, r"^Please provide a source for function code\."),
        ("too large a zip", "CreateFunction", create(Code={"ZipFile": bytes(52428801)}), 413, "RequestEntityTooLargeException", r"^Zipped size must be smaller than 52428800 bytes$"),
        ("a zip of too much", "CreateFunction", create(Code={"ZipFile": zipped({"app.py": APP, "zeros": bytes(262144000)})}), 400, INVALID, r"^Unzipped size must be smaller than 262144000 bytes$"),
        ("an image for a zip", "UpdateFunctionCode", configure(ImageUri="a/b:c"), 400, INVALID, r"^Please don't provide ImageUri when updating a function with packageType Zip\.$"),
        ("an image that is none", "CreateFunction", create(PackageType="Image", Runtime=..., Handler=..., Code={"ImageUri": "a/B:c"}), 400, INVALID, r"^Source image a/B:c is not valid\. Provide a valid source image\."),
        ("no image for an image", "CreateFunction", create(PackageType="Image", Runtime=..., Handler=...), 400, INVALID, r"^Please provide ImageUri when creating a function with packageType Image\.$"),
        ("a runtime for an image", "CreateFunction", create(PackageType="Image", Code={"ImageUri": "a/b:c"}), 400, INVALID, r"^Please don't provide Handler or Runtime or Layer when the intended function PackageType is Image\.$"),
        # Configuration.
        ("an unknown runtime", "CreateFunction", create(Runtime="cobol85"), 400, INVALID, r"^Value cobol85 at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: (?=.*[\[ ]python3\.11[,\]])\[.*\] or be a valid ARN$"),
        ("an unknown runtime", "UpdateFunctionConfiguration", configure(Runtime="cobol85"), 400, INVALID, r"^Value cobol85 at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: "),
        ("a runtime of the past", "CreateFunction", create(Runtime="python2.7"), 400, INVALID, r"^The runtime parameter of python2\.7 is no longer supported for creating or updating AWS Lambda functions\."),
        ("no runtime for a zip", "CreateFunction", create(Runtime=...), 400, INVALID, r"Runtime"),
        ("no handler for a zip", "CreateFunction", create(Handler=...), 400, INVALID, r"[Hh]andler"),
        ("no role", "CreateFunction", create(Role=...), 400, VALIDATION, constraint(None, "role", "Member must not be null")),
        ("a role that is none", "CreateFunction", create(Role="somebody"), 400, VALIDATION, of_form("somebody", "role", role)),
        ("a role that is none", "UpdateFunctionConfiguration", configure(Role="somebody"), 400, VALIDATION, of_form("somebody", "role", role)),
        ("a handler with a space", "CreateFunction", create(Handler="app. handler"), 400, VALIDATION, of_form("app. handler", "handler", r"\[\^\\s\]\+")),
        ("a handler that is too long", "CreateFunction", create(Handler="h" * 129), 400, VALIDATION, no_longer("h" * 129, "handler", 128)),
        ("too little memory", "CreateFunction", create(MemorySize=127), 400, VALIDATION, at_least(127, "memorySize", 128)),
        ("too much memory", "CreateFunction", create(MemorySize=10241), 400, NEITHER, r"'[mM]emorySize'.* failed to satisfy constraint: Member must have value less than or equal to 10240"),
        ("far too much memory", "UpdateFunctionConfiguration", configure(MemorySize=40000), 400, VALIDATION, at_most(40000, "memorySize", "(10240|32768)")),
        ("no timeout", "CreateFunction", create(Timeout=0), 400, VALIDATION, at_least(0, "timeout", 1)),
        ("too long a timeout", "CreateFunction", create(Timeout=901), 400, NEITHER, r"'[tT]imeout'.* failed to satisfy constraint: Member must have value less than or equal to 900"),
        ("far too long a timeout", "UpdateFunctionConfiguration", configure(Timeout=6000), 400, VALIDATION, at_most(6000, "timeout", "(900|5400)")),
        ("too small a /tmp", "CreateFunction", create(EphemeralStorage={"Size": 511}), 400, VALIDATION, at_least(511, "ephemeralStorage.size", 512)),
        ("too large a /tmp", "CreateFunction", create(EphemeralStorage={"Size": 10241}), 400, NEITHER, r"Member must have value less than or equal to 10240"),
        ("too long a description", "CreateFunction", create(Description="d" * 257), 400, VALIDATION, no_longer("d" * 257, "description", 256)),
        ("too long a description", "PublishVersion", {"FunctionName": f, "Description": "d" * 257}, 400, VALIDATION, no_longer("d" * 257, "description", 256)),
        ("reserved variables", "CreateFunction", create(Environment={"Variables": {"AWS_REGION": "x"}}), 400, INVALID, r"^Lambda was unable to configure your environment variables because the environment variables you have provided contains reserved keys that are currently not supported for modification\. Reserved keys used in this request: AWS_REGION$"),
        ("reserved variables", "UpdateFunctionConfiguration", configure(Environment={"Variables": {"AWS_LAMBDA_RUNTIME_API": "x"}}), 400, INVALID, r"Reserved keys used in this request: AWS_LAMBDA_RUNTIME_API$"),
        ("too many variables", "CreateFunction", create(Environment={"Variables": {"BIG": big}}), 400, INVALID, rf'^Lambda was unable to configure your environment variables because the environment variables you have provided exceeded the 4KB limit\. String measured: {{"BIG":"{big}"}}$'),
        ("a variable of a wrong name", "CreateFunction", create(Environment={"Variables": {"1A": "x"}}), 400, VALIDATION, r"^1 validation error detected: Value .*at 'environment\.variables' failed to satisfy constraint: Map keys must satisfy constraint: \[.*Member must satisfy regular expression pattern: \[a-zA-Z\]\(\[a-zA-Z0-9_\]\)\+"),
        ("two architectures", "CreateFunction", create(Architectures=["x86_64", "arm64"]), 400, VALIDATION, no_longer("[x86_64, arm64]", "architectures", 1)),
        ("an unknown architecture", "CreateFunction", create(Architectures=["mips"]), 400, VALIDATION, constraint("[mips]", "architectures", r"Member must satisfy constraint: \[Member must satisfy enum value set: \[(x86_64, arm64|arm64, x86_64)\], Member must not be null\]")),
        ("an unknown package type", "CreateFunction", create(PackageType="Tar"), 400, VALIDATION, one_of("Tar", "packageType", "Zip", "Image")),
        ("a network of AWS's", "CreateFunction", create(VpcConfig={"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}), 400, INVALID, r"^VpcConfig is not available on this server: "),
        ("a key of AWS's", "UpdateFunctionConfiguration", configure(KMSKeyArn="arn:aws:kms:us-east-1:000000000000:key/k"), 400, INVALID, r"^KMSKeyArn is not available on this server: "),
        ("dead letters to a queue", "CreateFunction", create(DeadLetterConfig={"TargetArn": "arn:aws:sqs:us-east-1:000000000000:q"}), 400, INVALID, r"^The destination arn:aws:sqs:\S+ is not available on this server; "),
        ("dead letters to nobody", "CreateFunction", create(DeadLetterConfig={"TargetArn": f"{gone}-2"}), 400, INVALID, rf"^The destination does not exist: there is no function {nowhere}-2 on this server\.$"),
        ("dead letters to no stream", "UpdateFunctionConfiguration", configure(DeadLetterConfig={"TargetArn": no_stream}), 400, INVALID, r"^The destination does not exist: there is no stream nowhere on this server; CREATE STREAM makes one\.$"),
        ("dead letters to a stream of the system", "UpdateFunctionConfiguration", configure(DeadLetterConfig={"TargetArn": of_system}), 400, INVALID, r"^The destination is not available: stream lambic_logs is written by the system only; CREATE STREAM makes one for results\.$"),
        ("dead letters to itself", "UpdateFunctionConfiguration", configure(DeadLetterConfig={"TargetArn": arn}), 400, INVALID, r"^You can't specify the function as a destination for itself\.$"),
        ("an unknown tracing mode", "CreateFunction", create(TracingConfig={"Mode": "Loud"}), 400, VALIDATION, one_of("Loud", "tracingConfig.mode", "Active", "PassThrough")),
        ("a layer that is not there", "CreateFunction", create(Layers=[world.layer_arn.replace(world.layer, nowhere)]), 400, INVALID, r"^Layer version arn:\S+:1 does not exist\.$"),
        ("a layer without a version", "CreateFunction", create(Layers=[world.layer_arn.rsplit(":", 1)[0]]), 400, VALIDATION, r"at 'layers' failed to satisfy constraint: Member must satisfy constraint: \["),
        ("six layers", "CreateFunction", create(Layers=[f"{world.layer_arn}{number}" for number in range(6)]), 400, INVALID, r"^Cannot reference more than 5 layers\.$"),
        ("two versions of a layer", "CreateFunction", create(Layers=[world.layer_arn, world.layer_arn[:-1] + "2"]), 400, INVALID, r"^Two different versions of the same layer are not allowed to be referenced in the same function\. "),
        # Versions, aliases and revisions.
        ("a stale revision", "UpdateFunctionCode", configure(ZipFile=world.zip, RevisionId=other), 412, REVISION, stale),
        ("a stale revision", "UpdateFunctionConfiguration", configure(Timeout=5, RevisionId=other), 412, REVISION, stale),
        ("a stale revision", "PublishVersion", {"FunctionName": f, "RevisionId": other}, 412, REVISION, stale),
        ("a stale revision", "UpdateAlias", {"FunctionName": f, "Name": "live", "RevisionId": other}, 412, REVISION, stale),
        ("a stale revision", "AddPermission", {"FunctionName": f, "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*", "RevisionId": other}, 412, REVISION, stale),
        ("a stale revision", "RemovePermission", {"FunctionName": f, "StatementId": "there", "RevisionId": other}, 412, REVISION, stale),
        ("a stale revision", "AddLayerVersionPermission", {"LayerName": world.layer, "VersionNumber": 1, "StatementId": "s", "Action": "lambda:GetLayerVersion", "Principal": "*", "RevisionId": other}, 412, REVISION, stale),
        ("another code", "PublishVersion", {"FunctionName": f, "CodeSha256": sha256(b"x")}, 400, INVALID, rf"^CodeSHA256 \({re.escape(sha256(b'x'))}\) is different from current CodeSHA256 in \$LATEST \(\S+\)\. Please try again with the CodeSHA256 in \$LATEST\.$"),
        ("$LATEST deleted alone", "DeleteFunction", {"FunctionName": f, "Qualifier": "$LATEST"}, 400, INVALID, r"^\$LATEST version cannot be deleted without deleting the function\.$"),
        ("an alias deleted as a version", "DeleteFunction", {"FunctionName": f, "Qualifier": "live"}, 400, INVALID, r"^Deletion of aliases is not currently supported\.$"),
        ("a version that an alias holds", "DeleteFunction", {"FunctionName": f, "Qualifier": "1"}, 409, CONFLICT, r"^Unable to delete version because the following aliases reference it: \[live\]$"),
        ("an alias named like a number", "CreateAlias", {"FunctionName": f, "Name": "42", "FunctionVersion": "1"}, 400, VALIDATION, of_form("42", "name", r"\(\?!\^\[0-9\]\+\$\)\(\[a-zA-Z0-9-_\]\+\)")),
        ("an alias of a wrong name", "CreateAlias", {"FunctionName": f, "Name": "a.b", "FunctionVersion": "1"}, 400, VALIDATION, of_form("a.b", "name")),
        ("an alias to a missing version", "CreateAlias", {"FunctionName": f, "Name": "new", "FunctionVersion": "99"}, 404, MISSING, rf"^Function not found: {re.escape(arn)}:99$"),
        ("an alias to no version", "CreateAlias", {"FunctionName": f, "Name": "new", "FunctionVersion": "live"}, 400, VALIDATION, of_form("live", "functionVersion", r"\(\\\$LATEST")),
        ("too long a description", "CreateAlias", {"FunctionName": f, "Name": "new", "FunctionVersion": "1", "Description": "d" * 257}, 400, VALIDATION, no_longer("d" * 257, "description", 256)),
        ("an alias moved to a missing version", "UpdateAlias", {"FunctionName": f, "Name": "live", "FunctionVersion": "99"}, 404, MISSING, rf"^Function not found: {re.escape(arn)}:99$"),
        ("a weight over one", "CreateAlias", {"FunctionName": f, "Name": "new", "FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"2": 2.0}}}, 400, VALIDATION, r"at 'routingConfig\.additionalVersionWeights' failed to satisfy constraint: Map value must satisfy constraint: \[Member must have value less than or equal to 1\.0, Member must have value greater than or equal to 0\.0, Member must not be null\]"),
        ("a weight under nothing", "CreateAlias", {"FunctionName": f, "Name": "new", "FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"2": -0.5}}}, 400, VALIDATION, r"^1 validation error detected: Value '\{2=-0\.5\}' at 'routingConfig\.additionalVersionWeights' failed"),
        ("two more versions", "CreateAlias", {"FunctionName": f, "Name": "new", "FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"2": 0.2, "3": 0.2}}}, 400, INVALID, r"^Number of items in AdditionalVersionWeights cannot be greater than 1$"),
        ("the same version twice", "CreateAlias", {"FunctionName": f, "Name": "new", "FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"1": 0.5}}}, 400, INVALID, r"^Invalid function version 1\. Function version 1 is already included in routing configuration\.$"),
        ("a weight for $LATEST", "CreateAlias", {"FunctionName": f, "Name": "new", "FunctionVersion": "$LATEST", "RoutingConfig": {"AdditionalVersionWeights": {"1": 0.5}}}, 400, INVALID, r"^\$LATEST is not supported for an alias pointing to more than 1 version$"),
        ("a weight for an alias", "CreateAlias", {"FunctionName": f, "Name": "new", "FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"live": 0.5}}}, 400, VALIDATION, r"at 'routingConfig\.additionalVersionWeights' failed to satisfy constraint: Map keys must satisfy constraint: \[.*Member must satisfy regular expression pattern: \[0-9\]\+"),
        ("a weight for a missing version", "UpdateAlias", {"FunctionName": f, "Name": "live", "RoutingConfig": {"AdditionalVersionWeights": {"99": 0.5}}}, 404, MISSING, rf"^Function not found: {re.escape(arn)}:99$"),
        # Lists.
        ("no items", "ListFunctions", {"MaxItems": 0}, 400, VALIDATION, at_least(0, "maxItems", 1)),
        ("too many items", "ListFunctions", {"MaxItems": 10001}, 400, VALIDATION, at_most(10001, "maxItems", 10000)),
        ("an unknown kind of version", "ListFunctions", {"FunctionVersion": "SOME"}, 400, VALIDATION, one_of("SOME", "functionVersion", "ALL")),
        ("a marker that is none", "ListFunctions", {"Marker": "not a marker"}, 400, INVALID, ""),
        # Permissions.
        ("a statement of a wrong name", "AddPermission", {"FunctionName": f, "StatementId": "a b", "Action": "lambda:InvokeFunction", "Principal": "*"}, 400, VALIDATION, of_form("a b", "statementId", r"\(\[a-zA-Z0-9-_\]\+\)")),
        ("an action of another service", "AddPermission", {"FunctionName": f, "StatementId": "s", "Action": "s3:GetObject", "Principal": "*"}, 400, VALIDATION, of_form("s3:GetObject", "action", r"\(lambda:\[\*\]\|lambda:\[a-zA-Z\]\+\|\[\*\]\)")),
        ("a principal that is none", "AddPermission", {"FunctionName": f, "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "nobody"}, 400, INVALID, r"^The provided principal was invalid\. Please check the principal and try again\.$"),
        ("a permission for $LATEST", "AddPermission", {"FunctionName": f, "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*", "Qualifier": "$LATEST"}, 400, INVALID, r"^We currently do not support adding policies for \$LATEST\.$"),
        ("a source account that is none", "AddPermission", {"FunctionName": f, "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com", "SourceAccount": "me"}, 400, VALIDATION, of_form("me", "sourceAccount", r"\\d\{12\}")),
        ("no principal", "AddPermission", {"FunctionName": f, "StatementId": "s", "Action": "lambda:InvokeFunction"}, 400, VALIDATION, constraint(None, "principal", "Member must not be null")),
        # Tags.
        ("a tag on a version", "TagResource", {"Resource": f"{arn}:1", "Tags": {"a": "b"}}, 400, INVALID, r"^Tags on function aliases and versions are not supported\. Please specify a function ARN\.$"),
        ("a tag on what is no ARN", "TagResource", {"Resource": f, "Tags": {"a": "b"}}, 400, VALIDATION, of_form(f, "resource", r"arn:\(aws\[a-zA-Z-\]\*\):lambda:")),
        ("no tags", "TagResource", {"Resource": arn}, 400, VALIDATION, constraint(None, "tags", "Member must not be null")),
        ("too many tags", "TagResource", {"Resource": arn, "Tags": {f"tag{number}": "x" for number in range(51)}}, 400, INVALID, r"^Number of tags exceeds resource tag limit\.$"),
        ("no keys", "UntagResource", {"Resource": arn}, 400, VALIDATION, constraint(None, "tagKeys", "Member must not be null")),
        # Concurrency.
        ("less than nothing", "PutFunctionConcurrency", {"FunctionName": f, "ReservedConcurrentExecutions": -1}, 400, VALIDATION, at_least(-1, "reservedConcurrentExecutions", 0)),
        ("more than there is", "PutFunctionConcurrency", {"FunctionName": f, "ReservedConcurrentExecutions": 901}, 400, INVALID, r"^Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of \[100\]\.$"),
        ("reserved for a version", "PutFunctionConcurrency", {"FunctionName": f"{f}:1", "ReservedConcurrentExecutions": 1}, 400, INVALID, r"^This operation is permitted on Lambda functions only\. Aliases and versions do not support this operation\. Please specify either a function name or an unqualified function ARN\.$"),
        ("nothing provisioned", "PutProvisionedConcurrencyConfig", {"FunctionName": f, "Qualifier": "1", "ProvisionedConcurrentExecutions": 0}, 400, VALIDATION, at_least(0, "provisionedConcurrentExecutions", 1)),
        ("provisioned for $LATEST", "PutProvisionedConcurrencyConfig", {"FunctionName": f, "Qualifier": "$LATEST", "ProvisionedConcurrentExecutions": 1}, 400, INVALID, r"^Provisioned Concurrency Configs cannot be applied to unpublished function versions\.$"),
        ("more provisioned than there is", "PutProvisionedConcurrencyConfig", {"FunctionName": f, "Qualifier": "1", "ProvisionedConcurrentExecutions": 1001}, 400, INVALID, r"^Specified ConcurrentExecutions for function is greater than account's unreserved concurrency \[1000\]\.$"),
        ("provisioned concurrency of $LATEST", "GetProvisionedConcurrencyConfig", {"FunctionName": f, "Qualifier": "$LATEST"}, 400, INVALID, r"^The function resource provided must be an alias or a published version\.$"),
        # Event invoke configuration.
        ("nothing to set", "PutFunctionEventInvokeConfig", {"FunctionName": f}, 400, INVALID, r"^You must specify at least one of error handling or destination setting\.$"),
        ("too many retries", "PutFunctionEventInvokeConfig", {"FunctionName": f, "MaximumRetryAttempts": 3}, 400, VALIDATION, at_most(3, "maximumRetryAttempts", 2)),
        ("too young", "PutFunctionEventInvokeConfig", {"FunctionName": f, "MaximumEventAgeInSeconds": 59}, 400, VALIDATION, at_least(59, "maximumEventAgeInSeconds", 60)),
        ("too old", "PutFunctionEventInvokeConfig", {"FunctionName": f, "MaximumEventAgeInSeconds": 21601}, 400, VALIDATION, at_most(21601, "maximumEventAgeInSeconds", 21600)),
        ("a destination that is none", "PutFunctionEventInvokeConfig", {"FunctionName": f, "DestinationConfig": {"OnFailure": {"Destination": "nowhere"}}}, 400, VALIDATION, of_form("nowhere", "destinationConfig.onFailure.destination")),
        ("a destination that is not there", "PutFunctionEventInvokeConfig", {"FunctionName": f, "DestinationConfig": {"OnSuccess": {"Destination": gone}}}, 400, INVALID, rf"^The destination does not exist: there is no function {nowhere} on this server\.$"),
        ("a stream that is not there", "PutFunctionEventInvokeConfig", {"FunctionName": f, "DestinationConfig": {"OnFailure": {"Destination": no_stream}}}, 400, INVALID, r"^The destination does not exist: there is no stream nowhere on this server; CREATE STREAM makes one\.$"),
        ("a stream of the system", "PutFunctionEventInvokeConfig", {"FunctionName": f, "DestinationConfig": {"OnFailure": {"Destination": of_system}}}, 400, INVALID, r"^The destination is not available: stream lambic_logs is written by the system only; CREATE STREAM makes one for results\.$"),
        ("itself as destination", "PutFunctionEventInvokeConfig", {"FunctionName": f, "DestinationConfig": {"OnSuccess": {"Destination": arn}}}, 400, INVALID, r"^You can't specify the function as a destination for itself\.$"),
        # URLs.
        ("a URL of a version", "CreateFunctionUrlConfig", {"FunctionName": f, "Qualifier": "1", "AuthType": "NONE"}, 400, VALIDATION, of_form("1", "qualifier")),
        ("a URL of $LATEST", "GetFunctionUrlConfig", {"FunctionName": f, "Qualifier": "$LATEST"}, 400, VALIDATION, of_form("$LATEST", "qualifier", r"\(\(\?!\^\\d\+\$\)\^\[0-9a-zA-Z-_\]\+\$\)")),
        ("a URL of a missing alias", "CreateFunctionUrlConfig", {"FunctionName": f, "Qualifier": "nobody", "AuthType": "NONE"}, 404, MISSING, r"^Function does not exist$"),
        ("an unknown authentication", "CreateFunctionUrlConfig", {"FunctionName": f, "AuthType": "SOME"}, 400, VALIDATION, one_of("SOME", "authType", "NONE", "AWS_IAM")),
        ("no authentication said", "CreateFunctionUrlConfig", {"FunctionName": f}, 400, VALIDATION, constraint(None, "authType", "Member must not be null")),
        ("an unknown mode", "UpdateFunctionUrlConfig", {"FunctionName": f, "InvokeMode": "FAST"}, 400, VALIDATION, one_of("FAST", "invokeMode", "BUFFERED", "RESPONSE_STREAM")),
        # Layers.
        ("version nought", "GetLayerVersion", {"LayerName": world.layer, "VersionNumber": 0}, 400, INVALID, r"^Layer Version Cannot be less than 1\.?$"),
        ("an ARN without a version", "GetLayerVersionByArn", {"Arn": world.layer_arn.rsplit(":", 1)[0]}, 400, VALIDATION, of_form(world.layer_arn.rsplit(":", 1)[0], "arn")),
        ("a layer of a wrong name", "PublishLayerVersion", {"LayerName": "no layer", "Content": {"ZipFile": world.zip}}, 400, VALIDATION, of_form("no layer", "layerName")),
        ("an unknown runtime of a layer", "PublishLayerVersion", {"LayerName": nowhere, "Content": {"ZipFile": world.zip}, "CompatibleRuntimes": ["cobol85"]}, 400, VALIDATION, r"Value '\[cobol85\]' at 'compatibleRuntimes' failed to satisfy constraint: "),
        ("an unknown architecture of layers", "ListLayers", {"CompatibleArchitecture": "mips"}, 400, VALIDATION, one_of("mips", "compatibleArchitecture", "x86_64", "arm64")),
        ("an action that layers have not", "AddLayerVersionPermission", {"LayerName": world.layer, "VersionNumber": 1, "StatementId": "s", "Action": "lambda:Other", "Principal": "*"}, 400, VALIDATION, of_form("lambda:Other", "action", "lambda:GetLayerVersion")),
        # Event source mappings.
        ("no source", "CreateEventSourceMapping", {"FunctionName": f}, 400, INVALID, r"^Unrecognized event source\."),
        ("a source that is not there", "CreateEventSourceMapping", {"FunctionName": f, "EventSourceArn": "arn:aws:lambic:local:000000000000:stream/lambic_nowhere", "StartingPosition": "LATEST"}, 400, INVALID, r"^Stream not found: arn:aws:lambic:local:000000000000:stream/lambic_nowhere$"),
        ("no function", "CreateEventSourceMapping", {"EventSourceArn": "arn:aws:lambic:local:000000000000:stream/x", "StartingPosition": "LATEST"}, 400, VALIDATION, constraint(None, "functionName", "Member must not be null")),
        ("an unknown position", "CreateEventSourceMapping", {"FunctionName": f, "EventSourceArn": "arn:aws:lambic:local:000000000000:stream/x", "StartingPosition": "MIDDLE"}, 400, VALIDATION, one_of("MIDDLE", "startingPosition", "LATEST", "TRIM_HORIZON", "AT_TIMESTAMP")),
        ("an empty batch", "CreateEventSourceMapping", {"FunctionName": f, "EventSourceArn": "arn:aws:lambic:local:000000000000:stream/x", "StartingPosition": "LATEST", "BatchSize": 0}, 400, VALIDATION, at_least(0, "batchSize", 1)),
        ("too large a batch", "CreateEventSourceMapping", {"FunctionName": f, "EventSourceArn": "arn:aws:lambic:local:000000000000:stream/x", "StartingPosition": "LATEST", "BatchSize": 10001}, 400, VALIDATION, at_most(10001, "batchSize", 10000)),
        ("too long a window", "CreateEventSourceMapping", {"FunctionName": f, "EventSourceArn": "arn:aws:lambic:local:000000000000:stream/x", "StartingPosition": "LATEST", "MaximumBatchingWindowInSeconds": 301}, 400, VALIDATION, at_most(301, "maximumBatchingWindowInSeconds", 300)),
        ("too many at once", "CreateEventSourceMapping", {"FunctionName": f, "EventSourceArn": "arn:aws:lambic:local:000000000000:stream/x", "StartingPosition": "LATEST", "ParallelizationFactor": 11}, 400, VALIDATION, at_most(11, "parallelizationFactor", 10)),
        # Invocations.
        ("an unknown kind of invocation", "Invoke", {"FunctionName": f, "InvocationType": "Later"}, 400, VALIDATION, one_of("Later", "invocationType", "Event", "RequestResponse", "DryRun")),
        ("an unknown kind of log", "Invoke", {"FunctionName": f, "LogType": "Head"}, 400, VALIDATION, one_of("Head", "logType", "None", "Tail")),
        ("a payload that is no JSON", "Invoke", {"FunctionName": f, "Payload": b"{'a': 1}"}, 400, CONTENT, r"^Could not parse request body into json: "),
        ("half a payload", "Invoke", {"FunctionName": f, "Payload": b'{"a": '}, 400, CONTENT, r"^Could not parse request body into json: "),
        ("two payloads", "Invoke", {"FunctionName": f, "Payload": b"{} {}"}, 400, CONTENT, r"^Could not parse request body into json: "),
        ("a payload that is no text", "Invoke", {"FunctionName": f, "Payload": b'"\xff"'}, 400, CONTENT, r"^Could not parse request body into json: "),
        ("no JSON, for later", "Invoke", {"FunctionName": f, "Payload": b"{'a': 1}", "InvocationType": "Event"}, 400, CONTENT, r"^Could not parse request body into json: "),
        ("too large a payload", "Invoke", {"FunctionName": f, "Payload": b'"' + b"x" * 6291500 + b'"'}, 413, "RequestTooLargeException|RequestEntityTooLargeException", r"^(6291502 byte payload is too large for the RequestResponse invocation type \(limit 6291456 bytes\)|Request must be smaller than 6291456 bytes for the InvokeFunction operation)$"),
        ("too large a payload, for later", "Invoke", {"FunctionName": f, "Payload": b'"' + b"x" * 1048600 + b'"', "InvocationType": "Event"}, 413, "RequestTooLargeException|RequestEntityTooLargeException", r"^1048602 byte payload is too large for the Event invocation type \(limit 1048576 bytes\)$"),
        ("a context that is not base64", "Invoke", {"FunctionName": f, "ClientContext": "{}"}, 400, CONTENT, r"[Cc]lient ?[cC]ontext"),
        ("a context that is too large", "Invoke", {"FunctionName": f, "ClientContext": base64.b64encode(b'{"a":"' + b"x" * 4000 + b'"}').decode()}, 400, f"{CONTENT}|{VALIDATION}|{INVALID}", r""),
    ]
    return rows


def raw_cases(world):
    """(what is wrong, method, path, body, headers, status, code, pattern of the message): what no client would send."""
    functions = "/2015-03-31/functions"
    of = f"{functions}/{world.name}"
    json_type = {"content-type": "application/json"}
    nowhere = f"nowhere-{uuid.uuid4().hex[:8]}"
    fresh = {"FunctionName": nowhere, "Runtime": "python3.11", "Role": ROLE, "Handler": "app.handler"}
    whole = {**fresh, "Code": {"ZipFile": base64.b64encode(world.zip).decode()}}

    def create(**changes):
        return json.dumps({**whole, **changes})

    bad_json = rf"{CONTENT}|SerializationException|{VALIDATION}"
    nobody = "UnknownOperationException|AccessDeniedException|ResourceNotFoundException"
    return [
        ("an unknown path", "GET", "/2015-03-31/nothing", "", {}, (403, 404), nobody, ""),
        ("an unknown date", "GET", "/1999-01-01/functions", "", {}, (403, 404), nobody, ""),
        ("an unknown part of a function", "GET", f"{of}/nothing", "", {}, (403, 404), nobody, ""),
        ("a wrong method", "PATCH", of, "", {}, (403, 404, 405), f"{nobody}|MethodNotAllowedException", ""),
        ("JSON that is none", "POST", functions, "{", json_type, 400, bad_json, ""),
        ("no body", "POST", functions, "", json_type, 400, bad_json, ""),
        ("a list for an object", "POST", functions, "[]", json_type, 400, bad_json, ""),
        ("a zip that is not base64", "POST", functions, create(Code={"ZipFile": "!!!"}), json_type, 400, f"{bad_json}|{INVALID}", ""),
        ("text for a number", "POST", functions, create(Timeout="three"), json_type, 400, bad_json, ""),
        ("a fraction for a number", "POST", functions, create(Timeout=[3]), json_type, 400, bad_json, ""),
        ("a number for an object", "POST", functions, create(Environment=5), json_type, 400, bad_json, ""),
        ("an object for a list", "POST", functions, create(Layers={"a": 1}), json_type, 400, bad_json, ""),
        ("an object for text", "POST", functions, create(Description={}), json_type, 400, bad_json, ""),
        ("text for the number of items", "GET", f"{functions}?MaxItems=many", "", {}, 400, bad_json, ""),
        ("text for a layer's version", "GET", f"/2018-10-31/layers/{world.layer}/versions/one", "", {}, 400, f"{bad_json}|{INVALID}", ""),
        ("no name to create", "POST", functions, json.dumps({k: v for k, v in whole.items() if k != "FunctionName"}), json_type, 400, VALIDATION, constraint(None, "functionName", "Member must not be null")),
        ("several errors at once", "POST", functions, create(Timeout=0, MemorySize=1), json_type, 400, VALIDATION, r"^2 validation errors detected: Value '[01]' at '(timeout|memorySize)' failed to satisfy constraint: .*; Value '[01]' at '(timeout|memorySize)' failed to satisfy constraint: "),
        ("a name of bytes that are no text", "GET", f"{functions}/%FF%FE", "", {}, 400, bad_json, ""),
        ("a name that climbs", "GET", f"{functions}/..%2F..%2Fetc", "", {}, 400, VALIDATION, ""),
        ("a content type that is not JSON", "POST", f"{of}/invocations", "<a/>", {"content-type": "text/xml"}, (400, 415), f"UnsupportedMediaTypeException|{CONTENT}", ""),
    ]


def check(world, case):
    """Nothing if AWS answers so, else what is wrong."""
    _, operation, arguments, status, code, pattern = case
    method = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", operation).lower()
    try:
        answer = getattr(world.client, method)(**arguments)
    except ClientError as error:
        told = error.response
    except AssertionError as error:
        return str(error)
    else:
        return f"let through: {answer}"
    headers = told["ResponseMetadata"]["HTTPHeaders"]
    message = told["Error"].get("Message", "")
    return differs(status, code, pattern, told["ResponseMetadata"]["HTTPStatusCode"], headers.get("x-amzn-errortype", ""), message)


def check_raw(world, case):
    _, method, target, body, headers, status, code, pattern = case
    answer = signed(world.url, method, target, body.encode(), headers)
    kind = answer.headers.get("content-type", "")
    if not kind.startswith("application/json"):
        return f"{answer.status} with content type {kind!r}: {answer.body[:300]!r}"
    if not answer.headers.get("x-amzn-requestid"):
        return "no x-amzn-RequestId header"
    try:
        told = answer.json()
    except ValueError as error:
        return f"{answer.status}, not JSON: {error}: {answer.body[:300]!r}"
    message = told.get("message", told.get("Message")) if isinstance(told, dict) else None
    return differs(status, code, pattern, answer.status, answer.headers.get("x-amzn-errortype", ""), message or "")


def differs(status, code, pattern, has_status, has_type, message):
    wrong = []
    statuses = status if isinstance(status, tuple) else (status,)
    if has_status not in statuses:
        wrong.append(f"status {has_status} instead of {status}")
    if has_type.split(":")[0] not in code.split("|"):
        wrong.append(f"x-amzn-ErrorType {has_type!r} instead of {code}")
    if not re.search(pattern, message):
        wrong.append(f"message {message[:600]!r} is not of the form {pattern[:600]!r}")
    return "; ".join(wrong)


def throttled(world):
    """429 has a reason, which the client's error carries."""
    world.client.put_function_concurrency(FunctionName=world.name, ReservedConcurrentExecutions=0)
    try:
        world.client.invoke(FunctionName=world.name)
    except ClientError as error:
        told = error.response
        if told.get("Reason") != "ReservedFunctionConcurrentInvocationLimitExceeded":
            return f"reason {told.get('Reason')!r}"
        status, kind = told["ResponseMetadata"]["HTTPStatusCode"], told["ResponseMetadata"]["HTTPHeaders"].get("x-amzn-errortype", "")
        return differs(429, "TooManyRequestsException", r"^Rate Exceeded\.$", status, kind, told["Error"]["Message"])
    except AssertionError as error:
        return str(error)
    finally:
        world.client.delete_function_concurrency(FunctionName=world.name)
    return "let through"


def reasons_are_logged(world):
    """AWS says of a zip only that it cannot be unzipped; the function's log has why."""
    name = f"logged-{uuid.uuid4().hex[:8]}"
    created(world.client, name, world.zip)
    try:
        world.client.update_function_code(FunctionName=name, ZipFile=b"not a zip")
        return "let through"
    except ClientError:
        lines = f"SELECT line FROM lambic_logs WHERE function = '{name}' AND request_id IS NULL"
        eventually("the reason is in the log", lambda: "is not a zip that can be used" in str(sql(world.url, lines)["rows"]))
    finally:
        world.client.delete_function(FunctionName=name)
    return ""


def nothing_made(world):
    """A refused call leaves nothing behind."""
    names = [one["FunctionName"] for one in world.client.list_functions()["Functions"] if one["FunctionName"].startswith("nowhere-")]
    aliases = [one["Name"] for one in world.client.list_aliases(FunctionName=world.name)["Aliases"]]
    versions = [one["Version"] for one in world.client.list_versions_by_function(FunctionName=world.name)["Versions"]]
    there = (names, aliases, versions)
    return "" if there == ([], ["live"], ["$LATEST", "1", "2"]) else f"refused calls left something behind: {there}"


def attempt(check_one, *arguments):
    """One case cannot end the others."""
    try:
        return check_one(*arguments)
    except Exception as error:  # noqa: BLE001: whatever it is, it is told
        return f"{type(error).__name__}: {error}"


def main(url):
    world = World(url)
    failures, count = [], 0
    rows = cases(world) + each_error.cases(world)
    for shown, check_one, rows in (("", check, rows), ("raw ", check_raw, raw_cases(world))):
        for case in rows:
            count += 1
            wrong = attempt(check_one, world, case)
            if wrong:
                failures.append(f"{shown}{case[1]}, {case[0]}: {SHOWN.repr(case[2])}\n    {wrong}")
    for last in (throttled, reasons_are_logged, nothing_made, *each_error.PARTS):
        count += 1
        wrong = attempt(last, world)
        if wrong:
            failures.append(f"{last.__name__}: {wrong}")
    print(f"{count - len(failures)} of {count} errors are AWS's")
    seen = world.client.errors_seen | trouble.errors()
    failures += listed.unprovoked(seen)
    if failures:
        sys.exit("\n".join(failures))
    world.end()


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
