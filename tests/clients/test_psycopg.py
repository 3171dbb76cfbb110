"""psycopg 3: values both ways in text and binary, prepared statements, transactions, errors."""

import datetime
import decimal
import math
import threading
import time

import psycopg
import pytest
from conftest import DSN, http

UTC = datetime.timezone.utc
ROW = (
    datetime.datetime(2026, 11, 23, 21, 0, 0, 123456, tzinfo=UTC), "Ærø 'x' \"y\"", -0.1, 2**63 - 1, -32768, 2**31 - 1,
    1.5, decimal.Decimal("-12345.60"), True, datetime.date(1969, 12, 31), datetime.datetime(1999, 12, 31, 23, 59, 59, 5),
    b"\x00\xff\\'",
)
COLUMNS = "at, place, value, count, small, medium, ratio, price, ok, day, local, raw"


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_every_type_there_and_back(connection, measurements, binary_in, binary_out):
    holders = ", ".join(["%b" if binary_in else "%t"] * len(ROW))
    done = connection.execute(f"INSERT INTO {measurements} ({COLUMNS}) VALUES ({holders})", ROW)
    assert done.statusmessage == "INSERT 0 1"
    nulls = (ROW[0], "nulls") + (None,) * 10
    connection.execute(f"INSERT INTO {measurements} ({COLUMNS}) VALUES ({holders})", nulls)
    cursor = connection.cursor(binary=binary_out)
    found = cursor.execute(f"SELECT {COLUMNS} FROM {measurements} ORDER BY place").fetchall()
    assert sorted(found, key=str) == sorted([ROW, nulls], key=str)


@pytest.mark.parametrize("binary", [False, True])
def test_special_values(connection, binary):
    cursor = connection.cursor(binary=binary)
    row = cursor.execute(
        """SELECT 'NaN'::double precision, 'Infinity'::double precision, '-Infinity'::double precision,
                  1e300::double precision, CAST(1 AS bigint), NULL, '', true AND false,
                  CAST('99999999999999999999999999999999999.99' AS numeric(38, 2))"""
    ).fetchone()
    assert math.isnan(row[0])
    assert row[1:3] == (math.inf, -math.inf)
    assert row[3:8] == (1e300, 1, None, "", False)
    assert row[8] == decimal.Decimal("99999999999999999999999999999999999.99")


@pytest.mark.parametrize("binary", [False, True])
def test_arrays(connection, binary):
    cursor = connection.cursor(binary=binary)
    row = cursor.execute("SELECT ARRAY[1, 2, 3], ARRAY['a', 'b c', NULL], ARRAY[1.5, 2.5]::double precision[]").fetchone()
    assert row == ([1, 2, 3], ["a", "b c", None], [1.5, 2.5])


def test_prepared_statements(connection, measurements):
    connection.prepare_threshold = 0
    for place in ["oslo", "rome", "oslo"]:
        connection.execute(f"INSERT INTO {measurements} (at, place, count) VALUES (%s, %s, %s)", (ROW[0], place, 7))
    for place, n in [("oslo", 2), ("rome", 1), ("bonn", 0)]:
        query = f"SELECT count(*), sum(count) FROM {measurements} WHERE place = %s"
        assert connection.execute(query, (place,)).fetchone() == (n, 7 * n if n else None)
    places = connection.execute(
        f"SELECT place FROM {measurements} WHERE place = ANY(%s) ORDER BY 1", (["rome", "bonn"],)
    ).fetchall()
    assert places == [("rome",)]


@pytest.mark.parametrize("prepare", [False, True])
def test_parameters_of_which_only_the_client_knows_the_type(connection, measurements, prepare):
    def one(query, *values):
        return connection.execute(query, values, prepare=prepare).fetchone()

    assert one("SELECT %s", "x") == ("x",)
    assert one("SELECT %s, %s", 7, None) == (7, None)
    assert one("SELECT %s", datetime.date(2026, 1, 2)) == (datetime.date(2026, 1, 2),)
    assert one("SELECT %s", decimal.Decimal("1.25")) == (decimal.Decimal("1.25"),)
    assert one("SELECT %s + %s, %s = %s", 1, 2, 3, 3) == (3, True)
    assert one("SELECT %s + %s", 1 << 40, 2) == ((1 << 40) + 2,)
    assert one("SELECT %s::interval + %s", datetime.timedelta(hours=1), datetime.timedelta(minutes=5)) == (
        datetime.timedelta(hours=1, minutes=5),
    )
    moment = datetime.datetime(2026, 1, 2, 3, 4)
    day = datetime.timedelta(days=1)
    assert one("SELECT %s - interval '1 day'", 2 * day) == (day,)
    assert one("SELECT %s - interval '1 day'", moment) == (moment - datetime.timedelta(days=1),)
    connection.execute(f"INSERT INTO {measurements} (at, place, count) VALUES (%s, 'rome', 1)", (moment,))
    since = f"SELECT count(*) FROM {measurements} WHERE at > %s - interval '1 day' LIMIT %s"
    assert one(since, moment, 5) == (1,)
    assert one(since, moment + datetime.timedelta(days=2), 5) == (0,)


def test_a_view_includes_what_was_just_acknowledged(connection, measurements):
    for total in range(1, 20):
        connection.execute(f"INSERT INTO {measurements} (at, place, count) VALUES (now(), 'oslo', 1)")
        assert connection.execute(f"SELECT n, total FROM {measurements}_by_place WHERE place = 'oslo'").fetchone() == (total, total)


def test_many_rows_in_portions(connection):
    cursor = connection.cursor()
    cursor.execute("SELECT value FROM generate_series(1, 100000) AS t(value)")
    assert sum(row[0] for row in cursor) == 100000 * 100001 // 2


def test_pipeline(connection, measurements):
    with connection.pipeline():
        for count in range(50):
            connection.execute(f"INSERT INTO {measurements} (at, place, count) VALUES (now(), 'p', %s)", (count,))
    assert connection.execute(f"SELECT sum(count) FROM {measurements}").fetchone() == (1225,)


def test_errors_have_a_code_a_place_and_a_hint(connection, measurements):
    with pytest.raises(psycopg.errors.UndefinedTable) as caught:
        connection.execute(f"SELECT 1 FROM {measurements}_by_plac")
    assert "did you mean" in caught.value.diag.message_hint
    assert int(caught.value.diag.statement_position) == 15
    with pytest.raises(psycopg.errors.UndefinedColumn):
        connection.execute(f"SELECT nope FROM {measurements}")
    with pytest.raises(psycopg.errors.SyntaxError):
        connection.execute("SELECT 1 +")
    with pytest.raises(psycopg.errors.DuplicateTable):
        connection.execute(f"CREATE STREAM {measurements} (a int)")
    with pytest.raises(psycopg.errors.FeatureNotSupported) as caught, connection.cursor().copy(f"COPY {measurements} TO STDOUT"):
        pass
    assert "SELECT" in caught.value.diag.message_hint
    with pytest.raises(psycopg.DataError):
        connection.execute(f"INSERT INTO {measurements} (at, place, count) VALUES (now(), 'x', %t)", ("seven",))
    # The connection goes on after every one of them.
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_failed_transaction_wants_a_rollback(measurements):
    with psycopg.connect(DSN) as connection:
        with pytest.raises(psycopg.errors.UndefinedColumn):
            connection.execute(f"SELECT nope FROM {measurements}")
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        connection.rollback()
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        with connection.transaction():
            connection.execute(f"INSERT INTO {measurements} (at, place) VALUES (now(), 'kept')")
        assert connection.execute(f"SELECT place FROM {measurements}").fetchall() == [("kept",)]


def insert(connection, stream, place, count=1):
    connection.execute(f"INSERT INTO {stream} (at, place, count) VALUES (now(), %s, %s)", (place, count))


def places(connection, stream):
    return [place for (place,) in connection.execute(f"SELECT place FROM {stream} ORDER BY place").fetchall()]


def test_a_transaction_is_kept_as_one(connection, measurements, name):
    connection.execute(f"CREATE STREAM {name}_others (place text, n bigint)")
    with psycopg.connect(DSN) as writer:
        insert(writer, measurements, "oslo")
        insert(writer, measurements, "oslo", 2)
        writer.execute(f"INSERT INTO {name}_others VALUES ('rome', 3)")
        # Its own records are there, in streams and views, with provisional offsets; nobody else sees them.
        by_place = f"SELECT n, total FROM {measurements}_by_place WHERE place = 'oslo'"
        assert writer.execute(by_place).fetchone() == (2, 3)
        assert writer.execute(f"SELECT count(*), max(_offset) FROM {measurements}").fetchone() == (2, 1)
        joined = f"SELECT sum(n) FROM (SELECT total AS n FROM {measurements}_by_place UNION ALL SELECT n FROM {name}_others) AS both_of_them"
        assert writer.execute(joined).fetchone() == (6,)
        assert connection.execute(by_place).fetchone() is None
        assert places(connection, measurements) == []
        writer.commit()
        assert connection.execute(by_place).fetchone() == (2, 3)
        assert connection.execute(joined).fetchone() == (6,)
        insert(writer, measurements, "never")
        writer.rollback()
        assert places(connection, measurements) == ["oslo", "oslo"]
        # A connection that goes away has not committed.
        insert(writer, measurements, "never")
        writer.close()
    assert places(connection, measurements) == ["oslo", "oslo"]
    connection.execute(f"DROP STREAM {name}_others")


def test_a_bad_row_fails_at_once_and_nothing_is_kept(connection, measurements):
    with psycopg.connect(DSN) as writer:
        insert(writer, measurements, "oslo")
        with pytest.raises(psycopg.errors.NotNullViolation):
            insert(writer, measurements, None)
        assert writer.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        with pytest.raises(psycopg.errors.InFailedSqlTransaction) as caught:
            insert(writer, measurements, "rome")
        assert "ROLLBACK" in caught.value.diag.message_hint
        assert writer.execute("COMMIT").statusmessage == "ROLLBACK"
        assert writer.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert places(connection, measurements) == []


def test_savepoints(connection, measurements):
    with psycopg.connect(DSN) as writer:
        insert(writer, measurements, "a")
        with pytest.raises(psycopg.errors.UndefinedColumn), writer.transaction():
            insert(writer, measurements, "never")
            writer.execute(f"SELECT nope FROM {measurements}")
        assert writer.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        with writer.transaction():
            insert(writer, measurements, "b")
        with writer.transaction() as inner:
            insert(writer, measurements, "never")
            raise psycopg.Rollback(inner)
        assert places(writer, measurements) == ["a", "b"]
        with pytest.raises(psycopg.errors.InvalidSavepointSpecification):
            writer.execute("ROLLBACK TO SAVEPOINT nothing_of_this_name")
        writer.rollback()
        with pytest.raises(psycopg.errors.NoActiveSqlTransaction):
            connection.execute("SAVEPOINT outside")
        insert(writer, measurements, "c")
        writer.commit()
    assert places(connection, measurements) == ["c"]


def test_isolation_levels(connection, measurements):
    with psycopg.connect(DSN) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert places(reader, measurements) == []
        assert reader.execute("SHOW transaction_isolation").fetchone() == ("repeatable read",)
        insert(connection, measurements, "oslo")
        assert places(reader, measurements) == []
        assert reader.execute(f"SELECT count(*) FROM {measurements}_by_place").fetchone() == (0,)
        insert(reader, measurements, "rome")
        assert places(reader, measurements) == ["rome"]
        assert reader.execute(f"SELECT place FROM {measurements}_by_place").fetchall() == [("rome",)]
        with pytest.raises(psycopg.errors.ActiveSqlTransaction):
            reader.execute(f"CREATE STREAM {measurements}_more (a bigint)")
        reader.rollback()
        assert places(reader, measurements) == ["oslo"]
        reader.commit()
        reader.isolation_level = None
        reader.read_only = True
        assert places(reader, measurements) == ["oslo"]
        insert(connection, measurements, "rome")
        assert places(reader, measurements) == ["oslo", "rome"]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            insert(reader, measurements, "never")
        reader.rollback()
        reader.read_only = None
        reader.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        with pytest.raises(psycopg.errors.FeatureNotSupported) as caught:
            reader.execute("SELECT 1")
        assert "REPEATABLE READ" in caught.value.diag.message_hint


def test_what_defines_streams_takes_effect_at_once(connection, name):
    notices = []
    with psycopg.connect(DSN) as writer:
        writer.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        writer.execute(f"CREATE STREAM {name} (a bigint)")
        writer.execute(f"INSERT INTO {name} VALUES (1)")
        with pytest.raises(psycopg.errors.ObjectInUse):
            writer.execute(f"DROP STREAM {name}")
        writer.rollback()
        assert notices == ["1 statement(s) of this transaction took effect at once and are kept"]
        writer.execute(f"INSERT INTO {name} VALUES (1)")
        connection.execute(f"DROP STREAM {name}")
        with pytest.raises(psycopg.errors.UndefinedTable, match="nothing of the transaction was kept"):
            writer.commit()
        assert writer.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_transaction_has_a_size(connection, name):
    connection.execute(f"CREATE STREAM {name} (text text)")
    with psycopg.connect(DSN) as writer:
        with pytest.raises(psycopg.errors.ProgramLimitExceeded) as caught:
            for _ in range(100):
                writer.execute(f"INSERT INTO {name} VALUES (%s)", ("x" * 1_000_000,))
        assert "lambic append" in caught.value.diag.message_hint
        writer.rollback()
        with writer.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {name} VALUES (%s)", [(str(number),) for number in range(5_000)])
        assert writer.execute(f"SELECT count(DISTINCT text) FROM {name}").fetchone() == (5_000,)
    assert connection.execute(f"SELECT count(*) FROM {name}").fetchone() == (5_000,)
    connection.execute(f"DROP STREAM {name}")


def test_statements_that_are_sent_together_are_one_transaction(connection, measurements):
    with pytest.raises(psycopg.errors.UndefinedColumn), connection.pipeline():
        insert(connection, measurements, "never")
        connection.execute(f"SELECT nope FROM {measurements}")
    assert places(connection, measurements) == []
    one = f"INSERT INTO {measurements} (at, place) VALUES (now(), 'a')"
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute(f"{one}; SELECT 1 / (count(*) - 1) FROM {measurements}")
    assert places(connection, measurements) == []
    connection.execute(f"{one}; BEGIN; {one}; ROLLBACK; {one}; {one}")
    assert places(connection, measurements) == ["a", "a"]


def test_settings(connection):
    show = lambda name: connection.execute(f"SHOW {name}").fetchone()[0]
    assert show("server_version").startswith("16")
    assert connection.info.server_version >= 160000
    assert show("standard_conforming_strings") == "on"
    connection.execute("SET application_name = 'tests'")
    assert show("application_name") == "tests"
    connection.execute("RESET application_name")
    connection.execute("SET TIME ZONE 'UTC'")
    assert connection.info.parameter_status("TimeZone") == "UTC"
    with pytest.raises(psycopg.errors.UndefinedObject):
        connection.execute("SET serch_path = 'x'")
    connection.execute("DISCARD ALL")
    assert connection.execute("SELECT current_database(), current_schema()").fetchone() == ("lambic", "public")


def test_a_long_statement_can_be_cancelled(connection):
    slow = "SELECT count(*) FROM generate_series(1, 1000000000000) AS a(x) WHERE x % 7 = 3"
    connection.execute("SET statement_timeout = '300ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute(slow)
    connection.execute("RESET statement_timeout")
    stopped = threading.Event()

    def cancel():
        # Again and again, for the first may come before the statement runs.
        while not stopped.wait(0.2):
            connection.cancel_safe()

    thread = threading.Thread(target=cancel)
    thread.start()
    started = time.monotonic()
    try:
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute(slow)
    finally:
        stopped.set()
        thread.join()
    assert time.monotonic() - started < 60
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_too_many_connections_are_told_so():
    connections = []
    try:
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            for _ in range(130):
                connections.append(psycopg.connect(DSN))
        assert len(connections) >= 90
    finally:
        for connection in connections:
            connection.close()
    assert http("GET", "/health").status == 200


def test_ranges_of_a_views_key_are_what_a_look_at_all_rows_finds(connection, name):
    """Equality in the first columns of the key and a range in the next one: before, in and after a batch."""
    connection.execute(f"CREATE STREAM {name} (town text, day int, at date)")
    connection.execute(
        f"CREATE MATERIALIZED VIEW {name}_v AS SELECT town, day, at, count(*) AS n FROM {name} GROUP BY town, day, at")
    towns, some_days = ["a", "ab", "b", "", None], [None, *range(-40, 40)]

    def append(part):
        for index, town in enumerate(towns):
            values = [
                (town, day, f"2026-01-{(day or 0) % 28 + 1:02}")
                for number, day in enumerate(some_days) if (index + number) % 3 != part
            ]
            with connection.cursor() as cursor:
                for start in range(0, len(values), 40):
                    some = values[start:start + 40]
                    places = ", ".join(["(%s, %s, %s::date)"] * len(some))
                    cursor.execute(f"INSERT INTO {name} VALUES {places}", [value for row in some for value in row])

    conditions = [
        "town = 'a'", "town = 'a' AND day = 3", "town = 'a' AND day > 3", "town = 'a' AND day >= 3 AND day < 7",
        "town = 'ab' AND day BETWEEN -5 AND 5", "town = 'a' AND 3 >= day", "town = 'a' AND day < 2.5",
        "town = 'a' AND day > 2.5", "town = 'a' AND day = 2.5", "town > 'a'", "town >= 'ab' AND town <= 'b'", "town < 'ab'",
        "town = ''", "town IS NULL", "town IS NULL AND day > 0", "town = 'b' AND day IS NULL", "town = 'a' AND day < -100",
        "town = 'b' AND day = 1 AND at >= '2026-01-02'", "town = 'b' AND at = '2026-01-02'", "town = 'nowhere'",
        "town = 'a' AND day > 3 AND day > 10", "town = 'a' AND day < 10 AND day <= 4", "day = 4", "town = NULL",
    ]

    def check(when):
        for condition in conditions:
            quick = connection.execute(f"SELECT * FROM {name}_v WHERE {condition} ORDER BY 1, 2, 3").fetchall()
            slow = connection.execute(
                f"SELECT town, day, at, count(*) AS n FROM {name} WHERE {condition} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3").fetchall()
            assert quick == slow, (when, condition)

    append(0)
    check("before a batch")
    connection.execute(f"REFRESH MATERIALIZED VIEW {name}_v")
    append(1)
    check("after a batch and more records")
    connection.execute(f"REFRESH MATERIALIZED VIEW {name}_v")
    check("after all of it was batched")


def count_in(name, place, count):
    with psycopg.connect(DSN, autocommit=True) as other:
        other.execute(f"INSERT INTO {name} (at, place, count) VALUES (now(), %s, %s)", (place, count))


@pytest.mark.parametrize("binary", [False, True])
def test_subscribe_streams_rows_while_it_runs(connection, measurements, binary):
    count_in(measurements, "oslo", 1)
    with connection.cursor(binary=binary) as cursor:
        rows = cursor.stream(f"SUBSCRIBE {measurements}_by_place WITH (progress)")
        first = next(rows)
        assert first[1:5] == (False, 1, "oslo", 1)
        assert next(rows)[1:3] == (True, None)
        count_in(measurements, "oslo", 2)
        changed = [row for row in (next(rows) for _ in range(20)) if not row[1]][:2]
        assert [row[2:5] for row in changed] == [(-1, "oslo", 1), (1, "oslo", 2)]
        frontier = changed[-1][0]
        rows.close()
    # The connection is free again, and the frontier is one to go on from.
    assert connection.execute("SELECT 1").fetchone() == (1,)
    count_in(measurements, "rome", 5)
    resumed = connection.cursor(binary=binary).stream(
        f"SUBSCRIBE TO {measurements}_by_place WITH (snapshot = false) AS OF OFFSET '{frontier}'")
    assert next(resumed)[2:6] == (1, "rome", 1, 5)
    resumed.close()


def test_subscribe_is_cancelled_and_takes_parameters(connection, measurements):
    count_in(measurements, "oslo", 1)
    with connection.cursor() as cursor:
        timer = threading.Timer(1, connection.cancel)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            for _ in cursor.stream(f"SUBSCRIBE {measurements}_by_place AS OF TIMESTAMP %s", ("2020-01-01",)):
                pass
        timer.join()
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_cursors_are_fetched_from(measurements):
    count_in(measurements, "oslo", 1)
    with psycopg.connect(DSN) as connection:
        connection.execute(f"DECLARE c CURSOR FOR SUBSCRIBE {measurements}_by_place")
        assert [row[2:4] for row in connection.execute("FETCH 10 c").fetchall()] == [(1, "oslo")]
        assert connection.execute("FETCH 10 c WITH (timeout = '0s')").fetchall() == []
        count_in(measurements, "oslo", 2)
        rows = connection.execute("FETCH 2 c WITH (timeout = '30s')").fetchall()
        assert [row[2:5] for row in rows] == [(-1, "oslo", 1), (1, "oslo", 2)]
        connection.execute("DECLARE n CURSOR FOR SELECT value FROM generate_series(1, 20000) AS t(value)")
        assert connection.execute("FETCH FORWARD 3 FROM n").fetchall() == [(1,), (2,), (3,)]
        assert len(connection.execute("FETCH ALL n").fetchall()) == 19_997
        connection.execute("CLOSE n")
        with pytest.raises(psycopg.errors.InvalidCursorName):
            connection.execute("FETCH n")
    with psycopg.connect(DSN, autocommit=True) as connection, pytest.raises(psycopg.errors.NoActiveSqlTransaction):
        connection.execute("DECLARE c CURSOR FOR SELECT 1")


def test_queries_and_subscriptions_are_copied(connection, measurements):
    count_in(measurements, "a\tb", 1)
    with connection.cursor().copy(f"COPY (SELECT place, count, value FROM {measurements}) TO STDOUT") as copy:
        assert list(copy.rows()) == [("a\tb", "1", None)]
    with connection.cursor().copy("COPY (SELECT 'x,y' AS a, NULL AS b) TO STDOUT WITH (FORMAT csv, HEADER)") as copy:
        assert b"".join(copy) == b'a,b\n"x,y",\n'
    with psycopg.connect(DSN, autocommit=True) as other:
        with pytest.raises(psycopg.errors.QueryCanceled):
            with other.cursor().copy(f"COPY (SUBSCRIBE {measurements}_by_place) TO STDOUT") as copy:
                rows = copy.rows()
                assert next(rows)[2:5] == ("1", "a\tb", "1")
                count_in(measurements, "a\tb", 2)
                assert [next(rows)[2] for _ in range(2)] == ["-1", "1"]
                other.cancel()
                next(rows)


def test_columns_change_under_prepared_statements(connection, name):
    connection.execute(f"CREATE TABLE {name} (a int, b text)")
    put, get = f"INSERT INTO {name} (a, b) VALUES (%s, %s)", f"SELECT * FROM {name} ORDER BY 1"
    for _ in range(2):
        connection.execute(put, (1, "x"), prepare=True)
        assert connection.execute(get, prepare=True).fetchall()[0] == (1, "x")
    # Elsewhere: a connection that alters itself prepares anew.
    with psycopg.connect(DSN, autocommit=True) as other:
        done = other.execute(f"ALTER TABLE {name} ADD COLUMN c int DEFAULT 7, ALTER COLUMN a TYPE bigint")
        assert done.statusmessage == "ALTER STREAM"
        other.execute(f"ALTER TABLE {name} RENAME COLUMN b TO note")
    connection.execute(put, (3, "z"), prepare=True)
    # It was told of two columns.
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan must not change result type"):
        connection.execute(get, prepare=True)
    connection.execute("DEALLOCATE ALL")
    connection.execute(put, (2, "y"), prepare=True)
    connection.execute(f"INSERT INTO {name} VALUES (%s)", (5_000_000_000,))
    assert connection.execute(get, prepare=True).fetchall() == [
        (1, "x", 7), (1, "x", 7), (2, "y", 7), (3, "z", 7), (5_000_000_000, None, 7),
    ]
    for statement, error in [
        (f"ALTER TABLE {name} ALTER COLUMN a TYPE int", psycopg.errors.DatatypeMismatch),
        (f"ALTER TABLE {name} ALTER COLUMN note SET NOT NULL", psycopg.errors.NotNullViolation),
        (f"ALTER TABLE {name} ADD COLUMN a int", psycopg.errors.DuplicateColumn),
        (f"ALTER TABLE {name} DROP COLUMN b", psycopg.errors.UndefinedColumn),
    ]:
        with pytest.raises(error):
            connection.execute(statement)
    connection.execute(f"DROP TABLE {name}")


def test_columns_change_in_a_transaction(name):
    with psycopg.connect(DSN) as connection:
        connection.execute(f"CREATE TABLE {name} (a int)")
        connection.execute(f"ALTER TABLE {name} ADD COLUMN b int DEFAULT 1")
        connection.execute(f"INSERT INTO {name} VALUES (1)")
        with pytest.raises(psycopg.errors.ObjectInUse):
            connection.execute(f"ALTER TABLE {name} ADD COLUMN c int")
        connection.rollback()
        assert connection.execute(f"SELECT a, b FROM {name}").fetchall() == []
        connection.execute(f"DROP TABLE {name}")


@pytest.mark.parametrize("binary", [False, True])
def test_named_cursors_read_in_portions(connection, binary):
    with connection.transaction(), connection.cursor("portions", binary=binary) as cursor:
        cursor.execute("SELECT value, value * 2 AS twice FROM generate_series(1, 1000) AS t(value) ORDER BY value")
        assert [column.name for column in cursor.description] == ["value", "twice"]
        assert cursor.fetchmany(2) == [(1, 2), (2, 4)]
        assert cursor.fetchall() == [(value, value * 2) for value in range(3, 1001)]
    with pytest.raises(psycopg.errors.InvalidCursorName), connection.transaction():
        connection.execute("FETCH 1 FROM nothing")


def test_a_bad_value_is_told_with_its_place(connection, measurements):
    insert = f"INSERT INTO {measurements} (at, place, count) VALUES (now(), 'x', 1), (now(), 'y', 'seven')"
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match='row 2, column "count"') as caught:
        connection.execute(insert)
    assert int(caught.value.diag.statement_position) == insert.index("'seven'") + 1
    assert connection.execute(f"SELECT count(*) FROM {measurements}").fetchone() == (0,)
    connection.execute(f"INSERT INTO {measurements} (at, place, value) SELECT at, place, value FROM (SELECT now(), 'x', 1.5) AS s(at, place, value)")
    assert connection.execute(f"SELECT value, value::text, value FROM {measurements}").fetchone() == (1.5, "1.5", 1.5)


def test_a_view_without_an_incremental_form_says_so(connection, measurements):
    told = []
    connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
    view = f"{measurements}_ranked"
    connection.execute(f"CREATE MATERIALIZED VIEW {view} AS SELECT place, rank() OVER (ORDER BY value) AS r FROM {measurements}")
    assert len(told) == 1
    assert told[0].startswith(f'view "{view}" is recomputed when it is read')
    connection.execute(f"DROP MATERIALIZED VIEW {view}")
    assert len(told) == 1


@pytest.mark.parametrize(
    ("sql", "code", "at"),
    [
        ("SELECT place FROM {m} WHERE count", "42804", "WHERE"),
        ("SELECT place FROM {m} LIMIT -1", "2201W", "LIMIT"),
        ("SELECT place FROM {m} ORDER BY 5", "42P10", "5"),
        ("SELECT place FROM {m} GROUP BY 5", "42P10", "5"),
        ("SELECT date '2024-02-30'", "22008", "'2024-02-30'"),
        ("SELECT timestamp '2024-02-30 00:00:00'", "22008", "'2024-02-30 00:00:00'"),
        ("SELECT interval 'soon'", "22007", "'soon'"),
        ("SELECT place FROM {m} WHERE count = 'x'", "22P02", "'x'"),
        ("INSERT INTO {m} (at, place) VALUES (now(), 'a') RETURNING place", "0A000", "RETURNING"),
        ("SELECT x.place FROM {m} AS v", "42P01", "x"),
        ("SELECT * FROM nosuch.{m}", "3F000", "nosuch"),
    ],
)
def test_errors_have_the_code_and_the_place_of_postgres(connection, measurements, sql, code, at):
    sql = sql.format(m=measurements)
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(sql)
    assert caught.value.sqlstate == code
    assert int(caught.value.diag.statement_position) == sql.rindex(at) + 1, str(caught.value)


def test_parameters_keep_the_values_that_they_have(connection):
    """What stands beside a parameter is converted where it could not hold all values of the parameter's type."""
    connection.execute(
        "CREATE STREAM kept (d numeric(8,2), i integer, f double precision, r real, x bigint, dt date)"
    )
    connection.execute(
        "INSERT INTO kept VALUES (3.00, 7, 0.1, 0.1, 9007199254740993, '2026-01-01')"
    )
    connection.execute(
        "CREATE MATERIALIZED VIEW kept_d AS SELECT d, count(*) AS n FROM kept GROUP BY d"
    )
    connection.execute(
        "CREATE MATERIALIZED VIEW kept_i AS SELECT i, count(*) AS n FROM kept GROUP BY i"
    )
    noon = datetime.datetime(2026, 1, 1, 12)
    for sql, value, expected in [
        ("SELECT count(*) FROM kept WHERE d < %s", decimal.Decimal("3.001"), 1),
        ("SELECT count(*) FROM kept WHERE d = %s", decimal.Decimal("3.001"), 0),
        ("SELECT count(*) FROM kept WHERE d = %s", decimal.Decimal("3.000"), 1),
        ("SELECT count(*) FROM kept WHERE d = %s", decimal.Decimal("3.000000000000001"), 0),
        # Sent as "1E-7", "3E+0" and "1E+6".
        ("SELECT count(*) FROM kept WHERE d > %s", decimal.Decimal("0.0000001"), 1),
        ("SELECT count(*) FROM kept WHERE d = %t", decimal.Decimal("3E+0"), 1),
        ("SELECT count(*) FROM kept WHERE d < %t", decimal.Decimal("1E+6"), 1),
        ("SELECT d + %t FROM kept", decimal.Decimal("1E-7"), decimal.Decimal("3.0000001")),
        ("SELECT count(*) FROM kept WHERE d = ANY(%s)", [decimal.Decimal("3.00"), decimal.Decimal("1E-7")], 1),
        ("SELECT count(*) FROM kept WHERE d = ANY(%t)", [decimal.Decimal("3.00"), None], 1),
        ("SELECT count(*) FROM kept WHERE d = ANY(%s)", [decimal.Decimal("3.001")], 0),
        ("SELECT count(*) FROM kept_d WHERE d > %s", decimal.Decimal("2.999"), 1),
        ("SELECT count(*) FROM kept_d WHERE d = %s", decimal.Decimal("3"), 1),
        ("SELECT count(*) FROM kept_d WHERE d = %s", 3, 1),
        ("SELECT count(*) FROM kept WHERE d < %s", 10**12, 1),
        # Together they have more than 38 digits.
        ("SELECT count(*) FROM kept WHERE x > %s", decimal.Decimal(1) / 3, 1),
        ("SELECT count(*) FROM kept WHERE d * 10000000000 > %s", decimal.Decimal(1) / 3, 1),
        # More digits than a numeric has here.
        ("SELECT count(*) FROM kept WHERE f = %s", decimal.Decimal(0.1), 1),
        ("SELECT count(*) FROM kept WHERE d > %s", decimal.Decimal(2.9), 1),
        ("SELECT count(*) FROM kept WHERE i < %s", 7.4, 1),
        ("SELECT count(*) FROM kept_i WHERE i = %s", 7.4, 0),
        ("SELECT count(*) FROM kept_i WHERE i = %s", 7.0, 1),
        ("SELECT count(*) FROM kept WHERE i < %s", 2**40, 1),
        ("SELECT count(*) FROM kept WHERE dt < %s", noon, 1),
        ("SELECT count(*) FROM kept WHERE dt = %s", noon, 0),
        ("SELECT i + %s FROM kept", 0.5, 7.5),
        ("SELECT i / %s FROM kept", 2.0, 3.5),
        ("SELECT i * %s FROM kept", decimal.Decimal("1.5"), decimal.Decimal("10.5")),
        ("SELECT d + %s FROM kept", decimal.Decimal("0.001"), decimal.Decimal("3.001")),
        ("SELECT x * %s FROM kept", 0.5, 4503599627370496.5),
    ]:
        for binary in [False, True]:
            found = connection.execute(sql, [value], binary=binary).fetchone()[0]
            assert found == expected, (sql, value, found)
            # Again, by a plan that is kept.
            assert connection.execute(sql, [value], prepare=True).fetchone()[0] == expected
    # Other types for the same text, in turns.
    for value, expected in [(7.4, 1), (7, 0), (decimal.Decimal("7.5"), 1), (8, 1), (6.9, 0)]:
        found = connection.execute(
            "SELECT count(*) FROM kept WHERE i < %s", [value]
        ).fetchone()[0]
        assert found == expected, value
    connection.execute("INSERT INTO kept (d, i, r) VALUES (%s, %s, %s)", [5.0, 8.6, 0.25])
    found = connection.execute("SELECT d, i, r FROM kept WHERE d = 5").fetchone()
    assert found == (decimal.Decimal("5.00"), 9, 0.25)
    for value in [decimal.Decimal("3.001"), decimal.Decimal("2.9999")]:
        with pytest.raises(psycopg.Error):
            connection.execute("ERASE FROM kept WHERE d = %s", [value])
    with pytest.raises(psycopg.Error):
        connection.execute("ERASE FROM kept WHERE i = %s", [7.4])
    assert connection.execute("SELECT count(*) FROM kept").fetchone() == (2,)
    done = connection.execute("ERASE FROM kept WHERE d = %s", [decimal.Decimal("3.000")])
    assert done.statusmessage == "ERASE 1"


def test_types_mean_what_they_mean_in_postgres(connection, name):
    connection.execute(f"CREATE STREAM {name} (valid_to date, d numeric(8,2), i integer, r real)")
    connection.execute(
        f"INSERT INTO {name} VALUES ('2024-06-30', 3.00, 16777217, 16777216), ('9999-12-31', 4.50, 5, 5)"
    )
    far = datetime.datetime(9999, 12, 31)
    for sql, expected in [
        ("SELECT '0.1'::float = 0.1::double precision", True),
        ("SELECT '9999-12-31'::timestamp", far),
        ("SELECT timestamp '2999-01-01' < timestamp '9999-12-31'", True),
        (f"SELECT max(valid_to::timestamp) FROM {name}", far),
        (f"SELECT count(*) FROM {name} WHERE valid_to > now()", 1),
        (f"SELECT count(*) FROM {name} WHERE valid_to > timestamp '2024-07-01'", 1),
        (f"SELECT count(*) FROM {name} WHERE i = r", 1),
        (f"SELECT sum(i + r) FROM {name}", 33554443.0),
        (f"SELECT count(*) FROM (SELECT d FROM {name} EXCEPT SELECT '3.004') x", 2),
        (f"SELECT count(*) FROM (SELECT d FROM {name} INTERSECT SELECT '3.004') x", 0),
        (f"SELECT count(*) FROM {name} WHERE d = ANY('{{3.001, 4.5}}')", 1),
        (f"SELECT count(*) FROM {name} WHERE d <> ALL('{{3.001}}')", 2),
        (f"SELECT count(*) FROM {name} WHERE d = ANY(ARRAY[3.001, 3])", 1),
        (f"SELECT count(*) FROM {name} WHERE d = '3.001'::text", 0),
        (f"SELECT count(*) FROM {name} WHERE d = '3.000'::text", 1),
        (f"SELECT count(*) FROM {name} WHERE d IN (SELECT '3.001' FROM {name})", 0),
        (f"SELECT count(*) FROM {name} a JOIN (VALUES ('3.001'), ('3.0')) b(s) ON a.d = b.s", 1),
        ("SELECT oid::regclass IS NOT NULL FROM pg_class LIMIT 1", True),
    ]:
        assert connection.execute(sql).fetchone()[0] == expected, sql
    connection.execute(
        f"CREATE MATERIALIZED VIEW {name}_v AS SELECT valid_to::timestamp AS t, '1'::float AS f FROM {name}"
    )
    assert connection.execute(f"SELECT max(t), max(f) FROM {name}_v").fetchone() == (far, 1.0)
