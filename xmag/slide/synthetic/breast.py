"""Breast cancer whose mitoses, nuclear grade and tubules carry the recurrence risk."""

import math

import numpy as np
from numpy.typing import NDArray

from xmag.slide.synthetic.cells import (
    Gland,
    Nuclei,
    draw_glands,
    draw_lymphocytes,
    draw_mitoses,
    draw_nuclei,
)
from xmag.slide.synthetic.geometry import packed, wobbly
from xmag.slide.synthetic.recipe import Recipe, odx_traits
from xmag.slide.synthetic.scene import Region, Scene, coarse_noise, draw_stroma, tumour_in_stroma, upper


def regions(recipe: Recipe, rng: np.random.Generator, tissue: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Tumour in stroma; the tubules' share of it is the recipe's trait."""
    found = tumour_in_stroma(rng, tissue, Region.BREAST_SOLID, (0.6, 0.85))
    share = 0.05 + 0.9 * _portion(odx_traits(recipe).tubules)
    noise = coarse_noise(rng, tissue, 260)
    found[upper(noise, found == Region.BREAST_SOLID, share)] = Region.BREAST_TUBULES
    return found


def draw(scene: Scene) -> None:
    """Draw the tissue of all regions."""
    rng, traits = scene.rng, odx_traits(scene.recipe)
    draw_stroma(scene)
    draw_lymphocytes(scene, 250, Region.STROMA)
    grade = _portion(traits.grade)
    nuclei = Nuclei(
        radius=3.2 + 2.6 * grade,
        spread=0.07 + 0.22 * grade,
        dark=0.72 + 0.36 * grade,
        long=0.15 + 0.2 * grade,
        open=0.2 + 0.25 * grade,
        nucleolus=0.05 + 0.8 * grade,
    )
    spacing = nuclei.radius * 1.15 + 6.0
    centre = scene.lattice(92, Region.BREAST_SOLID, jitter=0.22)
    nests = wobbly(rng, centre, rng.uniform(30, 52, len(centre)), 0.26)
    scene.canvas.fill(nests, (0.18, 0.46, 0.0))
    for nest in nests:
        draw_nuclei(scene, packed(rng, nest, spacing), nuclei)
    tubules = scene.lattice(60, Region.BREAST_TUBULES, jitter=0.22)
    gland = Gland(0.45, 0.14, 0.14, (0.16, 0.44, 0.0), ((0.76, spacing, nuclei),))
    draw_glands(scene, tubules, rng.uniform(17, 28, len(tubules)), gland)
    per_mm2 = 2.0 * 45.0 ** _portion(traits.mitoses)
    draw_mitoses(scene, scene.scatter(per_mm2, Region.BREAST_SOLID, Region.BREAST_TUBULES))


def _portion(trait: float) -> float:
    """Standard normal to its rank, 0-1."""
    return 0.5 * (1 + math.erf(trait / math.sqrt(2)))
