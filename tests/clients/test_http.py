"""The HTTP door: appends in every format, bad input, SQL, views, functions' API, metrics."""

import datetime
import io
import json
import threading
import urllib.parse
import urllib.request

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
from conftest import HTTP, eventually, http, rows, sql

AT = "2026-11-23T21:00:00Z"
NDJSON = "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"


def append(stream, body, kind=NDJSON, query="", **headers):
    return http("POST", f"/v1/streams/{stream}/records{query}", body, content_type=kind, **headers)


def line(place, count, at=AT):
    return json.dumps({"at": at, "place": place, "count": count}) + "\n"


def table():
    at = datetime.datetime(2026, 11, 23, 21, tzinfo=datetime.timezone.utc)
    return pyarrow.table({
        "at": pyarrow.array([at, at], pyarrow.timestamp("us", "UTC")),
        "place": ["oslo", "rome"],
        "count": pyarrow.array([1, 2], pyarrow.int64()),
    })


def arrow_body():
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table().schema) as writer:
        writer.write_table(table())
    return sink.getvalue()


def parquet_body():
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table(), sink)
    return sink.getvalue()


BODIES = {
    NDJSON: lambda: line("oslo", 1) + line("rome", 2),
    "application/json": lambda: json.dumps([json.loads(line("oslo", 1)), json.loads(line("rome", 2))]),
    "text/csv": lambda: f"at,place,count\n{AT},oslo,1\n{AT},rome,2\n",
    ARROW: arrow_body,
    PARQUET: parquet_body,
}


@pytest.mark.parametrize("kind", BODIES)
def test_append_in_every_format(measurements, kind):
    answer = append(measurements, BODIES[kind](), kind)
    assert answer.status == 200, answer.body
    said = answer.json()
    assert (said["stream"], said["records"], said["duplicate"], said["bad"]) == (measurements, 2, False, 0)
    assert sum(r["end"] - r["first"] for r in said["ranges"]) == 2
    assert said["frontier"].count(":") == 2
    # What was acknowledged is there at once.
    assert rows(f"SELECT place, count FROM {measurements} ORDER BY place") == [["oslo", 1], ["rome", 2]]
    assert rows(f"SELECT place, total FROM {measurements}_by_place ORDER BY place") == [["oslo", 1], ["rome", 2]]


def test_the_same_producer_and_sequence_has_no_second_effect(measurements):
    once = append(measurements, line("oslo", 1), lambic_producer="p-" + measurements, lambic_sequence="1").json()
    again = append(measurements, line("oslo", 1), lambic_producer="p-" + measurements, lambic_sequence="1").json()
    assert (once["duplicate"], again["duplicate"]) == (False, True)
    append(measurements, line("oslo", 1), lambic_producer="p-" + measurements, lambic_sequence="2")
    assert rows(f"SELECT count(*) FROM {measurements}") == [[2]]
    for headers in [{"lambic_producer": "p"}, {"lambic_sequence": "1"}, {"lambic_producer": "p", "lambic_sequence": "x"}]:
        assert append(measurements, line("oslo", 1), **headers).status == 400


def test_known_record_ids_are_counted(connection, name):
    connection.execute(f"CREATE STREAM {name} (id text NOT NULL, n bigint) WITH (record_id = 'id')")
    body = "".join(json.dumps({"id": str(n), "n": n}) + "\n" for n in range(3))
    assert append(name, body).json()["records_known"] == 0
    assert append(name, body + '{"id": "9", "n": 9}\n').json()["records_known"] == 3
    assert rows(f"SELECT count(*) FROM {name}") == [[4]]
    connection.execute(f"DROP STREAM {name}")


@pytest.mark.parametrize("kind, body, place, expected", [
    (NDJSON, line("a", 1) + '{"at": "x", "place": "b"}\n', "line 2", "at"),
    (NDJSON, line("a", 1) + line("b", "many"), "line 2", "count"),
    (NDJSON, line("a", 1) + "{not json\n", "line 2", ""),
    (NDJSON, json.dumps({"at": AT}) + "\n", "line 1", "place"),
    (NDJSON, json.dumps({"at": AT, "place": "a", "colour": 1}) + "\n", "line 1", "colour"),
    ("text/csv", f"at,place,count\n{AT},oslo,1\n{AT},rome,x\n", "line 3", "count"),
    (PARQUET, b"PAR1 this is not parquet", "", "arquet"),
    (ARROW, b"nor is this arrow", "", "rrow"),
    ("application/json", "[", "", ""),
])
def test_bad_input_is_named_and_nothing_kept(measurements, kind, body, place, expected):
    answer = append(measurements, body, kind)
    assert answer.status == 400, answer.body
    error = answer.error
    assert error["owner"] == "user" and error["retry"] is False
    assert place in error["message"] and expected in error["message"]
    assert rows(f"SELECT count(*) FROM {measurements}") == [[0]]


def test_skip_keeps_the_good_and_the_bad_apart(measurements):
    body = line("good", 1) + line("bad", "many") + line("good", 2)
    answer = append(measurements, body, query="?on_error=skip")
    assert answer.status == 200, answer.body
    assert (answer.json()["records"], answer.json()["bad"]) == (2, 1)
    assert rows(f"SELECT count(*) FROM {measurements}") == [[2]]
    letters = rows("SELECT * FROM lambic_dead_letters")
    mine = [letter for letter in letters if measurements in letter]
    assert len(mine) == 1 and any("many" in str(cell) for cell in mine[0])
    assert append(measurements, body, query="?on_error=maybe").status == 400
    assert append(measurements, body, query="?on_eror=skip").status == 400


@pytest.fixture
def notes(connection, name):
    """A second stream."""
    connection.execute(f"CREATE STREAM {name}_notes (id bigint NOT NULL, text text)")
    yield f"{name}_notes"
    connection.execute(f"DROP STREAM {name}_notes")


def append_both(body, kind="application/json", query="", **headers):
    body = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return http("POST", f"/v1/append{query}", body, content_type=kind, **headers)


def both_counts(*streams):
    return [rows(f"SELECT count(*) FROM {stream}")[0][0] for stream in streams]


def test_several_streams_at_once(measurements, notes):
    record = json.loads(line("oslo", 1))
    answer = append_both({measurements: [record, record], notes: {"id": 1, "text": "x"}})
    assert answer.status == 200, answer.body
    said = answer.json()
    assert (said["records"], said["duplicate"]) == (3, False)
    assert [(one["stream"], one["records"], one["records_known"]) for one in said["streams"]] == [
        (measurements, 2, 0), (notes, 1, 0)]
    assert all(sum(r["end"] - r["first"] for r in one["ranges"]) == one["records"] for one in said["streams"])
    lines = [{"stream": notes, "record": {"id": 2}}, {"stream": measurements, "record": record}, {"record": {"id": 3}, "stream": notes}]
    answer = append_both("\n".join(map(json.dumps, lines)), NDJSON)
    assert answer.status == 200 and [one["records"] for one in answer.json()["streams"]] == [2, 1]
    assert both_counts(measurements, notes) == [3, 3]
    assert rows(f"SELECT total FROM {measurements}_by_place") == [[3]]
    assert append_both({}).json() == {"records": 0, "duplicate": False, "streams": []}
    assert append_both({notes: []}).json()["streams"][0]["records"] == 0
    checked = append_both({notes: [{"id": 9}]}, query="?check=true").json()
    assert checked == {"checked": True, "records": 1, "streams": [{"stream": notes, "records": 1}]}
    assert append_both({}, query="?chek=true").status == 400
    assert both_counts(measurements, notes) == [3, 3]


def test_several_streams_once(measurements, notes):
    body = {measurements: [json.loads(line("oslo", 1))], notes: [{"id": 1}]}
    headers = {"lambic_producer": "p-" + measurements, "lambic_sequence": "1"}
    once, again = append_both(body, **headers).json(), append_both(body, **headers).json()
    assert (once["duplicate"], again["duplicate"]) == (False, True)
    # A single stream's appends are counted apart.
    assert append(measurements, line("oslo", 1), **headers).json()["duplicate"] is False
    assert both_counts(measurements, notes) == [2, 1]
    assert append_both(body, lambic_producer="p").status == 400


@pytest.mark.parametrize("body, kind, expected", [
    ('{"NOTES": [{"id": 1},\n {"id": "x"}]}', "application/json", ["NOTES", "line 2", "id"]),
    ('{"NOTES": [{"id": 1}],\n "OTHER": [\n{"at": "x", "place": "b"}]}', "application/json", ["OTHER", "line 3", "at"]),
    ('{"stream": "NOTES", "record": {"id": 1}}\n\n{"stream": "NOTES", "record": {"text": "a"}}', NDJSON, ["NOTES", "line 3", "id"]),
    ('{"stream": "NOTES", "record": {"id": 1}}\n{"stream": "NOTES"}', NDJSON, ["line 2", "record"]),
    ('{"NOTES": [{"id": 1}]', "application/json", ["line 1"]),
    ('[{"id": 1}]', "application/json", ["streams"]),
    ("id\n1\n", "text/csv", ["CSV", "one stream"]),
])
def test_one_bad_record_keeps_all_streams_as_they_were(measurements, notes, body, kind, expected):
    named = lambda text: text.replace("NOTES", notes).replace("OTHER", measurements)
    answer = append_both(named(body), kind)
    assert answer.status == 400, answer.body
    error = answer.error
    assert error["owner"] == "user" and error["hint"] and "nothing" in error["detail"]
    for wanted in expected:
        assert named(wanted) in error["message"], error
    assert both_counts(measurements, notes) == [0, 0]


def test_what_cannot_be_appended_at_once(measurements, notes):
    good = {notes: [{"id": 1}]}
    assert append_both(good | {notes + "x": []}).status == 404
    assert append_both(good | {f"{measurements}_by_place": []}).status == 404
    assert append_both(good | {"lambic_logs": [{}]}).status == 403
    assert append_both(good, kind="text/html").status == 415
    assert append_both({f"s{number}": [] for number in range(65)}).status == 400
    assert append_both(b" " * (64 * 1024 * 1024 + 1)).status == 413
    large = append_both('{"' + notes + '": [' + ", ".join(['{"id":1}'] * 5_700_000) + "]}")
    assert large.status == 413 and "once it is decoded" in large.error["message"]
    assert both_counts(notes) == [0]


def test_what_cannot_be_appended(measurements):
    answer = append(measurements[:-1] + "_", line("a", 1))
    assert answer.status == 404 and answer.error["hint"]
    assert append(f"{measurements}_by_place", line("a", 1)).status == 404
    assert append(measurements, line("a", 1), kind="text/html").status == 415
    too_large = append(measurements, b" " * (64 * 1024 * 1024 + 1))
    assert too_large.status == 413 and "several requests" in too_large.error["hint"]
    empty = append(measurements, "")
    assert empty.status == 200 and empty.json()["records"] == 0


def test_sql_in_every_form(measurements):
    append(measurements, line("oslo", 1) + line("ro,me", 2))
    query = f"SELECT place, count FROM {measurements} ORDER BY count"
    answer = sql(query).json()
    assert answer["columns"] == [{"name": "place", "type": "text"}, {"name": "count", "type": "bigint"}]
    assert answer["rows"] == [["oslo", 1], ["ro,me", 2]]
    assert [json.loads(one) for one in sql(query, NDJSON).body.splitlines()] == [
        {"place": "oslo", "count": 1}, {"place": "ro,me", "count": 2}]
    assert sql(query, "text/csv").body.decode() == 'place,count\noslo,1\n"ro,me",2\n'
    batches = pyarrow.ipc.open_stream(sql(query, ARROW).body).read_all()
    assert batches.to_pydict() == {"place": ["oslo", "ro,me"], "count": [1, 2]}
    assert sql(query + " LIMIT 0").json()["rows"] == []
    as_json = http("POST", "/v1/sql", json.dumps({"sql": query}), content_type="application/json")
    assert as_json.json()["rows"] == answer["rows"]
    assert http("POST", "/v1/sql", query, accept="image/png").status == 406


def test_sql_that_does_something(name):
    assert sql(f"CREATE STREAM {name} (a bigint)").json() == {"tag": "CREATE STREAM"}
    assert sql(f"INSERT INTO {name} VALUES (1), (2); SELECT sum(a) FROM {name}").json()["rows"] == [[3]]
    assert sql(f"DROP STREAM {name}").json() == {"tag": "DROP STREAM"}


def test_statements_of_one_body_are_one_transaction(measurements):
    insert = f"INSERT INTO {measurements} (at, place, count) VALUES (now(), 'a', 1)"
    count = f"SELECT count(*) FROM {measurements}"
    assert http("POST", "/v1/sql", f"{insert}; SELECT nope FROM {measurements}").status == 400
    assert rows(count) == [[0]]
    assert rows(f"{insert}; {insert}; {count}") == [[2]]
    assert sql(f"BEGIN; {insert}; SAVEPOINT a; {insert}; ROLLBACK TO a; COMMIT").json() == {"tag": "COMMIT"}
    assert rows(f"BEGIN; {insert}; ROLLBACK; {count}") == [[3]]
    answer = http("POST", "/v1/sql", f"BEGIN; {insert}")
    assert answer.status == 400 and "COMMIT" in answer.error["hint"]
    assert rows(count) == [[3]]


def test_sql_errors(measurements):
    answer = http("POST", "/v1/sql", f"SELECT 1; SELECT nope FROM {measurements}")
    assert answer.status == 400
    assert answer.error["sqlstate"] == "42703" and answer.error["position"] == 18
    assert answer.error["owner"] == "user" and answer.error["retry"] is False
    assert http("POST", "/v1/sql", "SELEC").error["sqlstate"] == "42601"
    assert http("POST", "/v1/sql", "").status == 400
    assert http("POST", "/v1/sql", "{", content_type="application/json").status == 400
    assert http("POST", "/v1/sql", "SELECT 1/0").error["sqlstate"] == "22012"


def test_views_by_key_and_by_other_columns(measurements):
    append(measurements, line("oslo", 1) + line("oslo", 2) + line("rome", 40))
    view = f"{measurements}_by_place"
    by_key = http("GET", f"/v1/views/{view}?place=oslo").json()
    names = [column["name"] for column in by_key["columns"]]
    assert dict(zip(names, by_key["rows"][0]))["total"] == 3
    assert by_key["frontier"]
    without = http("GET", f"/v1/views/{view}?place=bonn").json()
    assert without["rows"] == [] and without["columns"] == by_key["columns"]
    assert len(http("GET", f"/v1/views/{view}").json()["rows"]) == 2
    by_total = http("GET", f"/v1/views/{view}?total=40").json()
    assert len(by_total["rows"]) == 1
    assert http("GET", f"/v1/views/{view}?limit=1").json()["truncated"] is True
    assert http("GET", f"/v1/views/{view}?total=x").status == 400
    assert http("GET", f"/v1/views/{view}?colour=x").status == 400
    missing = http("GET", f"/v1/views/{view}x")
    assert missing.status == 404 and view in missing.error["hint"]
    listed = {one["name"]: one for one in http("GET", "/v1/views").json()["views"]}
    assert listed[view]["class"]


@pytest.fixture
def by_every_key(connection, name):
    """Views `<name>_<column>` of a stream, each by a column of another type, with one row."""
    columns = {"price": "numeric(8, 2)", "local": "timestamp", "moment": "timestamptz", "day": "date", "n": "integer",
               "ratio": "real", "value": "double precision"}
    declared = ", ".join(f"{column} {kind}" for column, kind in columns.items())
    connection.execute(f"CREATE STREAM {name} ({declared})")
    for column in columns:
        connection.execute(
            f"CREATE MATERIALIZED VIEW {name}_{column} AS SELECT {column}, count(*) AS c FROM {name} GROUP BY {column}")
    append(name, json.dumps({
        "price": "3.00", "local": "2026-01-01T00:00:00.000001", "moment": "2026-01-01T00:00:00Z", "day": "2026-01-01",
        "n": 7, "ratio": 0.1, "value": "Infinity"}))
    yield name
    for column in columns:
        connection.execute(f"DROP MATERIALIZED VIEW {name}_{column}")
    connection.execute(f"DROP STREAM {name}")


def test_a_value_that_the_type_cannot_hold_finds_no_other_row(by_every_key):
    def look_up(column, value, **others):
        query = urllib.parse.urlencode({column: value, **others})
        return http("GET", f"/v1/views/{by_every_key}_{column}?{query}")

    for column, same, none in [
        ("price", ["3", "3.0", "3.0000"], ["3.001", "3.0049", "2.999"]),
        ("local", ["2026-01-01 00:00:00.000001000"], ["2026-01-01T00:00:00.0000019"]),
        ("moment", ["2026-01-01T02:00:00+02:00", "2026-01-01"], ["2026-01-01T00:00:00.0000001Z"]),
        ("day", ["2026-01-01", "2026-01-01T00:00:00"], ["2026-01-01T12:00:00", "2026-01-01T00:00:00.0000001"]),
        ("n", ["7"], ["7.4"]),
        ("ratio", ["0.1", "0.1000000000001"], ["1e39"]),
        ("value", ["Infinity"], ["1e400"]),
    ]:
        # By the key, and by SQL.
        for others in [{}, {"c": "1"}]:
            for value in same:
                answer = look_up(column, value, **others)
                assert answer.status == 200 and len(answer.json()["rows"]) == 1, (value, answer.body)
            for value in none:
                answer = look_up(column, value, **others)
                assert answer.status == 400 and answer.error["sqlstate"] == "22P02", (value, answer.body)
                assert f"`{value}` is not a value of column {column} (" in answer.error["message"]
    assert "(numeric(8,2))" in look_up("price", "3.001").error["message"]


def test_streams_are_listed(measurements):
    append(measurements, line("oslo", 1))
    one = http("GET", f"/v1/streams/{measurements}").json()
    assert one["records"] == 1 and one["partitions"] == 2 and one["event_time"] == "at"
    assert {"name": "place", "type": "text"} in one["columns"]
    assert measurements in [stream["name"] for stream in http("GET", "/v1/streams").json()["streams"]]


class Events:
    """Server-sent events of one request."""

    def __init__(self, path):
        self.answer = urllib.request.urlopen(f"http://{HTTP}{path}", timeout=30)
        self.lines = iter(self.answer)

    def next(self):
        kind, data = None, None
        for line in self.lines:
            line = line.decode().rstrip("\n")
            if line.startswith("event:"):
                kind = line[6:].strip()
            elif line.startswith("data:"):
                data = json.loads(line[5:])
            elif not line and data is not None:
                return kind, data
        raise EOFError


def test_changes_of_a_view_are_sent(measurements):
    append(measurements, line("oslo", 1))
    events = Events(f"/v1/views/{measurements}_by_place/changes?every_ms=20")
    kind, snapshot = events.next()
    assert kind == "snapshot" and len(snapshot["rows"]) == 1
    append(measurements, line("oslo", 2))
    kind, change = events.next()
    assert kind == "change"
    assert [row[:3] for row in change["added"]] == [["oslo", 2, 3]]
    assert [row[:3] for row in change["removed"]] == [["oslo", 1, 1]]
    events.answer.close()
    assert http("GET", f"/v1/views/{measurements}x/changes").status == 404


def test_concurrent_appends_are_all_kept(measurements):
    failures = []

    def work(thread):
        for number in range(20):
            answer = append(measurements, line(f"t{thread}", number), lambic_producer=f"{measurements}-{thread}", lambic_sequence=str(number + 1))
            if answer.status != 200:
                failures.append(answer.body)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failures
    assert rows(f"SELECT count(*), sum(n) FROM (SELECT place, count(*) AS n FROM {measurements} GROUP BY place) AS g") == [[8, 160]]
    assert rows(f"SELECT sum(n) FROM {measurements}_by_place") == [[160]]


def test_health_metrics_and_console(measurements):
    append(measurements, line("oslo", 1))
    assert http("GET", "/health").json()["status"] == "ok"
    text = http("GET", "/metrics").body.decode()
    assert f'lambic_appended_records_total{{stream="{measurements}"}} 1' in text
    assert "# HELP lambic_log_bytes" in text and "lambic_append_seconds_bucket" in text
    console = http("GET", "/")
    assert console.headers["content-type"].startswith("text/html") and b"Lambic" in console.body
    missing = http("GET", "/v2/nothing")
    assert missing.status == 404 and missing.error["hint"]
    assert http("DELETE", "/v1/sql").status == 405
    assert len(missing.headers["x-request-id"]) == 36
    assert http("GET", "/health", x_request_id="mine").headers["x-request-id"] == "mine"


def test_other_sites_are_kept_out():
    assert http("POST", "/v1/sql", "SELECT 1", origin="https://evil.example").status == 403
    assert http("GET", "/health", host="evil.example").status == 403
    assert http("GET", "/health", origin="http://localhost:3000").status == 200


def test_aws_errors_are_aws_shaped():
    for path in ["/2015-03-31/functions/missing/invocations", "/2015-03-31/functions/missing"]:
        answer = http("POST" if path.endswith("invocations") else "GET", path, b"{}" if path.endswith("invocations") else None)
        assert answer.status == 404
        assert answer.headers["x-amzn-errortype"] == "ResourceNotFoundException"
        assert answer.json()["Type"] == "User" and "Message" in answer.json()
        assert answer.headers["x-amzn-requestid"]
    for path in ["/2015-03-31/layers", "/2020-06-30/functions/f/code-signing-config"]:
        assert "json" in http("GET", path).headers["content-type"]
    assert isinstance(http("GET", "/2015-03-31/functions/").json()["Functions"], list)


PYTHON = b"""
import json

def handler(event, context):
    print("saw", json.dumps(event))
    if event.get("fail"):
        raise ValueError("as told")
    return {"sum": sum(event["numbers"]), "id": context.aws_request_id}
"""


def test_a_python_function_over_awss_api():
    import base64

    name = "adder"
    deployment = {"runtime": "python", "handler": "handler.handler", "files": {"handler.py": base64.b64encode(PYTHON).decode()}}
    deployed = http("PUT", f"/v1/functions/{name}", json.dumps(deployment), content_type="application/json")
    assert deployed.status == 200, deployed.body
    invocations = f"/2015-03-31/functions/{name}/invocations"
    answer = http("POST", invocations, json.dumps({"numbers": [1, 2, 3]}), x_amz_log_type="Tail")
    assert answer.status == 200, answer.body
    assert answer.json()["sum"] == 6 and answer.json()["id"] == answer.headers["x-amzn-requestid"]
    assert answer.headers["x-amz-executed-version"] == "$LATEST"
    assert "X-Amz-Function-Error" not in answer.headers
    log = base64.b64decode(answer.headers["x-amz-log-result"]).decode()
    assert "saw" in log and "REPORT" in log
    failed = http("POST", invocations, json.dumps({"fail": True}))
    assert failed.status == 200 and failed.headers["x-amz-function-error"] == "Unhandled"
    assert failed.json()["errorType"] == "ValueError" and failed.json()["errorMessage"] == "as told"
    assert http("POST", invocations, "{}", x_amz_invocation_type="DryRun").status == 204
    queued = http("POST", invocations, json.dumps({"numbers": [5]}), x_amz_invocation_type="Event")
    assert queued.status == 202 and queued.body == b""
    request = queued.headers["x-amzn-requestid"]
    done = lambda: rows(f"SELECT outcome FROM lambic_invocations WHERE request_id = '{request}'")
    assert eventually(done)
    assert http("POST", invocations, "{not json").headers["x-amzn-errortype"] == "InvalidRequestContentException"
    assert http("POST", invocations, "{}", x_amz_invocation_type="Later").status == 400
    configuration = http("GET", f"/2015-03-31/functions/{name}/configuration").json()
    assert configuration["FunctionName"] == name and configuration["Handler"] == "handler.handler"
    listed = http("GET", "/2015-03-31/functions/").json()["Functions"]
    assert name in [function["FunctionName"] for function in listed]
    assert http("GET", f"/2015-03-31/functions/{name}").json()["Configuration"]["CodeSha256"]
    assert http("DELETE", f"/2015-03-31/functions/{name}").status == 204
    assert http("GET", f"/2015-03-31/functions/{name}").status == 404
