"""Reading ahead keeps order, bounds bytes, and ends when it is left."""

import threading
import time
from collections.abc import Callable, Generator, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmag.errors import Code, SlideError
from xmag.slide.ahead import Tiles, read_ahead


def nothing() -> None:
    pass


def batch(number: int, size: int = 10) -> Tiles:
    return np.full(size, number % 251, np.uint8)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


class Reader:
    """Counts how far it was read, and whether it was ended."""

    def __init__(self, sizes: list[int], error: Exception | None = None) -> None:
        self.sizes, self.error = sizes, error
        self.read, self.closed = 0, threading.Event()

    def __call__(self, sign: Callable[[float], None]) -> Generator[Tiles, None, None]:
        try:
            for number, size in enumerate(self.sizes):
                sign(0.0)
                self.read += 1
                yield batch(number, size)
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 100))
def test_every_batch_arrives_once_and_in_order(sizes, limit):
    reader = Reader(sizes)
    found = list(read_ahead(reader, limit, nothing, nothing))
    assert [len(each) for each in found] == sizes
    assert [int(each[0]) for each in found] == list(range(len(sizes)))
    assert reader.closed.is_set()


@pytest.mark.parametrize(("limit", "ahead"), [(10, 1), (35, 3), (50, 5), (5, 1)])
def test_no_more_bytes_wait_than_allowed(limit, ahead):
    reader = Reader([10] * 50)
    line = read_ahead(reader, limit, nothing, nothing)
    next(line)
    wait_for(lambda: reader.read == 1 + ahead + 1)  # taken, waiting, and one in the reader's hand
    time.sleep(0.05)
    assert reader.read == 1 + ahead + 1
    assert len(list(line)) == 49


def test_an_error_comes_after_the_batches_before_it():
    reader = Reader([1, 1], SlideError(Code.SLIDE_CORRUPT, "broken"))
    line = read_ahead(reader, 100, nothing, nothing)
    assert [len(next(line)), len(next(line))] == [1, 1]
    with pytest.raises(SlideError, match="broken"):
        next(line)


def test_signs_are_heard_in_the_takers_thread_and_may_stop_it():
    heard = []

    def on_sign() -> None:
        heard.append(threading.current_thread())
        raise KeyboardInterrupt

    reader = Reader([10] * 50)
    with pytest.raises(KeyboardInterrupt):
        list(read_ahead(reader, 10, nothing, on_sign))
    assert heard == [threading.current_thread()]
    assert reader.closed.wait(10)


def test_leaving_early_ends_a_read_that_hangs():
    stopped = threading.Event()

    def hanging(_: Callable[[float], None]) -> Iterator[Tiles]:
        yield batch(0)
        assert stopped.wait(10)
        raise SlideError(Code.DECODE_CRASH, "killed")

    line = read_ahead(hanging, 100, stopped.set, nothing)
    next(line)
    before = threading.active_count()
    line.close()
    assert stopped.is_set()
    assert threading.active_count() < before
