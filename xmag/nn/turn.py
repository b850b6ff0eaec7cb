"""Whose turn it is on the device: one at a time, the urgent before all who wait."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from time import perf_counter

WAIT_SECONDS = 0.5
"""Between two calls of a waiter's ``on_wait``."""

LINGER_SECONDS = 0.02
"""How long others hold back after an urgent batch, for the next one is about to come."""


def nothing() -> None:
    """What to do while waiting, when there is nothing."""


class Turn:
    """A lock in order of urgency, then of arrival; nobody who has the turn is interrupted.

    Attributes:
        busy_seconds: how long the turn was taken, all turns together.
    """

    def __init__(self) -> None:
        self.busy_seconds = 0.0
        self._condition = threading.Condition()
        self._arrivals = count()
        self._waiting: list[tuple[bool, int]] = []
        self._taken = False
        self._kept_until = 0.0

    @contextmanager
    def take(
        self, urgent: bool = False, on_wait: Callable[[], None] = nothing, *, lingers: bool = False
    ) -> Iterator[None]:
        """Wait for the turn, hold it inside the block. Not reentrant.

        ``on_wait`` is called about every `WAIT_SECONDS` until then; what it raises ends the waiting. After a
        turn that ``lingers`` only urgent ones may follow for `LINGER_SECONDS`.
        """
        ticket = (not urgent, next(self._arrivals))
        while not self._stand(ticket):
            on_wait()
        start = perf_counter()
        try:
            yield
        finally:
            with self._condition:
                self.busy_seconds += perf_counter() - start
                self._taken = False
                if lingers:
                    self._kept_until = perf_counter() + LINGER_SECONDS
                self._condition.notify_all()

    def _stand(self, ticket: tuple[bool, int]) -> bool:
        """Stand in line for a while; whether the turn came. Who is out of the line holds nobody up."""
        ends = perf_counter() + WAIT_SECONDS
        with self._condition:
            self._waiting.append(ticket)
            try:
                while not (came := self._free(ticket)) and perf_counter() < ends:
                    self._condition.wait(LINGER_SECONDS if self._kept() else WAIT_SECONDS)
                self._taken = self._taken or came
                return came
            finally:
                self._waiting.remove(ticket)
                self._condition.notify_all()

    def _free(self, ticket: tuple[bool, int]) -> bool:
        routine = ticket[0]
        return not self._taken and min(self._waiting) == ticket and not (routine and self._kept())

    def _kept(self) -> bool:
        return perf_counter() < self._kept_until
