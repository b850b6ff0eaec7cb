"""From a request for a job to the row that the queue is made of."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from uuid import UUID

from sqlalchemy.orm import Session

from service.gateway import Gateway
from service.places import UPLOADS_ROOT, root_folder
from service.schemas import JobRequest, SlideById, SlideByPath, SlideByUpload
from service.upload_files import NO_UPLOAD, upload_path
from service.uploading import owned
from xmag.config import Settings
from xmag.db import jobs, slides
from xmag.db.jobs import Idempotency, JobView, NewJob
from xmag.db.keys import Principal
from xmag.db.slides import NewSlide
from xmag.errors import Code, RequestError, SlideError, XmagError
from xmag.slide.location import Fingerprint, SlideLocation


@dataclass(frozen=True)
class Place:
    """A slide's file, looked at once before the transaction begins."""

    root: str
    relative: str
    fingerprint: Fingerprint


async def submit(gateway: Gateway, request: JobRequest, key: str | None, principal: Principal) -> JobView:
    """The queued job, once committed.

    A replay of an idempotency key answers with its job even if the slide has moved since.
    """
    idempotency = None if key is None else Idempotency(key, body_digest(request))
    try:
        place = await gateway.file(_look, gateway.settings, request)
    except XmagError:
        earlier = await _replayed(gateway, principal, idempotency)
        if earlier is None:
            raise
        return earlier

    def work(session: Session) -> JobView:
        earlier = None if idempotency is None else jobs.replayed(session, principal.name, idempotency)
        if earlier is not None:
            return _view(session, earlier)
        slide_id = _slide(session, request, place, principal)
        new = NewJob(
            slide_id=slide_id,
            tasks=tuple(request.tasks),
            priority=request.priority,
            principal=principal.name,
            mpp=request.resolution,
            mpp_reason=request.mpp_reason,
        )
        return _view(session, jobs.submit(session, new, idempotency, gateway.settings.lease).job_id)

    return await gateway.database(work)


def body_digest(request: JobRequest) -> str:
    """SHA-256 of the request's canonical JSON: spelling and order of members do not matter."""
    body = request.model_dump(mode="json")
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


async def _replayed(gateway: Gateway, principal: Principal, given: Idempotency | None) -> JobView | None:
    if given is None:
        return None

    def work(session: Session) -> JobView | None:
        earlier = jobs.replayed(session, principal.name, given)
        return None if earlier is None else _view(session, earlier)

    return await gateway.database(work)


def _view(session: Session, job_id: UUID) -> JobView:
    view = jobs.get(session, job_id)
    assert view is not None
    return view


def _look(settings: Settings, request: JobRequest) -> Place | None:
    """The file of a slide by path or upload, as it is now; a slide by id was looked at before."""
    slide = request.slide
    if isinstance(slide, SlideById):
        return None
    if isinstance(slide, SlideByPath):
        if slide.root == UPLOADS_ROOT:
            raise RequestError(Code.INVALID_REQUEST, 'name an upload by its id: `{"upload": ID}`')
        root, relative = slide.root, PurePosixPath(slide.path)
    else:
        root, relative = UPLOADS_ROOT, PurePosixPath(upload_path(settings.uploads_dir, slide.upload).name)
    location = SlideLocation(root_folder(settings, root), relative)
    return Place(root, str(relative), location.fingerprint())


def _slide(session: Session, request: JobRequest, place: Place | None, principal: Principal) -> UUID:
    slide = request.slide
    tags = {name: getattr(request, name) for name in slides.TAGS}
    if isinstance(slide, SlideById):
        return _known_slide(session, slide.id, tags)
    assert place is not None
    sha256 = None
    if isinstance(slide, SlideByUpload):
        sha256 = _stored(session, slide.upload, place.fingerprint.size, principal)
    source: slides.Source = "upload" if isinstance(slide, SlideByUpload) else "path"
    new = NewSlide(place.root, place.relative, place.fingerprint, source, sha256, **tags)
    return slides.add(session, new)


def _known_slide(session: Session, slide_id: UUID, tags: dict[slides.Tag, str | None]) -> UUID:
    """A known slide as it was first looked at, under its own tags where the caller gives none."""
    row = slides.get(session, slide_id)
    if row is None:
        raise SlideError(Code.SLIDE_NOT_FOUND, "no slide has this id: submit its path or upload it")
    named = {name: getattr(row, name) if given is None else given for name, given in tags.items()}
    return slides.add(
        session, NewSlide(row.root, row.relative, row.fingerprint, row.source, row.sha256, **named)
    )


def _stored(session: Session, upload_id: UUID, seen: int, principal: Principal) -> str | None:
    """The digest of the caller's stored upload; its file had ``seen`` bytes when it was looked at."""
    row = owned(session, upload_id, principal)
    if row is None:
        raise SlideError(Code.SLIDE_NOT_FOUND, NO_UPLOAD)
    if row.state != "stored" or row.size != seen:
        raise RequestError(Code.CONFLICT, "the upload is not complete: send the bytes that are missing")
    return row.sha256
