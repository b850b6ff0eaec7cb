"""Reading jobs: one, or a page of them in a stable order."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session

from xmag.db.tables import PRIORITIES, Case, Job, JobRelease, Slide
from xmag.errors import Code, RequestError

NAMES = {rank: name for name, rank in PRIORITIES.items()}
SPANS = {
    "open": (0.0, 0.05),
    "mask": (0.05, 0.1),
    "encode": (0.1, 0.96),
    "head": (0.96, 0.98),
    "write": (0.98, 1.0),
}
"""Each stage's part of a job; encoding takes nearly all of it."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far the attempt is; ``fraction`` of the whole job, 0-1, which never runs back within an attempt."""

    stage: str | None
    done: int
    total: int
    fraction: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed or died."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as callers see it; ``attempts`` counts every start, ``releases`` maps task to head digest."""

    id: UUID
    state: str
    priority: str
    tasks: tuple[str, ...]
    progress: JobProgress
    error: Failure | None
    principal: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    retry_of: UUID | None
    cancel_requested: bool
    releases: dict[str, str]
    slide_id: UUID
    accession: str | None
    specimen: str | None
    block: str | None
    stain: str | None
    scanner: str | None


@dataclass(frozen=True, slots=True)
class Filter:
    """Only jobs that match all that is given; ``created_after`` is inclusive, ``created_before`` is not."""

    state: str | None = None
    task: str | None = None
    priority: str | None = None
    accession: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, newest first; ``next_cursor`` is None on the last page."""

    jobs: tuple[JobView, ...]
    next_cursor: str | None


def get(session: Session, job_id: UUID) -> JobView | None:
    """A job by id."""
    views = _views(session, _selected().where(Job.id == job_id))
    return views[0] if views else None


def page(session: Session, chosen: Filter, cursor: str | None, limit: int) -> Page:
    """At most ``limit`` jobs after the cursor, newest first: none twice and none left out while jobs arrive.

    Raises RequestError INVALID_REQUEST for a cursor that this function did not make.
    """
    query = _filtered(_selected(), chosen)
    if cursor is not None:
        query = query.where(tuple_(Job.created_at, Job.id) < tuple_(*_decode(cursor)))
    views = _views(session, query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1))
    shown = views[:limit]
    return Page(tuple(shown), _encode(shown[-1]) if shown and len(views) > limit else None)


def _selected() -> Select[Job, Slide, str]:
    return (
        select(Job, Slide, Case.accession)
        .join(Slide, Slide.id == Job.slide_id)
        .outerjoin(Case, Case.id == Slide.case_id)
    )


def _filtered(query: Select[Job, Slide, str], chosen: Filter) -> Select[Job, Slide, str]:
    if chosen.priority is not None:
        query = query.where(Job.priority == PRIORITIES.get(chosen.priority, -1))
    if chosen.task is not None:
        query = query.where(Job.tasks.contains([chosen.task]))
    if chosen.created_after is not None:
        query = query.where(Job.created_at >= chosen.created_after)
    if chosen.created_before is not None:
        query = query.where(Job.created_at < chosen.created_before)
    if chosen.accession is not None:
        case = select(Case.id).where(Case.accession == chosen.accession).scalar_subquery()
        query = query.where(Slide.case_id == case)
    if chosen.state is not None:
        query = query.where(Job.state == chosen.state)
    return query


def _views(session: Session, query: Select[Job, Slide, str]) -> list[JobView]:
    rows = session.execute(query.execution_options(populate_existing=True)).all()
    pinned = _pinned(session, [job.id for job, _, _ in rows])
    return [_view(job, slide, accession, pinned[job.id]) for job, slide, accession in rows]


def _pinned(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, dict[str, str]]:
    pinned: dict[UUID, dict[str, str]] = {job_id: {} for job_id in job_ids}
    for row in session.scalars(select(JobRelease).where(JobRelease.job_id.in_(job_ids))):
        pinned[row.job_id][row.task] = row.digest
    return pinned


def _view(job: Job, slide: Slide, accession: str | None, releases: dict[str, str]) -> JobView:
    return JobView(
        id=job.id,
        state=job.state,
        priority=NAMES[job.priority],
        tasks=tuple(job.tasks),
        progress=JobProgress(job.stage, job.done, job.total, _fraction(job)),
        error=Failure(job.error_code, job.error_detail or "") if job.error_code else None,
        principal=job.principal,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        attempts=job.epoch,
        retry_of=job.retry_of,
        cancel_requested=job.cancel_requested_at is not None,
        releases=releases,
        slide_id=job.slide_id,
        accession=accession,
        specimen=slide.specimen,
        block=slide.block,
        stain=slide.stain,
        scanner=slide.scanner,
    )


def _fraction(job: Job) -> float:
    if job.state == "succeeded":
        return 1.0
    begin, end = SPANS.get(job.stage or "", (0.0, 0.0))
    return begin + (end - begin) * (min(1.0, job.done / job.total) if job.total else 0.0)


def _encode(last: JobView) -> str:
    return base64.urlsafe_b64encode(f"{last.created_at.isoformat()} {last.id}".encode()).decode()


def _decode(cursor: str) -> tuple[datetime, UUID]:
    try:
        at, job_id = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().split(" ")
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise ValueError("a cursor's time has a zone")
        return moment, UUID(job_id)
    except (binascii.Error, ValueError):
        raise RequestError(Code.INVALID_REQUEST, "unknown cursor: use next_cursor of the last page") from None
