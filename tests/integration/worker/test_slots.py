"""Slots and keepers against a real database; no weights are needed to see a job fail as it should."""

import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.integration.worker.conftest import wait_for
from worker import job
from worker.keeper import Keeper, StopWork
from worker.slots import Slots
from xmag.analyze import Progress
from xmag.db import attempts, jobs
from xmag.db.session import transaction
from xmag.errors import Code, JobError, XmagError


@pytest.fixture
def slots(settings):
    made = Slots(settings)
    made.start()
    yield made
    made.drain()
    assert made.join(30)


def keep(hospital, settings, draining=None) -> Keeper:
    return Keeper(hospital.engine, hospital.take(), settings, draining or threading.Event())


def stopped(keeper: Keeper, seconds: float = 10) -> str:
    deadline = time.monotonic() + seconds
    done = 0
    while time.monotonic() < deadline:
        try:
            keeper.note(Progress("encode", done, 1_000_000))
        except StopWork as stop:
            return stop.reason
        done += 1
        time.sleep(0.01)
    raise AssertionError("was not stopped")


def test_missing_weights_fail_every_job_with_their_code(hospital, slots):
    queued = [hospital.job() for _ in range(5)]
    slots.ring()
    wait_for(lambda: all(hospital.view(one).state == "failed" for one in queued))
    assert {hospital.view(one).error.code for one in queued} == {"MODEL_UNAVAILABLE"}
    assert slots.alive()


def test_an_unforeseen_error_costs_one_job_and_not_the_slot(hospital, slots, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(job.analyze, "analyze", broken)
    first = hospital.job()
    wait_for(lambda: hospital.view(first).state == "failed")
    assert hospital.view(first).error.code == "INTERNAL"
    monkeypatch.undo()
    second = hospital.job()
    wait_for(lambda: hospital.view(second).state == "failed")
    assert hospital.view(second).error.code == "MODEL_UNAVAILABLE"


def test_a_full_disk_is_tried_again_and_not_for_ever(hospital, slots, monkeypatch):
    def full(*_, **__):
        raise job.PlaceError(Code.DISK_FULL, "the disk is full")

    monkeypatch.setattr(job.analyze, "analyze", full)
    queued = hospital.job()
    wait_for(lambda: hospital.view(queued).state == "dead")
    assert hospital.view(queued).attempts == 3


def test_a_stat_job_starts_while_every_slot_is_at_routine_work(hospital, slots, monkeypatch):
    hold, begun = threading.Event(), []

    def slow(*_, urgent, **__):
        begun.append(urgent)
        if not urgent:
            assert hold.wait(60)
        raise JobError(Code.INTERNAL, "enough")

    monkeypatch.setattr(job.analyze, "analyze", slow)
    routine = [hospital.job() for _ in range(slots.count + 2)]
    wait_for(lambda: len(begun) == slots.count)
    urgent = hospital.job("stat")
    slots.ring()
    wait_for(lambda: hospital.view(urgent).state == "failed")
    assert begun == [False] * slots.count + [True]
    assert [hospital.view(one).state for one in routine].count("queued") == 2
    hold.set()
    wait_for(lambda: all(hospital.view(one).state == "failed" for one in routine))


def test_a_root_that_the_worker_lacks_is_named(hospital, settings):
    hospital.job(root="elsewhere")
    with pytest.raises(XmagError, match="same roots") as caught:
        job.locate(hospital.take().slide, settings)
    assert caught.value.code == Code.SLIDE_NOT_FOUND


def test_the_lease_holds_while_the_work_goes_on(hospital, settings):
    queued = hospital.job()
    with keep(hospital, settings) as keeper:
        ends = time.monotonic() + 2.5 * settings.lease.seconds
        while time.monotonic() < ends:
            keeper.note(Progress("encode", 1, 2))
            time.sleep(0.05)
            with transaction(hospital.engine) as session:
                assert attempts.reap(session, settings.lease).requeued == 0
    assert hospital.view(queued).progress.stage == "encode"


def test_the_lease_of_silent_work_is_let_go(hospital, settings, monkeypatch):
    ends = []
    monkeypatch.setattr("worker.keeper._exit_stuck", ends.append)
    queued = hospital.job()
    with keep(hospital, settings):

        def lost() -> bool:
            with transaction(hospital.engine) as session:
                return attempts.reap(session, settings.lease).requeued == 1

        wait_for(lost)
        assert hospital.view(queued).state == "queued"
        wait_for(lambda: bool(ends))


def test_a_fenced_worker_stops(hospital, settings):
    hospital.job()
    with keep(hospital, settings) as keeper:
        hospital.sql("update jobs set lease_until = clock_timestamp() - interval '1 s'")
        with transaction(hospital.engine) as session:
            attempts.reap(session, settings.lease)
        assert stopped(keeper) == "fenced"


def test_a_cancelled_job_stops(hospital, settings):
    queued = hospital.job()
    with keep(hospital, settings) as keeper:
        with transaction(hospital.engine) as session:
            jobs.request_cancel(session, queued, "ann")
        assert stopped(keeper) == "cancelled"


def test_a_draining_worker_stops(hospital, settings):
    hospital.job()
    draining = threading.Event()
    with keep(hospital, settings, draining) as keeper:
        keeper.note(Progress("encode", 1, 2))
        draining.set()
        assert stopped(keeper) == "draining"


def test_an_attempt_has_a_time_limit(hospital, settings):
    hospital.job()
    short = settings.worker.model_copy(update={"job_seconds": 0.05})
    with keep(hospital, settings.model_copy(update={"worker": short})) as keeper:
        time.sleep(0.06)
        with pytest.raises(JobError) as caught:
            keeper.note(Progress("encode", 1, 2))
    assert caught.value.code == Code.TIME_LIMIT


def test_a_queue_that_cannot_be_read_does_not_cost_the_threads(hospital, slots, monkeypatch):
    def refused(*_):
        raise JobError(Code.INTERNAL, "the database refused: UndefinedTable")

    tried = []
    monkeypatch.setattr("worker.slots.attempts.claim_next", lambda *_, **__: tried.append(1) or refused())
    wait_for(lambda: len(tried) > 2 * len(slots._threads))
    assert slots.alive()
    monkeypatch.undo()
    queued = hospital.job()
    wait_for(lambda: hospital.view(queued).state == "failed")


def test_a_worker_that_cannot_start_its_slots_ends(settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {
            "PATH": "",
            "XMAG_DATABASE_URL": settings.database_url.get_secret_value(),
            "XMAG_REDIS_URL": settings.redis_url.get_secret_value(),
            "XMAG_METRICS_PORT": str(taken.getsockname()[1]),
        }
        command = [sys.executable, "-m", "cli.main", "worker"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "the slots did not start" in done.stderr
