"""Jobs as callers see them: submit, read, cancel, retry. Workers' side: `xmag.db.attempts`."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Literal
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from xmag.config import Lease
from xmag.db import audit, outbox, releases
from xmag.db.ids import new_id
from xmag.db.job_views import Failure, Filter, JobProgress, JobView, Page, get, page
from xmag.db.session import after, now
from xmag.db.tables import PRIORITIES, TERMINAL, IdempotencyKey, Job, JobRelease
from xmag.errors import Code, ReleaseError, RequestError
from xmag.slide.info import MppOverride
from xmag.units import Mpp, MppXY

__all__ = [
    "Failure", "Filter", "Idempotency", "JobProgress", "JobView", "NewJob", "Page", "Priority", "Submitted",
    "counts", "get", "page", "replayed", "request_cancel", "retry", "submit",
]  # fmt: skip

Priority = Literal["stat", "routine", "batch"]
NAMES = {rank: name for name, rank in PRIORITIES.items()}


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a caller asks for; ``mpp`` and ``mpp_reason`` are given together or not at all."""

    slide_id: UUID
    tasks: tuple[str, ...]
    priority: Priority
    principal: str
    mpp: MppXY | None = None
    mpp_reason: str | None = None
    retry_of: UUID | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's key and the digest of the body it was first sent with."""

    key: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """``created`` is False if the key had already led to this job."""

    job_id: UUID
    created: bool


def submit(session: Session, new: NewJob, idempotency: Idempotency | None, lease: Lease) -> Submitted:
    """Queue a job pinned to the heads that serve now, with its bell and audit event.

    Of any number of concurrent calls with one key exactly one creates a job; the others wait for it.
    Raises RequestError IDEMPOTENCY_MISMATCH (the key came with another body) and ReleaseError
    MODEL_UNAVAILABLE (no head serves a task).
    """
    job_id = new_id()
    earlier = idempotency and _claim_key(session, new.principal, idempotency, job_id)
    if earlier:
        return Submitted(earlier, created=False)
    _queue(session, job_id, new, lease)
    return Submitted(job_id, created=True)


def replayed(session: Session, principal: str, given: Idempotency) -> UUID | None:
    """The job that the caller's key led to before, None for a new key.

    Raises RequestError IDEMPOTENCY_MISMATCH.
    """
    earlier = session.get(IdempotencyKey, (principal, given.key))
    if earlier is None:
        return None
    if earlier.body_sha256 != given.body_sha256:
        raise RequestError(
            Code.IDEMPOTENCY_MISMATCH, "this Idempotency-Key was used with another body: choose a new key"
        )
    return earlier.job_id


def request_cancel(session: Session, job_id: UUID, actor: str) -> JobView:
    """Cancel a queued job at once; ask a running one to stop.

    Raises RequestError NOT_FOUND, and CONFLICT if the job has ended.
    """
    job = _locked(session, job_id)
    if job.state in TERMINAL:
        raise RequestError(
            Code.CONFLICT, f"the job has already {_ended(job.state)}: nothing is left to cancel"
        )
    if job.cancel_requested_at is None:
        job.cancel_requested_at = now()
        audit.record(session, actor, "job.cancel_requested", "job", job_id)
    if job.state == "queued":
        job.state = "cancelled"
        job.finished_at = now()
        audit.record(session, actor, "job.cancelled", "job", job_id)
    session.flush()
    view = get(session, job_id)
    assert view is not None
    return view


def retry(session: Session, job_id: UUID, principal: str, lease: Lease, key: str | None = None) -> UUID:
    """Queue an ended job anew, as a new job with the heads that serve now; its id.

    The same idempotency ``key`` never makes a second one. Raises RequestError NOT_FOUND, CONFLICT while the
    job has not ended, and IDEMPOTENCY_MISMATCH.
    """
    job = _locked(session, job_id)
    if job.state not in TERMINAL:
        raise RequestError(
            Code.CONFLICT, f"the job is still {job.state}: wait for its end or cancel it first"
        )
    override = mpp_override(job)
    again = NewJob(
        slide_id=job.slide_id,
        tasks=tuple(job.tasks),
        priority=NAMES[job.priority],  # type: ignore[arg-type]
        principal=principal,
        mpp=override.mpp if override else None,
        mpp_reason=override.reason if override else None,
        retry_of=job_id,
    )
    wish = sha256(f"retry {job_id}".encode()).hexdigest()
    return submit(session, again, Idempotency(key, wish) if key else None, lease).job_id


def counts(session: Session) -> dict[tuple[str, Priority], int]:
    """How many jobs there are for each state and priority."""
    rows = session.execute(select(Job.state, Job.priority, func.count()).group_by(Job.state, Job.priority))
    return {(state, NAMES[rank]): number for state, rank, number in rows}  # type: ignore[misc]


def mpp_override(job: Job) -> MppOverride | None:
    """The resolution that a person gave for this job."""
    if job.mpp_x is None or job.mpp_y is None or job.mpp_reason is None:
        return None
    return MppOverride(MppXY(Mpp(job.mpp_x), Mpp(job.mpp_y)), job.mpp_reason)


def _claim_key(session: Session, principal: str, given: Idempotency, job_id: UUID) -> UUID | None:
    """None if the key is ours now, else the job it led to; waits while another call holds it."""
    row = {"principal": principal, "key": given.key, "body_sha256": given.body_sha256, "job_id": job_id}
    ours = upsert(IdempotencyKey).values(row).on_conflict_do_nothing().returning(IdempotencyKey.job_id)
    if session.execute(ours).first():
        return None
    return replayed(session, principal, given)


def _queue(session: Session, job_id: UUID, new: NewJob, lease: Lease) -> None:
    tasks = tuple(dict.fromkeys(new.tasks))
    pinned = _pin(session, tasks)
    values = {
        "id": job_id,
        "slide_id": new.slide_id,
        "principal": new.principal,
        "tasks": list(tasks),
        "priority": PRIORITIES[new.priority],
        "deadline_at": after(lease.queue_seconds),
        "max_lost": lease.max_lost,
        "mpp_x": new.mpp and new.mpp.x,
        "mpp_y": new.mpp and new.mpp.y,
        "mpp_reason": new.mpp_reason,
        "retry_of": new.retry_of,
    }
    session.execute(insert(Job).values(values))
    rows = [{"job_id": job_id, "task": task, "digest": pinned[task]} for task in tasks]
    session.execute(insert(JobRelease), rows)
    outbox.ring(session, job_id)
    detail = {"tasks": list(tasks), "priority": new.priority, "retry_of": new.retry_of and str(new.retry_of)}
    audit.record(session, new.principal, "job.submitted", "job", job_id, detail)


def _pin(session: Session, tasks: tuple[str, ...]) -> dict[str, str]:
    serving = releases.active(session)
    for task in tasks:
        if task not in serving:
            raise ReleaseError(
                Code.MODEL_UNAVAILABLE, f"no release serves the task {task[:20]}: publish and promote one"
            )
    return serving


def _locked(session: Session, job_id: UUID) -> Job:
    found = session.get(Job, job_id, with_for_update={"key_share": True}, populate_existing=True)
    if found is None:
        raise RequestError(Code.NOT_FOUND, "no such job: see the list of jobs")
    return found


def _ended(state: str) -> str:
    return {"dead": "died", "cancelled": "been cancelled"}.get(state, state)
