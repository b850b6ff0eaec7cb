"""Is it alive, can it take work, and its numbers. Open to all; no patient data."""

import os

from anyio import move_on_after
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from service.guard import GuardedRoute, OneGateway
from service.metrics import CONTENT_TYPE
from service.schemas import Check, Readiness
from service.upload_files import free_bytes
from xmag.config import Settings
from xmag.db import jobs, releases
from xmag.db.tables import PRIORITIES, STATES
from xmag.errors import PlaceError

SCRAPE_SECONDS = 2.0
LEAST_FREE_BYTES = 64 * 1024**2
"""With less, even a row or an overlay may not fit."""

router = APIRouter(tags=["health"], route_class=GuardedRoute)


@router.get("/healthz", summary="Alive", openapi_extra={"x-scope": "open"})
async def alive() -> dict[str, str]:
    """The process answers; nothing else is looked at."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    response_model=Readiness,
    summary="Ready",
    openapi_extra={"x-scope": "open"},
    responses={503: {"model": Readiness, "description": "a required check fails"}},
)
async def ready(gateway: OneGateway) -> Response:
    """200 when every required check holds, else 503. Redis is not among them: submits never need it."""
    checks = {
        **await _database(gateway),
        "disk": await gateway.file(_disk, gateway.settings),
        "slide_roots": await gateway.file(_roots, gateway.settings),
    }
    holds = all(check.ok for check in checks.values() if check.required)
    body = Readiness(ready=holds, checks=checks).model_dump(mode="json")
    return JSONResponse(body, 200 if holds else 503, None if holds else {"Retry-After": "2"})


@router.get(
    "/metrics",
    summary="Prometheus",
    response_class=Response,
    openapi_extra={"x-scope": "open"},
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(gateway: OneGateway) -> Response:
    """Requests of this process, and jobs by state and priority; answers without the database too."""
    counts = None
    with move_on_after(SCRAPE_SECONDS):
        counts = await _counts(gateway)
    wanted = [(state, priority) for state in STATES for priority in PRIORITIES]
    return Response(gateway.metrics.page(counts, wanted), media_type=CONTENT_TYPE)


async def _counts(gateway: OneGateway) -> dict[tuple[str, str], int] | None:
    try:
        return {(s, p): n for (s, p), n in (await gateway.database(jobs.counts)).items()}
    except PlaceError:
        return None


async def _database(gateway: OneGateway) -> dict[str, Check]:
    try:
        serving = len(await gateway.database(releases.active))
    except PlaceError as error:
        return {"database": Check(ok=False, required=True, detail=error.detail)}
    detail = f"{serving} tasks are served" if serving else "no release serves a task: promote one"
    return {
        "database": Check(ok=True, required=True, detail="ok"),
        "releases": Check(ok=serving > 0, required=False, detail=detail),
    }


def _disk(settings: Settings) -> Check:
    place = next(folder for folder in (settings.data, *settings.data.absolute().parents) if folder.exists())
    enough = free_bytes(place) >= max(LEAST_FREE_BYTES, settings.uploads.reserve_bytes)
    return Check(ok=enough, required=True, detail="ok" if enough else "too little free space: free some")


def _roots(settings: Settings) -> Check:
    bad = sum(not os.access(folder, os.R_OK | os.X_OK) for folder in settings.slide_roots.values())
    return Check(
        ok=not bad, required=True, detail=f"{bad} roots cannot be read: check mounts" if bad else "ok"
    )
