"""Which files make a slide, whether they are still the same, and their digest."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from xmag.errors import Code, RequestError, SlideError
from xmag.slide.location import Fingerprint, SlideLocation

BLOCK = 4 * 1024 * 1024
"""Bytes read at once for the digest."""

MIRAX_INDEX = "Slidedat.ini"

_FILE_KEYS = re.compile(
    rb"^\s*(?:ImageFile[^=\n]*|MapFile|OptimisationFile|MacroImage|INDEXFILE|FILE_\d+)\s*=([^\n]+)",
    re.MULTILINE,
)
"""Keys of Hamamatsu's and Mirax's indexes that name files in their folder; spaces as GLib takes them."""


@dataclass(frozen=True)
class Identity:
    """The files of a slide as they were when it was opened; the named file comes first."""

    files: dict[SlideLocation, Fingerprint]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(each.size for each in self.files.values())

    def check(self) -> None:
        """Raise SLIDE_CHANGED when a file was replaced, rewritten or removed since."""
        for location, before in self.files.items():
            if _fingerprint_or_none(location) != before:
                raise SlideError(
                    Code.SLIDE_CHANGED,
                    "the slide changed on disk while it was read: submit it again when its copy is complete",
                )


def identify(location: SlideLocation) -> Identity:
    """Find the files of a slide; raises PATH_OUTSIDE_ROOT, SLIDE_NOT_FOUND, SLIDE_CORRUPT (part missing)."""
    own = {location: location.fingerprint()}
    try:
        others = {each: each.fingerprint() for each in _companions(location) if each != location}
    except SlideError as error:
        if error.code is not Code.SLIDE_NOT_FOUND:
            raise
        raise SlideError(
            Code.SLIDE_CORRUPT, "files of this slide are missing: copy its companion files too"
        ) from None
    return Identity(own | others)


def sha256(identity: Identity, on_progress: Callable[[float], None]) -> str:
    """Digest of a slide, 64 hex digits.

    One file: SHA-256 of its bytes. Several: SHA-256 over the lines ``name NUL sha256-of-file LF``, the named
    file's first (a folder may hold several DICOM slides), the others sorted; names relative to its folder.
    """
    done = 0
    lines = []
    for location in identity.files:
        hasher = hashlib.sha256()
        for block in _blocks(location):
            hasher.update(block)
            done += len(block)
            on_progress(min(1.0, done / max(identity.size, 1)))
        lines.append(_name(location, identity) + b"\0" + hasher.hexdigest().encode() + b"\n")
    if len(lines) == 1:
        return hasher.hexdigest()
    return hashlib.sha256(b"".join([lines[0], *sorted(lines[1:])])).hexdigest()


def _name(location: SlideLocation, identity: Identity) -> bytes:
    folder = next(iter(identity.files)).relative.parent
    return os.fsencode(str(location.relative.relative_to(folder)))


def _blocks(location: SlideLocation) -> Iterator[bytes]:
    with os.fdopen(location.open_fd(), "rb", buffering=0) as file:
        while block := file.read(BLOCK):
            yield block


def _fingerprint_or_none(location: SlideLocation) -> Fingerprint | None:
    try:
        return location.fingerprint()
    except (SlideError, RequestError):
        return None


def _companions(location: SlideLocation) -> list[SlideLocation]:
    match location.relative.suffix.lower():
        case ".mrxs":
            folder = location.relative.with_suffix("")
            names = _at(location, folder).names()
            if MIRAX_INDEX in names:
                _named_in_index(_at(location, folder / MIRAX_INDEX))
            return [_at(location, folder / name) for name in names]
        case ".dcm":
            folder = location.relative.parent
            names = _at(location, folder).names()
            return [_at(location, folder / name) for name in names if name.lower().endswith(".dcm")]
        case ".vms" | ".vmu":
            return [_at(location, location.relative.parent / name) for name in _named_in_index(location)]
        case _:
            return []


def _named_in_index(location: SlideLocation) -> list[str]:
    """File names that an index holds; a name that leaves the folder is refused."""
    head = next(_blocks(location), b"")
    names = sorted({os.fsdecode(name.strip()) for name in _FILE_KEYS.findall(head)})
    if any("/" in name or "\\" in name for name in names):
        raise RequestError(Code.PATH_OUTSIDE_ROOT, "the slide's index names files outside its folder")
    return [name for name in names if name]


def _at(location: SlideLocation, relative: PurePosixPath) -> SlideLocation:
    return SlideLocation(location.root, relative)
