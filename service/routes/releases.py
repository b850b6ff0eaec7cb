"""Which releases are known, which head serves each task, and the switch between them."""

from typing import Annotated

from fastapi import APIRouter, Path
from sqlalchemy.orm import Session

from service.guard import Caller, GuardedRoute, OneGateway, scope
from service.schemas import Deployed, Release, Releases, RollbackRequest
from xmag.config import Settings
from xmag.db import releases
from xmag.db.releases import ReleaseRow
from xmag.errors import Code, RequestError
from xmag.registry import read_verified

Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", examples=["0" * 64])]

router = APIRouter(prefix="/v1/releases", tags=["releases"], route_class=GuardedRoute)


@router.get("", response_model=Releases, summary="List releases", **scope("read"))
async def list_releases(gateway: OneGateway) -> Releases:
    """Facts of their manifests, licence and permitted use, and what serves."""
    rows, active = await gateway.database(_listing)
    read = {row.encoder for row in rows if row.active}
    shown = [Release.of(row, active=row.active or row.digest in read) for row in rows]
    return Releases(releases=shown, active=active)


@router.post(
    "/{digest}/promote",
    response_model=Deployed,
    summary="Let a head serve its task",
    **scope(
        "releases",
        Code.NOT_FOUND,
        Code.CONFLICT,
        Code.MODEL_UNAVAILABLE,
        Code.MODEL_INTEGRITY,
        Code.INVALID_REQUEST,
    ),
)
async def promote(digest: Digest, gateway: OneGateway, caller: Caller) -> Deployed:
    """The signatures and every byte of the head and its encoder are checked first."""
    row = await gateway.database(lambda session: releases.get(session, digest))
    if row is None:
        raise RequestError(Code.NOT_FOUND, "no release has this digest: see the list of releases")
    if row.task is None or row.encoder is None:
        raise RequestError(Code.CONFLICT, "an encoder serves through its heads: promote a head instead")
    await gateway.file(_verify, gateway.settings, row.encoder, digest)
    await gateway.database(lambda session: releases.promote(session, digest, caller.name))
    return Deployed.model_validate({"task": row.task, "release": digest})


@router.post(
    "/rollback",
    response_model=Deployed,
    summary="Return a task to the head before",
    **scope(
        "releases",
        Code.NOT_FOUND,
        Code.CONFLICT,
        Code.UNKNOWN_TASK,
        Code.INVALID_REQUEST,
        Code.UNSUPPORTED_MEDIA,
        Code.TOO_LARGE,
    ),
)
async def rollback(body: RollbackRequest, gateway: OneGateway, caller: Caller) -> Deployed:
    """And so on back, one step with each call; 409 when nothing came before."""
    digest = await gateway.database(lambda session: releases.rollback(session, body.task, caller.name))
    return Deployed(task=body.task, release=digest)


def _listing(session: Session) -> tuple[list[ReleaseRow], dict[str, str]]:
    return releases.listing(session), releases.active(session)


def _verify(settings: Settings, *digests: str) -> None:
    for digest in digests:
        read_verified(settings.releases_dir, digest, settings.trusted_keys)
