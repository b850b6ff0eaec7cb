"""Real servers for every tier of tests: started once, with a fresh migrated database for each test."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, make_url

from xmag.db.migrate import upgrade
from xmag.db.session import connect
from xmag.embedded import Servers, start

TEMPLATE = "template_migrated"
NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Private PostgreSQL and Valkey for the whole run."""
    with start(Path(tmp_path_factory.mktemp("servers"))) as running:
        yield running


@pytest.fixture(scope="session")
def postgres_url(servers: Servers) -> str:
    """The server's own, empty database. It skips fsync: tests kill the server, never the machine."""
    for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):
        _execute(servers.database_url, statement)
    return servers.database_url


@pytest.fixture(scope="session")
def redis_url(servers: Servers) -> str:
    """The broker; tests share it, so they use names of their own."""
    return servers.redis_url


@pytest.fixture(scope="session")
def new_database(postgres_url: str) -> Callable[[], str]:
    """Makes an empty-but-migrated database and returns its URL."""
    _execute(postgres_url, f"CREATE DATABASE {TEMPLATE}")
    upgrade(with_name(postgres_url, TEMPLATE))

    def make() -> str:
        name = f"test_{next(NUMBERS)}"
        _execute(postgres_url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return with_name(postgres_url, name)

    return make


@pytest.fixture
def database(new_database: Callable[[], str], postgres_url: str) -> Iterator[str]:
    """URL of a fresh migrated database, dropped after the test."""
    url = new_database()
    yield url
    _execute(postgres_url, f"DROP DATABASE {make_url(url).database} WITH (FORCE)")


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """Connections to `database`."""
    connected = connect(database, pool=32)
    yield connected
    connected.dispose()


def with_name(url: str, name: str) -> str:
    """The same server, another database."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def _execute(url: str, statement: str) -> None:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(statement.encode())
