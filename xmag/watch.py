"""What an analysis tells while it runs: progress to its caller, seconds to its provenance."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

from xmag.analysis import Progress, Stage

WAIT_SECONDS = 0.5

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
        """Do work that says nothing for long (loading a release) in a thread, telling that it goes on."""
        pool = ThreadPoolExecutor(1, "patiently")
        try:
            doing = pool.submit(work)
            while True:
                try:
                    return doing.result(WAIT_SECONDS)
                except Late:
                    if doing.done():
                        raise
                    self.tell(stage, 0, 100)
        finally:
            pool.shutdown(wait=False)
