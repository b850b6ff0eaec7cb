"""A sheet of stain concentrations on which shapes given in micrometres are drawn.

Channels: haematoxylin, eosin, orange (keratin, red cells); 100 units are one unit of concentration.
Drawing is anti-aliased with sub-pixel corners, so that nothing jumps between magnifications.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from xmag.slide.synthetic.geometry import Floats

SCALE = 100.0
"""Units of a channel for one unit of concentration."""

_SHIFT = 4


class Canvas:
    """Concentrations (h, w, 3) uint8 over ``size_um`` (height, width)."""

    def __init__(self, size_um: tuple[float, float], shape: tuple[int, int]) -> None:
        self.size_um = size_um
        self.sheet: NDArray[np.uint8] = np.zeros((*shape, 3), np.uint8)
        self.um_per_px = np.array([size_um[1] / shape[1], size_um[0] / shape[0]])

    @property
    def mpp(self) -> float:
        """Micrometres for each pixel along y."""
        return float(self.um_per_px[1])

    def cover(self, paint: ArrayLike) -> None:
        """Fill the whole sheet."""
        self.sheet[:] = _units(paint)

    def fill(self, polygons: Floats | Sequence[Floats], paint: ArrayLike) -> None:
        """Fill polygons, later ones on top; ``paint`` is (3,) or one row for each polygon."""
        paints = np.broadcast_to(_units(paint), (len(polygons), 3)).tolist()
        for corners, colour in zip(self._fixed(polygons), paints, strict=True):
            cv2.fillPoly(self.sheet, [corners], colour, cv2.LINE_AA, _SHIFT)

    def fill_convex(self, polygons: Floats, paint: ArrayLike) -> None:
        """As `fill`, faster, for convex polygons."""
        paints = np.broadcast_to(_units(paint), (len(polygons), 3)).tolist()
        for corners, colour in zip(self._fixed(polygons), paints, strict=True):
            cv2.fillConvexPoly(self.sheet, corners, colour, cv2.LINE_AA, _SHIFT)

    def lines(
        self, paths: Floats | Sequence[Floats], width_um: float, paint: ArrayLike, *, closed: bool = False
    ) -> None:
        """Draw paths of one colour; a line is never thinner than a pixel."""
        width = max(1, round(width_um / self.mpp))
        colour = np.asarray(_units(paint)).tolist()
        cv2.polylines(self.sheet, list(self._fixed(paths)), closed, colour, width, cv2.LINE_AA, _SHIFT)

    def _fixed(self, shapes: Floats | Sequence[Floats]) -> Iterable[NDArray[np.int32]]:
        """Corners in fixed point, relative to pixel centres."""
        if isinstance(shapes, np.ndarray):
            return self._fix(shapes)
        return [self._fix(shape) for shape in shapes]

    def _fix(self, points: Floats) -> NDArray[np.int32]:
        return np.asarray(np.rint((points / self.um_per_px - 0.5) * (1 << _SHIFT)), dtype=np.int32)


def _units(paint: ArrayLike) -> NDArray[np.float64]:
    return np.clip(np.rint(np.asarray(paint, dtype=np.float64) * SCALE), 0, 255)
