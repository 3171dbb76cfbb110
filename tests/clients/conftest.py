"""Addresses of the server under test, and a stream and a view of its own for every test.

LAMBIC_HTTP and LAMBIC_PG are `host:port`; `cargo test -p lambic --test clients` sets them.
"""

import itertools
import json
import os
import time
import urllib.error
import urllib.request

import psycopg
import pytest

HTTP = os.environ.get("LAMBIC_HTTP", "127.0.0.1:7070")
PG = os.environ.get("LAMBIC_PG", "127.0.0.1:7432")
PG_HOST, PG_PORT = PG.rsplit(":", 1)
DSN = f"host={PG_HOST} port={PG_PORT} user=tester dbname=lambic sslmode=prefer connect_timeout=10"

_numbers = itertools.count()


class Answer:
    """An HTTP answer, whatever its status."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json()["error"]


def http(method, path, body=None, **headers):
    """Header names are given with underscores."""
    if isinstance(body, str):
        body = body.encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{HTTP}{path}", data=body, method=method, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers, error.read())


def sql(text, accept="application/json"):
    answer = http("POST", "/v1/sql", text, content_type="text/plain", accept=accept)
    assert answer.status == 200, answer.body
    return answer


def rows(text):
    return sql(text).json()["rows"]


def eventually(check, seconds=30):
    """Waits for a condition, with a bound."""
    end = time.monotonic() + seconds
    while True:
        value = check()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.05)


@pytest.fixture
def connection():
    with psycopg.connect(DSN, autocommit=True) as connection:
        yield connection


@pytest.fixture
def name():
    """A name that no other test uses."""
    return f"t{os.getpid()}_{next(_numbers)}"


@pytest.fixture
def measurements(connection, name):
    """A stream `<name>` with every type and a view `<name>_by_place` over it; both empty."""
    connection.execute(
        f"""CREATE STREAM {name} (
            at timestamptz NOT NULL, place text NOT NULL, value double precision, count bigint,
            small smallint, medium integer, ratio real, price numeric(12, 2), ok boolean, day date,
            local timestamp, raw bytea
        ) WITH (event_time = 'at', partitions = '2')"""
    )
    connection.execute(
        f"""CREATE MATERIALIZED VIEW {name}_by_place AS
            SELECT place, count(*) AS n, sum(count) AS total, max(value) AS highest
            FROM {name} GROUP BY place"""
    )
    yield name
    connection.execute(f"DROP MATERIALIZED VIEW {name}_by_place")
    connection.execute(f"DROP STREAM {name}")
