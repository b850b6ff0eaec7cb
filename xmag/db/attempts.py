"""The workers' side of a job: claim, beat, end, and what happens to the silent.

Every change by a worker is fenced: it counts only while the job runs under the epoch of its claim. All
functions return False (or ``alive=False``) for a fenced call, which then must discard its work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, insert, select, update
from sqlalchemy.orm import Session

from xmag.config import Lease
from xmag.db import audit, outbox, results, slides
from xmag.db.jobs import mpp_override
from xmag.db.results import NewResult
from xmag.db.session import after, now
from xmag.db.slides import SlideRow
from xmag.db.tables import PRIORITIES, Attempt, Job, JobRelease
from xmag.errors import JOB_CODES, Code
from xmag.slide.info import MppOverride

REAPER = "reaper"
SILENT = "the worker went silent; the job was lost too often"


@dataclass(frozen=True, slots=True)
class Claim:
    """A job held by one worker; ``heads`` maps task to head digest, ``attempt`` counts from 1."""

    job_id: UUID
    epoch: int
    slide: SlideRow
    heads: dict[str, str]
    mpp: MppOverride | None
    attempt: int
    urgent: bool


@dataclass(frozen=True, slots=True)
class Beat:
    """``alive``: the job is still ours; ``cancel``: someone wishes it to stop."""

    alive: bool
    cancel: bool


@dataclass(frozen=True, slots=True)
class Reaped:
    """How many jobs a sweep moved."""

    requeued: int = 0
    dead: int = 0
    cancelled: int = 0
    timed_out: int = 0


def claim_next(session: Session, worker: str, lease: Lease, *, urgent: bool = False) -> Claim | None:
    """Take the most urgent due job, passing over those that others are taking; None if there is none.

    With ``urgent`` only a stat job is taken.
    """
    last = PRIORITIES["stat"] if urgent else max(PRIORITIES.values())
    picked = (
        select(Job.id)
        .where(Job.state == "queued", Job.available_at <= now(), Job.deadline_at > now())
        .where(Job.cancel_requested_at.is_(None), Job.priority <= last)
        .order_by(Job.priority, Job.available_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)
        .cte("picked")
    )
    changes = {
        "state": "running",
        "epoch": Job.epoch + 1,
        "lease_until": after(lease.seconds),
        "worker": worker,
        "started_at": func.coalesce(Job.started_at, now()),
        "stage": None,
        "done": 0,
        "total": 0,
    }
    taken = update(Job).where(Job.id == picked.c.id).values(changes).returning(Job)
    job = session.scalars(
        taken, execution_options={"synchronize_session": False, "populate_existing": True}
    ).one_or_none()
    return None if job is None else _begin(session, job)


def beat(session: Session, claim: Claim, lease: Lease, stage: str, done: int, total: int) -> Beat:
    """Renew the lease and note progress. Call it only after progress: a hung job must lose its lease."""
    changes = {"lease_until": after(lease.seconds), "stage": stage, "done": done, "total": max(done, total)}
    renewed = update(Job).where(*_held(claim)).values(changes).returning(Job.cancel_requested_at)
    row = session.execute(renewed, execution_options={"synchronize_session": False}).one_or_none()
    if row is None:
        return Beat(alive=False, cancel=False)
    session.execute(update(Attempt).where(*_same(claim.job_id, claim.epoch)).values(last_beat_at=now()))
    return Beat(alive=True, cancel=row.cancel_requested_at is not None)


def succeed(session: Session, claim: Claim, result: NewResult) -> bool:
    """Commit the result and end the job; a job that was asked to stop is cancelled instead (False).

    Raises SlideError SLIDE_CHANGED if the bytes that were read are not those known of the slide.
    """
    job = _own(session, claim)
    if job is None:
        return False
    if job.cancel_requested_at is not None:
        _end(session, job, "cancelled", "cancelled")
        return False
    slides.describe(session, job.slide_id, result.slide)
    results.store(session, job.id, job.epoch, result)
    _end(session, job, "succeeded", "ok")
    return True


def fail(session: Session, claim: Claim, code: Code, detail: str) -> bool:
    """End the job for a reason that a new attempt would meet again; a code that no job carries: INTERNAL."""
    job = _own(session, claim)
    if job is None:
        return False
    job.error_code, job.error_detail = _job_code(code), detail
    _end(session, job, "failed", "failed", code)
    return True


def lost(session: Session, claim: Claim, code: Code, detail: str, lease: Lease) -> bool:
    """Give the job back after a passing trouble (DISK_FULL): later, or dead after too many such attempts."""
    job = _own(session, claim)
    if job is None:
        return False
    _lose(session, job, "transient", code, detail, lease)
    return True


def hand_back(session: Session, claim: Claim) -> bool:
    """Return the job to the queue at its old place, at no cost: the worker is going away."""
    job = _own(session, claim)
    if job is None:
        return False
    if job.cancel_requested_at is not None:
        _end(session, job, "cancelled", "cancelled")
    else:
        _requeue(session, job, "handback", None, 0.0)
    return True


def cancelled(session: Session, claim: Claim) -> bool:
    """End a job that was asked to stop; False if nobody asked."""
    job = _own(session, claim)
    if job is None or job.cancel_requested_at is None:
        return False
    _end(session, job, "cancelled", "cancelled")
    return True


def reap(session: Session, lease: Lease, limit: int = 100) -> Reaped:
    """Move jobs whose lease or queue deadline has passed, at most ``limit`` of each; skips locked rows."""
    moved = {"queued": 0, "dead": 0, "cancelled": 0}
    silent = select(Job).where(Job.state == "running", Job.lease_until < now()).order_by(Job.lease_until)
    for job in _grab(session, silent, limit):
        _lose(session, job, "lost", Code.INTERNAL, SILENT, lease, REAPER)
        moved[job.state] += 1
    late = select(Job).where(Job.state == "queued", Job.deadline_at < now()).order_by(Job.deadline_at)
    overdue = _grab(session, late, limit)
    for job in overdue:
        job.error_code, job.error_detail = (
            Code.QUEUE_TIMEOUT,
            "no worker took the job in time: submit it again",
        )
        _finish(session, job, "failed", REAPER)
    return Reaped(moved["queued"], moved["dead"], moved["cancelled"], len(overdue))


def _begin(session: Session, job: Job) -> Claim:
    assert job.worker is not None
    session.execute(insert(Attempt).values(job_id=job.id, epoch=job.epoch, worker=job.worker))
    _audit(session, job, "job.claimed", f"worker:{job.worker}")
    slide = slides.get(session, job.slide_id)
    assert slide is not None
    pinned = session.execute(
        select(JobRelease.task, JobRelease.digest)
        .where(JobRelease.job_id == job.id)
        .order_by(JobRelease.task)
    )
    heads = {row.task: row.digest for row in pinned}
    urgent = job.priority == PRIORITIES["stat"]
    return Claim(job.id, job.epoch, slide, heads, mpp_override(job), job.epoch, urgent)


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return (Job.id == claim.job_id, Job.epoch == claim.epoch, Job.state == "running")


def _same(job_id: UUID, epoch: int) -> tuple[ColumnElement[bool], ...]:
    return (Attempt.job_id == job_id, Attempt.epoch == epoch)


def _own(session: Session, claim: Claim) -> Job | None:
    """The job's row, locked, if the claim still holds it."""
    return next(iter(_locked(session, select(Job).where(*_held(claim)), skip=False)), None)


def _grab(session: Session, found: Select[Job], limit: int) -> Sequence[Job]:
    return _locked(session, found.limit(limit), skip=True)


def _locked(session: Session, found: Select[Job], *, skip: bool) -> Sequence[Job]:
    rows = found.with_for_update(key_share=True, skip_locked=skip)
    return session.scalars(rows, execution_options={"populate_existing": True}).all()


def _lose(
    session: Session, job: Job, outcome: str, code: Code, detail: str, lease: Lease, actor: str | None = None
) -> None:
    job.lost_attempts += 1
    if job.cancel_requested_at is not None:
        _end(session, job, "cancelled", "cancelled", code, actor)
    elif job.lost_attempts >= job.max_lost:
        job.error_code, job.error_detail = _job_code(code), detail
        _end(session, job, "dead", outcome, code, actor)
    else:
        backoff = lease.backoff_seconds * 2 ** (job.lost_attempts - 1)
        _requeue(session, job, outcome, code, backoff, actor)


def _requeue(
    session: Session, job: Job, outcome: str, code: Code | None, delay_s: float, actor: str | None = None
) -> None:
    who = actor or f"worker:{job.worker}"
    _close(session, job, outcome, code)
    job.state, job.lease_until, job.worker, job.stage, job.done, job.total = "queued", None, None, None, 0, 0
    if delay_s:
        job.available_at = after(delay_s)
    session.flush()
    outbox.ring(session, job.id, delay_s)
    _audit(session, job, "job.requeued", who, {"outcome": outcome, "code": code})


def _end(
    session: Session, job: Job, state: str, outcome: str, code: Code | None = None, actor: str | None = None
) -> None:
    who = actor or f"worker:{job.worker}"
    _close(session, job, outcome, code)
    _finish(session, job, state, who)


def _finish(session: Session, job: Job, state: str, actor: str) -> None:
    job.state, job.lease_until, job.worker = state, None, None
    job.finished_at = now()
    session.flush()
    _audit(session, job, f"job.{state}", actor, {"code": job.error_code})


def _close(session: Session, job: Job, outcome: str, code: Code | None) -> None:
    ended = update(Attempt).where(*_same(job.id, job.epoch), Attempt.ended_at.is_(None))
    session.execute(ended.values(ended_at=now(), outcome=outcome, error_code=code))


def _audit(session: Session, job: Job, action: str, actor: str, detail: dict[str, Any] | None = None) -> None:
    audit.record(session, actor, action, "job", job.id, {"epoch": job.epoch, **(detail or {})})


def _job_code(code: Code) -> Code:
    return code if code in JOB_CODES else Code.INTERNAL
