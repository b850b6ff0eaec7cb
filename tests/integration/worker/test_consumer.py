"""A worker program whose Redis answers nonsense: bells are lost, jobs and the process are not."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy import make_url

from tests.integration.worker.conftest import wait_for
from worker.broker import QUEUE, TASK, celery_app

USER = "bells"
SICK = "the broker is sick: listening again soon"


def allow(broker: redis.Redis, *rules: str) -> None:
    broker.execute_command("ACL", "SETUSER", USER, *rules)


@pytest.fixture
def user(broker, redis_url) -> Iterator[str]:
    """URL of a user of the broker whose rights can be taken away."""
    allow(broker, "on", ">secret", "~*", "&*", "+@all")
    yield make_url(redis_url).set(username=USER, password="secret").render_as_string(hide_password=False)
    broker.acl_deluser(USER)


@contextmanager
def running(database: str, redis_url: str, data: Path) -> Iterator[subprocess.Popen]:
    given = {
        "XMAG_DATABASE_URL": database,
        "XMAG_REDIS_URL": redis_url,
        "XMAG_DATA": str(data),
        "XMAG_METRICS_PORT": "0",
        "XMAG_LEASE__POLL_SECONDS": "0.2",
        "XMAG_WORKER__DEVICE": "cpu",
        "XMAG_WORKER__SLOTS": "1",
    }
    with (data / "log").open("w") as log:
        command = [sys.executable, "-m", "cli.main", "worker"]
        with subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | given) as process:
            try:
                yield process
            finally:
                process.kill()


def events(data: Path) -> list[str]:
    lines = (data / "log").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines if line.startswith("{") and line.endswith("}")]


def ended(hospital) -> None:
    queued = hospital.job()
    wait_for(lambda: hospital.view(queued).state == "failed")


def test_a_sick_broker_costs_bells_only(hospital, settings, database, user, broker, tmp_path):
    allow(broker, "-brpop")
    with running(database, user, tmp_path) as worker:
        wait_for(lambda: events(tmp_path).count(SICK) >= 2, 45)
        ended(hospital)
        allow(broker, "+brpop")
        celery_app(settings, socket_seconds=5).send_task(TASK, ["any"])
        wait_for(lambda: broker.llen(QUEUE) == 0)
        ended(hospital)
        assert worker.poll() is None
        assert events(tmp_path).count("ready") == 1
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0


def test_a_bell_that_cannot_be_read_is_dropped(hospital, database, redis_url, broker, tmp_path):
    with running(database, redis_url, tmp_path) as worker:
        broker.lpush(QUEUE, "not a bell")
        wait_for(lambda: SICK in events(tmp_path), 45)
        ended(hospital)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    assert broker.llen(QUEUE) == 0


def test_a_worker_stops_while_its_broker_is_sick(database, user, broker, tmp_path):
    allow(broker, "-@write")
    with running(database, user, tmp_path) as worker:
        wait_for(lambda: SICK in events(tmp_path), 45)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
