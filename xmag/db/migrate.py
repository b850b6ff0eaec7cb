"""Bring a database's schema to the one this code knows."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine


def upgrade(url: str) -> None:
    """Migrate to the newest schema; safe to run from several programs at once.

    Raises PlaceError DATABASE_UNAVAILABLE.
    """
    command.upgrade(config(url), "head")


def is_current(engine: Engine) -> bool:
    """Whether the schema is the newest; raises what the connection raises."""
    newest = ScriptDirectory.from_config(config("")).get_current_head()
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() == newest


def config(url: str) -> Config:
    """Alembic's configuration without an ini file; ``url`` is kept out of its text options."""
    settings = Config(attributes={"url": url})
    settings.set_main_option("script_location", str(files("migrations")))
    return settings
