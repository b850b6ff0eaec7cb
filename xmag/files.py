"""Files that are whole or absent: temporary file beside the target, fsync, rename, fsync of the folder."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from xmag.errors import Code, PlaceError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def disk_guard() -> Iterator[None]:
    """Turn a full disk or quota into PlaceError DISK_FULL; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise PlaceError(Code.DISK_FULL, "the disk is full: free space, then run again") from None
        raise


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write or replace one file; a reader sees the old or the new bytes. Raises PlaceError DISK_FULL."""
    with disk_guard():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        _write_synced(temporary, data, mode)
        try:
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that must not exist yet; raises FileExistsError and PlaceError DISK_FULL."""
    with disk_guard():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_synced(path, data, mode)
        sync_folder(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files that appears at once, or raise FileExistsError when it is there already."""
    with disk_guard():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            temporary.mkdir(mode=0o755)
            for name, data in files.items():
                _write_synced(temporary / name, data, 0o644)
            sync_folder(temporary)
            _rename_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _rename_folder(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            raise FileExistsError(errno.EEXIST, "the folder exists") from None
        raise


def _write_synced(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
