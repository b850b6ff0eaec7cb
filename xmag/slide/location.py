"""Where a slide lies: an allow-listed root and a path beneath it, opened without following a link."""

import os
import stat
from dataclasses import dataclass
from errno import EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, errorcode
from pathlib import Path, PurePosixPath

from xmag.errors import Code, RequestError, SlideError

ABSENT = frozenset({ENOENT, ENOTDIR, EISDIR, ENAMETOOLONG, ELOOP, ENXIO, EINVAL})

FOLDER_FORMATS = frozenset({".mrxs", ".vms", ".vmu", ".dcm"})
"""Formats that OpenSlide reads from several files beside the named one."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What changes when a file is replaced or rewritten."""

    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class SlideLocation:
    """A file beneath an allow-listed root."""

    root: Path
    relative: PurePosixPath

    def open_fd(self) -> int:
        """Open read-only, component by component, refusing every symbolic link.

        Raises RequestError PATH_OUTSIDE_ROOT (absolute, ``..`` or a link) and SlideError SLIDE_NOT_FOUND.
        """
        return _regular(self._walk(0))

    def names(self) -> list[str]:
        """Sorted names, but for folders', in the folder that this location is; raises as `open_fd` does."""
        folder = self._walk(os.O_DIRECTORY)
        try:
            with os.scandir(folder) as entries:
                return sorted(each.name for each in entries if not each.is_dir(follow_symlinks=False))
        finally:
            os.close(folder)

    def fingerprint(self) -> Fingerprint:
        """Size, mtime and inode now; raises as `open_fd` does."""
        fd = self.open_fd()
        try:
            return fingerprint(fd)
        finally:
            os.close(fd)

    @property
    def in_folder(self) -> bool:
        """Whether the format reads files beside the named one."""
        return self.relative.suffix.lower() in FOLDER_FORMATS

    def _walk(self, flags: int) -> int:
        parts = self.relative.parts
        if self.relative.is_absolute() or ".." in parts or "\0" in str(self.relative):
            raise RequestError(Code.PATH_OUTSIDE_ROOT, "the path must be relative and stay beneath its root")
        try:
            here = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for part in parts[:-1]:
                here = _step(here, part, os.O_DIRECTORY)
            return _step(here, parts[-1] if parts else ".", flags)
        except (OSError, UnicodeError) as error:
            raise SlideError(Code.SLIDE_NOT_FOUND, _reason(error)) from None


def fingerprint(fd: int) -> Fingerprint:
    """Fingerprint of an open file."""
    status = os.fstat(fd)
    return Fingerprint(status.st_size, status.st_mtime_ns, status.st_ino)


def _step(folder: int, part: str, flags: int) -> int:
    """Open ``part`` in ``folder`` and close ``folder``."""
    try:
        how = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | flags
        return os.open(part, how, dir_fd=folder)
    except OSError:
        if _is_link(folder, part):
            raise RequestError(Code.PATH_OUTSIDE_ROOT, "a symbolic link lies on the path") from None
        raise
    finally:
        os.close(folder)


def _is_link(folder: int, part: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(part, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _regular(fd: int) -> int:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise SlideError(Code.SLIDE_NOT_FOUND, "the path does not name a regular file")
    return fd


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "the service may not read the slide: check the file's permissions"
    if isinstance(error, OSError) and error.errno not in ABSENT:
        return (
            f"the slide's storage failed ({errorcode.get(error.errno or 0, 'unknown')}): check it, then retry"
        )
    return "no slide at this path"
