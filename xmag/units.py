"""Units as types: a right number in the wrong frame is the classic whole-slide bug."""

from dataclasses import dataclass
from typing import NewType

Mpp = NewType("Mpp", float)
"""Micrometres for each pixel of a named frame."""

Level0Px = NewType("Level0Px", int)
"""Pixels of the slide's full-resolution level."""

TilePx = NewType("TilePx", int)
"""Pixels of a tile at the target mpp."""

FIVE_X = Mpp(2.0)
"""5x in the paper's words."""

TWENTY_X = Mpp(0.5)
"""20x in the paper's words."""

MPP_RANGE = (Mpp(0.05), Mpp(20.0))
"""Level-0 values outside are a scanner's or an operator's mistake, not a magnification."""

MAX_ANISOTROPY = 4.0
"""Pixels longer than this many times their width are a mistake too."""


@dataclass(frozen=True, slots=True)
class MppXY:
    """Micrometres for each level-0 pixel along both axes."""

    x: Mpp
    y: Mpp

    def plausible(self) -> bool:
        """Whether both axes lie in `MPP_RANGE` (NaN does not) and within `MAX_ANISOTROPY` of each other."""
        low, high = MPP_RANGE
        inside = low <= self.x <= high and low <= self.y <= high
        return inside and max(self.x, self.y) <= MAX_ANISOTROPY * min(self.x, self.y)
