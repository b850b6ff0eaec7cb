"""Resumable uploads: open -> finalizing -> stored | rejected | expired. Files are the caller's."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Update, func, insert, select, update
from sqlalchemy.orm import Session

from xmag.db import audit
from xmag.db.ids import new_id
from xmag.db.session import after, now
from xmag.db.tables import Upload
from xmag.errors import Code, RequestError

UNFINISHED = ("open", "finalizing")


@dataclass(frozen=True, slots=True)
class UploadRow:
    """An upload; ``offset_bytes`` of ``size`` are on disk for certain."""

    id: UUID
    principal: str
    size: int
    offset_bytes: int
    declared_sha256: str | None
    sha256: str | None
    state: str
    reason: str | None
    created_at: datetime
    expires_at: datetime


def create(
    session: Session, principal: str, size: int, sha256: str | None, expire_s: float, max_open: int
) -> UUID:
    """Open an upload. Raises RequestError TOO_MANY if the principal has ``max_open`` unfinished ones."""
    session.execute(
        select(func.pg_advisory_xact_lock(func.hashtext("xmag.uploads"), func.hashtext(principal)))
    )
    unfinished = select(func.count()).where(Upload.principal == principal, Upload.state.in_(UNFINISHED))
    if session.execute(unfinished).scalar_one() >= max_open:
        raise RequestError(Code.TOO_MANY, "too many unfinished uploads: finish or delete one first")
    upload_id = new_id()
    row = {"id": upload_id, "principal": principal, "size": size, "declared_sha256": sha256}
    session.execute(insert(Upload).values(**row, expires_at=after(expire_s)))
    audit.record(session, principal, "upload.created", "upload", upload_id, {"size": size})
    return upload_id


def get(session: Session, upload_id: UUID) -> UploadRow | None:
    """An upload by id, whatever its state."""
    found = session.get(Upload, upload_id, populate_existing=True)
    if found is None:
        return None
    return UploadRow(**{name: getattr(found, name) for name in UploadRow.__slots__})


def advance(session: Session, upload_id: UUID, old: int, new: int, expire_s: float) -> None:
    """Acknowledge that bytes ``old`` to ``new`` are on disk, and put off the expiry.

    Raises RequestError NOT_FOUND, GONE, CONFLICT (not open) and OFFSET_MISMATCH (``old`` is not the offset).
    """
    step = _open(upload_id).where(Upload.state == "open", Upload.offset_bytes == old, Upload.size >= new)
    moved = step.values(offset_bytes=func.greatest(new, Upload.offset_bytes), expires_at=after(expire_s))
    if session.execute(moved.returning(Upload.id)).first() is None:
        raise _refusal(session, upload_id, "open")


def finalize(session: Session, upload_id: UUID, expire_s: float) -> UploadRow:
    """Begin the final check of a complete upload; may be called again after a crash in the middle.

    Raises RequestError NOT_FOUND, GONE, CONFLICT, and OFFSET_MISMATCH if bytes are missing.
    """
    step = _open(upload_id).where(Upload.state.in_(UNFINISHED), Upload.offset_bytes == Upload.size)
    moved = step.values(state="finalizing", expires_at=after(expire_s)).returning(Upload.id)
    if session.execute(moved).first() is None:
        raise _refusal(session, upload_id, "open")
    row = get(session, upload_id)
    assert row is not None
    return row


def finish(session: Session, upload_id: UUID, sha256: str) -> None:
    """Mark a finalizing upload as stored. Raises RequestError NOT_FOUND, GONE and CONFLICT."""
    step = _open(upload_id).where(Upload.state == "finalizing").values(state="stored", sha256=sha256)
    _judge(session, step, upload_id, "upload.stored")


def reject(session: Session, upload_id: UUID, reason: str) -> None:
    """Mark an unfinished upload as bad. Raises RequestError NOT_FOUND, GONE and CONFLICT."""
    step = _open(upload_id).where(Upload.state.in_(UNFINISHED)).values(state="rejected", reason=reason)
    _judge(session, step, upload_id, "upload.rejected")


def delete(session: Session, upload_id: UUID, actor: str = "system") -> None:
    """End an upload that is not stored; the caller deletes its file after the commit.

    Raises RequestError NOT_FOUND, GONE, and CONFLICT if it is stored (jobs may need it).
    """
    step = _open(upload_id).where(Upload.state.in_((*UNFINISHED, "rejected")))
    _judge(session, step.values(state="expired", reason="deleted"), upload_id, "upload.deleted", actor)


def expire(session: Session, limit: int = 100) -> list[UUID]:
    """End unfinished uploads that fell silent; the caller deletes their files after the commit."""
    silent = (
        select(Upload.id)
        .where(Upload.state.in_(UNFINISHED), Upload.expires_at < now())
        .order_by(Upload.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = list(session.scalars(silent))
    session.execute(update(Upload).where(Upload.id.in_(ids)).values(state="expired", reason="silent"))
    for upload_id in ids:
        audit.record(session, "reaper", "upload.expired", "upload", upload_id)
    return ids


def _open(upload_id: UUID) -> Update:
    return update(Upload).where(Upload.id == upload_id).execution_options(synchronize_session=False)


def _judge(session: Session, step: Update, upload_id: UUID, action: str, actor: str = "system") -> None:
    if session.execute(step.returning(Upload.id)).first() is None:
        raise _refusal(session, upload_id, "unfinished")
    audit.record(session, actor, action, "upload", upload_id)


def _refusal(session: Session, upload_id: UUID, wanted: str) -> RequestError:
    row = get(session, upload_id)
    if row is None:
        return RequestError(Code.NOT_FOUND, "no such upload: create one first")
    if row.state == "expired":
        return RequestError(Code.GONE, "the upload has expired or was deleted: start it again")
    if row.state in ("stored", "rejected") or wanted != "open" or row.state == "finalizing":
        return RequestError(Code.CONFLICT, f"the upload is {row.state}: this step is not possible any more")
    return RequestError(
        Code.OFFSET_MISMATCH, f"the upload's offset is {row.offset_bytes}: continue from there"
    )
