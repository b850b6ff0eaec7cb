"""Long silent work is done while its caller hears that it goes on."""

import threading

import pytest

from xmag import watch
from xmag.watch import Watch


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watch, "WAIT_SECONDS", 0.01)


def test_it_tells_until_the_work_is_done():
    told = []
    enough = threading.Event()

    def report(progress) -> None:
        told.append(progress)
        if len(told) == 3:
            enough.set()

    assert Watch(report).patiently("open", lambda: enough.wait(10) and 7) == 7
    assert len(told) >= 3


def test_after_a_while_it_tells_no_more(monkeypatch):
    monkeypatch.setattr(watch, "PATIENCE_SECONDS", 0.05)
    told, hold = [], threading.Event()
    threading.Timer(0.3, hold.set).start()
    Watch(told.append).patiently("open", lambda: hold.wait(10))
    assert 0 < len(told) < 15


def test_what_the_work_raises_is_raised_here():
    def broken() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        Watch(lambda _: None).patiently("open", broken)


def test_the_caller_may_stop_without_waiting_for_the_work():
    hold = threading.Event()

    def report(_) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Watch(report).patiently("open", lambda: hold.wait(10))
    hold.set()
