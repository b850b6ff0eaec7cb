"""The grid of tiles: pure geometry in level-0 pixels.

Tile ``(col, row)`` covers ``[col * span, (col + 1) * span)`` along each axis, ``span = tile_px * target_mpp /
mpp`` level-0 pixels (real, one for each axis), so tiles tessellate exactly for any mpp. Edge policy ``pad``:
tiles over the right and lower border are kept, and what lies outside the slide is white.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmag.manifest import TilingSpec
from xmag.units import MppXY


@dataclass(frozen=True)
class TileGrid:
    """Tiles that hold enough tissue, in row-major order.

    Attributes:
        cells: (n, 2) int32, column and row.
        tissue: (n,) float32, share of each tile that is tissue, 0-1.
        span: level-0 pixels that a tile spans along x and y (real).
        tile_px: side of the tile at the target mpp.
        columns: width of the whole grid in tiles.
        rows: height of the whole grid in tiles.
    """

    cells: NDArray[np.int32]
    tissue: NDArray[np.float32]
    span: tuple[float, float]
    tile_px: int
    columns: int
    rows: int

    def __len__(self) -> int:
        return len(self.cells)

    def corners(self) -> NDArray[np.float64]:
        """(n, 4) level-0 x0, y0, x1, y1 of each tile (real; may pass the border)."""
        span = np.asarray(self.span)
        return np.concatenate([self.cells * span, (self.cells + 1) * span], axis=1)


def plan_grid(mask: NDArray[np.bool_], width: int, height: int, mpp: MppXY, spec: TilingSpec) -> TileGrid:
    """Keep the tiles of which at least ``spec.min_tissue`` is tissue.

    Args:
        mask: (h, w), true on tissue; covers the whole slide.
        width: level-0 pixels of the slide.
        height: level-0 pixels of the slide.
        mpp: of level 0.
        spec: tile size, target mpp and threshold.
    """
    side = spec.tile_px * spec.target_mpp
    span = (side / mpp.x, side / mpp.y)
    shares = tissue_shares(mask, width, height, span)
    rows, columns = np.nonzero(shares >= spec.min_tissue)
    return TileGrid(
        cells=np.stack([columns, rows], axis=1).astype(np.int32),
        tissue=shares[rows, columns].astype(np.float32),
        span=span,
        tile_px=spec.tile_px,
        columns=shares.shape[1],
        rows=shares.shape[0],
    )


def tissue_shares(
    mask: NDArray[np.bool_], width: int, height: int, span: tuple[float, float]
) -> NDArray[np.float64]:
    """(rows, columns), share of each tile of the full grid that is tissue, by exact area; glass outside."""
    mask_height, mask_width = mask.shape
    across = _bounds(width, span[0], mask_width)
    down = _bounds(height, span[1], mask_height)
    sums = _interpolate(_interpolate(_integral(mask), down).T, across).T  # (rows + 1, columns + 1)
    area = np.diff(np.diff(sums, axis=0), axis=1)
    tile = (span[0] * mask_width / width) * (span[1] * mask_height / height)
    shares: NDArray[np.float64] = np.clip(area / tile, 0.0, 1.0)
    return shares


def _integral(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(h + 1, w + 1), tissue pixels above and left of each corner."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    sums[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    return sums


def _bounds(length: int, span: float, mask_length: int) -> NDArray[np.float64]:
    """(tiles + 1,), borders of the tiles in mask pixels; the last is the slide's border."""
    tiles = max(1, math.ceil(length / span - 1e-9))
    borders = np.arange(tiles + 1) * (span * mask_length / length)
    borders[-1] = mask_length
    return np.asarray(np.minimum(borders, mask_length))


def _interpolate(sums: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """(len(at), ...), rows of ``sums`` at real positions: exact, as it is linear between pixel borders."""
    low = np.minimum(at.astype(np.int64), len(sums) - 2)
    part = (at - low)[:, None]
    result: NDArray[np.float64] = sums[low] * (1 - part) + sums[low + 1] * part
    return result
