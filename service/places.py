"""From a stored slide to its file: roots by name, uploads under a reserved one."""

from pathlib import Path, PurePosixPath

from xmag.config import Settings
from xmag.db.slides import SlideRow
from xmag.errors import Code, PlaceError, RequestError
from xmag.slide.location import SlideLocation

UPLOADS_ROOT = "uploads"
"""The name under which finished uploads are slides; no allow-listed root may bear it."""

SUFFIXES = frozenset({".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".svslide"})
"""Single-file formats: only these can be uploaded."""


def check_roots(settings: Settings) -> None:
    """Raise PlaceError SETUP when a root bears the reserved name."""
    if UPLOADS_ROOT in settings.slide_roots:
        raise PlaceError(
            Code.SETUP, "setting XMAG_SLIDE_ROOTS: the name `uploads` is reserved, choose another"
        )


def root_folder(settings: Settings, name: str) -> Path:
    """The folder behind a root's name; raises RequestError INVALID_REQUEST."""
    if name == UPLOADS_ROOT:
        return settings.uploads_dir
    if name not in settings.slide_roots:
        raise RequestError(
            Code.INVALID_REQUEST, "unknown root: ask an administrator for the names of the roots"
        )
    return settings.slide_roots[name]


def locate(settings: Settings, slide: SlideRow) -> SlideLocation:
    """Where a stored slide lies now."""
    return SlideLocation(root_folder(settings, slide.root), PurePosixPath(slide.relative))
