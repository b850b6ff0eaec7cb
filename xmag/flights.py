"""Which bags are being encoded: who asks for one under way waits for it, and encodes nothing twice."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

WAIT_SECONDS = 0.5


@dataclass
class Flight:
    """One encoding under way; ``urgent`` turns true when someone urgent waits for it."""

    urgent: bool
    ended: threading.Event = field(default_factory=threading.Event)


class Flights:
    """The encodings under way in this process, by the key of their bag; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[str, Flight] = {}

    @contextmanager
    def alone(self, key: str, urgent: bool, on_wait: Callable[[], None]) -> Iterator[Flight]:
        """Hold the only encoding of a bag.

        Waits for whoever holds it, and then look into the store first. ``on_wait`` is called now and then
        meanwhile and may raise.
        """
        while (mine := self._begin(key, urgent)) is None:
            self._wait(key, urgent, on_wait)
        try:
            yield mine
        finally:
            with self._lock:
                del self._under_way[key]
            mine.ended.set()

    def _begin(self, key: str, urgent: bool) -> Flight | None:
        with self._lock:
            if key in self._under_way:
                return None
            mine = self._under_way[key] = Flight(urgent)
            return mine

    def _wait(self, key: str, urgent: bool, on_wait: Callable[[], None]) -> None:
        with self._lock:
            ahead = self._under_way.get(key)
            if ahead is None:
                return
            ahead.urgent = ahead.urgent or urgent
        while not ahead.ended.wait(WAIT_SECONDS):
            on_wait()
