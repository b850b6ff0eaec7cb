"""Cells that several organs share: nuclei, lymphocytes, mitoses, glands."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from xmag.slide.synthetic.geometry import Floats, around, ellipses, wobbly
from xmag.slide.synthetic.scene import LUMEN, Region, Scene

_CHROMATIN_MPP = 0.8
"""Coarser than this, the inside of a nucleus cannot be seen and is not drawn."""


@dataclass(frozen=True)
class Nuclei:
    """How a kind of nucleus looks.

    Attributes:
        radius: mean, µm.
        spread: relative standard deviation of the radius (pleomorphism).
        dark: haematoxylin.
        long: how much longer than wide.
        open: how pale the middle is, 0-1 (vesicular chromatin).
        nucleolus: share of nuclei that have a visible one.
    """

    radius: float
    spread: float = 0.1
    dark: float = 0.8
    long: float = 0.2
    open: float = 0.25
    nucleolus: float = 0.0


LYMPHOCYTE = Nuclei(3.1, 0.08, 1.15, 0.05, 0.0)


def draw_nuclei(scene: Scene, centre: Floats, kind: Nuclei, angle: ArrayLike | None = None) -> None:
    """Draw one nucleus on each of (n, 2) points; ``angle`` (n,) of the long axis, at random if not given."""
    rng, count = scene.rng, len(centre)
    size = kind.radius * np.exp(rng.normal(0, kind.spread, count))
    stretch = 1 + kind.long * rng.random(count)
    turn = rng.uniform(0, np.pi, count) if angle is None else np.asarray(angle, dtype=np.float64)
    dark = kind.dark * np.exp(rng.normal(0, 0.12, count))
    dots = rng.random(count) < kind.nucleolus
    shift = rng.uniform(-0.3, 0.3, (count, 2)) * size[:, None]
    bodies = ellipses(centre, size * stretch, size / stretch, turn)
    canvas = scene.canvas
    canvas.fill_convex(bodies, _haematoxylin(dark))
    if canvas.mpp > _CHROMATIN_MPP:
        return
    if kind.open:
        inner = ellipses(centre, size * stretch * 0.72, size / stretch * 0.72, turn, 10)
        canvas.fill_convex(inner, _haematoxylin(dark * (1 - kind.open)))
    spot = np.full(int(dots.sum()), 0.24 * kind.radius)
    canvas.fill_convex(ellipses((centre + shift)[dots], spot, spot, turn[dots], 8), (1.2, 0.5, 0.0))


def draw_lymphocytes(scene: Scene, per_mm2: float, *regions: Region) -> None:
    """Lymphocytes, single and in a few clusters, within ``regions``."""
    rng = scene.rng
    single = scene.scatter(per_mm2 * 0.4, *regions)
    seeds = scene.scatter(per_mm2 / 80, *regions)
    cluster = np.repeat(seeds, 45, axis=0) + rng.normal(0, 26, (45 * len(seeds), 2))
    draw_nuclei(scene, np.concatenate([single, cluster[np.isin(scene.at(cluster), regions)]]), LYMPHOCYTE)


def draw_mitoses(scene: Scene, centre: Floats) -> None:
    """Dividing cells: a dark, ragged plate in a cleared cell."""
    rng, count = scene.rng, len(centre)
    angle = rng.uniform(0, np.pi, count)
    scene.canvas.fill_convex(
        ellipses(centre, np.full(count, 8.5), np.full(count, 7.5), angle), (0.06, 0.30, 0.0)
    )
    scene.canvas.fill_convex(
        ellipses(centre, np.full(count, 5.6), np.full(count, 2.4), angle), (1.9, 0.3, 0.0)
    )


@dataclass(frozen=True)
class Gland:
    """A ring of cells around a lumen.

    Attributes:
        lumen: the lumen's radius relative to the gland's.
        rough: irregularity of the outline; ``folded`` of the lumen.
        cytoplasm: paint of the cells.
        inside: paint of the lumen.
        rows: for each row of nuclei its place (1 = outline, 0 = centre), spacing in µm and kind.
    """

    lumen: float
    rough: float
    folded: float
    cytoplasm: tuple[float, float, float]
    rows: tuple[tuple[float, float, Nuclei], ...]
    inside: tuple[float, float, float] = LUMEN


def draw_glands(scene: Scene, centre: Floats, radius: Floats, kind: Gland) -> None:
    """Draw a gland of ``radius`` (n,) µm on each of (n, 2) points."""
    rng, canvas = scene.rng, scene.canvas
    outer = wobbly(rng, centre, radius, kind.rough)
    fold = wobbly(rng, np.zeros((len(centre), 2)), np.full(len(centre), kind.lumen), kind.folded)
    depth = np.clip(np.linalg.norm(fold, axis=2, keepdims=True), 0.12, min(kind.lumen * 1.25, 0.85))
    inner = centre[:, None] + (outer - centre[:, None]) * depth
    canvas.fill(outer, kind.cytoplasm)
    canvas.fill(inner, kind.inside)
    for place, spacing, nuclei in kind.rows:
        ring_nuclei(scene, centre[:, None] + (outer - centre[:, None]) * place, spacing, nuclei)


def ring_nuclei(scene: Scene, outlines: Floats, spacing_um: float, kind: Nuclei) -> None:
    """Nuclei along closed outlines (n, k, 2), standing across them unless they are flat."""
    found = [around(outline, spacing_um, float(scene.rng.random())) for outline in outlines]
    if not found:
        return
    points = np.concatenate([points for points, _ in found])
    angle = np.concatenate([angle for _, angle in found])
    points = points + scene.rng.normal(0, 0.12 * kind.radius + 0.4, points.shape)
    draw_nuclei(scene, points, kind, angle + (0.0 if kind.long > 0.6 else np.pi / 2))


def _haematoxylin(amount: Floats) -> Floats:
    return np.stack([amount, np.full(len(amount), 0.22), np.zeros(len(amount))], axis=1)
