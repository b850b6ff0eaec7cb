"""The grid of tiles: pure geometry in level-0 pixels.

Tile ``(col, row)`` covers ``[col * span, (col + 1) * span)`` along each axis, ``span = tile_px * target_mpp /
mpp`` level-0 pixels (real, one for each axis), so tiles tessellate exactly for any mpp. Edge policy ``pad``:
tiles over the right and lower border are kept, and what lies outside the slide is white.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
        low = self.cells * np.asarray(self.span)
        return np.concatenate([low, low + np.asarray(self.span)], axis=1)
