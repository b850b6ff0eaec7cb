"""Connections and the one edge where transactions commit and database errors are named."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from psycopg import Error
from psycopg.errors import DiskFull
from sqlalchemy import TIMESTAMP, ColumnElement, Engine, create_engine, func, select
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from xmag.errors import Code, JobError, PlaceError, RequestError, XmagError

GUARDS = {"statement_timeout": 15_000, "lock_timeout": 3_000, "idle_in_transaction_session_timeout": 15_000}
"""Milliseconds; a forgotten transaction must not hold the queue."""


def connect(url: str, *, pool: int = 10) -> Engine:
    """A pooled engine for ``postgresql+psycopg://``; opens nothing until first used."""
    return create_engine(
        url,
        pool_size=pool,
        max_overflow=0,
        pool_timeout=1.5,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "application_name": "xmag",
            "connect_timeout": 2,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "tcp_user_timeout": 1_500,
            "options": " ".join(f"-c {name}={value}" for name, value in GUARDS.items()),
        },
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """One session that commits once, at the end, or not at all.

    Raises PlaceError DATABASE_UNAVAILABLE (also when the commit's outcome is unknown: repeat with the same
    idempotency key) and DISK_FULL, RequestError INVALID_REQUEST for a value that no column takes, and
    JobError INTERNAL if a constraint refuses what a program wants.
    """
    with place(), _session(engine) as session, session.begin():
        yield session


@contextmanager
def place() -> Iterator[None]:
    """Name what the driver raises: its own words hold rows and parameters, thus patient data."""
    try:
        yield
    except PoolTimeout:
        raise _unavailable() from None
    except DBAPIError as error:
        raise _named(error) from None


def ping(session: Session) -> None:
    """Raise if the database does not answer."""
    session.execute(select(1))


def now() -> ColumnElement[datetime]:
    """The database's clock when the statement arrives; stable within it, so that indexes on times serve."""
    return func.statement_timestamp(type_=TIMESTAMP(timezone=True))


def after(seconds: float) -> ColumnElement[datetime]:
    """The database's clock, ``seconds`` from now (negative: ago)."""
    return now() + timedelta(seconds=seconds)


def _session(engine: Engine) -> Session:
    """Writes only when told to, so that a row is never written half-changed."""
    return Session(engine, expire_on_commit=False, autoflush=False)


def _named(error: DBAPIError) -> XmagError:
    if isinstance(error.orig, DiskFull):
        return PlaceError(Code.DISK_FULL, "the database's disk is full: free space, then try again")
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        return _unavailable()
    if isinstance(error, DataError):
        return RequestError(Code.INVALID_REQUEST, "a value is out of range or holds a NUL character")
    constraint = error.orig.diag.constraint_name if isinstance(error.orig, Error) else None
    return JobError(Code.INTERNAL, f"the database refused: {constraint or type(error.orig).__name__}")


def _unavailable() -> PlaceError:
    return PlaceError(Code.DATABASE_UNAVAILABLE, "the database does not answer: try again in a moment")
