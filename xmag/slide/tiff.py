"""Whether a TIFF file ends before its own directories say it does."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
"""Bytes of one value of each TIFF type."""

MAX_DIRECTORIES = 256
MAX_ENTRIES = 4096


@dataclass(frozen=True)
class _Layout:
    """How one of the two TIFF variants lays out a directory, as `struct` formats."""

    order: str
    count: str
    entry: str
    offset: str


def cut_short(fd: int) -> bool:
    """Whether a directory, or a value that it points to, lies beyond the end; False for what is no TIFF."""
    head, size = os.pread(fd, 16, 0), os.fstat(fd).st_size
    layout = _layout(head)
    if layout is None or len(head) < 16:
        return layout is not None
    try:
        return any(end > size for end in _ends(fd, layout, head))
    except struct.error:  # a directory that ends with the file
        return True


def _layout(head: bytes) -> _Layout | None:
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        return None
    versions = {42: _Layout(order, "H", "HHI4s", "I"), 43: _Layout(order, "Q", "HHQ8s", "Q")}
    return versions.get(struct.unpack_from(f"{order}H", head.ljust(4, b"\0"), 2)[0])


def _ends(fd: int, layout: _Layout, head: bytes) -> Iterator[int]:
    """Where each directory and each of its outlying values ends."""
    (at,) = struct.unpack_from(layout.order + layout.offset, head, 4 if layout.offset == "I" else 8)
    for _ in range(MAX_DIRECTORIES):
        if not at:
            return
        (entries,) = _read(fd, layout.order + layout.count, at)
        at += struct.calcsize(layout.order + layout.count)
        step = struct.calcsize(layout.order + layout.entry)
        for _ in range(min(entries, MAX_ENTRIES)):
            _, kind, count, value = _read(fd, layout.order + layout.entry, at)
            length = SIZES.get(kind, 0) * count
            if length > len(value):
                yield struct.unpack(layout.order + layout.offset, value)[0] + length
            at += step
        (at,) = _read(fd, layout.order + layout.offset, at)


def _read(fd: int, layout: str, at: int) -> tuple[Any, ...]:
    if at > 2**62:
        raise struct.error("beyond any file")
    return struct.unpack(layout, os.pread(fd, struct.calcsize(layout), at))
