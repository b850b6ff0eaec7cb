"""Tissue-like tiles that routes are calibrated on and compared by, the same on every call.

Calibration and check never share a slide, so that a quantised network is not judged on what it was fitted to.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from xmag.manifest import Task, TilingSpec
from xmag.slide.synthetic.recipe import Recipe, label_of
from xmag.slide.synthetic.render import render

Tiles = NDArray[np.uint8]

ORGANS: tuple[Task, ...] = ("isup", "nsclc", "rcc", "odx")
GRAIN = np.array([0.16, 0.28, 0.13])
"""Most optical density that grain adds to a pixel: the colour of haematoxylin and eosin."""

CHECK_SEEDS = (1,)
CALIBRATION_SEEDS = (2, 3)


def check_tiles(tiling: TilingSpec) -> Tiles:
    """16 tiles (n, s, s, 3): four organs, both stains."""
    return _tiles(tiling.tile_px, tiling.target_mpp, CHECK_SEEDS).copy()


def calibration_tiles(tiling: TilingSpec) -> Tiles:
    """32 tiles (n, s, s, 3) of other tissue than the check's; every fourth is grainy, as of some scanners."""
    tiles = _tiles(tiling.tile_px, tiling.target_mpp, CALIBRATION_SEEDS).copy()
    grain = np.random.default_rng(0).random((len(tiles[::4]), *tiles.shape[1:3], 1))
    tiles[::4] = (tiles[::4] * np.exp(-GRAIN * grain)).astype(np.uint8)
    return tiles


@cache
def _tiles(side: int, mpp: float, seeds: tuple[int, ...]) -> Tiles:
    """Four tiles of each organ and seed."""
    extent = 2 * side * mpp
    fields = [
        render(Recipe(task, label_of(task, seed), seed, (index + seed) % 2, extent, extent, mpp)).rgb
        for seed in seeds
        for index, task in enumerate(ORGANS)
    ]
    return np.concatenate([_quarters(rgb, side) for rgb in fields])


def _quarters(rgb: Tiles, side: int) -> Tiles:
    """(2s, 2s, 3) -> (4, s, s, 3)."""
    return rgb.reshape(2, side, 2, side, 3).swapaxes(1, 2).reshape(4, side, side, 3)
