"""What one gateway process holds: settings, the database's doorway, viewers, numbers."""

import hashlib
import math
import time
from collections.abc import Callable
from typing import TypeVar

from anyio import CancelScope, CapacityLimiter, current_time, from_thread, to_thread
from sqlalchemy.orm import Session

from service.metrics import Metrics
from service.viewers import Viewers
from xmag.config import Settings
from xmag.db import keys
from xmag.db.keys import Principal
from xmag.db.session import connect, transaction
from xmag.errors import Code, PlaceError

DATABASE_THREADS = 20
CONNECT_SECONDS = 1.5
KEY_SECONDS = 3.0
"""How long a key that was found good is not looked up again: a revoked key works at most so long."""

_KEYS_HELD = 1024

T = TypeVar("T")


class Gateway:
    """One for each app. Made without any I/O; `close` ends its processes and connections."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = connect(settings.database_url.get_secret_value(), pool=DATABASE_THREADS)
        self.metrics = Metrics()
        self.viewers = Viewers(settings)
        self.streams = 0
        self._threads: CapacityLimiter | None = None
        self._files: CapacityLimiter | None = None
        self._keys: dict[bytes, tuple[float, Principal]] = {}

    async def database(self, work: Callable[[Session], T]) -> T:
        """Run ``work`` in one transaction in a thread; commits before it returns.

        Raises PlaceError DATABASE_UNAVAILABLE within `CONNECT_SECONDS`, the wait for a turn included, when no
        connection answers, even when the server hangs; in that case nothing was or will be written.
        """
        if self._threads is None:
            self._threads = CapacityLimiter(DATABASE_THREADS)
        with CancelScope(deadline=current_time() + CONNECT_SECONDS) as scope:
            async with self._threads:
                spare = CapacityLimiter(1)
                return await to_thread.run_sync(
                    self._transact, work, scope, abandon_on_cancel=True, limiter=spare
                )
        raise PlaceError(Code.DATABASE_UNAVAILABLE, "the database does not answer: try again in a moment")

    def _transact(self, work: Callable[[Session], T], scope: CancelScope) -> T:
        with transaction(self.engine) as session:
            session.connection()
            from_thread.run_sync(_lift, scope)
            return work(session)

    async def file(self, work: Callable[..., T], *args: object) -> T:
        """Run blocking file work in a thread; it is never abandoned half way."""
        if self._files is None:
            self._files = CapacityLimiter(16)
        return await to_thread.run_sync(work, *args, limiter=self._files)

    async def principal(self, token: str) -> Principal | None:
        """Whose key this is; None for an unknown, expired or revoked one."""
        name = hashlib.sha256(token.encode()).digest()
        until, principal = self._keys.get(name, (0.0, None))
        if principal is not None and time.monotonic() < until:
            return principal
        found = await self.database(lambda session: keys.verify(session, token))
        self._keys.pop(name, None)
        if found is not None:
            self._remember(name, found)
        return found

    def _remember(self, name: bytes, principal: Principal) -> None:
        if len(self._keys) >= _KEYS_HELD:
            self._keys.clear()
        self._keys[name] = (time.monotonic() + KEY_SECONDS, principal)

    def close(self) -> None:
        """End the viewers and the pool."""
        self.viewers.close()
        self.engine.dispose()


def _lift(scope: CancelScope) -> None:
    """In the event loop: the connection answers, so time no longer counts, unless it ran out already."""
    if scope.cancel_called:
        raise PlaceError(Code.DATABASE_UNAVAILABLE, "the database does not answer: try again in a moment")
    scope.deadline = math.inf
