"""Which releases are known, and which head serves each task."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from xmag.db import audit
from xmag.db.tables import Deployment, Release
from xmag.errors import Code, ReleaseError, RequestError
from xmag.manifest import EncoderManifest, HeadManifest
from xmag.manifest import digest as digest_of

DEPLOY_LOCK = 0x786D6168
"""Advisory lock that orders promotions."""
UNFIT = ("rejected", "retired")


@dataclass(frozen=True, slots=True)
class ReleaseRow:
    """A known release; ``active`` says whether it is the head that serves its task."""

    digest: str
    kind: str
    name: str
    task: str | None
    encoder: str | None
    manifest: dict[str, Any]
    signer: str
    state: str
    reason: str | None
    active: bool
    created_at: datetime


def register(
    session: Session,
    digest: str,
    manifest: EncoderManifest | HeadManifest,
    signer: str,
    actor: str = "system",
) -> None:
    """Make a release known once; the caller has verified its signature and bytes.

    Raises ReleaseError MODEL_INTEGRITY if ``digest`` is not the manifest's.
    """
    if digest_of(manifest) != digest:
        raise ReleaseError(
            Code.MODEL_INTEGRITY, "the manifest's digest is not the release's: publish it again"
        )
    head = manifest if isinstance(manifest, HeadManifest) else None
    row = insert(Release).values(
        digest=digest,
        kind=manifest.kind,
        name=manifest.name,
        task=head and head.task,
        encoder=head and head.encoder,
        manifest=manifest.model_dump(mode="json"),
        signer=signer,
    )
    if session.execute(row.on_conflict_do_nothing().returning(Release.digest)).first():
        audit.record(session, actor, "release.registered", "release", digest, {"name": manifest.name})


def mark_verified(session: Session, digest: str, actor: str = "system") -> bool:
    """Note that the release passed its self-test; False if it is unknown, verified or retired.

    This lifts a rejection too: what a worker found damaged may be mended, or was that worker's fault.
    """
    step = update(Release).where(Release.digest == digest, Release.state.in_(("registered", "rejected")))
    if session.execute(step.values(state="verified", reason=None).returning(Release.digest)).first() is None:
        return False
    audit.record(session, actor, "release.verified", "release", digest)
    return True


def active(session: Session) -> dict[str, str]:
    """Task -> digest of the head that serves it."""
    rows = session.execute(select(Deployment.task, Deployment.digest).where(Deployment.active))
    return {row.task: row.digest for row in rows}


def promote(session: Session, digest: str, actor: str) -> None:
    """Let a head serve its task from now on; nothing happens if it already does.

    Raises RequestError NOT_FOUND (unknown) and CONFLICT (an encoder, rejected, or its encoder is not fit).
    """
    session.execute(select(func.pg_advisory_xact_lock(DEPLOY_LOCK)))
    release = _known(session, digest)
    if release.task is None:
        raise RequestError(Code.CONFLICT, "an encoder serves through its heads: promote a head instead")
    if not _fit(session, digest):
        raise RequestError(
            Code.CONFLICT,
            "the head or its encoder is rejected, retired or unknown: run `xmag weights verify` on both",
        )
    current = _current(session, release.task)
    if current is None or current.digest != digest:
        before = None if current is None else current.id
        _activate(session, release.task, digest, before, actor, "release.promoted")


def rollback(session: Session, task: str, actor: str) -> str:
    """Return a task to the head that served before, and so on back; its digest.

    Raises RequestError NOT_FOUND (no head serves the task) and CONFLICT (nothing fit came before).
    """
    session.execute(select(func.pg_advisory_xact_lock(DEPLOY_LOCK)))
    current = _current(session, task)
    if current is None:
        raise RequestError(Code.NOT_FOUND, "no head serves this task: promote one")
    target = _before(session, current)
    if target is None:
        raise RequestError(Code.CONFLICT, "no usable release served this task before: promote one instead")
    _activate(session, task, target.digest, target.previous, actor, "release.rolled_back")
    return target.digest


def reject(session: Session, digest: str, reason: str, actor: str = "system") -> None:
    """Serve no more with this release until it is verified; its tasks return to the head before, if any.

    Raises RequestError NOT_FOUND. Jobs already pinned to it end with MODEL_INTEGRITY at the worker.
    """
    session.execute(select(func.pg_advisory_xact_lock(DEPLOY_LOCK)))
    if _known(session, digest).state == "rejected":
        return
    session.execute(
        update(Release).where(Release.digest == digest).values(state="rejected", reason=reason or "not said")
    )
    audit.record(session, actor, "release.rejected", "release", digest, {"reason": reason})
    for task, serving in active(session).items():
        if not _fit(session, serving):
            _step_back(session, task, actor)


def listing(session: Session) -> list[ReleaseRow]:
    """All releases, newest first."""
    serving = set(active(session).values())
    rows = session.scalars(select(Release).order_by(Release.created_at.desc(), Release.digest))
    return [_view(row, serving) for row in rows.all()]


def get(session: Session, digest: str) -> ReleaseRow | None:
    """A release by digest."""
    found = session.get(Release, digest, populate_existing=True)
    return None if found is None else _view(found, set(active(session).values()))


def _view(row: Release, serving: set[str]) -> ReleaseRow:
    names = [name for name in ReleaseRow.__slots__ if name != "active"]
    return ReleaseRow(**{name: getattr(row, name) for name in names}, active=row.digest in serving)


def _known(session: Session, digest: str) -> Release:
    found = session.get(Release, digest, populate_existing=True)
    if found is None:
        raise RequestError(Code.NOT_FOUND, "no such release is registered: see the list of releases")
    return found


def _fit(session: Session, digest: str) -> bool:
    encoder = aliased(Release)
    whole = (
        select(Release.digest)
        .join(encoder, encoder.digest == Release.encoder)
        .where(Release.digest == digest, encoder.kind == "encoder")
        .where(Release.state.not_in(UNFIT), encoder.state.not_in(UNFIT))
    )
    return session.execute(whole).first() is not None


def _current(session: Session, task: str) -> Deployment | None:
    return session.scalars(select(Deployment).where(Deployment.task == task, Deployment.active)).one_or_none()


def _before(session: Session, deployment: Deployment) -> Deployment | None:
    """The nearest earlier deployment whose head is still fit and is another one."""
    earlier = deployment.previous
    while earlier is not None:
        found = session.get_one(Deployment, earlier)
        if found.digest != deployment.digest and _fit(session, found.digest):
            return found
        earlier = found.previous
    return None


def _step_back(session: Session, task: str, actor: str) -> None:
    current = _current(session, task)
    target = current and _before(session, current)
    if target is not None:
        _activate(session, task, target.digest, target.previous, actor, "release.rolled_back")
    else:
        _deactivate(session, task)
        audit.record(session, actor, "release.withdrawn", "task", task)


def _activate(
    session: Session, task: str, digest: str, previous: int | None, actor: str, action: str
) -> None:
    _deactivate(session, task)
    session.add(Deployment(task=task, digest=digest, previous=previous, active=True, actor=actor))
    session.flush()
    audit.record(session, actor, action, "release", digest, {"task": task})


def _deactivate(session: Session, task: str) -> None:
    serving = update(Deployment).where(Deployment.task == task, Deployment.active)
    session.execute(serving.values(active=False))
