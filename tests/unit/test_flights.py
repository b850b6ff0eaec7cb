"""Of all who want a bag at once one encodes it."""

import threading
import time

import pytest

from xmag import flights
from xmag.flights import Flights


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(flights, "WAIT_SECONDS", 0.01)


def nothing() -> None:
    pass


def test_one_at_a_time_and_each_in_the_end():
    subject, inside, most, done = Flights(), [], [], []

    def ask() -> None:
        with subject.alone("bag", False, nothing):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.005)
            inside.pop()
        done.append(1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (max(most), len(done)) == (1, 8)


def test_other_bags_do_not_wait():
    subject = Flights()
    with subject.alone("a", False, nothing), subject.alone("b", False, nothing):
        pass


def test_an_urgent_asker_makes_the_one_before_urgent():
    subject, waited = Flights(), threading.Event()

    def ask() -> None:
        with subject.alone("bag", True, waited.set):
            pass

    thread = threading.Thread(target=ask)
    with subject.alone("bag", False, nothing) as mine:
        assert not mine.urgent
        thread.start()
        assert waited.wait(10)
        assert mine.urgent
    thread.join(10)
    assert not thread.is_alive()


def test_whoever_fails_lets_the_next_one_try():
    subject = Flights()
    with pytest.raises(ZeroDivisionError), subject.alone("bag", False, nothing):
        raise ZeroDivisionError
    with subject.alone("bag", False, nothing):
        pass


def test_a_waiter_may_be_stopped():
    subject = Flights()

    def stop() -> None:
        raise KeyboardInterrupt

    with subject.alone("bag", False, nothing) as mine:
        with pytest.raises(KeyboardInterrupt), subject.alone("bag", False, stop):
            pass
        assert not mine.ended.is_set()
