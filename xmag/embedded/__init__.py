"""Private servers for the one-command set-up: PostgreSQL and Valkey from wheels, data in one folder."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xmag.embedded.postgres import EmbeddedPostgres
from xmag.embedded.process import Guard, folder_lock
from xmag.embedded.redis import EmbeddedRedis


@dataclass(frozen=True)
class Servers:
    """Running servers; their ports and passwords are kept, so the URLs hold over a restart."""

    postgres: EmbeddedPostgres
    redis: EmbeddedRedis | None
    guard: Guard

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL, password included."""
        return self.postgres.url

    @property
    def redis_url(self) -> str:
        """redis:// URL with the password, empty without a Redis server."""
        return self.redis.url if self.redis else ""


def silent(_message: str) -> None:
    """Report nothing."""


@contextlib.contextmanager
def start(folder: Path, *, redis: bool = True, reporter: Callable[[str], None] = silent) -> Iterator[Servers]:
    """Run the servers on ``folder`` while the block lasts.

    Raises PlaceError SETUP when another process runs on the folder or a server cannot start here.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder_lock(folder))
        guard = Guard()
        stack.callback(guard.close)
        postgres = EmbeddedPostgres(folder, guard)
        reporter("starting PostgreSQL")
        stack.callback(postgres.stop)
        postgres.start()
        broker = EmbeddedRedis(folder, guard) if redis else None
        if broker:
            reporter("starting Valkey")
            stack.callback(broker.stop)
            broker.start()
        yield Servers(postgres, broker, guard)
