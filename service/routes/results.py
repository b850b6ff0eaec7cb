"""Results: the stored document, and pictures and shapes of what the heads looked at."""

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from service.caching import etag, unchanged
from service.guard import GuardedRoute, OneGateway, scope
from service.problems import RefusedError
from service.routes.jobs import POLL_SECONDS
from service.schemas import TERMINAL, Result, class_index
from xmag.db import jobs, results, slides
from xmag.db.jobs import JobView
from xmag.db.results import ResultView
from xmag.db.slides import SlideRow
from xmag.errors import Code, RequestError
from xmag.heatmap import Overlay, render_png
from xmag.manifest import TASK_LABELS, Task
from xmag.report.geojson import attention_geojson
from xmag.store import get_overlay

MAX_PX = 1024

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["results"], route_class=GuardedRoute)
READ = (Code.NOT_FOUND, Code.CONFLICT, Code.INVALID_REQUEST)
PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}}},
    304: {"description": "not modified"},
}


@router.get("/result", response_model=Result, summary="Read the result", **scope("read", *READ))
async def read_result(job_id: UUID, gateway: OneGateway) -> Response:
    """The stored document. 409 while the job runs (with Retry-After) and for ever if it did not succeed."""
    _, result, _ = await _load(gateway, job_id)
    return Response(json.dumps(result.document), media_type="application/json")


_heatmap = scope("read", *READ, Code.GONE, Code.BUSY, Code.SLIDE_CHANGED, Code.SLIDE_NOT_FOUND)


@router.get(
    "/heatmap/{task}.png",
    summary="A heatmap",
    response_class=Response,
    openapi_extra=_heatmap["openapi_extra"],
    responses={**PNG, **_heatmap["responses"]},
)
async def heatmap(
    request: Request,
    job_id: UUID,
    task: Task,
    gateway: OneGateway,
    label: Annotated[str | None, Query(alias="class", max_length=32, examples=["LUAD"])] = None,
    overlay: Annotated[bool, Query(description="over the slide's thumbnail")] = False,
) -> Response:
    """Without `class`: attention. With it: evidence for (red) and against (blue) that class."""
    _, result, slide = await _load(gateway, job_id)
    index = _class(task, label)
    tag = etag(_overlay_of(result, task), task, str(index), str(overlay))
    if unchanged(request, tag):
        return Response(status_code=304, headers=_cached(tag))
    thumbnail = await gateway.viewers.show(slide, _thumbnail) if overlay else None
    stored = await _overlay(gateway, result, task)
    picture = await gateway.file(_render, stored, task, index, thumbnail)
    return Response(picture, media_type="image/png", headers=_cached(tag))


_geojson = scope("read", *READ, Code.GONE)


@router.get(
    "/attention/{task}.geojson",
    summary="Attention as GeoJSON",
    response_class=Response,
    openapi_extra=_geojson["openapi_extra"],
    responses={200: {"content": {"application/geo+json": {}}}, **_geojson["responses"]},
)
async def attention(job_id: UUID, task: Task, gateway: OneGateway) -> Response:
    """One polygon for each tile in level-0 px; QuPath reads it."""
    _, result, _ = await _load(gateway, job_id)
    stored = await _overlay(gateway, result, task)
    body = await gateway.file(_shapes, stored, task)
    return Response(body, media_type="application/geo+json")


async def _load(gateway: OneGateway, job_id: UUID) -> tuple[JobView, ResultView, SlideRow]:
    """A succeeded job with its result and slide; raises NOT_FOUND, and CONFLICT in any other state."""

    def work(session: Session) -> tuple[JobView | None, ResultView | None, SlideRow | None]:
        job = jobs.get(session, job_id)
        if job is None:
            return None, None, None
        return job, results.load(session, job_id), slides.get(session, job.slide_id)

    job, result, slide = await gateway.database(work)
    if job is None:
        raise RequestError(Code.NOT_FOUND, "no job has this id: see the list of jobs")
    if result is None or slide is None:
        raise _unfinished(job)
    return job, result, slide


def _unfinished(job: JobView) -> RefusedError:
    if job.state not in TERMINAL:
        headers = {"Retry-After": str(POLL_SECONDS)}
        return RefusedError(Code.CONFLICT, f"the job is {job.state}: no result yet", headers=headers)
    why = f" ({job.error.code})" if job.error else ""
    return RefusedError(Code.CONFLICT, f"the job is {job.state}{why} and has no result: retry it")


def _class(task: Task, label: str | None) -> int | None:
    index = None if label is None else class_index(task, label)
    if label is not None and index is None:
        raise RequestError(Code.NOT_FOUND, f"the classes of {task} are {', '.join(TASK_LABELS[task])}")
    return index


def _overlay_of(result: ResultView, task: Task) -> str:
    if task not in result.overlays:
        raise RequestError(Code.NOT_FOUND, "this result has no heatmap of that task")
    return result.overlays[task]


async def _overlay(gateway: OneGateway, result: ResultView, task: Task) -> Overlay:
    return await gateway.file(get_overlay, gateway.settings.store_dir, _overlay_of(result, task))


def _thumbnail(decoder: Any) -> bytes:
    picture: bytes = decoder.thumbnail(MAX_PX)
    return picture


def _render(overlay: Overlay, task: Task, index: int | None, thumbnail: bytes | None) -> bytes:
    return render_png(overlay, task, index, max_px=MAX_PX, thumbnail=thumbnail)


def _shapes(overlay: Overlay, task: Task) -> bytes:
    return json.dumps(attention_geojson(overlay, task, TASK_LABELS[task]), separators=(",", ":")).encode()


def _cached(tag: str) -> dict[str, str]:
    return {"ETag": tag, "Cache-Control": "private, no-cache"}
