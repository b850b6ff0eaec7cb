"""The directories of a TIFF file, read without trust: where each tag's values lie, and whether they do."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
"""numpy's names of the types that hold whole numbers from 0."""

MAX_DIRECTORIES = 256
MAX_ENTRIES = 4096


@dataclass(frozen=True)
class Value:
    """Where the values of a tag lie: ``count`` of TIFF type ``kind`` from byte ``at``; ``order`` < or >."""

    order: str
    kind: int
    count: int
    at: int

    @property
    def end(self) -> int:
        """First byte behind them; ``at`` for an unknown type."""
        return self.at + SIZES.get(self.kind, 0) * self.count


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
        return any(value.end > size for tags in directories(fd) for value in tags.values())
    except struct.error:  # a directory that ends with the file
        return True


def directories(fd: int) -> Iterator[dict[int, Value]]:
    """The tags of each directory of the main chain; nothing of what is no TIFF.

    Raises struct.error where the file ends within a directory.
    """
    head = os.pread(fd, 16, 0)
    layout = _layout(head)
    if layout is None:
        return
    (at,) = struct.unpack_from(layout.order + layout.offset, head, 4 if layout.offset == "I" else 8)
    for _ in range(MAX_DIRECTORIES):
        if not at:
            return
        (entries,) = _read(fd, layout.order + layout.count, at)
        at += struct.calcsize(layout.order + layout.count)
        entries = min(entries, MAX_ENTRIES)
        yield _tags(fd, layout, at, entries)
        at += entries * struct.calcsize(layout.order + layout.entry)
        (at,) = _read(fd, layout.order + layout.offset, at)


def numbers(fd: int, value: Value) -> NDArray[np.int64]:
    """(count,), whole numbers of a tag; raises struct.error for another type and beyond the file's end."""
    if value.kind not in UNSIGNED:
        raise struct.error("no whole numbers")
    data = _bytes(fd, value.end - value.at, value.at)
    return np.frombuffer(data, value.order + UNSIGNED[value.kind]).astype(np.int64)


def data(fd: int, value: Value) -> bytes:
    """The bytes of a tag's values; raises struct.error beyond the file's end."""
    return _bytes(fd, value.end - value.at, value.at)


def _layout(head: bytes) -> _Layout | None:
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        return None
    versions = {42: _Layout(order, "H", "HHI4s", "I"), 43: _Layout(order, "Q", "HHQ8s", "Q")}
    return versions.get(struct.unpack_from(f"{order}H", head.ljust(4, b"\0"), 2)[0])


def _tags(fd: int, layout: _Layout, at: int, entries: int) -> dict[int, Value]:
    """Tag -> value of the directory whose entries start at ``at``; the first of two equal tags counts."""
    entry = struct.Struct(layout.order + layout.entry)
    found: dict[int, Value] = {}
    for index, fields in enumerate(entry.iter_unpack(_bytes(fd, entry.size * entries, at))):
        tag, kind, count, inline = fields
        place = at + (index + 1) * entry.size - len(inline)
        if SIZES.get(kind, 0) * count > len(inline):
            (place,) = struct.unpack(layout.order + layout.offset, inline)
        found.setdefault(tag, Value(layout.order, kind, count, place))
    return found


def _read(fd: int, layout: str, at: int) -> tuple[Any, ...]:
    return struct.unpack(layout, _bytes(fd, struct.calcsize(layout), at))


def _bytes(fd: int, count: int, at: int) -> bytes:
    """Exactly ``count`` bytes; the file's own size bounds what is asked for."""
    if at + count > os.fstat(fd).st_size:
        raise struct.error("beyond the file's end")
    found = os.pread(fd, count, at)
    if len(found) != count:
        raise struct.error("beyond the file's end")
    return found
