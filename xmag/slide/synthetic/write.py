"""Slides on disk: Aperio-like SVS and generic tiled TIFF, byte for byte the same for the same input."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile

from xmag.slide.synthetic.pyramid import (
    Layout,
    Rgb,
    resolution_tags,
    write_level,
    write_levels,
    write_strips,
)
from xmag.slide.synthetic.recipe import Recipe
from xmag.slide.synthetic.render import strips

LEVELS = (1, 4, 16)
_CLASSIC_BYTES = 1 << 33
_THUMBNAIL_PX = 768


@dataclass(frozen=True)
class _Picture:
    """Height and width, and the pixels in strips from top to bottom."""

    shape: tuple[int, int]
    strips: Callable[[], Iterator[Rgb]]
    mpp: tuple[float, float]

    def file(self, path: Path) -> tifffile.TiffWriter:
        """An empty TIFF; BigTIFF when the JPEG tiles may pass 4 GB."""
        big = self.shape[0] * self.shape[1] * 3 > _CLASSIC_BYTES
        return tifffile.TiffWriter(path, bigtiff=big, byteorder="<")


def write_svs(
    path: Path,
    rgb: Rgb,
    mpp: float | tuple[float, float],
    *,
    levels: Sequence[int] = LEVELS,
    tile: int = 256,
    quality: int = 85,
    mpp_in_file: bool = True,
) -> None:
    """Write an Aperio-like SVS that OpenSlide reads as vendor `aperio`; it keeps ``AppMag`` without mpp.

    ``levels`` are whole downsamples, rising from 1. Raises ValueError for another list, for a level smaller
    than a pixel, for a tile that is no multiple of 16, and for two different mpp (the format holds one).
    """
    _svs(path, _whole(rgb, mpp), Layout(tuple(levels), tile, quality), mpp_in_file)


def write_tiff(
    path: Path,
    rgb: Rgb,
    mpp: float | tuple[float, float],
    *,
    levels: Sequence[int] = LEVELS,
    tile: int = 256,
    quality: int = 85,
    mpp_in_file: bool = True,
) -> None:
    """Write a tiled pyramidal TIFF that OpenSlide reads as `generic-tiff`; ``mpp`` may be (x, y).

    Raises ValueError as `write_svs` does, but for two different mpp.
    """
    _tiff(path, _whole(rgb, mpp), Layout(tuple(levels), tile, quality), mpp_in_file)


def write_slide(path: Path, recipe: Recipe) -> Path:
    """Render a recipe to ``path`` (.svs, .tif or .tiff); full-size pixels come one row of fields at a time.

    Raises ValueError for another suffix.
    """
    writers = {".svs": _svs, ".tif": _tiff, ".tiff": _tiff}
    if path.suffix.lower() not in writers:
        raise ValueError("synthetic slides are written as .svs, .tif or .tiff")
    picture = _Picture(recipe.shape, lambda: strips(recipe), (recipe.mpp, recipe.mpp))
    fitting = tuple(level for level in LEVELS if level <= min(recipe.shape))
    writers[path.suffix.lower()](path, picture, Layout(fitting, 256, 85), True)
    return path


def _whole(rgb: Rgb, mpp: float | tuple[float, float]) -> _Picture:
    both = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    return _Picture((rgb.shape[0], rgb.shape[1]), lambda: iter([rgb]), both)


def _svs(path: Path, picture: _Picture, layout: Layout, mpp_in_file: bool) -> None:
    layout.check(picture.shape)
    size = f"{picture.shape[1]}x{picture.shape[0]}"
    name = f"Aperio Image Library v12.0.0\r\n{size}"
    how = f"({layout.tile}x{layout.tile}) JPEG/RGB Q={layout.quality}"
    with picture.file(path) as file:
        tags = {"description": f"{name} [0,0 {size}] {how}{_aperio_scale(picture.mpp, mpp_in_file)}"}
        smaller = write_levels(file, picture.shape, picture.strips(), layout, tags)
        small = _thumbnail(smaller[-1] if smaller else np.concatenate(list(picture.strips())))
        write_strips(file, small, layout, f"{name} -> {small.shape[1]}x{small.shape[0]} - |")
        for level in smaller:
            tags = {"description": f"{name} [0,0 {size}] -> {level.shape[1]}x{level.shape[0]} {how}"}
            write_level(file, level, layout, tags)


def _tiff(path: Path, picture: _Picture, layout: Layout, mpp_in_file: bool) -> None:
    layout.check(picture.shape)
    x, y = picture.mpp
    tags = [resolution_tags(x, y, down) if mpp_in_file else {} for down in layout.levels]
    with picture.file(path) as file:
        smaller = write_levels(file, picture.shape, picture.strips(), layout, tags[0])
        for level, tag in zip(smaller, tags[1:], strict=True):
            write_level(file, level, layout, tag)


def _aperio_scale(mpp: tuple[float, float], mpp_in_file: bool) -> str:
    if mpp[0] != mpp[1]:
        raise ValueError("an SVS holds one mpp for both axes; write a TIFF instead")
    magnification = f"|AppMag = {max(1, round(10 / mpp[0]))}"
    return f"{magnification}|MPP = {float(mpp[0])!r}" if mpp_in_file else magnification


def _thumbnail(rgb: Rgb) -> Rgb:
    scale = min(1.0, _THUMBNAIL_PX / max(rgb.shape))
    shape = max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale))
    return np.asarray(cv2.resize(rgb, shape, interpolation=cv2.INTER_AREA), np.uint8)
