"""Pixels of the mask and of the tiles. Runs in the decoder process.

Tiles are read from the level that is next finer than the target, in that level's own frame, and resampled at
real coordinates with the filter that the release names: no rounding to magnifications. Pixels come straight
from the file's JPEG tiles where `xmag.slide.jpeg_tiles` can read them, else from OpenSlide.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from xmag.config import Decode
from xmag.errors import Code, SlideError
from xmag.manifest import TilingSpec, TissueSpec
from xmag.slide import resample
from xmag.slide.grid import TileGrid, plan_grid
from xmag.slide.info import Reading
from xmag.slide.jpeg_tiles import BrokenTileError, jpeg_tiles
from xmag.slide.reader import Slide, shrink
from xmag.slide.resample import MAX_BLOCK
from xmag.slide.tissue import tissue_mask
from xmag.units import MppXY

MAX_MASK_PIXELS = 64_000_000
"""A larger mask means an mpp that no glass slide has."""

MUCH_FINER = 8
"""From so many pixels of a level for each wanted on, JPEG tiles serve a whole slide too, shrunk to 1/8.

That is a slide without small levels. Means of means are the same mean, so its mask differs from OpenSlide's
in fewer than 1 % of the pixels, all along borders.
"""

Tick = Callable[[float], None]


def plan(slide: Slide, spec: TilingSpec, limits: Decode, tick: Tick) -> tuple[TileGrid, NDArray[np.bool_]]:
    """Mask and grid of a slide; raises MPP_MISSING, NO_TISSUE, SLIDE_TOO_LARGE."""
    mpp = known_mpp(slide)
    mask = tissue_mask(overview(slide, mpp, spec.tissue, tick), spec.tissue.mpp, spec.tissue)
    grid = plan_grid(mask, slide.info.width, slide.info.height, mpp, spec)
    if not len(grid):
        raise SlideError(Code.NO_TISSUE, "no tile holds enough tissue: check the stain and the scan")
    if len(grid) > limits.max_tiles:
        raise SlideError(
            Code.SLIDE_TOO_LARGE, f"the slide has more than {limits.max_tiles} tiles: check its mpp"
        )
    return grid, mask


def known_mpp(slide: Slide) -> MppXY:
    """The slide's mpp; MPP_MISSING when there is none or it is not plausible."""
    mpp = slide.info.mpp
    if mpp is None:
        raise SlideError(Code.MPP_MISSING, "the file gives no resolution: give mpp with a reason")
    if not mpp.plausible():
        source = "the file" if slide.info.mpp_source == "file" else "the request"
        raise SlideError(
            Code.MPP_MISSING, f"the resolution that {source} gives is not plausible: give mpp with a reason"
        )
    return mpp


def overview(slide: Slide, mpp: MppXY, spec: TissueSpec, tick: Tick) -> NDArray[np.uint8]:
    """(h, w, 3), the whole slide at ``spec.mpp``, area-averaged from the next finer level."""
    width = max(1, round(slide.info.width * mpp.x / spec.mpp))
    height = max(1, round(slide.info.height * mpp.y / spec.mpp))
    if width * height > MAX_MASK_PIXELS:
        raise SlideError(Code.SLIDE_TOO_LARGE, "the slide is larger than any glass slide: check its mpp")
    return whole(slide, (width, height), "box", tick)


def whole(slide: Slide, size: tuple[int, int], resampling: str, tick: Tick) -> NDArray[np.uint8]:
    """(h, w, 3), the whole slide resampled to ``size`` (w, h)."""
    level = slide.level_for(min(slide.info.width / size[0], slide.info.height / size[1]))
    scale = slide.scale(level)
    right, bottom = slide.info.width / scale[0], slide.info.height / scale[1]
    steps = (right / size[0], bottom / size[1])
    source = jpeg_tiles(slide, level, steps, resampling, MAX_BLOCK) if min(steps) >= MUCH_FINER else None
    if source is not None:
        box = (0.0, 0.0, right / source.scale, bottom / source.scale)
        try:
            # as many pixels of the level between two ticks as by OpenSlide: storage may be slow
            return resample.shrink(source.read, box, size, resampling, tick, MAX_BLOCK // source.scale)
        except BrokenTileError:
            pass
    return shrink(slide, level, (0.0, 0.0, right, bottom), size, resampling, tick)


def reading(slide: Slide, grid: TileGrid, spec: TilingSpec) -> Reading:
    """How `read_tiles` gets the pixels of a grid."""
    level, steps = _level(slide, grid)
    source = jpeg_tiles(slide, level, steps, spec.resampling, grid.tile_px)
    if source is None:
        return Reading("openslide", level, 1)
    return Reading("jpeg-tiles", level, source.scale)


def read_tiles(
    slide: Slide, grid: TileGrid, spec: TilingSpec, batch: int, tick: Tick
) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """(b, tile_px, tile_px, 3) RGB in grid order, and how many so far JPEG tiles had to leave to OpenSlide.

    The last batch may be smaller.
    """
    level, steps = _level(slide, grid)
    source = jpeg_tiles(slide, level, steps, spec.resampling, grid.tile_px)
    boxes = grid.corners() / np.asarray(slide.scale(level) * 2)
    size = (grid.tile_px, grid.tile_px)
    reread = 0
    for start in range(0, len(grid), batch):
        part = boxes[start : start + batch].tolist()
        tiles = np.empty((len(part), grid.tile_px, grid.tile_px, 3), np.uint8)
        for index, (x0, y0, x1, y1) in enumerate(part):
            if source is not None:
                here = (x0 / source.scale, y0 / source.scale, x1 / source.scale, y1 / source.scale)
                try:
                    source.cut(here, tiles[index], spec.resampling)
                    tick((index + 1) / len(part))
                    continue
                except BrokenTileError:
                    reread += 1
            tiles[index] = shrink(slide, level, (x0, y0, x1, y1), size, spec.resampling, tick)
        yield tiles, reread


def _level(slide: Slide, grid: TileGrid) -> tuple[int, tuple[float, float]]:
    """The level that a grid is read from, and its pixels for each pixel of a tile along x and y."""
    level = slide.level_for(min(grid.span) / grid.tile_px)
    x, y = slide.scale(level)
    return level, (grid.span[0] / x / grid.tile_px, grid.span[1] / y / grid.tile_px)
