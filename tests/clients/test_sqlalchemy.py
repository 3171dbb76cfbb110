"""SQLAlchemy's reflection and pandas."""

import pandas
import pytest
import sqlalchemy
from conftest import PG_HOST, PG_PORT
from sqlalchemy import inspect, text
from sqlalchemy.orm import Session


@pytest.fixture
def engine():
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://tester@{PG_HOST}:{PG_PORT}/lambic")
    yield engine
    engine.dispose()


def test_reflection(engine, measurements):
    inspector = inspect(engine)
    assert "public" in inspector.get_schema_names()
    assert measurements in inspector.get_table_names()
    assert f"{measurements}_by_place" not in inspector.get_table_names()
    assert f"{measurements}_by_place" in inspector.get_materialized_view_names()
    assert inspector.has_table(measurements)
    assert not inspector.has_table("nothing_of_this_name")
    columns = {column["name"]: column for column in inspector.get_columns(measurements)}
    assert isinstance(columns["count"]["type"], sqlalchemy.BIGINT)
    assert isinstance(columns["place"]["type"], sqlalchemy.TEXT)
    assert isinstance(columns["value"]["type"], sqlalchemy.DOUBLE_PRECISION)
    assert isinstance(columns["price"]["type"], sqlalchemy.NUMERIC)
    assert isinstance(columns["ok"]["type"], sqlalchemy.BOOLEAN)
    assert columns["at"]["type"].timezone
    assert columns["at"]["nullable"] is False and columns["value"]["nullable"] is True
    assert inspector.get_pk_constraint(measurements)["constrained_columns"] == []
    assert inspector.get_foreign_keys(measurements) == []
    assert inspector.get_indexes(measurements) == []
    assert inspector.get_unique_constraints(measurements) == []
    assert inspector.get_check_constraints(measurements) == []
    assert "SELECT" in inspector.get_view_definition(f"{measurements}_by_place").upper()


def test_a_reflected_table_can_be_used(engine, measurements):
    table = sqlalchemy.Table(measurements, sqlalchemy.MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.insert(table), [
            {"at": "2026-01-01T00:00:00Z", "place": "oslo", "count": 1},
            {"at": "2026-01-01T00:00:00Z", "place": "rome", "count": 2},
        ])
        connection.commit()
        found = connection.execute(sqlalchemy.select(table.c.place, table.c.count).order_by(table.c.place)).all()
        assert found == [("oslo", 1), ("rome", 2)]
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


def test_sessions(engine, measurements):
    table = sqlalchemy.Table(measurements, sqlalchemy.MetaData(), autoload_with=engine)
    row = lambda place, count=1: {"at": "2026-01-01T00:00:00Z", "place": place, "count": count}
    places = sqlalchemy.select(table.c.place).order_by(table.c.place)
    with Session(engine) as session:
        session.execute(sqlalchemy.insert(table), [row("a"), row("b")])
        with session.begin_nested() as nested:
            session.execute(sqlalchemy.insert(table), [row("never")])
            nested.rollback()
        with session.begin_nested():
            session.execute(sqlalchemy.insert(table), [row("c")])
        assert session.scalars(places).all() == ["a", "b", "c"]
        with engine.connect() as other:
            assert other.execute(places).all() == []
        session.commit()
        session.execute(sqlalchemy.insert(table), [row("never")])
        session.rollback()
    with pytest.raises(sqlalchemy.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sqlalchemy.insert(table), [row("never")])
        connection.execute(sqlalchemy.insert(table), [row(None)])
    with engine.connect() as connection:
        assert connection.scalars(places).all() == ["a", "b", "c"]
    repeatable = engine.execution_options(isolation_level="REPEATABLE READ")
    with repeatable.connect() as reader:
        before = reader.scalars(places).all()
        with engine.begin() as connection:
            connection.execute(sqlalchemy.insert(table), [row("d")])
        assert reader.scalars(places).all() == before


def test_pandas(engine, measurements):
    with engine.connect() as connection:
        connection.execute(text(f"INSERT INTO {measurements} (at, place, count) VALUES (now(), 'oslo', 1), (now(), 'oslo', 2)"))
        connection.commit()
        frame = pandas.read_sql(text(f"SELECT * FROM {measurements}_by_place"), connection)
        whole = pandas.read_sql_table(measurements, connection)
    assert frame["total"].tolist() == [3]
    assert sorted(whole["count"].tolist()) == [1, 2]


def test_migrations(engine, name):
    """The statements that Alembic writes."""
    with engine.begin() as connection:
        for statement in [
            f"CREATE TABLE {name} (id INTEGER NOT NULL, place VARCHAR)",
            f"ALTER TABLE {name} ADD COLUMN region VARCHAR DEFAULT 'eu' NOT NULL",
            f"ALTER TABLE {name} ALTER COLUMN id TYPE BIGINT",
            f"ALTER TABLE {name} RENAME place TO town",
            f"ALTER TABLE {name} ALTER COLUMN region DROP DEFAULT",
            f"ALTER TABLE {name} ALTER COLUMN region DROP NOT NULL",
        ]:
            connection.execute(text(statement))
    table = sqlalchemy.Table(name, sqlalchemy.MetaData(), autoload_with=engine)
    assert [(column.name, str(column.type), column.nullable) for column in table.columns] == [
        ("id", "BIGINT", False), ("town", "TEXT", True), ("region", "TEXT", True),
    ]
    with engine.begin() as connection:
        connection.execute(sqlalchemy.insert(table), [{"id": 5_000_000_000, "town": "Oslo"}])
        assert connection.execute(sqlalchemy.select(table)).all() == [(5_000_000_000, "Oslo", None)]
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {name}"))
