"""Ways to read the same tiles: ours, and the ones that people use today.

Each takes a slide and a grid and gives (n, tile_px, tile_px, 3) uint8. Opening the slide is part of it;
finding the tissue is not, as all read the same grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from xmag.manifest import TilingSpec
from xmag.slide.decoder import Decoder, TilePlan
from xmag.slide.grid import TileGrid
from xmag.slide.location import SlideLocation

Tiles = NDArray[np.uint8]
Read = Callable[[], Tiles]
BATCH = 32


@dataclass(frozen=True)
class Target:
    """The slide to read and its grid."""

    path: Path
    grid: TileGrid

    @property
    def downsample(self) -> float:
        """Level-0 pixels for each pixel of a tile."""
        return min(self.grid.span) / self.grid.tile_px


def located(path: Path) -> SlideLocation:
    """A slide's place, links followed."""
    real = path.expanduser().resolve()
    return SlideLocation(real.parent, PurePosixPath(real.name))


def ours(decoder: Decoder, path: Path, plan: TilePlan, spec: TilingSpec) -> Tiles:
    """The decoder process, by the route that ``plan`` names; started before, as a worker keeps it."""
    decoder.open(located(path), digest=False)
    return np.concatenate([batch.copy() for batch in decoder.tiles(plan, spec, BATCH)])


def plain_openslide(target: Target) -> Tiles:
    """OpenSlide from the best level, one tile at a time, shrunk by PIL: the route of most scripts."""
    with openslide.OpenSlide(target.path) as slide:
        return _per_tile(slide, target)


def with_tiffslide(target: Target) -> Tiles:
    """The same calls on tiffslide."""
    import tiffslide

    with tiffslide.TiffSlide(target.path) as slide:
        return _per_tile(slide, target)


def with_pyvips(target: Target) -> Tiles:
    """Regions of a TIFF page by libvips, shrunk by PIL."""
    import pyvips

    pyvips.cache_set_max(0)
    with openslide.OpenSlide(target.path) as slide:
        level = slide.get_best_level_for_downsample(target.downsample)
        shape, scale = slide.level_dimensions[level], slide.level_downsamples[level]
    region = pyvips.Region.new(_page(pyvips, target.path, shape))
    tiles = _empty(target)
    for index, (x, y, width, height) in enumerate(_boxes(target.grid, scale)):
        left, top = min(x, shape[0] - 1), min(y, shape[1] - 1)
        across, down = min(width, shape[0] - left), min(height, shape[1] - top)
        rgb = np.frombuffer(region.fetch(left, top, across, down), np.uint8).reshape(down, across, -1)[
            ..., :3
        ]
        whole = np.full((height, width, 3), 255, np.uint8)
        whole[:down, :across] = rgb
        tiles[index] = _shrunk(Image.fromarray(whole), target.grid.tile_px)
    return tiles


COMPETITORS: dict[str, tuple[str, Callable[[Target], Tiles]]] = {
    "openslide per tile": ("openslide", plain_openslide),
    "tiffslide": ("tiffslide", with_tiffslide),
    "pyvips": ("pyvips", with_pyvips),
}
"""Name -> the package it needs, and the route."""


def _per_tile(slide: Any, target: Target) -> Tiles:
    level = slide.get_best_level_for_downsample(target.downsample)
    scale = slide.level_downsamples[level]
    tiles = _empty(target)
    corners = np.rint(target.grid.corners()[:, :2]).astype(int).tolist()
    for index, (corner, box) in enumerate(zip(corners, _boxes(target.grid, scale), strict=True)):
        region = slide.read_region(tuple(corner), level, box[2:]).convert("RGB")
        tiles[index] = _shrunk(region, target.grid.tile_px)
    return tiles


def _shrunk(region: Image.Image, side: int) -> Tiles:
    return np.asarray(region.resize((side, side)), np.uint8)


def _boxes(grid: TileGrid, scale: float) -> list[tuple[int, int, int, int]]:
    """Whole x, y, width and height of each tile in a level's pixels, as scripts round them."""
    sides = [max(1, round(span / scale)) for span in grid.span]
    places = np.rint(grid.corners()[:, :2] / scale).astype(int).tolist()
    return [(x, y, sides[0], sides[1]) for x, y in places]


def _empty(target: Target) -> Tiles:
    side = target.grid.tile_px
    return np.empty((len(target.grid), side, side, 3), np.uint8)


def _page(pyvips: Any, path: Path, shape: tuple[int, int]) -> Any:
    """The page of a TIFF that has a level's size; what is no TIFF is left to libvips' own OpenSlide."""
    first = pyvips.Image.new_from_file(str(path), access="random")
    if not first.get("vips-loader").startswith("tiff"):
        return first
    for page in range(first.get("n-pages")):
        image = pyvips.Image.tiffload(str(path), page=page, access="random")
        if (image.width, image.height) == shape:
            return image
    raise ValueError("no page of the file has the level's size")
