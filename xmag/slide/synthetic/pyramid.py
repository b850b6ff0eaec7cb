"""Tiled TIFF levels from a picture that arrives in strips, each smaller level averaged on the way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """Downsamples of the levels (whole, rising from 1), side of a tile (a multiple of 16), JPEG quality."""

    levels: tuple[int, ...]
    tile: int
    quality: int

    def check(self, shape: tuple[int, int]) -> None:
        """Raise ValueError when a picture of ``shape`` (h, w) cannot have these levels and tiles."""
        rising = all(low < high for low, high in zip(self.levels, self.levels[1:], strict=False))
        if not self.levels or self.levels[0] != 1 or not rising:
            raise ValueError("levels must be whole downsamples that rise from 1")
        if self.levels[-1] > min(shape):
            raise ValueError("the smallest level would have no pixels; leave it out")
        if self.tile <= 0 or self.tile % 16:
            raise ValueError("the tile's side must be a multiple of 16")


@dataclass
class _Reducer:
    """Averages blocks of ``down`` x ``down`` px of strips that are pushed from top to bottom."""

    down: int
    rest: list[Rgb] = field(default_factory=list)
    rows: list[Rgb] = field(default_factory=list)

    def push(self, strip: Rgb) -> None:
        self.rest.append(strip)
        whole = sum(map(len, self.rest)) // self.down
        if not whole:
            return
        rows = np.concatenate(self.rest)
        columns = rows.shape[1] // self.down
        block = rows[: whole * self.down, : columns * self.down]
        self.rows.append(
            np.asarray(cv2.resize(block, (columns, whole), interpolation=cv2.INTER_AREA), np.uint8)
        )
        self.rest = [rows[whole * self.down :].copy()]

    def picture(self) -> Rgb:
        return np.concatenate(self.rows)


def write_levels(
    file: tifffile.TiffWriter,
    shape: tuple[int, int],
    strips: Iterator[Rgb],
    layout: Layout,
    tags: dict[str, Any],
) -> list[Rgb]:
    """Write level 0 with ``tags`` and return the smaller levels, which remain to be written."""
    layout.check(shape)
    reducers = [_Reducer(down) for down in layout.levels[1:]]
    _write(file, shape, _reduced(strips, reducers), layout, tags)
    return [reducer.picture() for reducer in reducers]


def write_level(file: tifffile.TiffWriter, rgb: Rgb, layout: Layout, tags: dict[str, Any]) -> None:
    """Write one smaller level."""
    _write(file, rgb.shape[:2], iter([rgb]), layout, tags | {"subfiletype": 1})


def write_strips(file: tifffile.TiffWriter, rgb: Rgb, layout: Layout, description: str) -> None:
    """Write a picture that is not tiled, as Aperio's thumbnail is."""
    file.write(rgb, rowsperstrip=16, description=description, **_jpeg(layout))


def resolution_tags(mpp_x: float, mpp_y: float, down: int) -> dict[str, Any]:
    """Resolution in pixels for each centimetre, from the decimals that were given."""
    per_cm = [Fraction(10_000) / (Fraction(repr(float(mpp))) * down) for mpp in (mpp_x, mpp_y)]
    pairs = [value.limit_denominator(min(2**32 - 1, int((2**32 - 1) / value))) for value in per_cm]
    return {
        "resolution": tuple((pair.numerator, pair.denominator) for pair in pairs),
        "resolutionunit": "CENTIMETER",
    }


def _reduced(strips: Iterator[Rgb], reducers: Sequence[_Reducer]) -> Iterator[Rgb]:
    for strip in strips:
        for reducer in reducers:
            reducer.push(strip)
        yield strip


def _write(
    file: tifffile.TiffWriter,
    shape: tuple[int, ...],
    strips: Iterator[Rgb],
    layout: Layout,
    tags: dict[str, Any],
) -> None:
    file.write(
        _tiles(strips, layout.tile),
        shape=(*shape, 3),
        dtype=np.uint8,
        tile=(layout.tile, layout.tile),
        **tags,
        **_jpeg(layout),
    )


def _jpeg(layout: Layout) -> dict[str, Any]:
    """JPEG, no software tag, no JSON description, no date."""
    return {
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": layout.quality},
        "software": False,
        "metadata": None,
        "contiguous": False,
    }


def _tiles(strips: Iterator[Rgb], side: int) -> Iterator[Rgb]:
    """Tiles in row-major order; what lies over the border repeats the last pixel."""
    rest: list[Rgb] = []
    for strip in strips:
        rest.append(strip)
        if sum(map(len, rest)) < side:
            continue
        rows = np.concatenate(rest) if len(rest) > 1 else rest[0]
        whole = len(rows) // side * side
        for top in range(0, whole, side):
            yield from _cut(rows[top : top + side], side)
        rest = [rows[whole:].copy()]
    if sum(map(len, rest)):
        yield from _cut(np.concatenate(rest), side)


def _cut(rows: Rgb, side: int) -> Iterator[Rgb]:
    right = -rows.shape[1] % side
    padded = np.pad(rows, ((0, side - len(rows)), (0, right), (0, 0)), mode="edge")
    for left in range(0, padded.shape[1], side):
        yield np.ascontiguousarray(padded[:, left : left + side])
