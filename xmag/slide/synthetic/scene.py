"""One field of tissue: its outline, its regions, and the stroma that everything lies in."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xmag.slide.synthetic.canvas import SCALE, Canvas
from xmag.slide.synthetic.geometry import Floats, curves, ellipses, hexagonal, scattered, smooth_noise
from xmag.slide.synthetic.recipe import Recipe

COARSE_UM = 4.0
"""Step of the map on which tissue is decided, whatever the mpp."""


class Region(IntEnum):
    """Values of `Rendered.regions`, one list for all tasks."""

    GLASS = 0
    STROMA = 1
    PROSTATE_BENIGN = 2
    GLEASON_3 = 3
    GLEASON_4 = 4
    GLEASON_5 = 5
    LUAD = 6
    LUSC = 7
    CCRCC = 8
    PRCC = 9
    CHRCC = 10
    BREAST_TUBULES = 11
    BREAST_SOLID = 12


STROMA = (0.07, 0.50, 0.0)
LUMEN = (0.008, 0.02, 0.0)
RED_CELL = (0.0, 0.35, 0.85)


def sample(coarse: NDArray[Any], points: Floats) -> NDArray[Any]:
    """Values of a coarse map (h, w) under (n, 2) points; the nearest value outside it."""
    x, y = (points // COARSE_UM).astype(np.int64).T
    return np.asarray(coarse[np.clip(y, 0, coarse.shape[0] - 1), np.clip(x, 0, coarse.shape[1] - 1)])


@dataclass(frozen=True)
class Scene:
    """A field while it is drawn; ``regions`` (h, w) uint8 in steps of `COARSE_UM`."""

    recipe: Recipe
    rng: np.random.Generator
    canvas: Canvas
    regions: NDArray[np.uint8]

    @property
    def size_um(self) -> tuple[float, float]:
        """Height and width."""
        return self.canvas.size_um

    def at(self, points: Floats) -> NDArray[np.uint8]:
        """Region under each of (n, 2) points; glass outside the field."""
        inside = ((points >= 0) & (points < self.size_um[::-1])).all(axis=1)
        return np.where(inside, sample(self.regions, points), np.uint8(Region.GLASS))

    def flood(self, region: Region, paint: tuple[float, float, float]) -> None:
        """Paint the whole of a region."""
        sheet = self.canvas.sheet
        where = coverage(self.regions == region, (sheet.shape[0], sheet.shape[1])) > 127
        sheet[where] = np.rint(np.array(paint) * SCALE).astype(np.uint8)

    def lattice(self, spacing_um: float, *regions: Region, jitter: float = 0.3) -> Floats:
        """(n, 2) points of a jittered lattice that lie in ``regions`` (anywhere if none are named)."""
        points = hexagonal(self.rng, self.size_um, spacing_um, jitter)
        return points[np.isin(self.at(points), regions)] if regions else points

    def scatter(self, per_mm2: float, *regions: Region) -> Floats:
        """(n, 2) random points that lie in ``regions``."""
        points = scattered(self.rng, self.size_um, per_mm2)
        return points[np.isin(self.at(points), regions)]


def outline(rng: np.random.Generator, size_um: tuple[float, float]) -> NDArray[np.bool_]:
    """Where tissue is, in steps of `COARSE_UM`: one smooth piece with ragged edges, perhaps torn."""
    height, width = size_um
    reach = min(height, width)
    edge = smooth_noise(rng, size_um, reach / 5, COARSE_UM) * 0.16
    edge += smooth_noise(rng, size_um, reach / 16, COARSE_UM) * 0.05
    rows, columns = edge.shape
    y = np.linspace(-1, 1, rows)[:, None] + rng.normal(0, 0.04)
    x = np.linspace(-1, 1, columns)[None, :] + rng.normal(0, 0.04)
    tissue = np.abs(x) ** 4 + np.abs(y) ** 4 + edge < rng.uniform(0.55, 0.8)
    tears = smooth_noise(rng, size_um, reach / 7, COARSE_UM)
    return np.asarray(tissue & (tears < rng.uniform(1.9, 2.8)))


def coarse_noise(rng: np.random.Generator, like: NDArray[np.bool_], cell_um: float) -> Floats:
    """Smooth standard normal noise of the shape of a coarse mask."""
    height, width = like.shape
    return smooth_noise(rng, (height * COARSE_UM, width * COARSE_UM), cell_um, COARSE_UM)


def tumour_in_stroma(
    rng: np.random.Generator, tissue: NDArray[np.bool_], tumour: Region, shares: tuple[float, float]
) -> NDArray[np.uint8]:
    """A coarse region map of stroma with ``tumour`` over a part of it drawn from ``shares``."""
    where = upper(coarse_noise(rng, tissue, 420), tissue, rng.uniform(*shares))
    return np.where(where, tumour, np.where(tissue, Region.STROMA, Region.GLASS)).astype(np.uint8)


def upper(noise: Floats, within: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """The ``share`` of ``within`` where ``noise`` is greatest."""
    if not within.any():
        return within
    return np.asarray(within & (noise > np.quantile(noise[within], 1 - share)))


def coverage(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A coarse mask at ``shape`` with smooth edges, 0-255."""
    soft = cv2.GaussianBlur(mask.astype(np.float32) * 255, (0, 0), 1.5)
    return np.asarray(cv2.resize(soft, shape[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def region_map(regions: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A coarse region map at ``shape``, with smooth borders."""
    best = np.zeros(shape, np.uint8)
    found = np.zeros(shape, np.uint8)
    for region in np.unique(regions):
        cover = coverage(regions == region, shape)
        better = cover > best
        found[better] = region
        np.maximum(best, cover, out=best)
    return found


def draw_stroma(scene: Scene, fibres_per_mm2: float = 2600.0, nuclei_per_mm2: float = 900.0) -> None:
    """Collagen, spindle cells and capillaries over the whole field, all along one smooth direction."""
    canvas, rng = scene.canvas, scene.rng
    canvas.cover(STROMA)
    flow = smooth_noise(rng, scene.size_um, 350, COARSE_UM) * 1.2
    for eosin in (0.36, 0.44, 0.58, 0.66):
        start = scattered(rng, scene.size_um, fibres_per_mm2 / 4)
        paths = curves(rng, start, sample(flow, start), 70.0, 0.09)
        canvas.lines(paths, rng.uniform(1.2, 2.6), (0.06, eosin, 0.0))
    spindle = scattered(rng, scene.size_um, nuclei_per_mm2)
    angle = sample(flow, spindle) + rng.normal(0, 0.25, len(spindle))
    long, thin = rng.uniform(5, 8.5, len(spindle)), rng.uniform(1.2, 2.1, len(spindle))
    paint = np.stack(
        [rng.uniform(0.6, 0.85, len(spindle)), np.full(len(spindle), 0.3), np.zeros(len(spindle))], 1
    )
    canvas.fill_convex(ellipses(spindle, long, thin, angle), paint)
    draw_vessels(scene, scattered(rng, scene.size_um, 12.0))


def draw_vessels(scene: Scene, centre: Floats) -> None:
    """Small vessels cut across: wall, endothelium and red cells."""
    rng, count = scene.rng, len(centre)
    a, angle = rng.uniform(8, 20, count), rng.uniform(0, np.pi, count)
    b = a * rng.uniform(0.45, 0.9, count)
    scene.canvas.fill_convex(ellipses(centre, a + 3.5, b + 3.5, angle, 24), (0.12, 0.68, 0.0))
    scene.canvas.fill_convex(ellipses(centre, a, b, angle, 24), LUMEN)
    cells = np.repeat(np.arange(count), 9)
    spot = rng.uniform(-0.6, 0.6, (len(cells), 2)) * b[cells, None]
    radius = rng.uniform(2.6, 3.4, len(cells))
    scene.canvas.fill_convex(ellipses(centre[cells] + spot, radius, radius * 0.9, angle[cells]), RED_CELL)
