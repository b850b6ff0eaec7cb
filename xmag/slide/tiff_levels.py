"""Levels of a tiled TIFF whose tiles are JPEG streams: where they lie and what their colours are."""

import struct
from dataclasses import dataclass

from xmag.slide.tiff import Value, data, directories, numbers

JPEG = 7
RGB, YCBCR = 2, 6
"""Photometric interpretations: how the JPEG streams store colour, whatever their own headers say."""

MAX_SIDE = 1024
"""Longest side of a tile that is decoded here."""

MAX_TILES = 8_000_000
"""Of one level: bounds the tables of offsets and sizes to 128 MB."""

MAX_TABLES = 1 << 16
"""Bytes of the JPEG tables that a level's tiles share."""

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
SAMPLES, PLANAR = 277, 284
TILE_WIDTH, TILE_HEIGHT, OFFSETS, COUNTS, TABLES = 322, 323, 324, 325, 347


@dataclass(frozen=True)
class JpegLevel:
    """A level in its own pixels.

    Attributes:
        width: pixels that belong to the slide.
        height: pixels that belong to the slide.
        tile_width: multiple of 16; tiles at the right border reach beyond the level.
        tile_height: multiple of 16.
        rgb: whether the streams hold RGB, else YCbCr.
        tables: the JPEG tables that the streams share, as the file holds them; may be empty.
        offsets: where each stream starts, row by row.
        counts: bytes of each stream.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    rgb: bool
    tables: bytes
    offsets: Value
    counts: Value

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile_width)

    @property
    def down(self) -> int:
        """Rows of tiles."""
        return -(-self.height // self.tile_height)


def jpeg_level(fd: int, width: int, height: int) -> JpegLevel | None:
    """The tiled directory of exactly this size; None when none, several or not of 8-bit RGB JPEG tiles."""
    try:
        found = [
            tags
            for tags in directories(fd)
            if OFFSETS in tags and (_one(fd, tags, WIDTH), _one(fd, tags, HEIGHT)) == (width, height)
        ]
        return _level(fd, found[0]) if len(found) == 1 else None
    except (struct.error, OSError):
        return None


def _level(fd: int, tags: dict[int, Value]) -> JpegLevel | None:
    photometric = _one(fd, tags, PHOTOMETRIC)
    kind = (_one(fd, tags, COMPRESSION), _one(fd, tags, SAMPLES), _one(fd, tags, PLANAR, 1))
    if kind != (JPEG, 3, 1) or photometric not in (RGB, YCBCR) or not _eight_bits(fd, tags):
        return None
    level = JpegLevel(
        _one(fd, tags, WIDTH),
        _one(fd, tags, HEIGHT),
        _one(fd, tags, TILE_WIDTH),
        _one(fd, tags, TILE_HEIGHT),
        photometric == RGB,
        _tables(fd, tags),
        tags[OFFSETS],
        tags.get(COUNTS, Value("<", 0, 0, 0)),
    )
    sides = (level.tile_width, level.tile_height)
    if not all(16 <= side <= MAX_SIDE and side % 16 == 0 for side in sides):
        return None
    tiles = level.across * level.down
    fits = tiles <= MAX_TILES and level.offsets.count == tiles == level.counts.count
    return level if fits else None


def _eight_bits(fd: int, tags: dict[int, Value]) -> bool:
    return BITS in tags and tags[BITS].count == 3 and set(numbers(fd, tags[BITS]).tolist()) == {8}


def _tables(fd: int, tags: dict[int, Value]) -> bytes:
    if TABLES not in tags:
        return b""
    if tags[TABLES].count > MAX_TABLES:
        raise struct.error("no JPEG tables")
    return data(fd, tags[TABLES])


def _one(fd: int, tags: dict[int, Value], tag: int, default: int = 0) -> int:
    """The single number of a tag; ``default`` where it is absent."""
    if tag not in tags:
        return default
    if tags[tag].count != 1:
        raise struct.error("not one number")
    return int(numbers(fd, tags[tag])[0])
