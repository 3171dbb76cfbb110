"""Event source mappings of streams with all their settings, as unmodified boto3 makes them.

Usage: mappings.py URL. Every answer is also held against botocore's model, by `shapes.py`.
"""

import datetime
import json
import sys
import textwrap
import time
import types
import uuid

from common import REGION, connect, created, eventually, refused, sql, steps, zipped

APP = textwrap.dedent(
    """
    def sees(event, context):
        for record in event["Records"]:
            print("sees", record["data"]["n"], record["data"]["k"])


    def unlucky(event, context):
        if any(record["data"]["n"] == 13 for record in event["Records"]):
            raise ValueError("13")
        sees(event, context)


    def reports(event, context):
        failed = [record["eventID"] for record in event["Records"] if record["data"]["n"] == 13]
        return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in failed]}


    def sums(event, context):
        n = event["state"].get("n", 0) + sum(record["data"]["n"] for record in event["Records"])
        if event["isFinalInvokeForWindow"]:
            print("sum", n)
        return {"state": {"n": n}}


    def lost(event, context):
        print("lost", event["requestContext"]["condition"], event["KinesisBatchInfo"]["batchSize"])
    """
)


def new_stream(life, **options):
    name = f"s{uuid.uuid4().hex[:12]}"
    options = {"event_time": "at", "partitions": "1", **options}
    options = ", ".join(f"{option} = '{value}'" for option, value in options.items())
    sql(life.url, f"CREATE STREAM {name} (at timestamptz NOT NULL, n bigint, k text) WITH ({options})")
    return name, f"arn:aws:lambic:{REGION}:000000000000:stream/{name}"


def insert(life, stream, *rows):
    rows = ", ".join(f"(now(), {n}, '{k}')" for n, k in rows)
    sql(life.url, f"INSERT INTO {stream} (at, n, k) VALUES {rows}")


def handler(life, name):
    function = f"{life.name}-{name}-{uuid.uuid4().hex[:4]}"
    created(life.client, function, life.zip, handler=f"app.{name}")
    return function


def mapped(life, arn, handler_name, **settings):
    """A mapping that reads the stream from its start, its function, and its UUID."""
    function = handler(life, handler_name)
    settings = {"StartingPosition": "TRIM_HORIZON", **settings}
    made = life.client.create_event_source_mapping(EventSourceArn=arn, FunctionName=function, **settings)
    return made, function


def lines(life, function, begin):
    told = sql(life.url, f"SELECT line FROM lambic_logs WHERE function = '{function}' ORDER BY at")
    rows = told["rows"] if isinstance(told, dict) else told
    rows = [row[0] if isinstance(row, list) else row["line"] for row in rows]
    return [line[len(begin) + 1 :] for line in rows if line.startswith(begin + " ")]


def says(life, function, begin, expected):
    expected = sorted(expected)
    eventually(f"{function} says {expected}", lambda: sorted(lines(life, function, begin)) == expected)


def holds(answer, wanted):
    found = {name: answer.get(name) for name in wanted}
    assert found == wanted, found


def defaults(life):
    _, arn = new_stream(life)
    made, _ = mapped(life, arn, "sees")
    holds(
        made,
        {
            "BatchSize": 100,
            "MaximumBatchingWindowInSeconds": 0,
            "ParallelizationFactor": 1,
            "MaximumRetryAttempts": -1,
            "MaximumRecordAgeInSeconds": -1,
            "BisectBatchOnFunctionError": False,
            "FunctionResponseTypes": [],
            "TumblingWindowInSeconds": 0,
            "StartingPosition": "TRIM_HORIZON",
            "DestinationConfig": {"OnFailure": {}},
            "State": "Creating",
            "StateTransitionReason": "User action",
            "LastProcessingResult": "No records processed",
        },
    )
    assert "FilterCriteria" not in made
    changed = life.client.update_event_source_mapping(UUID=made["UUID"], Enabled=False)
    assert changed["State"] == "Disabling", changed
    assert life.client.get_event_source_mapping(UUID=made["UUID"])["State"] == "Disabled"
    assert life.client.update_event_source_mapping(UUID=made["UUID"], Enabled=True)["State"] == "Enabling"
    assert life.client.update_event_source_mapping(UUID=made["UUID"], BatchSize=5)["State"] == "Updating"
    assert life.client.get_event_source_mapping(UUID=made["UUID"])["State"] == "Enabled"


def filters(life):
    stream, arn = new_stream(life)
    insert(life, stream, *((n, "red" if n % 2 else "blue") for n in range(1, 9)))
    pattern = json.dumps({"data": {"n": [{"numeric": [">", 2, "<=", 7]}], "k": [{"anything-but": "blue"}]}})
    made, function = mapped(life, arn, "sees", FilterCriteria={"Filters": [{"Pattern": pattern}]})
    assert made["FilterCriteria"] == {"Filters": [{"Pattern": pattern}]}
    says(life, function, "sees", ["3 red", "5 red", "7 red"])
    result = lambda: life.client.get_event_source_mapping(UUID=made["UUID"])["LastProcessingResult"]
    eventually("it says how many it passed over", lambda: result() == "OK (5 filtered out)")
    # One of several is enough; an empty list lets everything through.
    some = [{"Pattern": json.dumps({"data": {"k": [{"prefix": "gr"}]}})}, {"Pattern": json.dumps({"data": {"n": [{"exists": False}]}})}]
    life.client.update_event_source_mapping(UUID=made["UUID"], FilterCriteria={"Filters": some})
    insert(life, stream, (20, "green"), (21, "red"))
    says(life, function, "sees", ["3 red", "5 red", "7 red", "20 green"])
    life.client.update_event_source_mapping(UUID=made["UUID"], FilterCriteria={})
    assert "FilterCriteria" not in life.client.get_event_source_mapping(UUID=made["UUID"])
    insert(life, stream, (22, "blue"))
    says(life, function, "sees", ["3 red", "5 red", "7 red", "20 green", "22 blue"])


def on_failure(life):
    stream, arn = new_stream(life)
    target = handler(life, "lost")
    to = life.client.get_function(FunctionName=target)["Configuration"]["FunctionArn"]
    insert(life, stream, *((n, "k") for n in (11, 12, 13, 14)))
    made, function = mapped(
        life, arn, "unlucky", MaximumRetryAttempts=1, DestinationConfig={"OnFailure": {"Destination": to}}
    )
    assert made["DestinationConfig"] == {"OnFailure": {"Destination": to}}
    says(life, target, "lost", ["RetryAttemptsExhausted 4"])
    assert lines(life, function, "sees") == []
    # Cut in halves, only the record that fails is lost.
    life.client.update_event_source_mapping(UUID=made["UUID"], BisectBatchOnFunctionError=True, MaximumRetryAttempts=0)
    insert(life, stream, *((n, "k") for n in (11, 12, 13, 14)))
    says(life, function, "sees", ["11 k", "12 k", "14 k"])
    says(life, target, "lost", ["RetryAttemptsExhausted 4", "RetryAttemptsExhausted 1"])


def partial_batch_responses(life):
    stream, arn = new_stream(life)
    lost, lost_arn = f"l{uuid.uuid4().hex[:12]}", None
    columns = '"requestContext" text, "responseContext" text, "KinesisBatchInfo" text'
    sql(life.url, f"CREATE STREAM {lost} (at timestamptz, {columns}) WITH (partitions = '1')")
    lost_arn = arn.replace(stream, lost)
    insert(life, stream, *((n, "k") for n in (11, 12, 13, 14)))
    made, _ = mapped(
        life, arn, "reports", MaximumRetryAttempts=0, FunctionResponseTypes=["ReportBatchItemFailures"],
        DestinationConfig={"OnFailure": {"Destination": lost_arn}},
    )
    assert made["FunctionResponseTypes"] == ["ReportBatchItemFailures"]

    def told():
        answer = sql(life.url, f'SELECT "KinesisBatchInfo" FROM {lost}')
        rows = answer["rows"] if isinstance(answer, dict) else answer
        return [json.loads(row[0] if isinstance(row, list) else row["KinesisBatchInfo"]) for row in rows]

    (batch,) = eventually("the rest of the batch is told", told)
    assert (batch["startSequenceNumber"], batch["endSequenceNumber"]) == ("2", "3"), batch
    assert batch["streamArn"].endswith(f":stream/{stream}"), batch


def starts_at_a_time(life):
    stream, arn = new_stream(life)
    insert(life, stream, (1, "before"))
    time.sleep(0.01)
    at = datetime.datetime.now(datetime.timezone.utc)
    time.sleep(0.01)
    insert(life, stream, (2, "behind"))
    made, function = mapped(life, arn, "sees", StartingPosition="AT_TIMESTAMP", StartingPositionTimestamp=at)
    assert made["StartingPosition"] == "AT_TIMESTAMP"
    assert abs((made["StartingPositionTimestamp"] - at).total_seconds()) < 0.01
    says(life, function, "sees", ["2 behind"])


def lanes(life):
    stream, arn = new_stream(life, partition_by="k")
    insert(life, stream, *((n, f"k{n % 7}") for n in range(70)))
    made, function = mapped(life, arn, "sees", ParallelizationFactor=10, BatchSize=2)
    assert made["ParallelizationFactor"] == 10
    says(life, function, "sees", [f"{n} k{n % 7}" for n in range(70)])
    life.client.update_event_source_mapping(UUID=made["UUID"], ParallelizationFactor=1)
    insert(life, stream, (70, "k0"))
    says(life, function, "sees", [f"{n} k{n % 7}" for n in range(71)])


def windows(life):
    stream, arn = new_stream(life)
    made, function = mapped(life, arn, "sums", TumblingWindowInSeconds=1, MaximumRetryAttempts=0)
    assert made["TumblingWindowInSeconds"] == 1
    insert(life, stream, (1, "k"), (2, "k"))
    insert(life, stream, (3, "k"))
    eventually("the windows are over", lambda: sum(map(int, lines(life, function, "sum"))) == 6)


def refusals(life):
    _, arn = new_stream(life)
    function = handler(life, "sees")
    own = life.client.get_function(FunctionName=function)["Configuration"]["FunctionArn"]
    queue = f"arn:aws:sqs:{REGION}:000000000000:q"
    pattern = {"Pattern": json.dumps({"data": {"n": [1]}})}
    for said, settings in (
        ("Invalid filter pattern definition.", {"FilterCriteria": {"Filters": [{"Pattern": "{"}]}}),
        ("Invalid filter pattern definition.", {"FilterCriteria": {"Filters": [{"Pattern": '{"n": 1}'}]}}),
        ("The number of filters is 6", {"FilterCriteria": {"Filters": [pattern] * 6}}),
        ("MaximumRecordAgeInSeconds must be", {"MaximumRecordAgeInSeconds": 59}),
        ("ParallelizationFactor must be 1", {"ParallelizationFactor": 2}),
        ("for itself", {"DestinationConfig": {"OnFailure": {"Destination": own}}}),
        ("its own records", {"DestinationConfig": {"OnFailure": {"Destination": arn}}}),
        ("is not available on this server", {"DestinationConfig": {"OnFailure": {"Destination": queue}}}),
        ("there is no function nobody", {"DestinationConfig": {"OnFailure": {"Destination": own.replace(function, "nobody")}}}),
        ("has no version or alias", {"DestinationConfig": {"OnFailure": {"Destination": f"{own}:nobody"}}}),
        ("there is no stream nowhere", {"DestinationConfig": {"OnFailure": {"Destination": f"{arn.rsplit('/', 1)[0]}/nowhere"}}}),
        ("written by the system only", {"DestinationConfig": {"OnFailure": {"Destination": f"{arn.rsplit('/', 1)[0]}/lambic_logs"}}}),
        ("Unsupported DestinationConfig", {"DestinationConfig": {"OnSuccess": {"Destination": own}}}),
        ("StartingPositionTimestamp is required", {"StartingPosition": "AT_TIMESTAMP"}),
        ("cannot be in the future", {"StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": time.time() + 3_600}),
        ("only valid", {"StartingPositionTimestamp": 1}),
    ):
        settings = {"StartingPosition": "LATEST", **settings}
        told = refused(
            "InvalidParameterValueException", 400, life.client.create_event_source_mapping,
            EventSourceArn=arn, FunctionName=function, **settings,
        )
        assert said in told["Error"]["Message"], told["Error"]
    for settings in (
        {"TumblingWindowInSeconds": 901},
        {"MaximumRetryAttempts": 10_001},
        {"MaximumRecordAgeInSeconds": 604_801},
        {"FilterCriteria": {"Filters": [{"Pattern": "x" * 4_097}]}},
        {"DestinationConfig": {"OnFailure": {"Destination": "nowhere"}}},
    ):
        refused(
            "ValidationException", 400, life.client.create_event_source_mapping,
            EventSourceArn=arn, FunctionName=function, StartingPosition="LATEST", **settings,
        )
    assert life.client.list_event_source_mappings(FunctionName=function)["EventSourceMappings"] == []


def main(url):
    # What the model forbids is for the server to refuse.
    client = connect(url, parameter_validation=False)
    life = types.SimpleNamespace(url=url, client=client, name=f"map-{uuid.uuid4().hex[:8]}", zip=zipped({"app.py": APP}))
    run = steps(defaults, filters, on_failure, partial_batch_responses, starts_at_a_time, lanes, windows, refusals)
    run(life)
    print(f"{len(life.client.operations_seen)} operations held against the model")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
