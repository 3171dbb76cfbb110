"""asyncpg: everything in binary, types asked of the server, cursors as portals."""

import asyncio
import datetime
import decimal

import asyncpg
import pytest
from conftest import PG_HOST, PG_PORT

UTC = datetime.timezone.utc


def run(work):
    async def connected():
        connection = await asyncpg.connect(host=PG_HOST, port=int(PG_PORT), user="tester", database="lambic", timeout=20)
        try:
            await work(connection)
        finally:
            await connection.close(timeout=10)

    asyncio.run(connected())


def test_insert_and_read_back(measurements):
    async def work(connection):
        at = datetime.datetime(2026, 11, 23, 21, 0, 0, 123456, tzinfo=UTC)
        rows = [
            (at, "oslo", 0.5, 2**40, 7, -1, 1.5, decimal.Decimal("1234.50"), True, datetime.date(2024, 2, 29),
             datetime.datetime(2024, 1, 1, 12, 0, 0, 1), b"\x00\x01"),
            (at, "rome", None, None, None, None, None, None, None, None, None, None),
        ]
        await connection.executemany(
            f"INSERT INTO {measurements} (at, place, value, count, small, medium, ratio, price, ok, day, local, raw) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)", rows)
        found = await connection.fetch(
            f"SELECT at, place, value, count, small, medium, ratio, price, ok, day, local, raw FROM {measurements} ORDER BY place")
        assert [tuple(row) for row in found] == rows
        total = await connection.fetchval(f"SELECT total FROM {measurements}_by_place WHERE place = $1", "oslo")
        assert total == 2**40

    run(work)


def test_types_are_introspected():
    async def work(connection):
        row = await connection.fetchrow("SELECT ARRAY[1, 2] AS ints, ARRAY['a', NULL] AS texts, ARRAY[1.5]::double precision[] AS floats")
        assert (row["ints"], row["texts"], row["floats"]) == ([1, 2], ["a", None], [1.5])
        statement = await connection.prepare("SELECT $1::bigint + 1 AS next, $2::text AS word")
        assert [parameter.name for parameter in statement.get_parameters()] == ["int8", "text"]
        assert [(a.name, a.type.name) for a in statement.get_attributes()] == [("next", "int8"), ("word", "text")]
        assert tuple(await statement.fetchrow(41, "x")) == (42, "x")
        assert await connection.fetchval("SELECT count(*) FROM generate_series(1, 10) AS t(x) WHERE x = ANY($1::bigint[])", [1, 2, 99]) == 2
        assert await connection.fetchval("SELECT $1::numeric", decimal.Decimal("1.10")) == decimal.Decimal("1.10")
        assert await connection.fetchval("SELECT $1::interval", datetime.timedelta(days=1)) == datetime.timedelta(days=1)
        assert await connection.fetchval("SELECT $1 * interval '1 hour'", 1.5) == datetime.timedelta(hours=1.5)
        assert await connection.fetchval("SELECT interval '1 hour' / $1", 2) == datetime.timedelta(minutes=30)
        assert await connection.fetchval("SELECT $1", "x") == "x"
        rows = "SELECT x FROM generate_series(1, 10) AS t(x) ORDER BY x LIMIT $1 OFFSET $2"
        assert [row["x"] for row in await connection.fetch(rows, 2, 3)] == [4, 5]

    run(work)


def test_cursors_read_in_portions():
    async def work(connection):
        seen = 0
        async with connection.transaction():
            async for row in connection.cursor("SELECT value FROM generate_series(1, 1000) AS t(value)", prefetch=17):
                seen += row["value"]
        assert seen == 500500

    run(work)


def test_transactions(measurements):
    insert = f"INSERT INTO {measurements} (at, place, count) VALUES (now(), $1, $2)"
    places = f"SELECT array_agg(place ORDER BY place) FROM {measurements}"

    async def work(connection):
        async with connection.transaction():
            await connection.execute(insert, "a", 1)
            await connection.execute(insert, "b", 2)
            assert await connection.fetchval(f"SELECT sum(total) FROM {measurements}_by_place") == 3
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await connection.execute(insert, "never", 1)
                    raise ZeroDivisionError
            with pytest.raises(asyncpg.DataError):
                async with connection.transaction():
                    await connection.execute(f"INSERT INTO {measurements} (at, place) VALUES ('soon', 'never')")
        assert await connection.fetchval(places) == ["a", "b"]
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await connection.execute(insert, "never", 1)
                raise ZeroDivisionError
        # All of a call is one transaction.
        with pytest.raises(asyncpg.NotNullViolationError):
            await connection.executemany(insert, [("never", 1), (None, 2)])
        await connection.executemany(insert, [("c", count) for count in range(1_000)])
        assert await connection.fetchval(f"SELECT count(*) FROM {measurements}") == 1_002
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            before = await connection.fetchval(f"SELECT count(*) FROM {measurements}")
            other = await asyncpg.connect(host=PG_HOST, port=int(PG_PORT), user="tester", database="lambic", timeout=20)
            await other.execute(insert, "d", 1)
            await other.close()
            assert await connection.fetchval(f"SELECT count(*) FROM {measurements}") == before
            assert await connection.fetchval("SHOW transaction_isolation") == "repeatable read"
        assert await connection.fetchval(f"SELECT count(*) FROM {measurements}") == before + 1

    run(work)


def test_errors(measurements):
    async def work(connection):
        with pytest.raises(asyncpg.UndefinedTableError) as caught:
            await connection.fetch(f"SELECT * FROM {measurements}x")
        assert "did you mean" in caught.value.hint
        with pytest.raises(asyncpg.UndefinedColumnError):
            await connection.fetch(f"SELECT nope FROM {measurements}")
        with pytest.raises(asyncpg.PostgresSyntaxError):
            await connection.execute("SELEC 1")
        assert await connection.fetchval("SELECT 1") == 1

    run(work)


def test_a_pool_resets_its_connections(measurements):
    async def work():
        async with asyncpg.create_pool(host=PG_HOST, port=int(PG_PORT), user="tester", database="lambic", min_size=2, max_size=4) as pool:
            async def one(count):
                async with pool.acquire() as connection:
                    await connection.execute(f"INSERT INTO {measurements} (at, place, count) VALUES (now(), 'pool', $1)", count)

            await asyncio.gather(*(one(count) for count in range(40)))
            assert await pool.fetchval(f"SELECT sum(count) FROM {measurements}") == 780

    asyncio.run(work())


def test_subscribe_is_read_through_a_cursor(measurements):
    async def work(connection):
        await connection.execute(f"INSERT INTO {measurements} (at, place, count) VALUES (now(), 'oslo', 1)")
        async with connection.transaction():
            await connection.execute(f"DECLARE c CURSOR FOR SUBSCRIBE {measurements}_by_place WITH (progress)")
            rows = await connection.fetch("FETCH 2 c WITH (timeout = '30s')")
            assert [tuple(row)[1:4] for row in rows] == [(False, 1, "oslo"), (True, None, None)]

    run(work)


def test_statements_are_prepared_again_when_columns_change(name):
    async def check(connection):
        await connection.execute(f"CREATE TABLE {name} (a int)")
        await connection.execute(f"INSERT INTO {name} VALUES (1)")
        assert [tuple(row) for row in await connection.fetch(f"SELECT * FROM {name}")] == [(1,)]
        await connection.execute(f"ALTER TABLE {name} ADD COLUMN b text DEFAULT 'x'")
        assert [tuple(row) for row in await connection.fetch(f"SELECT * FROM {name}")] == [(1, "x")]
        await connection.execute(f"DROP TABLE {name}")

    run(check)
