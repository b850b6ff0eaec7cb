"""Lung cancer: glands with mucin (LUAD) against solid nests with keratin (LUSC)."""

import numpy as np
from numpy.typing import NDArray

from xmag.slide.synthetic.cells import Gland, Nuclei, draw_glands, draw_lymphocytes, draw_nuclei
from xmag.slide.synthetic.geometry import Floats, ellipses, packed, shrink, wobbly
from xmag.slide.synthetic.recipe import Recipe
from xmag.slide.synthetic.scene import LUMEN, Region, Scene, draw_stroma, tumour_in_stroma

_COLUMNAR = Nuclei(4.2, 0.16, 0.85, 0.35, 0.35, 0.5)
_SQUAMOUS = Nuclei(4.3, 0.18, 0.88, 0.25, 0.35, 0.2)
_FLAT = Nuclei(3.0, 0.1, 1.0, 0.8, 0.0)
_MUCIN = (0.13, 0.05, 0.0)
_KERATIN = (0.0, 0.55, 0.75)

_ACINUS = Gland(0.55, 0.24, 0.36, (0.15, 0.44, 0.0), ((0.86, 8.0, _COLUMNAR), (0.72, 13.0, _COLUMNAR)))
_MUCINOUS = Gland(0.66, 0.20, 0.22, (0.12, 0.30, 0.0), ((0.92, 7.5, _COLUMNAR),), _MUCIN)


def regions(recipe: Recipe, rng: np.random.Generator, tissue: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Tumour of one kind in stroma."""
    return tumour_in_stroma(rng, tissue, Region[recipe.label], (0.5, 0.85))


def draw(scene: Scene) -> None:
    """Draw the tissue of all regions."""
    draw_stroma(scene)
    draw_lymphocytes(scene, 500, Region.STROMA, Region.LUAD, Region.LUSC)
    _adenocarcinoma(scene)
    _squamous(scene)


def _adenocarcinoma(scene: Scene) -> None:
    """Acini, some full of mucin, and a few solid nests with vacuoles."""
    rng = scene.rng
    centre = scene.lattice(98, Region.LUAD, jitter=0.2)
    radius = rng.uniform(28, 52, len(centre))
    kind = rng.random(len(centre))
    mucinous, solid = rng.uniform(0.15, 0.6), rng.uniform(0.0, 0.3)
    acini = kind >= mucinous + solid
    draw_glands(scene, centre[kind < mucinous], radius[kind < mucinous], _MUCINOUS)
    draw_glands(scene, centre[acini], radius[acini], _ACINUS)
    rest = ~acini & (kind >= mucinous)
    for nest in wobbly(rng, centre[rest], radius[rest], 0.2):
        scene.canvas.fill(nest[None], (0.17, 0.48, 0.0))
        draw_nuclei(scene, packed(rng, nest, 11.5), _COLUMNAR)
        drops = packed(rng, nest, 26.0, 0.75)
        size = rng.uniform(3.5, 7.0, len(drops))
        scene.canvas.fill_convex(ellipses(drops, size, size * 0.85, size, 14), _MUCIN)


def _squamous(scene: Scene) -> None:
    """Solid nests of large pink cells with pale borders between them; keratin pearls in some."""
    rng = scene.rng
    centre = scene.lattice(150, Region.LUSC, jitter=0.2)
    nests = wobbly(rng, centre, rng.uniform(54, 82, len(centre)), 0.26)
    scene.canvas.fill(nests, (0.12, 0.40, 0.0))
    pearls = rng.random(len(nests)) < rng.uniform(0.3, 0.8)
    for nest, pearl in zip(nests, pearls, strict=True):
        _nest(scene, nest)
        if pearl:
            _pearl(scene, nest.mean(axis=0) + rng.normal(0, 12, 2), float(rng.uniform(14, 32)))


def _nest(scene: Scene, nest: Floats) -> None:
    """Bridged cells of one solid nest, some of them keratinised."""
    rng, canvas = scene.rng, scene.canvas
    cells = packed(rng, nest, 15.5)
    size = rng.uniform(6.8, 8.0, len(cells))
    paint = np.where(rng.random((len(cells), 1)) < 0.07, np.array(_KERATIN), np.array((0.20, 0.62, 0.08)))
    canvas.fill_convex(ellipses(cells, size, size * 0.9, size, 7), paint)
    draw_nuclei(scene, cells, _SQUAMOUS)


def _pearl(scene: Scene, centre: Floats, radius: float) -> None:
    """Concentric keratin with flattened ghost nuclei."""
    rng, canvas = scene.rng, scene.canvas
    rings = wobbly(rng, centre[None], np.array([radius]), 0.1)
    for depth in np.arange(0, radius, 3.2):
        paint = (0.02, float(rng.uniform(0.35, 0.8)), float(rng.uniform(0.5, 0.95)))
        canvas.fill(shrink(rings, float(depth)), paint)
    ghosts = packed(rng, rings[0], 12.0)
    arm = ghosts - centre
    draw_nuclei(scene, ghosts, _FLAT, np.arctan2(arm[:, 1], arm[:, 0]) + np.pi / 2)
    gap = ellipses(
        centre[None] + radius * 0.3,
        np.full(1, radius * 0.16),
        np.full(1, radius * 0.07),
        rng.uniform(0, 3, 1),
    )
    canvas.fill_convex(gap, LUMEN)
