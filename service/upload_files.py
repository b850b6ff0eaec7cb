"""Files of uploads: ``<uploads>/<id><suffix>``, written in place, one writer at a time."""

import base64
import binascii
import fcntl
import hashlib
import os
from pathlib import Path
from typing import Protocol
from uuid import UUID

from service.places import SUFFIXES
from service.problems import RefusedError
from xmag.errors import Code, PlaceError, RequestError, SlideError
from xmag.files import disk_guard, sync_folder

BLOCK = 1024 * 1024


class Hasher(Protocol):
    """A running digest."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""

    def digest(self) -> bytes:
        """The digest so far."""


NO_UPLOAD = "no upload of yours has this id, or its file is gone: upload the slide again"
_NAME_KEYS = ("filename", "name")


def upload_path(folder: Path, upload_id: UUID) -> Path:
    """The file of an upload, whatever its suffix; raises SlideError SLIDE_NOT_FOUND."""
    found = next(folder.glob(f"{upload_id}.*"), None)
    if found is None:
        raise SlideError(Code.SLIDE_NOT_FOUND, NO_UPLOAD)
    return found


def create(folder: Path, upload_id: UUID, suffix: str) -> None:
    """Make the empty file, durable with its name."""
    with disk_guard():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{upload_id}{suffix}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_folder(folder)


def remove(folder: Path, upload_id: UUID) -> None:
    """Delete the file, if there is one."""
    for path in folder.glob(f"{upload_id}.*"):
        path.unlink(missing_ok=True)


def open_locked(folder: Path, upload_id: UUID) -> int:
    """A descriptor that holds the upload's lock until closed; raises LOCKED while another does."""
    try:
        fd = os.open(upload_path(folder, upload_id), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (SlideError, FileNotFoundError):
        raise RequestError(Code.GONE, "the upload has expired or was deleted: start it again") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RequestError(Code.LOCKED, "another request writes to this upload: try again soon") from None
    return fd


def require_space(folder: Path, wanted: int, reserve: int) -> None:
    """Raise PlaceError DISK_FULL unless ``wanted`` bytes fit and ``reserve`` stay free."""
    place = folder if folder.exists() else folder.parent
    if free_bytes(place) - wanted < reserve:
        raise PlaceError(
            Code.DISK_FULL, "too little space for this upload: ask an administrator to free some"
        )


def free_bytes(folder: Path) -> int:
    """What an ordinary user may still write."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def write(fd: int, data: bytes, at: int) -> None:
    """Write all of ``data``; raises PlaceError DISK_FULL."""
    view = memoryview(data)
    with disk_guard():
        while view:
            done = os.pwrite(fd, view, at)
            view, at = view[done:], at + done


def sync(fd: int) -> None:
    """Make the bytes durable; raises PlaceError DISK_FULL."""
    with disk_guard():
        os.fsync(fd)


def digest(fd: int, size: int) -> str:
    """SHA-256 of the first ``size`` bytes as they lie on disk."""
    hasher, at = hashlib.sha256(), 0
    while at < size and (block := os.pread(fd, min(4 * BLOCK, size - at), at)):
        hasher.update(block)
        at += len(block)
    return hasher.hexdigest()


def parse_metadata(header: str) -> tuple[str, str | None]:
    """Suffix and declared SHA-256 from ``Upload-Metadata``; of the file's name only its suffix is read.

    Raises RequestError INVALID_REQUEST (not as tus says) and UNSUPPORTED_MEDIA (suffix).
    """
    fields = dict(_pair(item) for item in header.split(",") if item.strip())
    name = next((fields[key] for key in _NAME_KEYS if key in fields), None)
    suffix = ".tif" if name is None else Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise RequestError(
            Code.UNSUPPORTED_MEDIA, f"the file's suffix must be one of {', '.join(sorted(SUFFIXES))}"
        )
    sha256 = fields.get("sha256")
    if sha256 is not None and (len(sha256) != 64 or not set(sha256.lower()) <= set("0123456789abcdef")):
        raise RequestError(Code.INVALID_REQUEST, "metadata `sha256` must be 64 hexadecimal digits")
    return suffix, sha256 and sha256.lower()


def parse_checksum(header: str | None) -> tuple[Hasher, bytes] | None:
    """A fresh hash and the digest it must reach; raises RequestError INVALID_REQUEST."""
    if header is None:
        return None
    algorithm, _, encoded = header.partition(" ")
    if algorithm not in ("sha1", "sha256"):
        raise _bad_checksum()
    try:
        expected = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise _bad_checksum() from None
    return hashlib.new(algorithm, usedforsecurity=False), expected


def _bad_checksum() -> RefusedError:
    detail = "Upload-Checksum must be `sha256` or `sha1`, a space, and the digest in base64"
    return RefusedError(Code.INVALID_REQUEST, detail, status=400)


def _pair(item: str) -> tuple[str, str]:
    key, _, encoded = item.strip().partition(" ")
    try:
        return key, base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        raise RequestError(
            Code.INVALID_REQUEST, "Upload-Metadata must hold pairs of a key and a base64 value"
        ) from None
