"""What is known of a slide once it is open."""

from dataclasses import dataclass
from typing import Literal

from xmag.units import Level0Px, MppXY

MppSource = Literal["file", "request"]


@dataclass(frozen=True, slots=True)
class LevelInfo:
    """One level of the pyramid, in its own pixels; ``downsample`` is level-0 px for each of its px."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """Facts from an allow-list: no label, no date, no name ever leaves the file."""

    sha256: str
    width: Level0Px
    height: Level0Px
    mpp: MppXY | None
    mpp_source: MppSource | None
    vendor: str
    levels: tuple[LevelInfo, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """How the pixels of tiles are read.

    Attributes:
        route: ``jpeg-tiles`` takes compressed tiles straight from the file, ``openslide`` is the reference.
        level: index of the pyramid level.
        scale: shrinking while decoding, 1, 2, 4 or 8; what is left is resampled.
    """

    route: Literal["jpeg-tiles", "openslide"]
    level: int
    scale: int


@dataclass(frozen=True, slots=True)
class MppOverride:
    """A resolution given by a person, with the reason that is kept beside every result."""

    mpp: MppXY
    reason: str
