"""Runs a migration in one transaction, one program at a time."""

from alembic import context
from sqlalchemy import text

from xmag.db.session import connect, place
from xmag.db.tables import Job

MIGRATION_LOCK = 0x786D6169
"""Advisory lock: programs that start together migrate one after the other."""


def run() -> None:
    """Apply what alembic asks for to the database of ``attributes["url"]``."""
    engine = connect(context.config.attributes["url"], pool=1)
    try:
        with place(), engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            context.configure(
                connection=connection, target_metadata=Job.metadata, compare_server_default=True
            )
            context.run_migrations()
    finally:
        engine.dispose()


run()
