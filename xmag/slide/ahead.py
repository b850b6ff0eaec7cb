"""Tiles read ahead of the one who uses them, bounded in bytes."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

Tiles = NDArray[np.uint8]
Sign = Callable[[float], None]
Read = Callable[[Sign], Generator[Tiles, None, None]]


def read_ahead(
    read: Read, limit: int, stop: Callable[[], None], on_sign: Callable[[], None]
) -> Generator[Tiles, None, None]:
    """Yield the batches that ``read`` gives, read beforehand by a thread; ``close`` it when leaving early.

    Args:
        read: starts the reading; it gets a function to call with a share done while a batch is slow.
        limit: bytes that may wait; a single larger batch is let through alone.
        stop: ends a read that hangs, called when the batches are left before their end.
        on_sign: called here, not in the thread, whenever the reading gave a sign of life; it may raise.

    What the reading raises is raised here, after the batches before it.
    """
    line = _Line(limit)
    thread = threading.Thread(target=line.fill, args=(read(line.sign),), name="read-ahead", daemon=True)
    thread.start()
    try:
        yield from line.take(on_sign)
    finally:
        if not line.leave():
            stop()
        thread.join()


class _Line:
    """Batches that wait, between the thread that reads and the one that takes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[Tiles] = deque()
        self._bytes = 0
        self._signed = self._ended = self._left = False
        self._error: BaseException | None = None
        self._change = threading.Condition()

    def sign(self, _: float) -> None:
        with self._change:
            self._signed = True
            self._change.notify_all()

    def fill(self, batches: Generator[Tiles, None, None]) -> None:
        """The thread: whatever ends it is kept for the taker."""
        try:
            with closing(batches):
                for batch in batches:
                    if not self._put(batch):
                        return
        except BaseException as error:  # noqa: BLE001
            self._error = error
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()

    def take(self, on_sign: Callable[[], None]) -> Iterator[Tiles]:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._ended or self._signed)
                signed, self._signed = self._signed, False
                batch = self._pop()
                ended = self._ended and batch is None
            if signed:
                on_sign()
            if batch is not None:
                yield batch
            elif ended:
                break
        if self._error is not None:
            raise self._error

    def leave(self) -> bool:
        """Let the thread end; False when it was still reading."""
        with self._change:
            self._left = True
            self._change.notify_all()
            return self._ended

    def _put(self, batch: Tiles) -> bool:
        with self._change:
            self._change.wait_for(lambda: self._left or self._fits(batch))
            if self._left:
                return False
            self._waiting.append(batch)
            self._bytes += batch.nbytes
            self._change.notify_all()
            return True

    def _fits(self, batch: Tiles) -> bool:
        return not self._waiting or self._bytes + batch.nbytes <= self._limit

    def _pop(self) -> Tiles | None:
        if not self._waiting:
            return None
        batch = self._waiting.popleft()
        self._bytes -= batch.nbytes
        self._change.notify_all()
        return batch
