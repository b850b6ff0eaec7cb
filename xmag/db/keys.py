"""API keys: ``xmag_<prefix>_<secret>``; only the secret's hash is stored."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, or_, select, update
from sqlalchemy.orm import Session

from xmag.db import audit
from xmag.db.session import after, now
from xmag.db.tables import ApiKey
from xmag.errors import Code, RequestError

SCOPES = ("submit", "read", "releases", "admin")
TOKEN = re.compile(r"xmag_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
USE_NOTED_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling, and what they may do."""

    name: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key without its secret."""

    prefix: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


def create(
    session: Session, name: str, scopes: Iterable[str], expires_at: datetime | None = None, actor: str = "cli"
) -> str:
    """Make a key; the only time its secret is seen. Raises RequestError INVALID_REQUEST (scope or name)."""
    granted = sorted(set(scopes))
    if not name or not granted or not set(granted) <= set(SCOPES):
        raise RequestError(Code.INVALID_REQUEST, f"a key needs a name and scopes out of {', '.join(SCOPES)}")
    prefix, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    row = {
        "prefix": prefix,
        "sha256": _hash(secret),
        "name": name,
        "scopes": granted,
        "expires_at": expires_at,
    }
    session.execute(insert(ApiKey).values(row))
    audit.record(session, actor, "key.created", "key", prefix, {"scopes": granted})
    return f"xmag_{prefix}_{secret}"


def verify(session: Session, token: str) -> Principal | None:
    """Whose token it is; None if it is malformed, unknown, wrong, revoked or past its time."""
    parts = TOKEN.fullmatch(token)
    if parts is None:
        return None
    prefix, secret = parts.groups()
    valid = select(ApiKey.sha256, ApiKey.name, ApiKey.scopes).where(
        ApiKey.prefix == prefix,
        ApiKey.revoked_at.is_(None),
        or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now()),
    )
    row = session.execute(valid).one_or_none()
    if not hmac.compare_digest(_hash(secret), row.sha256 if row else bytes(32)) or row is None:
        return None
    _note_use(session, prefix)
    return Principal(row.name, frozenset(row.scopes))


def revoke(session: Session, prefix: str, actor: str = "cli") -> None:
    """Refuse a key from now on. Raises RequestError NOT_FOUND."""
    ended = update(ApiKey).where(ApiKey.prefix == prefix, ApiKey.revoked_at.is_(None))
    if session.execute(ended.values(revoked_at=now()).returning(ApiKey.prefix)).first() is None:
        raise RequestError(Code.NOT_FOUND, "no valid key has this prefix: see the list of keys")
    audit.record(session, actor, "key.revoked", "key", prefix)


def listing(session: Session) -> list[KeyRow]:
    """All keys, newest first, without secrets."""
    rows = session.scalars(select(ApiKey).order_by(ApiKey.created_at.desc(), ApiKey.prefix))
    return [_view(row) for row in rows]


def _view(row: ApiKey) -> KeyRow:
    times = (row.created_at, row.expires_at, row.revoked_at, row.last_used_at)
    return KeyRow(row.prefix, row.name, tuple(row.scopes), *times)


def _note_use(session: Session, prefix: str) -> None:
    """At most once in `USE_NOTED_EVERY_S`, and never waiting for another call that does the same."""
    stale = (
        select(ApiKey.prefix)
        .where(ApiKey.prefix == prefix)
        .where(or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < after(-USE_NOTED_EVERY_S)))
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    session.execute(update(ApiKey).where(ApiKey.prefix == stale).values(last_used_at=now()))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
