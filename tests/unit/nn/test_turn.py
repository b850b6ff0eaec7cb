import threading
import time

import pytest

from xmag.nn import turn as module
from xmag.nn.turn import Turn


def in_line(turn: Turn, name: str, order: list[str], urgent: bool) -> threading.Thread:
    """A thread that waits for its turn; returns when it is in the line."""

    def work() -> None:
        with turn.take(urgent):
            order.append(name)

    waiting = len(turn._waiting)
    thread = threading.Thread(target=work)
    thread.start()
    while len(turn._waiting) == waiting:
        time.sleep(0.001)
    return thread


def test_the_urgent_go_first_and_each_kind_in_the_order_of_arrival() -> None:
    turn, order = Turn(), []
    with turn.take():
        wishes = (("r1", False), ("r2", False), ("u1", True), ("r3", False), ("u2", True))
        threads = [in_line(turn, name, order, urgent) for name, urgent in wishes]
    for thread in threads:
        thread.join()
    assert order == ["u1", "u2", "r1", "r2", "r3"]


def test_the_next_urgent_batch_finds_its_place_kept(monkeypatch) -> None:
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.3)
    turn, order = Turn(), []
    with turn.take(True, lingers=True):
        thread = in_line(turn, "routine", order, False)
    time.sleep(0.05)
    with turn.take(True):
        order.append("urgent")
    thread.join()
    assert order == ["urgent", "routine"]


def test_a_short_turn_between_does_not_lose_the_place(monkeypatch) -> None:
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.3)
    turn, order = Turn(), []
    with turn.take(True, lingers=True):
        thread = in_line(turn, "routine", order, False)
    with turn.take(True):
        order.append("a head")
    time.sleep(0.05)
    with turn.take(True):
        order.append("urgent")
    thread.join()
    assert order == ["a head", "urgent", "routine"]


def test_a_kept_place_that_nobody_takes_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.01)
    turn = Turn()
    with turn.take(True, lingers=True):
        pass
    with turn.take():
        pass


def test_one_at_a_time() -> None:
    turn, inside, most = Turn(), [], []

    def work() -> None:
        for _ in range(50):
            with turn.take():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 200
    assert max(most) == 1


def test_who_waits_is_called_and_may_leave_the_line(monkeypatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    turn, calls, ended = Turn(), [], []

    def impatient() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise TimeoutError

    def work() -> None:
        with pytest.raises(TimeoutError), turn.take(True, impatient):
            pass
        ended.append(1)

    with turn.take():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(5)
    assert (len(calls), ended) == (3, [1])
    with turn.take():
        pass


def test_a_fault_ends_the_turn_and_busy_time_adds_up() -> None:
    turn = Turn()

    def fail() -> None:
        with turn.take():
            time.sleep(0.01)
            raise ValueError("fault")

    with pytest.raises(ValueError, match="fault"):
        fail()
    once = turn.busy_seconds
    assert once >= 0.01
    with turn.take():
        time.sleep(0.01)
    assert turn.busy_seconds >= once + 0.01
