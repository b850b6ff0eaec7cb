"""An append-only, hash-chained record of who did what."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import event, func, insert, select
from sqlalchemy.orm import Session

from xmag.db.session import now
from xmag.db.tables import Audit

CHAIN_LOCK = 0x786D6167
"""Advisory lock that orders the chain; taken by the last statements of a transaction only."""
GENESIS = bytes(32)
_PENDING = "xmag.audit"


@dataclass(frozen=True, slots=True)
class Event:
    """One act; ``detail`` holds no patient data."""

    actor: str
    action: str
    object_type: str
    object_id: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain's length, and the first row whose hash or number does not follow (None: unbroken)."""

    length: int
    broken_at: int | None


def record(
    session: Session,
    actor: str,
    action: str,
    object_type: str,
    object_id: object,
    detail: dict[str, Any] | None = None,
) -> None:
    """Note an act; it is written when the session commits, in the same transaction as the act."""
    noted = Event(actor, action, object_type, str(object_id), detail or {})
    session.info.setdefault(_PENDING, []).append(noted)


def verify(session: Session) -> Chain:
    """Recompute the whole chain. A cut-off tail cannot be seen: compare the length with an earlier one."""
    length, prev = 0, GENESIS
    chain = select(Audit).order_by(Audit.seq).execution_options(yield_per=1000)
    with session.execute(chain) as found:
        for row in found.scalars():
            length += 1
            noted = Event(row.actor, row.action, row.object_type, row.object_id, row.detail)
            if row.seq != length or row.prev != prev or row.hash != _hash(prev, row.seq, row.at, noted):
                return Chain(length, row.seq)
            prev = row.hash
    return Chain(length, None)


@event.listens_for(Session, "before_commit")
def _write(session: Session) -> None:
    pending: list[Event] = session.info.pop(_PENDING, [])
    if not pending:
        return
    session.flush()
    session.execute(select(func.pg_advisory_xact_lock(CHAIN_LOCK)))
    last = session.execute(select(Audit.seq, Audit.hash).order_by(Audit.seq.desc()).limit(1)).one_or_none()
    seq, prev = last or (0, GENESIS)
    at = session.execute(select(now())).scalar_one()
    for noted in pending:
        seq += 1
        row = _row(seq, at, prev, noted)
        session.execute(insert(Audit).values(row))
        prev = row["hash"]


@event.listens_for(Session, "after_rollback")
def _forget(session: Session) -> None:
    session.info.pop(_PENDING, None)


def _row(seq: int, at: datetime, prev: bytes, noted: Event) -> dict[str, Any]:
    values = {name: getattr(noted, name) for name in Event.__slots__}
    return {"seq": seq, "at": at, **values, "prev": prev, "hash": _hash(prev, seq, at, noted)}


def _hash(prev: bytes, seq: int, at: datetime, noted: Event) -> bytes:
    values = [seq, at.astimezone(UTC).isoformat(), *(getattr(noted, name) for name in Event.__slots__)]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(prev + text.encode()).digest()
