"""What an analysis tells while it runs: progress to its caller, seconds to its provenance."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

from xmag.analysis import Progress, Stage

WAIT_SECONDS = 0.5
PATIENCE_SECONDS = 600.0

T = TypeVar("T")


class Watch:
    """Reports progress and adds up each stage's seconds."""

    def __init__(self, report: Callable[[Progress], None]) -> None:
        self._report = report
        self.seconds: dict[str, float] = {}

    def tell(self, stage: Stage, done: int, total: int) -> None:
        """Report; the caller's function may raise to stop the work."""
        self._report(Progress(stage, done, total))

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Time what happens within."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start

    def patiently(self, stage: Stage, work: Callable[[], T]) -> T:
        """Do work that says nothing for long (loading a release) in a thread, telling that it goes on.

        After `PATIENCE_SECONDS` nothing is told any more: then it counts as hung.
        """
        doing: Future[T] = Future()
        threading.Thread(target=_do, args=(work, doing), name="patiently", daemon=True).start()
        ends = perf_counter() + PATIENCE_SECONDS
        while not wait([doing], WAIT_SECONDS).done:
            if perf_counter() < ends:
                self.tell(stage, 0, 100)
        return doing.result()


def _do(work: Callable[[], T], doing: Future[T]) -> None:
    """Whatever the work raises is raised where it is waited for."""
    try:
        doing.set_result(work())
    except BaseException as error:  # noqa: BLE001
        doing.set_exception(error)
