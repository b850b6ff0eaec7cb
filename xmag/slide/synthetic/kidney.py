"""Kidney cancer: clear cells in a capillary net, papillae, or large cells with thick walls."""

import numpy as np
from numpy.typing import NDArray

from xmag.slide.synthetic.cells import Nuclei, draw_lymphocytes, draw_nuclei, ring_nuclei
from xmag.slide.synthetic.geometry import (
    Floats,
    along,
    curves,
    ellipses,
    shrink,
    smooth_noise,
    voronoi,
    wobbly,
)
from xmag.slide.synthetic.recipe import Recipe
from xmag.slide.synthetic.scene import (
    COARSE_UM,
    LUMEN,
    RED_CELL,
    Region,
    Scene,
    draw_stroma,
    sample,
    tumour_in_stroma,
)

_ROUND = Nuclei(3.2, 0.12, 0.95, 0.08, 0.2, 0.15)
_ENDOTHELIUM = Nuclei(2.6, 0.15, 0.85, 0.9, 0.0)
_PAPILLARY = Nuclei(3.8, 0.12, 0.85, 0.2, 0.3, 0.3)
_REGIONS = {"ccRCC": Region.CCRCC, "PRCC": Region.PRCC, "ChRCC": Region.CHRCC}


def regions(recipe: Recipe, rng: np.random.Generator, tissue: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Tumour of one kind in stroma."""
    return tumour_in_stroma(rng, tissue, _REGIONS[recipe.label], (0.55, 0.9))


def draw(scene: Scene) -> None:
    """Draw the tissue of all regions."""
    draw_stroma(scene)
    draw_lymphocytes(scene, 250, Region.STROMA)
    {"ccRCC": _clear_cell, "PRCC": _papillary, "ChRCC": _chromophobe}[scene.recipe.label](scene)


def _clear_cell(scene: Scene) -> None:
    """Empty cytoplasm, small round nuclei, nests wrapped in thin capillaries with red cells."""
    rng, canvas = scene.rng, scene.canvas
    scene.flood(Region.CCRCC, (0.06, 0.30, 0.0))
    cells = scene.lattice(16.0, Region.CCRCC, jitter=0.2)
    size = rng.uniform(6.6, 8.2, len(cells))
    granular = smooth_noise(rng, scene.size_um, 220, COARSE_UM)
    eosin = np.clip(
        0.05 + 0.22 * np.clip(sample(granular, cells) - 0.9, 0, 1) + rng.normal(0, 0.02, len(cells)), 0.02, 1
    )
    canvas.fill_convex(
        ellipses(cells, size, size * 0.9, size, 9), np.stack([eosin * 0.3, eosin, eosin * 0], 1)
    )
    draw_nuclei(scene, cells + rng.normal(0, 1.6, cells.shape), _ROUND)
    nests, centres = voronoi(scene.lattice(58, jitter=0.3))
    inside = scene.at(centres) == Region.CCRCC
    net = [nest for nest, kept in zip(nests, inside, strict=True) if kept]
    canvas.lines(net, 2.8, (0.12, 0.66, 0.1), closed=True)
    _capillaries(scene, net)


def _capillaries(scene: Scene, net: list[Floats]) -> None:
    """Endothelium and red cells along the walls of nests."""
    rng = scene.rng
    if not net:
        return
    found = [along(np.concatenate([nest, nest[:1]]), 8.0, float(rng.random())) for nest in net]
    points, angle = np.concatenate([point for point, _ in found]), np.concatenate([turn for _, turn in found])
    dice = rng.random(len(points))
    draw_nuclei(scene, points[dice < 0.22], _ENDOTHELIUM, angle[dice < 0.22])
    red = points[dice > 0.75]
    size = rng.uniform(2.2, 3.2, len(red))
    scene.canvas.fill_convex(ellipses(red, size, size * 0.8, size), RED_CELL)


def _papillary(scene: Scene) -> None:
    """Fronds and their cross-sections in open space: a pink core, and nuclei along the outside."""
    rng, canvas = scene.rng, scene.canvas
    scene.flood(Region.PRCC, LUMEN)
    tint = (float(rng.uniform(0.14, 0.24)), float(rng.uniform(0.36, 0.56)), 0.0)
    start = scene.lattice(190, Region.PRCC)
    for frond in curves(rng, start, rng.uniform(0, 2 * np.pi, len(start)), 230.0, 0.22):
        if (scene.at(frond) == Region.PRCC).all():
            _frond(scene, frond, tint)
    centre = scene.lattice(74, Region.PRCC, jitter=0.22)
    profiles = wobbly(rng, centre, rng.uniform(20, 35, len(centre)), 0.22)
    canvas.fill(shrink(profiles, -2.5), LUMEN)
    canvas.fill(profiles, tint)
    cores = shrink(profiles, 10.5)
    canvas.fill(cores, (0.05, 0.42, 0.0))
    _foam(scene, centre[rng.random(len(centre)) < 0.4])
    ring_nuclei(scene, shrink(profiles, 4.5), 7.0, _PAPILLARY)


def _frond(scene: Scene, path: Floats, tint: tuple[float, float, float]) -> None:
    """A papilla cut along its length."""
    canvas = scene.canvas
    for width, paint in ((45.0, LUMEN), (40.0, tint), (18.0, (0.05, 0.42, 0.0))):
        canvas.lines(path[None], width, paint)
    points, angle = along(path, 7.0)
    side = np.stack([-np.sin(angle), np.cos(angle)], axis=1) * 15.0
    rows = np.concatenate([points + side, points - side])
    draw_nuclei(scene, rows + scene.rng.normal(0, 0.8, rows.shape), _PAPILLARY, np.tile(angle, 2) + np.pi / 2)


def _foam(scene: Scene, centre: Floats) -> None:
    """Foamy macrophages in the cores."""
    cells = np.repeat(centre, 4, axis=0) + scene.rng.normal(0, 6, (4 * len(centre), 2))
    size = scene.rng.uniform(4, 6, len(cells))
    scene.canvas.fill_convex(ellipses(cells, size, size, size), (0.04, 0.14, 0.0))
    draw_nuclei(scene, cells, Nuclei(2.2, 0.1, 0.8))


def _chromophobe(scene: Scene) -> None:
    """Sheets of large cells with plant-like walls, pale or pink; wrinkled nuclei in a halo."""
    rng, canvas = scene.rng, scene.canvas
    scene.flood(Region.CHRCC, (0.16, 0.78, 0.0))
    cells, centres = voronoi(scene.lattice(24.0, jitter=0.26))
    inside = scene.at(centres) == Region.CHRCC
    bodies = [_narrow(cell, 1.5) for cell, kept in zip(cells, inside, strict=True) if kept]
    middle = centres[inside]
    pink = smooth_noise(rng, scene.size_um, 160, COARSE_UM)
    eosin = (
        0.20
        + 0.34 / (1 + np.exp(-4 * (sample(pink, middle) - rng.uniform(-0.3, 0.8))))
        + rng.normal(0, 0.03, len(middle))
    )
    canvas.fill(bodies, np.stack([np.full(len(eosin), 0.08), eosin, eosin * 0], 1))
    _raisins(scene, middle)


def _raisins(scene: Scene, centre: Floats) -> None:
    """Wrinkled dark nuclei with a clear halo, one cell in eight with two."""
    rng = scene.rng
    twins = centre[rng.random(len(centre)) < 0.12] + (5.0, 2.0)
    spots = np.concatenate([centre, twins]) + rng.normal(0, 1.2, (len(centre) + len(twins), 2))
    halo = rng.uniform(5.6, 7.2, len(spots))
    scene.canvas.fill_convex(ellipses(spots, halo, halo * 0.9, halo), (0.02, 0.07, 0.0))
    wrinkled = wobbly(rng, spots, rng.uniform(3.0, 4.3, len(spots)), 0.26, 16)
    dark = rng.uniform(0.9, 1.2, len(spots))
    scene.canvas.fill(wrinkled, np.stack([dark, np.full(len(spots), 0.25), dark * 0], 1))


def _narrow(cell: Floats, by_um: float) -> Floats:
    shrunk: Floats = shrink(cell[None], by_um)[0]
    return shrunk
