"""The workers' side: claims, leases, fences, and what the database itself refuses."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from xmag.config import Lease
from xmag.db import attempts, jobs, outbox, results, slides
from xmag.db.session import transaction
from xmag.errors import JOB_CODES, Code, JobError, SlideError

LEASE = Lease(seconds=30, max_lost=3, backoff_seconds=0)


def expire(hospital: Any) -> None:
    hospital.sql("UPDATE jobs SET lease_until = clock_timestamp() - interval '1 s' WHERE state = 'running'")


def reap(hospital: Any, lease: Lease = LEASE) -> attempts.Reaped:
    with transaction(hospital.engine) as session:
        return attempts.reap(session, lease)


def test_racing_workers_take_each_job_once(hospital: Any) -> None:
    made = [hospital.job() for _ in range(50)]
    start = threading.Barrier(8)

    def work(name: str) -> list[attempts.Claim]:
        start.wait()
        taken = []
        while (claim := hospital.claim(name)) is not None:
            taken.append(claim)
        return taken

    with ThreadPoolExecutor(8) as pool:
        claims = [claim for taken in pool.map(work, map(str, range(8))) for claim in taken]
    assert Counter(claim.job_id for claim in claims) == Counter(made)
    assert {claim.epoch for claim in claims} == {1}


def test_the_most_urgent_comes_first_and_the_oldest_of_its_kind(hospital: Any) -> None:
    order: list[jobs.Priority] = ["batch", "routine", "stat", "routine", "stat", "batch"]
    made = [(name, hospital.job(name)) for name in order]
    expected = [job for rank in ("stat", "routine", "batch") for name, job in made if name == rank]
    assert [hospital.take().job_id for _ in made] == expected
    assert hospital.claim() is None


def test_an_urgent_claim_takes_a_stat_job_or_none(hospital: Any) -> None:
    for name in ("batch", "routine"):
        hospital.job(name)
    with transaction(hospital.engine) as session:
        assert attempts.claim_next(session, "w1", LEASE, urgent=True) is None
    stat = hospital.job("stat")
    with transaction(hospital.engine) as session:
        taken = attempts.claim_next(session, "w1", LEASE, urgent=True)
    assert taken is not None
    assert (taken.job_id, taken.urgent, hospital.take().urgent) == (stat, True, False)


def test_a_second_look_at_a_slide_knows_what_the_first_found(hospital: Any, answer: Any) -> None:
    given = hospital.slide()
    fields = {"relative": given.relative, "fingerprint": given.fingerprint}
    hospital.job(**fields)
    first = hospital.take()
    assert slides.known(first.slide) is None
    hospital.finish(first)
    hospital.job(**fields)
    known, found = slides.known(hospital.take().slide), answer(first).slide
    assert known == replace(found, levels=())


def test_a_claim_passes_over_a_row_that_another_holds(hospital: Any) -> None:
    held, free = hospital.job("stat"), hospital.job("batch")
    with transaction(hospital.engine) as session:
        first = attempts.claim_next(session, "w1", LEASE)
        second = hospital.take()
    assert first is not None
    assert (first.job_id, second.job_id) == (held, free)


def test_a_result_is_committed_whole(hospital: Any) -> None:
    job_id = hospital.job("stat", ("nsclc", "rcc"))
    claim = hospital.take()
    with transaction(hospital.engine) as session:
        assert attempts.beat(session, claim, LEASE, "encode", 3, 4) == attempts.Beat(alive=True, cancel=False)
    progress = hospital.view(job_id).progress
    assert (progress.stage, progress.done, progress.total) == ("encode", 3, 4)
    assert progress.fraction == pytest.approx(0.1 + 0.86 * 0.75)
    assert hospital.finish(claim)
    view = hospital.view(job_id)
    with transaction(hospital.engine) as session:
        result = results.load(session, job_id)
    assert result is not None
    assert view.state == "succeeded"
    assert view.finished_at is not None
    assert [one.task for one in result.predictions] == ["nsclc", "rcc"]
    assert result.predictions[0].probabilities == {"LUAD": 0.75, "LUSC": 0.25}
    assert (result.epoch, result.tiles, result.document) == (1, 7, {"tiles": 7})
    slide = hospital.sql("SELECT sha256, vendor, mpp_x FROM slides")[0]
    assert slide == {"sha256": "a" * 64, "vendor": "aperio", "mpp_x": 0.5}


def test_a_zombie_writes_nothing(hospital: Any) -> None:
    job_id = hospital.job()
    zombie = hospital.take()
    expire(hospital)
    assert reap(hospital) == attempts.Reaped(requeued=1)
    heir = hospital.take()
    assert (heir.job_id, heir.epoch, heir.attempt) == (job_id, 2, 2)
    with transaction(hospital.engine) as session:
        assert not attempts.beat(session, zombie, LEASE, "encode", 1, 2).alive
        assert not attempts.fail(session, zombie, Code.INTERNAL, "late")
        assert not attempts.hand_back(session, zombie)
        assert not attempts.lost(session, zombie, Code.DISK_FULL, "late", LEASE)
        assert not attempts.cancelled(session, zombie)
    assert not hospital.finish(zombie)
    assert hospital.view(job_id).state == "running"
    assert hospital.finish(heir)
    assert not hospital.finish(heir)
    assert not hospital.finish(zombie)


def test_two_finishes_at_once_commit_one_result(hospital: Any) -> None:
    hospital.job()
    claim = hospital.take()
    start = threading.Barrier(4)

    def finish(_: int) -> bool:
        start.wait()
        return bool(hospital.finish(claim))

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(finish, range(4))) == [False, False, False, True]


def test_a_job_lost_three_times_is_dead(hospital: Any) -> None:
    job_id = hospital.job()
    for requeued in (1, 1, 0):
        hospital.take()
        expire(hospital)
        assert reap(hospital) == attempts.Reaped(requeued=requeued, dead=1 - requeued)
    view = hospital.view(job_id)
    assert (view.state, view.attempts) == ("dead", 3)
    assert view.error is not None
    assert view.error.code == "INTERNAL"
    assert reap(hospital) == attempts.Reaped()


def test_a_live_lease_is_left_alone_and_a_beat_renews_it(hospital: Any) -> None:
    hospital.job()
    claim = hospital.take()
    assert reap(hospital) == attempts.Reaped()
    expire(hospital)
    with transaction(hospital.engine) as session:
        assert attempts.beat(session, claim, LEASE, "encode", 1, 2).alive
    assert reap(hospital) == attempts.Reaped()


def test_backoff_doubles_and_delays_job_and_bell(hospital: Any) -> None:
    lease = Lease(backoff_seconds=1000)
    hospital.job()
    for factor in (1, 2):
        hospital.take()
        expire(hospital)
        reap(hospital, lease)
        assert hospital.claim() is None
        found = hospital.sql(
            "SELECT extract(epoch FROM j.available_at - clock_timestamp()) AS job,"
            " extract(epoch FROM o.available_at - clock_timestamp()) AS bell"
            " FROM jobs j JOIN outbox o ON o.job_id = j.id ORDER BY o.id DESC LIMIT 1"
        )[0]
        assert 1000 * factor - 100 < found["job"] <= 1000 * factor
        assert 1000 * factor - 100 < found["bell"] <= 1000 * factor
        hospital.sql("UPDATE jobs SET available_at = clock_timestamp()")


def test_handing_back_costs_nothing_and_keeps_the_place(hospital: Any) -> None:
    first, _second = hospital.job(), hospital.job()
    for _ in range(5):
        claim = hospital.take()
        assert claim.job_id == first
        with transaction(hospital.engine) as session:
            assert attempts.hand_back(session, claim)
    assert hospital.sql("SELECT DISTINCT lost_attempts FROM jobs") == [{"lost_attempts": 0}]


def test_passing_trouble_is_tried_again_and_then_dead_with_a_job_code(hospital: Any) -> None:
    job_id = hospital.job()
    for _ in range(3):
        claim = hospital.take()
        with transaction(hospital.engine) as session:
            assert attempts.lost(session, claim, Code.DISK_FULL, "the disk is full", LEASE)
    view = hospital.view(job_id)
    assert (view.state, view.error) == ("dead", jobs.Failure("INTERNAL", "the disk is full"))


def test_every_job_code_can_be_stored(hospital: Any) -> None:
    for code in sorted(JOB_CODES):
        job_id = hospital.job()
        claim = hospital.take()
        with transaction(hospital.engine) as session:
            attempts.fail(session, claim, code, "why")
        assert hospital.view(job_id).error == jobs.Failure(code, "why")


def test_a_wish_to_cancel_survives_the_worker(hospital: Any) -> None:
    def hand_back(claim: attempts.Claim) -> bool:
        with transaction(hospital.engine) as session:
            return attempts.hand_back(session, claim)

    for end in (lambda _: reap(hospital), hand_back):
        job_id = hospital.job()
        claim = hospital.take()
        with transaction(hospital.engine) as session:
            jobs.request_cancel(session, job_id, "ann")
        expire(hospital)
        assert end(claim)
        assert hospital.view(job_id).state == "cancelled"


def test_a_job_that_waited_too_long_fails(hospital: Any) -> None:
    job_id = hospital.job()
    hospital.sql("UPDATE jobs SET deadline_at = clock_timestamp()")
    assert hospital.claim() is None
    assert reap(hospital) == attempts.Reaped(timed_out=1)
    view = hospital.view(job_id)
    assert view.error is not None
    assert (view.state, view.error.code) == ("failed", "QUEUE_TIMEOUT")


def test_other_bytes_than_those_known_are_not_a_result(hospital: Any) -> None:
    job_id = hospital.job(sha256="f" * 64)
    claim = hospital.take()
    with pytest.raises(SlideError) as changed:
        hospital.finish(claim)
    assert changed.value.code == Code.SLIDE_CHANGED
    assert hospital.view(job_id).state == "running"


def test_an_answer_by_another_release_is_refused(hospital: Any, answer: Any) -> None:
    hospital.job("stat", ("nsclc", "rcc"))
    claim = hospital.take()
    swapped = replace(claim, heads={"nsclc": claim.heads["rcc"], "rcc": claim.heads["nsclc"]})
    partial = replace(claim, heads={"nsclc": claim.heads["nsclc"]})
    for wrong in (swapped, partial):
        with pytest.raises(JobError), transaction(hospital.engine) as session:
            attempts.succeed(session, claim, answer(wrong))
        assert hospital.view(claim.job_id).state == "running"
    assert hospital.finish(claim)


def test_bells_wait_for_their_time_and_ring_again_only_at_the_front(hospital: Any) -> None:
    made = [hospital.job() for _ in range(5)]
    with transaction(hospital.engine) as session:
        bells = outbox.take_batch(session, 10)
        with transaction(hospital.engine) as other:
            assert outbox.take_batch(other, 10) == []
        outbox.mark_sent(session, [bell.id for bell in bells])
    assert [bell.job_id for bell in bells] == made
    with transaction(hospital.engine) as session:
        assert outbox.take_batch(session, 10) == []
        assert outbox.ring_again(session, 60, 10) == 0
        assert outbox.ring_again(session, 0, 2) == 2
        assert outbox.ring_again(session, 0, 2) == 0
        assert [bell.job_id for bell in outbox.take_batch(session, 10)] == made[:2]
        assert outbox.prune(session) == 0
        assert outbox.prune(session, 0) == 5
    hospital.take()
    with transaction(hospital.engine) as session:
        assert outbox.ring_again(session, 0, 10) == 3


QUEUED, RUNNING, ENDED = (f" WHERE state = '{state}'" for state in ("queued", "running", "succeeded"))
NEW_RESULT = (
    "INSERT INTO results (job_id, epoch, tiles, document, overlays, embeddings, provenance)"
    " SELECT id, {}, 1, '{{}}', '{{}}', '{{}}', '{{}}' FROM jobs" + RUNNING
)
REFUSED = {
    "a finished job changes": "UPDATE jobs SET done = 1, total = 1" + ENDED,
    "a finished job runs again": "UPDATE jobs SET state = 'queued', finished_at = NULL" + ENDED,
    "a job vanishes": "DELETE FROM jobs",
    "an epoch falls": "UPDATE jobs SET epoch = 0" + RUNNING,
    "a claim skips an epoch": "UPDATE jobs SET state = 'running', epoch = 7, worker = 'w',"
    " started_at = now(), lease_until = now()" + QUEUED,
    "an unknown state": "UPDATE jobs SET state = 'paused'" + QUEUED,
    "running without a lease": "UPDATE jobs SET lease_until = NULL" + RUNNING,
    "running without an attempt": "UPDATE attempts SET outcome = 'ok', ended_at = now() WHERE"
    " ended_at IS NULL",
    "success without a result": "UPDATE jobs SET state = 'succeeded', finished_at = now(),"
    " lease_until = NULL, worker = NULL" + RUNNING,
    "success without running": "UPDATE jobs SET state = 'succeeded', finished_at = now()" + QUEUED,
    "failure without a code": "UPDATE jobs SET state = 'failed', finished_at = now()" + QUEUED,
    "a foreign code": "UPDATE jobs SET state = 'failed', finished_at = now(), error_code = 'CONFLICT'"
    + QUEUED,
    "more losses than allowed": "UPDATE jobs SET lost_attempts = 4" + RUNNING,
    "a second open attempt": "INSERT INTO attempts (job_id, epoch, worker) SELECT id, 9, 'w' FROM jobs"
    + RUNNING,
    "a result of a running job": NEW_RESULT.format("epoch"),
    "a result of no attempt": NEW_RESULT.format(5),
    "a result changes": "UPDATE results SET tiles = 8",
    "a result vanishes": "DELETE FROM results",
    "a prediction changes": "UPDATE predictions SET label = 'LUSC'",
    "a prediction vanishes": "DELETE FROM predictions",
    "a pinned release changes": "UPDATE job_releases SET digest = digest",
    "an audit event changes": "UPDATE audit SET actor = 'eve'",
    "an audit event vanishes": "DELETE FROM audit",
    "all audit events vanish": "TRUNCATE audit",
    "all jobs vanish": "TRUNCATE jobs CASCADE",
    "a release changes": "UPDATE releases SET manifest = '{}'",
    "two heads serve a task": "INSERT INTO deployments (task, digest, active, actor)"
    " SELECT task, digest, true, 'eve' FROM deployments",
}


def test_the_database_itself_refuses_what_must_never_be(hospital: Any) -> None:
    hospital.job("stat")
    hospital.finish(hospital.take())
    hospital.job("stat")
    hospital.take()
    hospital.job("batch")

    def refused(statement: str) -> bool:
        try:
            with hospital.engine.begin() as connection:
                assert connection.execute(text(statement)).rowcount != 0, "the statement meets no row"
        except IntegrityError:
            return True
        return False

    assert [name for name, statement in REFUSED.items() if not refused(statement)] == []
