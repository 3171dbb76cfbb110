"""psql: the session that the README shows, and its backslash commands."""

import base64
import json
import os
import pathlib
import shutil
import signal
import subprocess

import pytest

from conftest import PG_HOST, PG_PORT, http

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")


def psql(*commands, check=True, options=()):
    arguments = ["psql", "-X", "-h", PG_HOST, "-p", PG_PORT, "-U", "tester", "-d", "lambic", "-v", "ON_ERROR_STOP=1"]
    for command in commands:
        arguments += ["-c", command]
    environment = os.environ | {"PGCONNECT_TIMEOUT": "10", "PAGER": "cat", "LC_ALL": "C"}
    done = subprocess.run([*arguments, *options], capture_output=True, text=True, timeout=120, env=environment)
    if check:
        assert done.returncode == 0, done.stderr
        assert "ERROR" not in done.stderr, done.stderr
    return done


def test_stream_insert_view_and_back(name):
    done = psql(
        f"CREATE STREAM {name} (place text NOT NULL, value bigint)",
        f"INSERT INTO {name} VALUES ('oslo', 1), ('oslo', 2), ('rome', 40)",
        f"CREATE MATERIALIZED VIEW {name}_v AS SELECT place, sum(value) AS total FROM {name} GROUP BY place",
        f"SELECT place, total FROM {name}_v ORDER BY place",
        f"INSERT INTO {name} VALUES ('rome', 2)",
        f"SELECT total FROM {name}_v WHERE place = 'rome'",
        f"DROP MATERIALIZED VIEW {name}_v",
        f"DROP STREAM {name}",
        options=("-At",),
    )
    assert done.stdout.split("\n")[:10] == [
        "CREATE STREAM",
        "INSERT 0 3",
        "CREATE MATERIALIZED VIEW",
        "oslo|3",
        "rome|40",
        "INSERT 0 1",
        "42",
        "DROP MATERIALIZED VIEW",
        "DROP STREAM",
        "",
    ]


def test_backslash_d_lists_streams_and_views(measurements):
    listed = psql(r"\d").stdout
    assert f"{measurements} " in listed
    lines = {line.split("|")[1].strip(): line for line in listed.splitlines() if line.count("|") == 3}
    assert "materialized view" in lines[f"{measurements}_by_place"]
    assert lines[measurements].split("|")[2].strip() == "table"
    assert f" {measurements} " in psql(r"\dt").stdout
    assert f"{measurements}_by_place" not in psql(r"\dt").stdout
    assert f"{measurements}_by_place" in psql(r"\dm").stdout
    assert f"{measurements}_by_place" not in psql(r"\dv").stdout


def test_backslash_d_name(measurements):
    described = psql(rf"\d {measurements}").stdout
    assert f'Table "public.{measurements}"' in described
    columns = [[cell.strip() for cell in line.split("|")] for line in described.splitlines() if line.count("|") == 4]
    types = {column[0]: (column[1], column[3]) for column in columns}
    assert types["at"] == ("timestamp with time zone", "not null")
    assert types["value"] == ("double precision", "")
    assert types["count"] == ("bigint", "")
    assert types["medium"] == ("integer", "")
    assert types["place"] == ("text", "not null")
    assert types["price"][0].startswith("numeric")
    assert types["ok"] == ("boolean", "")
    assert types["day"] == ("date", "")
    assert types["raw"] == ("bytea", "")
    described = psql(rf"\d {measurements}_by_place").stdout
    assert f'Materialized view "public.{measurements}_by_place"' in described
    assert "total" in described
    psql(rf"\d+ {measurements}")
    assert "SELECT" in psql(rf"\d+ {measurements}_by_place").stdout.upper()


def test_other_backslash_commands(measurements):
    assert "lambic" in psql(r"\l").stdout
    assert "public" in psql(r"\dn").stdout
    psql(r"\df")
    psql(r"\du")
    psql(r"\dp")
    psql(r"\di")
    psql(r"\dT")
    assert "lambic" in psql(r"\conninfo").stdout
    assert "did not find any" in psql(r"\d nothing_of_this_name", check=False).stderr.lower()


def test_sizes(measurements):
    psql(f"INSERT INTO {measurements} (at, place) VALUES (now(), 'x')", f"REFRESH MATERIALIZED VIEW {measurements}_by_place")

    def cells(command, relation):
        line = next(line for line in psql(command).stdout.splitlines() if f" {relation} " in line)
        return [cell.strip() for cell in line.split("|")]

    assert cells(r"\dt+", measurements)[6].endswith(("bytes", "kB"))
    assert cells(r"\dm+", f"{measurements}_by_place")[6].endswith(("bytes", "kB"))
    assert cells(r"\d+", measurements)[2] == "table"
    assert cells(r"\l+", "lambic")[-3].endswith(("bytes", "kB"))
    ask = lambda sql: psql(sql, options=("-At",)).stdout.strip()
    size = f"pg_total_relation_size('{measurements}'::regclass)"
    assert int(ask(f"SELECT {size}")) > 0
    assert ask(f"SELECT pg_size_pretty({size})") == f"{ask(f'SELECT {size}')} bytes"
    assert ask("SELECT pg_size_pretty(10240), pg_size_pretty(NULL), pg_indexes_size(1)") == "10 kB||0"
    sealed = f"SELECT sealed_bytes FROM lambic_streams WHERE name = '{measurements}'"
    assert ask(f"SELECT {size}") == ask(sealed)


def test_deployed_functions_are_listed(name):
    wasm = ROOT / "examples/flights/functions/geohash/geohash.wasm"
    files = {"geohash.wasm": base64.b64encode(wasm.read_bytes()).decode()}
    deployment = {"runtime": "wasm", "files": files}
    deployed = http("PUT", "/v1/functions/geohash", json.dumps(deployment), content_type="application/json")
    assert deployed.status in (200, 201), deployed.body
    try:
        lines = [[cell.strip() for cell in line.split("|")] for line in psql(r"\df").stdout.splitlines()]
        listed = [line for line in lines if "geohash" in line]
        assert listed == [["public", "geohash", "text", "double precision, double precision, integer", "func"]]
        assert "geohash" in psql(r"\df geo*").stdout
        assert "immutable" in psql(r"\df+ geohash").stdout
        # What describes all tables describes this one too.
        psql(r"\d", r"\d pg_catalog.pg_proc")
    finally:
        assert http("DELETE", "/2015-03-31/functions/geohash").status == 204
    assert "geohash" not in psql(r"\df").stdout


def test_information_schema_has_the_types_of_sql(measurements):
    ask = lambda sql: psql(sql, options=("-At",)).stdout.split("\n")[:-1]
    columns = "FROM information_schema.columns WHERE table_schema = 'public'"
    types = dict(line.split("|") for line in ask(f"SELECT column_name, data_type {columns} AND table_name = '{measurements}'"))
    assert types == {
        "at": "timestamp with time zone",
        "place": "text",
        "value": "double precision",
        "count": "bigint",
        "small": "smallint",
        "medium": "integer",
        "ratio": "real",
        "price": "numeric",
        "ok": "boolean",
        "day": "date",
        "local": "timestamp without time zone",
        "raw": "bytea",
    }
    of_view = ask(f"SELECT data_type {columns} AND table_name = '{measurements}_by_place' ORDER BY ordinal_position")
    assert of_view == ["text", "bigint", "bigint", "double precision"]
    tables = ask("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    assert {measurements, f"{measurements}_by_place"} <= set(tables)
    # The tables that describe tables are no tables of the user.
    assert "information_schema" not in psql(r"\d").stdout


def test_an_error_points_at_its_place(measurements):
    done = psql(f"SELECT place, valu FROM {measurements}", check=False)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert 'column "valu" does not exist' in lines[0]
    assert lines[1].startswith("LINE 1:")
    assert lines[2].index("^") == lines[1].index("valu ")
    assert "did you mean" in done.stderr


def test_syntax_errors_and_unknown_names(measurements):
    done = psql("SELEKT 1", check=False)
    assert "syntax error" in done.stderr
    assert "LINE 1:" in done.stderr
    done = psql(f"SELECT * FROM {measurements[:-1]}x", check=False)
    assert done.returncode == 1
    done = psql(f"COPY {measurements} FROM STDIN", check=False)
    assert "lambic append" in done.stderr


def test_several_statements_in_one_string(measurements):
    done = psql(f"SELECT 1 AS a; INSERT INTO {measurements} (at, place) VALUES (now(), 'x'); SELECT 2 AS b", options=("-At",))
    assert done.stdout.split() == ["1", "INSERT", "0", "1", "2"]
    # They are one transaction: the failing one is named, the rest is not run, and nothing is kept.
    done = psql(f"INSERT INTO {measurements} (at, place) VALUES (now(), 'x'); SELECT nope; SELECT 3", check=False, options=("-At",))
    assert "INSERT 0 1" in done.stdout and "3" not in done.stdout.split()
    assert psql(f"SELECT count(*) FROM {measurements}", options=("-At",)).stdout.strip() == "1"
    commands = [
        "BEGIN", f"INSERT INTO {measurements} (at, place) VALUES (now(), 'y')", "ROLLBACK", "COMMIT",
        f"SELECT count(*) FROM {measurements}",
    ]
    done = psql(*commands, options=("-At",))
    assert done.stdout.split("\n")[:5] == ["BEGIN", "INSERT 0 1", "ROLLBACK", "COMMIT", "1"]
    assert "there is no transaction in progress" in done.stderr


def test_other_databases_are_refused():
    done = subprocess.run(
        ["psql", "-X", "-h", PG_HOST, "-p", PG_PORT, "-U", "tester", "-d", "accounts", "-c", "SELECT 1"],
        capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 2
    assert 'database "accounts" does not exist' in done.stderr


def test_timestamps_may_leave_seconds_out(measurements):
    psql(
        f"INSERT INTO {measurements} (at, place, local) VALUES ('2026-01-01 10:00', '2026-01-01 10:00', '2026-01-01 10')",
        f"INSERT INTO {measurements} (at, place) VALUES ('2026-01-01 12:30+02', 'x')",
    )
    asked = f"SELECT at, place, local FROM {measurements} WHERE at = '2026-01-01 10:00' AND place <> 'x'"
    assert psql(asked, options=("-At",)).stdout.strip() == "2026-01-01 10:00:00+00|2026-01-01 10:00|2026-01-01 10:00:00"
    later = f"SELECT place FROM {measurements} WHERE at = timestamptz '2026-01-01 10:30Z'"
    assert psql(later, options=("-At",)).stdout.strip() == "x"


def test_system_columns_are_there_when_they_are_named(name):
    psql(
        f"CREATE STREAM {name} (a bigint, b text)",
        f"INSERT INTO {name} VALUES (7, 'x'), (8, 'y')",
        f"CREATE MATERIALIZED VIEW {name}_v AS SELECT *, _offset AS place FROM {name}",
    )
    ask = lambda sql: psql(sql, options=("-At",)).stdout.split()
    assert ask(f"SELECT *, _offset FROM {name} ORDER BY a") == ["7|x|0", "8|y|1"]
    assert ask(f"SELECT s.*, t.* FROM {name} s JOIN {name}_v t ON t.place = s._offset ORDER BY 1") == ["7|x|7|x|0", "8|y|8|y|1"]
    assert ask(f"SELECT * FROM {name}_v ORDER BY a") == ["7|x|0", "8|y|1"]
    psql(f"DROP MATERIALIZED VIEW {name}_v", f"DROP STREAM {name}")


def test_subscribe_shows_rows_until_it_is_interrupted(measurements):
    psql(f"INSERT INTO {measurements} (at, place, count) VALUES (now(), 'oslo', 1)")
    # To a pipe it would write a block at a time.
    arguments = ["stdbuf", "-oL", "psql", "-X", "-At", "-h", PG_HOST, "-p", PG_PORT, "-U", "tester", "-d", "lambic"]
    running = subprocess.Popen(
        [*arguments, "-c", f"COPY (SUBSCRIBE {measurements}_by_place) TO STDOUT"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout.readline().split("\t")[1:4] == ["f", "1", "oslo"]
    psql(f"INSERT INTO {measurements} (at, place, count) VALUES (now(), 'oslo', 2)")
    assert [running.stdout.readline().split("\t")[2] for _ in range(2)] == ["-1", "1"]
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert "canceling statement due to user request" in said
