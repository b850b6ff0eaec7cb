"""A ward with jobs in its queue, and settings of a worker on it."""

import time
from collections.abc import Callable

import pytest
import redis
from pydantic import SecretStr

from tests.integration.db.conftest import Hospital
from worker.broker import QUEUE
from xmag.config import Decode, Lease, Settings, Worker


@pytest.fixture
def hospital(engine) -> Hospital:
    opened = Hospital(engine)
    opened.open_ward()
    return opened


@pytest.fixture
def settings(database, redis_url, tmp_path) -> Settings:
    return Settings(
        database_url=SecretStr(database),
        redis_url=SecretStr(redis_url),
        data=tmp_path,
        slide_roots={"slides": tmp_path},
        lease=Lease(seconds=1, poll_seconds=0.1),
        decode=Decode(timeout_seconds=2),
        worker=Worker(slots=2, device="cpu"),
    )


@pytest.fixture
def broker(redis_url):
    client = redis.Redis.from_url(redis_url)
    client.delete(QUEUE)
    yield client
    client.delete(QUEUE)
    client.close()


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
