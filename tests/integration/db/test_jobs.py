"""Submit, read, cancel and retry."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine

from xmag.config import Lease
from xmag.db import attempts, audit, jobs, outbox, results, slides
from xmag.db.session import transaction
from xmag.errors import Code, ReleaseError, RequestError
from xmag.slide.location import Fingerprint
from xmag.units import Mpp, MppXY

LEASE = Lease(seconds=30, backoff_seconds=0)


def submit(engine: Engine, new: jobs.NewJob, key: str, body: str = "b") -> jobs.Submitted:
    with transaction(engine) as session:
        return jobs.submit(session, new, jobs.Idempotency(key, body), LEASE)


def test_one_key_from_many_threads_makes_one_job(hospital: Any) -> None:
    new = jobs.NewJob(hospital.add(), ("nsclc",), "routine", "ann")
    start = threading.Barrier(20)

    def call(_: int) -> jobs.Submitted:
        start.wait()
        return submit(hospital.engine, new, "key")

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(call, range(20)))
    assert len({answer.job_id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert hospital.sql("SELECT count(*) FROM jobs")[0]["count"] == 1


def test_a_key_of_a_failed_submit_is_free_again(hospital: Any) -> None:
    slide_id = hospital.add()
    with pytest.raises(ReleaseError) as failed:
        submit(hospital.engine, jobs.NewJob(slide_id, ("odx",), "routine", "ann"), "key")
    assert failed.value.code == Code.MODEL_UNAVAILABLE
    assert submit(hospital.engine, jobs.NewJob(slide_id, ("nsclc",), "routine", "ann"), "key").created


def test_a_key_binds_its_body_and_its_principal(hospital: Any) -> None:
    new = jobs.NewJob(hospital.add(), ("nsclc",), "routine", "ann")
    first = submit(hospital.engine, new, "key")
    with pytest.raises(RequestError) as refused:
        submit(hospital.engine, new, "key", body="other")
    assert refused.value.code == Code.IDEMPOTENCY_MISMATCH
    bob = jobs.NewJob(new.slide_id, ("nsclc",), "routine", "bob")
    assert submit(hospital.engine, bob, "key", body="other").job_id != first.job_id
    with transaction(hospital.engine) as session:
        assert jobs.replayed(session, "ann", jobs.Idempotency("key", "b")) == first.job_id
        assert jobs.replayed(session, "ann", jobs.Idempotency("new", "b")) is None


def test_a_job_comes_with_its_bell_and_audit_event_or_not_at_all(hospital: Any) -> None:
    job_id = hospital.job()
    with pytest.raises(ReleaseError):
        hospital.job(tasks=("nsclc", "odx"))
    with transaction(hospital.engine) as session:
        assert [bell.job_id for bell in outbox.take_batch(session, 10)] == [job_id]
        assert audit.verify(session).broken_at is None
    events = hospital.sql("SELECT object_id FROM audit WHERE action = 'job.submitted'")
    assert [event["object_id"] for event in events] == [str(job_id)]


def test_the_release_is_pinned_at_submit(hospital: Any, make_head: Callable[..., str]) -> None:
    before = hospital.view(hospital.job())
    newer = make_head("nsclc", "newer")
    after = hospital.view(hospital.job())
    assert after.releases == {"nsclc": newer}
    assert before.releases != after.releases
    assert hospital.view(before.id).releases == before.releases
    assert hospital.take().heads == before.releases


def test_a_job_shows_what_was_asked(hospital: Any) -> None:
    given = {"accession": "A1", "specimen": "S", "block": "B", "stain": "HE", "scanner": "X"}
    view = hospital.view(hospital.job("stat", ("nsclc", "rcc"), **given))
    assert {name: getattr(view, name) for name in given} == given
    assert (view.state, view.priority, view.tasks) == ("queued", "stat", ("nsclc", "rcc"))
    assert (view.attempts, view.error, view.cancel_requested) == (0, None, False)
    assert view.progress == jobs.JobProgress(None, 0, 0, 0.0)


def test_a_file_is_one_slide_for_each_naming(hospital: Any) -> None:
    new = hospital.slide(accession=None)
    file = {"root": new.root, "relative": new.relative, "fingerprint": new.fingerprint}
    replaced = Fingerprint(new.fingerprint.size, 999_999, new.fingerprint.inode)
    namings = [
        {},
        {"accession": "A1"},
        {"accession": "A2"},
        {"accession": "A1", "block": "B"},
        {"specimen": "B"},
        {"accession": "A2", "fingerprint": replaced},
    ]
    ids = [hospital.add(**(file | naming)) for naming in namings]
    assert len(set(ids)) == len(namings)
    assert [hospital.add(**(file | naming)) for naming in namings] == ids
    with transaction(hospital.engine) as session:
        rows = [slides.get(session, slide_id) for slide_id in ids]
    assert [row and row.accession for row in rows] == [naming.get("accession") for naming in namings]


def test_an_inode_of_64_bits_is_kept(hospital: Any) -> None:
    slide_id = hospital.add(fingerprint=Fingerprint(1, 2, 2**64 - 1))
    with transaction(hospital.engine) as session:
        row = slides.get(session, slide_id)
    assert row is not None
    assert row.fingerprint.inode == 2**64 - 1


def test_cancel_ends_a_queued_job_and_asks_a_running_one(hospital: Any) -> None:
    queued = hospital.job()
    with transaction(hospital.engine) as session:
        assert jobs.request_cancel(session, queued, "ann").state == "cancelled"
    assert hospital.claim() is None
    running = hospital.job()
    claim = hospital.take()
    with transaction(hospital.engine) as session:
        assert jobs.request_cancel(session, running, "ann").cancel_requested
        assert attempts.beat(session, claim, LEASE, "encode", 1, 2) == attempts.Beat(alive=True, cancel=True)
    assert not hospital.finish(claim)
    assert hospital.view(running).state == "cancelled"
    with transaction(hospital.engine) as session:
        assert results.load(session, running) is None
    with pytest.raises(RequestError) as refused, transaction(hospital.engine) as session:
        jobs.request_cancel(session, running, "ann")
    assert refused.value.code == Code.CONFLICT


def test_retry_is_a_new_job_of_an_ended_one(hospital: Any, make_head: Callable[..., str]) -> None:
    with transaction(hospital.engine) as session:
        slide_id = slides.add(session, hospital.slide())
        mpp = MppXY(Mpp(0.25), Mpp(0.3))
        new = jobs.NewJob(slide_id, ("nsclc",), "stat", "ann", mpp, "scanner log")
        source = jobs.submit(session, new, None, LEASE).job_id
    with pytest.raises(RequestError) as refused, transaction(hospital.engine) as session:
        jobs.retry(session, source, "ann", LEASE)
    assert refused.value.code == Code.CONFLICT
    claim = hospital.take()
    with transaction(hospital.engine) as session:
        assert attempts.fail(session, claim, Code.NO_TISSUE, "no tissue was found")
    newer = make_head("nsclc", "newer")
    with transaction(hospital.engine) as session:
        again = jobs.retry(session, source, "bob", LEASE)
    view, old = hospital.view(again), hospital.view(source)
    assert (view.retry_of, view.priority, view.state, view.principal) == (source, "stat", "queued", "bob")
    assert (old.state, old.error) == ("failed", jobs.Failure("NO_TISSUE", "no tissue was found"))
    second = hospital.take()
    assert second.mpp is not None
    assert (second.mpp.mpp, second.mpp.reason, second.heads) == (mpp, "scanner log", {"nsclc": newer})


def test_unknown_jobs_are_not_found(hospital: Any) -> None:
    for call in (
        lambda session: jobs.request_cancel(session, UUID(int=0), "ann"),
        lambda session: jobs.retry(session, UUID(int=0), "ann", LEASE),
    ):
        with pytest.raises(RequestError) as refused, transaction(hospital.engine) as session:
            call(session)
        assert refused.value.code == Code.NOT_FOUND


def test_pages_hold_every_job_once_while_jobs_arrive(hospital: Any) -> None:
    made = [hospital.job() for _ in range(11)]
    same = hospital.view(made[0]).created_at
    hospital.sql("UPDATE slides SET stain = 'HE'")
    seen, cursor = [], None
    while True:
        with transaction(hospital.engine) as session:
            page = jobs.page(session, jobs.Filter(created_after=same), cursor, 3)
        seen += [job.id for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            break
        hospital.job()
    assert seen == made[::-1]


def test_filters_select(hospital: Any) -> None:
    first = hospital.job("stat", ("nsclc",), accession="A1")
    second = hospital.job("batch", ("rcc", "nsclc"), accession="A2")
    hospital.take()
    middle = hospital.view(second).created_at

    def found(**given: Any) -> list[UUID]:
        with transaction(hospital.engine) as session:
            return [job.id for job in jobs.page(session, jobs.Filter(**given), None, 10).jobs]

    assert found(state="running") == found(accession="A1") == found(priority="stat") == [first]
    assert found(task="rcc") == found(priority="batch", state="queued") == [second]
    assert found(task="nsclc") == [second, first]
    assert found(created_after=middle) == [second]
    assert found(created_before=middle) == [first]
    assert found(created_after=middle + timedelta(seconds=1)) == found(priority="none") == []
    with transaction(hospital.engine) as session:
        assert jobs.counts(session) == {("running", "stat"): 1, ("queued", "batch"): 1}


@pytest.mark.parametrize("cursor", ["", "x", "####", "YWJj", "MjAyNi0wMS0wMSBhYmM=", "ÿ"])
def test_a_foreign_cursor_is_refused(hospital: Any, cursor: str) -> None:
    with pytest.raises(RequestError) as refused, transaction(hospital.engine) as session:
        jobs.page(session, jobs.Filter(), cursor, 3)
    assert refused.value.code == Code.INVALID_REQUEST
