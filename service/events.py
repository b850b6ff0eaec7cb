"""A job's progress as server-sent events."""

from collections.abc import AsyncIterator

from anyio import current_time, sleep
from fastapi.responses import StreamingResponse

from service.gateway import Gateway
from service.schemas import TERMINAL, Job
from xmag.db import jobs
from xmag.db.jobs import JobView
from xmag.errors import Code, PlaceError, RequestError

POLL_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15.0
LIFETIME_SECONDS = 600.0
RETRY_MS = 2000
MAX_STREAMS = 200


def follow(gateway: Gateway, first: JobView) -> StreamingResponse:
    """The stream; raises TOO_MANY when this gateway serves as many as it can."""
    if gateway.streams >= MAX_STREAMS:
        raise RequestError(Code.TOO_MANY, "too many streams are open: ask for the job itself instead")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(gateway, first), media_type="text/event-stream", headers=headers)


async def _events(gateway: Gateway, view: JobView) -> AsyncIterator[str]:
    gateway.streams += 1
    try:
        yield f"retry: {RETRY_MS}\n\n"
        end = current_time() + LIFETIME_SECONDS
        sent, told = "", current_time()
        while current_time() < end:
            if _mark(view) != sent:
                sent, told = _mark(view), current_time()
                yield _event(view)
                if view.state in TERMINAL:
                    return
            elif current_time() - told >= KEEP_ALIVE_SECONDS:
                told = current_time()
                yield ": keep-alive\n\n"
            await sleep(POLL_SECONDS)
            view = await _again(gateway, view)
    except PlaceError:
        return
    finally:
        gateway.streams -= 1


async def _again(gateway: Gateway, view: JobView) -> JobView:
    """The job now; no connection is held between two looks."""
    return await gateway.database(lambda session: jobs.get(session, view.id)) or view


def _mark(view: JobView) -> str:
    """What makes one event differ from the next; also its id."""
    progress = view.progress
    wish = "-cancel" if view.cancel_requested else ""
    return f"{view.state}-{view.attempts}-{progress.stage}-{progress.done}{wish}"


def _event(view: JobView) -> str:
    name = "done" if view.state in TERMINAL else "progress"
    return f"id: {_mark(view)}\nevent: {name}\ndata: {Job.of(view).model_dump_json()}\n\n"
