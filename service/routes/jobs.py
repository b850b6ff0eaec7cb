"""Jobs: submit, read, follow, cancel, run again."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from service.events import follow
from service.guard import Caller, GuardedRoute, OneGateway, scope
from service.schemas import TERMINAL, Job, JobPage, JobRequest, Priority, State, Text
from service.submitting import submit
from xmag.db import jobs
from xmag.db.jobs import Filter, JobView
from xmag.errors import Code, RequestError
from xmag.manifest import Task

POLL_SECONDS = 2
"""What a caller is told to wait before it looks again."""

IdempotencyKey = Annotated[str | None, Header(max_length=255, pattern=r"^[\x21-\x7e]{1,255}$")]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=GuardedRoute)


@router.post(
    "",
    status_code=202,
    response_model=Job,
    summary="Submit a slide",
    **scope(
        "submit",
        Code.INVALID_REQUEST,
        Code.UNKNOWN_TASK,
        Code.SLIDE_NOT_FOUND,
        Code.PATH_OUTSIDE_ROOT,
        Code.IDEMPOTENCY_MISMATCH,
        Code.CONFLICT,
        Code.MODEL_UNAVAILABLE,
        Code.UNSUPPORTED_MEDIA,
        Code.TOO_LARGE,
        Code.DISK_FULL,
    ),
)
async def submit_job(
    body: JobRequest,
    response: Response,
    gateway: OneGateway,
    caller: Caller,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Answered once the job is committed: from then on it ends with exactly one result or error.

    With an `Idempotency-Key`, repeating the request answers with the first one's job.
    """
    return _accepted(response, await submit(gateway, body, idempotency_key, caller))


@router.get(
    "", response_model=JobPage, summary="List jobs, newest first", **scope("read", Code.INVALID_REQUEST)
)
async def list_jobs(
    gateway: OneGateway,
    state: State | None = None,
    task: Task | None = None,
    priority: Priority | None = None,
    accession: Text | None = None,
    created_after: Annotated[datetime | None, Query(description="inclusive; UTC if without a zone")] = None,
    created_before: Annotated[datetime | None, Query(description="exclusive; UTC if without a zone")] = None,
    cursor: Annotated[str | None, Query(max_length=200, pattern=r"^[A-Za-z0-9_=-]+$")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobPage:
    """Pages are stable while jobs arrive: give `next_cursor` back as `cursor`."""
    chosen = Filter(state, task, priority, accession, _zoned(created_after), _zoned(created_before))
    found = await gateway.database(lambda session: jobs.page(session, chosen, cursor, limit))
    return JobPage(jobs=[Job.of(view) for view in found.jobs], next_cursor=found.next_cursor)


@router.get(
    "/{job_id}",
    response_model=Job,
    summary="Read a job",
    **scope("read", Code.NOT_FOUND, Code.INVALID_REQUEST),
)
async def read_job(job_id: UUID, response: Response, gateway: OneGateway) -> Job:
    """State, progress, and the error of a job that failed."""
    view = await job_of(gateway, job_id)
    if view.state not in TERMINAL:
        response.headers["Retry-After"] = str(POLL_SECONDS)
    return Job.of(view)


@router.get(
    "/{job_id}/events",
    summary="Follow a job",
    response_class=StreamingResponse,
    **scope("read", Code.NOT_FOUND, Code.INVALID_REQUEST, Code.TOO_MANY),
)
async def follow_job(job_id: UUID, gateway: OneGateway) -> Response:
    """Server-sent events: `progress` at each change, `done` at the end; both carry the job.

    The stream also ends after some minutes; clients of SSE come back by themselves.
    """
    first = await job_of(gateway, job_id)
    return follow(gateway, first)


@router.delete(
    "/{job_id}",
    response_model=Job,
    summary="Cancel a job",
    **scope("submit", Code.NOT_FOUND, Code.CONFLICT, Code.INVALID_REQUEST),
)
async def cancel_job(job_id: UUID, response: Response, gateway: OneGateway, caller: Caller) -> Job:
    """200: cancelled; 202: it runs, and stops soon; 409: it had ended."""
    view = await gateway.database(lambda session: jobs.request_cancel(session, job_id, caller.name))
    response.status_code = 200 if view.state == "cancelled" else 202
    return Job.of(view)


@router.post(
    "/{job_id}/retry",
    status_code=202,
    response_model=Job,
    summary="Run an ended job again",
    **scope(
        "submit",
        Code.NOT_FOUND,
        Code.CONFLICT,
        Code.IDEMPOTENCY_MISMATCH,
        Code.MODEL_UNAVAILABLE,
        Code.INVALID_REQUEST,
    ),
)
async def retry_job(
    job_id: UUID,
    response: Response,
    gateway: OneGateway,
    caller: Caller,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """A new job for the same slide and tasks, with the releases that serve now."""
    lease, key = gateway.settings.lease, idempotency_key
    again = await gateway.database(lambda session: jobs.retry(session, job_id, caller.name, lease, key))
    return _accepted(response, await job_of(gateway, again))


async def job_of(gateway: OneGateway, job_id: UUID) -> JobView:
    """A job by id; raises NOT_FOUND."""
    view = await gateway.database(lambda session: jobs.get(session, job_id))
    if view is None:
        raise RequestError(Code.NOT_FOUND, "no job has this id: see the list of jobs")
    return view


def _accepted(response: Response, view: JobView) -> Job:
    response.headers["Location"] = f"/v1/jobs/{view.id}"
    response.headers["Retry-After"] = str(POLL_SECONDS)
    return Job.of(view)


def _zoned(moment: datetime | None) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)
