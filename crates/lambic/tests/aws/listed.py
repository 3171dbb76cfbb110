"""What AWS lists: the operations, and the errors of each (`operations.txt`); which of them this server has, as its docs say.

`unprovoked` holds the errors that were seen against that list. Each one that this server cannot come to is excused here, with
the reason; an excuse that is not needed is a mistake as well.
"""

import pathlib
import re
import typing

DOCS = pathlib.Path(__file__).parents[4] / "docs/lambda-api.md"


class Operation(typing.NamedTuple):
    method: str
    path: str
    status: int
    # By their whole names.
    errors: frozenset


def read():
    lines = (pathlib.Path(__file__).parent / "operations.txt").read_text().splitlines()
    found = {}
    for line in lines:
        if line.startswith("#"):
            continue
        about, errors = line.split(" | ")[:2]
        name, method, path, status = about.split()
        found[name] = Operation(method, path, int(status), frozenset(f"{one}Exception" for one in errors.split(",")))
    return found


OPERATIONS = read()


def documented():
    """The operations that the table of the docs names."""
    table = DOCS.read_text().split("\n## Operations\n")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    named = set(re.findall(r"`([A-Za-z]+)`", "\n".join(rows)))
    return named & set(OPERATIONS)


READS = {name for name, one in OPERATIONS.items() if one.method == "GET"}
# They say all that they say in their path and query.
BODILESS = READS | {name for name, one in OPERATIONS.items() if one.method == "DELETE"}
INVOCATIONS = {"Invoke", "InvokeAsync", "InvokeWithResponseStream"}
EVERYWHERE = set(OPERATIONS)

# (errors, operations, why they cannot come here)
EXCUSED = [
    ("KMSAccessDenied KMSDisabled KMSInvalidState KMSNotFound", INVOCATIONS, "there are no keys of KMS"),
    (
        "EC2AccessDenied EC2Throttled EC2Unexpected ENILimitReached ENINotReady InvalidSecurityGroupID InvalidSubnetID"
        " SubnetIPAddressLimitReached", INVOCATIONS, "VpcConfig is kept without an effect",
    ),
    (
        "EFSIO EFSMountConnectivity EFSMountFailure EFSMountTimeout S3FilesMountConnectivity S3FilesMountFailure S3FilesMountTimeout",
        INVOCATIONS, "FileSystemConfigs are refused",
    ),
    (
        "SnapStart SnapStartNotReady SnapStartRegenerationFailure SnapStartTimeout", INVOCATIONS,
        "nothing is copied for SnapStart; a hook that fails is the function's own error",
    ),
    (
        "CodeArtifactUserDeleted CodeArtifactUserFailed CodeArtifactUserPending", INVOCATIONS,
        "code is unpacked before a function is there",
    ),
    ("RuntimeAliasDeleted RuntimeVersionDeleted", INVOCATIONS, "runtime management is kept without an effect"),
    ("NoPublishedVersion", INVOCATIONS, "nothing is run by what was published last"),
    ("ModeNotSupported", INVOCATIONS, "all functions are invoked in all ways"),
    ("DurableExecutionAlreadyStarted", INVOCATIONS, "DurableConfig is refused"),
    ("RecursiveInvocation", INVOCATIONS, "loops are not looked for"),
    ("ResourceNotReady", INVOCATIONS, "an invocation waits until the function is there"),
    ("ServiceQuotaExceeded", INVOCATIONS, "what is over a limit is throttled"),
    ("SerializedRequestEntityTooLarge", INVOCATIONS, "a payload that is too large is RequestTooLargeException"),
    ("InvalidRuntime", {"InvokeAsync"}, "an event is queued first, and ends as a dead letter"),
    ("Service", {"InvokeAsync"}, "its queue is the log; `full_disk.rs` shows what happens when that cannot be written"),
    ("ResourceConflict", INVOCATIONS, "invocations do not wait for changes"),
    ("CodeVerificationFailed InvalidCodeSignature", EVERYWHERE, "code is not signed"),
    (
        "CodeSigningConfigNotFound", {"GetFunctionCodeSigningConfig", "UpdateFunctionCode", "UpdateFunctionConfiguration"},
        "no function has a configuration of code signing",
    ),
    ("CodeStorageExceeded", EVERYWHERE, "code may have what the disk has"),
    ("AliasLimitExceeded", {"CreateAlias"}, "the number of aliases has no limit"),
    ("FunctionVersionsPerCapacityProviderLimitExceeded", EVERYWHERE, "CapacityProviderConfig is refused"),
    ("PublicPolicy", {"AddPermission", "RemovePermission"}, "public access is not blocked for an account"),
    ("ResourceInUse", {"DeleteEventSourceMapping", "UpdateEventSourceMapping"}, "a change of a mapping waits for the one before it"),
    (
        "ResourceConflict", {
            "DeleteAlias", "DeleteEventSourceMapping", "DeleteFunctionConcurrency", "DeleteFunctionEventInvokeConfig",
            "DeleteFunctionUrlConfig", "DeleteProvisionedConcurrencyConfig", "PublishVersion", "PutFunctionConcurrency",
            "PutFunctionEventInvokeConfig", "PutFunctionRecursionConfig", "PutRuntimeManagementConfig",
            "RemoveLayerVersionPermission", "TagResource", "UntagResource", "UpdateAlias", "UpdateFunctionCode",
            "UpdateFunctionConfiguration", "UpdateFunctionEventInvokeConfig", "UpdateFunctionUrlConfig",
        },
        "a change waits for the one before it",
    ),
    ("ResourceNotFound", {"CreateEventSourceMapping"}, "a function that is not there is a wrong parameter, as with AWS"),
    ("ResourceNotFound", {"CreateFunction"}, "what a new function names and is not there is a wrong parameter, as with AWS"),
    ("ResourceNotFound", {"DeleteLayerVersion"}, "what is not there is deleted already, as with AWS"),
    ("ResourceNotFound", {"ListEventSourceMappings", "ListLayerVersions"}, "what is not there has none, as with AWS"),
    ("ResourceNotFound", {"PublishLayerVersion"}, "the first version makes the layer"),
    (
        "InvalidParameterValue", {"DeleteEventSourceMapping", "GetEventSourceMapping"},
        "any text may be an id, and what is none is not there",
    ),
    ("Service", READS, "it is answered from memory"),
    ("TooManyRequests", BODILESS, "what has no body is not rationed"),
]


# Reasons of TooManyRequestsException, and why they cannot come here.
REASONS_EXCUSED = {
    "FunctionInvocationRateLimitExceeded": "no rates are limited",
    "ReservedFunctionInvocationRateLimitExceeded": "no rates are limited",
    "ConcurrentSnapshotCreateLimitExceeded": "there are no snapshots",
}


def excuses():
    return {
        (operation, f"{error}Exception"): why
        for errors, operations, why in EXCUSED
        for error in errors.split()
        for operation in operations
        if operation in OPERATIONS and f"{error}Exception" in OPERATIONS[operation].errors
    }


def unprovoked(seen):
    """What is wrong with the pairs (operation, error) that were seen, as sentences."""
    has, excused = documented(), excuses()
    listed = {(name, error) for name in has for error in OPERATIONS[name].errors}
    wrong = [f"{name}: {error} was never provoked, and is not excused" for name, error in sorted(listed - set(seen) - set(excused))]
    needless = sorted(set(seen) & set(excused))
    return wrong + [f"{name}: {error} was provoked, and is excused: {excused[name, error]}" for name, error in needless]
