"""The edge of the database: errors with names, whole commits, and a schema that is the code's."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, make_url, text

from xmag.db import audit, jobs
from xmag.db.migrate import config, is_current, upgrade
from xmag.db.session import GUARDS, connect, ping, transaction
from xmag.db.tables import Base
from xmag.errors import Code, JobError, PlaceError, RequestError

CONSTRAINTS = """
    SELECT conrelid::regclass::text AS on_table, conname, pg_get_constraintdef(oid) AS definition
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    AND conrelid <> COALESCE(to_regclass('alembic_version'), 0) AND contype NOT IN ('t', 'n') ORDER BY 1, 2"""
COLUMNS = """
    SELECT table_name, column_name, data_type, column_default, is_nullable FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY 1, 2"""
INDEXES = """
    SELECT indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'alembic_version' ORDER BY 1"""


def snapshot(engine: Engine) -> list[list[Any]]:
    with engine.connect() as connection:
        return [list(connection.execute(text(query)).all()) for query in (COLUMNS, CONSTRAINTS, INDEXES)]


@pytest.fixture
def broken(database: str) -> Iterator[Engine]:
    """An engine whose port nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        engine = connect(make_url(database).set(port=taken.getsockname()[1]).render_as_string(False))
        yield engine
        engine.dispose()


def test_migrations_make_the_schema_that_the_code_declares(
    engine: Engine, database: str, empty_database: str
) -> None:
    assert is_current(engine)
    command.check(config(database))
    declared = connect(empty_database)
    Base.metadata.create_all(declared)
    assert snapshot(engine) == snapshot(declared)
    declared.dispose()


def test_migrations_go_down_and_up_again(engine: Engine, database: str) -> None:
    before = snapshot(engine)
    command.downgrade(config(database), "base")
    assert snapshot(engine) == [[], [], []]
    with engine.connect() as connection:
        guards = connection.execute(text("SELECT proname FROM pg_proc WHERE proname LIKE 'guard_%'"))
        assert guards.all() == []
    assert not is_current(engine)
    upgrade(database)
    assert snapshot(engine) == before


def test_programs_that_start_together_migrate_once(empty_database: str) -> None:
    program = "import sys; from xmag.db.migrate import upgrade; upgrade(sys.argv[1])"
    command_line = [sys.executable, "-c", program, empty_database]
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    together = [subprocess.Popen(command_line, env=here) for _ in range(3)]
    assert [process.wait(60) for process in together] == [0, 0, 0]
    engine = connect(empty_database)
    assert is_current(engine)
    engine.dispose()


def test_a_closed_port_is_named(broken: Engine) -> None:
    with pytest.raises(PlaceError) as down, transaction(broken) as session:
        ping(session)
    assert down.value.code == Code.DATABASE_UNAVAILABLE
    with pytest.raises(PlaceError) as down:
        upgrade(broken.url.render_as_string(False))
    assert down.value.code == Code.DATABASE_UNAVAILABLE


def test_a_cut_connection_is_named_and_the_next_call_recovers(hospital: Any) -> None:
    def cut() -> None:
        with transaction(hospital.engine) as session:
            pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
            hospital.sql("SELECT pg_terminate_backend(:pid)", pid=pid)
            ping(session)

    with pytest.raises(PlaceError) as lost:
        cut()
    assert lost.value.code == Code.DATABASE_UNAVAILABLE
    assert hospital.view(hospital.job()).state == "queued"


def test_a_busy_pool_is_named(database: str) -> None:
    engine = connect(database, pool=1)
    with transaction(engine) as held:
        ping(held)
        with pytest.raises(PlaceError) as busy, transaction(engine) as session:
            ping(session)
    assert busy.value.code == Code.DATABASE_UNAVAILABLE
    engine.dispose()


def test_a_full_disk_is_named(engine: Engine) -> None:
    full = "DO $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$"
    with pytest.raises(PlaceError) as named, transaction(engine) as session:
        session.execute(text(full))
    assert named.value.code == Code.DISK_FULL


def test_what_the_database_refuses_never_quotes_a_row(hospital: Any) -> None:
    secret = "ACC-SECRET-1"
    hospital.job(accession=secret)
    with pytest.raises(JobError) as refused, transaction(hospital.engine) as session:
        session.execute(
            text("INSERT INTO cases (id, accession) SELECT gen_random_uuid(), accession FROM cases")
        )
    assert secret not in str(refused.value)
    assert "uq_cases_accession" in refused.value.detail
    assert refused.value.__suppress_context__
    with pytest.raises(RequestError) as invalid:
        hospital.add(accession="\0" + secret)
    assert (invalid.value.code, secret in str(invalid.value)) == (Code.INVALID_REQUEST, False)


def test_every_connection_has_limits(engine: Engine) -> None:
    with transaction(engine) as session:
        for name, milliseconds in GUARDS.items():
            limit = session.execute(text("SELECT setting::int FROM pg_settings WHERE name = :n"), {"n": name})
            assert limit.scalar_one() == milliseconds


def test_an_exception_undoes_all_of_a_transaction(hospital: Any) -> None:
    slide_id = hospital.add()
    before = hospital.sql("SELECT count(*) FROM audit")

    def stumble() -> None:
        with transaction(hospital.engine) as session:
            jobs.submit(session, jobs.NewJob(slide_id, ("nsclc",), "stat", "ann"), None, hospital.lease)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stumble()
    assert hospital.sql("SELECT count(*) FROM jobs")[0]["count"] == 0
    assert hospital.sql("SELECT count(*) FROM audit") == before


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE audit SET detail = '{\"tasks\": []}' WHERE seq = 7",
        "UPDATE audit SET actor = 'eve' WHERE seq = 7",
        "UPDATE audit SET at = at + interval '1 microsecond' WHERE seq = 7",
        "DELETE FROM audit WHERE seq = 7",
        "UPDATE audit SET hash = sha256('x') WHERE seq = 7",
    ],
)
def test_tampering_with_the_audit_is_seen(hospital: Any, tampering: str) -> None:
    for _ in range(5):
        hospital.job()
    with transaction(hospital.engine) as session:
        whole = audit.verify(session)
    assert whole.broken_at is None
    assert whole.length == hospital.sql("SELECT count(*) FROM audit")[0]["count"] > 8
    hospital.sql(f"ALTER TABLE audit DISABLE TRIGGER USER; {tampering}")
    with transaction(hospital.engine) as session:
        assert audit.verify(session).broken_at in (7, 8)


def test_the_audit_chain_holds_under_concurrent_writers(hospital: Any) -> None:
    def many(_: int) -> None:
        for _ in range(5):
            hospital.job()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(many, range(8)))
    with transaction(hospital.engine) as session:
        assert audit.verify(session).broken_at is None
    assert hospital.sql("SELECT count(*) FROM audit WHERE action = 'job.submitted'")[0]["count"] == 40


@pytest.fixture
def empty_database(new_database: Callable[[], str]) -> str:
    """URL of a database without any table."""
    url = new_database()
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return url
