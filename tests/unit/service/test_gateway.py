"""The doorway to the database and the checks around it, without a server."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from service import gateway as module
from service.gateway import Gateway
from xmag.config import Settings
from xmag.db.keys import Principal
from xmag.errors import Code, PlaceError


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway(Settings(database_url=SecretStr("postgresql+psycopg://x:y@127.0.0.1:1/x")))
    yield made
    made.close()


class Connection:
    """A session whose connection answers when the test says so."""

    def __init__(self, answers: threading.Event) -> None:
        self.answers = answers

    def connection(self) -> None:
        assert self.answers.wait(10)


def pretend(monkeypatch: pytest.MonkeyPatch, answers: threading.Event, ended: threading.Event) -> None:
    @contextmanager
    def transaction(_: Any) -> Iterator[Connection]:
        try:
            yield Connection(answers)
        finally:
            ended.set()

    monkeypatch.setattr(module, "transaction", transaction)


def test_a_hanging_server_is_given_up_and_nothing_is_written_later(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, ended, worked = threading.Event(), threading.Event(), threading.Event()
    pretend(monkeypatch, answers, ended)
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.02)

    async def run() -> None:
        with pytest.raises(PlaceError) as caught:
            await gateway.database(lambda _: worked.set())
        assert caught.value.code is Code.DATABASE_UNAVAILABLE
        answers.set()
        while not ended.is_set():
            await anyio.sleep(0.01)

    anyio.run(run)
    assert not worked.is_set()


def test_the_wait_for_a_turn_counts(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, ended = threading.Event(), threading.Event()
    pretend(monkeypatch, answers, ended)
    monkeypatch.setattr(module, "DATABASE_THREADS", 1)
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.2)
    refused: list[float] = []

    async def ask() -> None:
        with pytest.raises(PlaceError):
            await gateway.database(lambda _: None)
        refused.append(anyio.current_time())

    async def run() -> float:
        started = anyio.current_time()
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(ask)
        answers.set()
        while not ended.is_set():
            await anyio.sleep(0.01)
        return max(refused) - started

    assert anyio.run(run) < 20 * 0.2 / 2, "they waited one after the other"
    assert len(refused) == 20


def test_once_connected_the_work_may_take_its_time(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, ended = threading.Event(), threading.Event()
    answers.set()
    pretend(monkeypatch, answers, ended)
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.2)

    def work(_: Any) -> str:
        time.sleep(0.3)
        return "done"

    assert anyio.run(gateway.database, work) == "done"


def test_good_keys_are_remembered_shortly_and_bad_ones_never(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    known = {"good": Principal("lis", frozenset({"read"}))}

    async def database(work: Any) -> Any:
        return work(None)

    def verify(_: Any, token: str) -> Principal | None:
        asked.append(token)
        return known.get(token)

    monkeypatch.setattr(gateway, "database", database)
    monkeypatch.setattr(module.keys, "verify", verify)

    async def run() -> None:
        for token in ("good", "good", "bad", "bad"):
            assert await gateway.principal(token) == known.get(token)
        monkeypatch.setattr(module, "KEY_SECONDS", 0.0)
        gateway._keys.clear()
        await gateway.principal("good")
        del known["good"]
        assert await gateway.principal("good") is None

    anyio.run(run)
    assert asked == ["good", "bad", "bad", "good", "good"]
