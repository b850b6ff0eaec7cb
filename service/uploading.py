"""One upload from its first byte to a stored slide.

What is acknowledged is on disk: bytes are fsynced before the database learns the new offset, and the caller
hears of it after the commit. The last bytes are acknowledged together with the digest of the whole file, so
an upload is never complete but unchecked. Nothing is spooled or held in memory beyond one block.
"""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from anyio import CancelScope, fail_after
from fastapi import Request
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from service import upload_files as files
from service.gateway import Gateway
from service.upload_files import Hasher
from xmag.db import uploads
from xmag.db.keys import Principal
from xmag.db.uploads import UploadRow
from xmag.errors import Code, PlaceError, RequestError

TOO_LONG = "the bytes pass the upload's declared length: ask for the offset with HEAD"
CHECKPOINT = 64 * 1024**2
"""Bytes that a crash of the gateway may cost the sender of one long PATCH."""

IDLE_SECONDS = 60.0
"""A sender silent for so long is gone; what arrived is kept."""


@dataclass
class Poured:
    """How far the file is acknowledged and written, and why writing stopped early."""

    kept: int
    end: int
    stopped: PlaceError | ClientDisconnect | None = None


def owned(session: Session, upload_id: UUID, principal: Principal) -> UploadRow | None:
    """The upload, if it is the caller's or the caller administers."""
    row = uploads.get(session, upload_id)
    if row is None or (row.principal != principal.name and "admin" not in principal.scopes):
        return None
    return row


async def open_upload(
    gateway: Gateway, size: int, suffix: str, sha256: str | None, principal: Principal
) -> UUID:
    """Reserve an id and its empty file; raises TOO_LARGE, TOO_MANY and DISK_FULL."""
    caps, folder = gateway.settings.uploads, gateway.settings.uploads_dir
    if size > caps.max_bytes:
        raise RequestError(Code.TOO_LARGE, f"an upload may hold at most {caps.max_bytes} bytes")
    await gateway.file(files.require_space, folder, size, caps.reserve_bytes)

    def work(session: Session) -> UUID:
        limits = (caps.expire_seconds, caps.max_open)
        upload_id = uploads.create(session, principal.name, size, sha256, *limits)
        files.create(folder, upload_id, suffix)
        return upload_id

    return await gateway.database(work)


async def current(gateway: Gateway, upload_id: UUID, principal: Principal) -> UploadRow:
    """The caller's upload; raises NOT_FOUND, and GONE when it expired or was rejected."""
    row = await gateway.database(lambda session: owned(session, upload_id, principal))
    if row is None:
        raise RequestError(Code.NOT_FOUND, "no upload has this id: create one first")
    if row.state in ("expired", "rejected") or (row.state == "open" and row.expires_at < datetime.now(UTC)):
        raise RequestError(Code.GONE, "the upload has expired, was deleted or was rejected: start it again")
    return row


async def append(
    gateway: Gateway,
    upload_id: UUID,
    offset: int,
    request: Request,
    announced: str | None,
    principal: Principal,
) -> UploadRow:
    """Take the body of a PATCH, ``announced`` its Upload-Checksum; returns the upload as acknowledged."""
    checksum = files.parse_checksum(announced)
    await current(gateway, upload_id, principal)
    fd = await gateway.file(files.open_locked, gateway.settings.uploads_dir, upload_id)
    try:
        row = await current(gateway, upload_id, principal)
        _check_offset(row, offset, request)
        poured = await _pour(gateway, fd, row, request, checksum and checksum[0])
        if checksum is not None and (poured.stopped or checksum[0].digest() != checksum[1]):
            if isinstance(poured.stopped, PlaceError):
                raise poured.stopped
            raise RequestError(
                Code.CHECKSUM_MISMATCH, "the bytes differ from Upload-Checksum: send them again"
            )
        with CancelScope(shield=True):
            await _acknowledge(gateway, fd, row, poured)
        if isinstance(poured.stopped, PlaceError):
            raise poured.stopped
        return await current(gateway, upload_id, principal)
    finally:
        os.close(fd)


async def end_upload(gateway: Gateway, upload_id: UUID, principal: Principal) -> None:
    """Terminate an upload that is not stored, and delete its bytes."""
    await current(gateway, upload_id, principal)
    folder = gateway.settings.uploads_dir
    fd = await gateway.file(files.open_locked, folder, upload_id)
    try:
        await gateway.database(lambda session: uploads.delete(session, upload_id, principal.name))
        await gateway.file(files.remove, folder, upload_id)
    finally:
        os.close(fd)


def _check_offset(row: UploadRow, offset: int, request: Request) -> None:
    if offset != row.offset_bytes:
        raise RequestError(Code.OFFSET_MISMATCH, "the upload's offset is another: ask for it with HEAD")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and offset + int(declared) > row.size:
        raise RequestError(Code.TOO_LARGE, TOO_LONG)


async def _pour(gateway: Gateway, fd: int, row: UploadRow, request: Request, hasher: Hasher | None) -> Poured:
    """Write what arrives, block by block; a sender or disk that stops is told, not raised.

    Without a checksum that may still drop the bytes, each `CHECKPOINT` of them is acknowledged on the way.
    """
    poured, buffer = Poured(row.offset_bytes, row.offset_bytes), bytearray()
    try:
        async for chunk in _chunks(request):
            if poured.end + len(buffer) + len(chunk) > row.size:
                raise RequestError(Code.TOO_LARGE, TOO_LONG)
            buffer += chunk
            if len(buffer) >= files.BLOCK:
                await _flush(gateway, fd, poured, buffer, hasher)
            if hasher is None and poured.kept + CHECKPOINT <= poured.end < row.size:
                await _acknowledge(gateway, fd, row, poured)
    except (ClientDisconnect, TimeoutError):
        poured.stopped = ClientDisconnect()
    except PlaceError as error:
        poured.stopped = error
        return poured
    try:
        await _flush(gateway, fd, poured, buffer, hasher)
    except PlaceError as error:
        poured.stopped = error
    return poured


async def _flush(gateway: Gateway, fd: int, poured: Poured, buffer: bytearray, hasher: Hasher | None) -> None:
    data = bytes(buffer)
    buffer.clear()
    await gateway.file(_store, gateway, fd, data, poured.end, hasher)
    poured.end += len(data)


def _store(gateway: Gateway, fd: int, data: bytes, at: int, hasher: Hasher | None) -> None:
    settings = gateway.settings
    files.require_space(settings.uploads_dir, len(data), settings.uploads.reserve_bytes)
    files.write(fd, data, at)
    if hasher is not None:
        hasher.update(data)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    more = True
    while more:
        with fail_after(IDLE_SECONDS):
            message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _acknowledge(gateway: Gateway, fd: int, row: UploadRow, poured: Poured) -> None:
    if poured.end == poured.kept:
        return
    await gateway.file(files.sync, fd)
    kept, end, expire = poured.kept, poured.end, gateway.settings.uploads.expire_seconds
    if end < row.size:
        await gateway.database(lambda session: uploads.advance(session, row.id, kept, end, expire))
    else:
        await _finish(gateway, fd, row, kept, expire)
    gateway.metrics.uploaded(end - kept)
    poured.kept = end


async def _finish(gateway: Gateway, fd: int, row: UploadRow, kept: int, expire: float) -> None:
    sha256 = await gateway.file(files.digest, fd, row.size)
    if row.declared_sha256 not in (None, sha256):
        await gateway.database(lambda s: uploads.reject(s, row.id, "checksum"))
        await gateway.file(files.remove, gateway.settings.uploads_dir, row.id)
        raise RequestError(
            Code.CHECKSUM_MISMATCH, "the whole file differs from the declared sha256: start the upload again"
        )

    def work(session: Session) -> None:
        uploads.advance(session, row.id, kept, row.size, expire)
        uploads.finalize(session, row.id, expire)
        uploads.finish(session, row.id, sha256)

    await gateway.database(work)
