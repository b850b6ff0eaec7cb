"""Prostate: benign glands and Gleason patterns 3, 4 and 5, which make an ISUP grade."""

import numpy as np
from numpy.typing import NDArray

from xmag.slide.synthetic.cells import Gland, Nuclei, draw_glands, draw_lymphocytes, draw_nuclei
from xmag.slide.synthetic.geometry import Floats, ellipses, packed, wobbly
from xmag.slide.synthetic.recipe import Recipe, gleason
from xmag.slide.synthetic.scene import LUMEN, Region, Scene, coarse_noise, draw_stroma, upper

_LUMINAL = Nuclei(3.6, 0.08, 0.72, 0.25, 0.3)
_BASAL = Nuclei(2.6, 0.1, 0.95, 0.7, 0.0)
_TUMOUR = Nuclei(4.3, 0.14, 0.88, 0.15, 0.35, 0.7)
_WILD = Nuclei(4.6, 0.24, 1.0, 0.3, 0.35, 0.8)

_BENIGN = Gland(0.62, 0.14, 0.34, (0.10, 0.38, 0.0), ((0.95, 6.5, _BASAL), (0.80, 7.0, _LUMINAL)))
_SMALL = Gland(0.46, 0.07, 0.10, (0.22, 0.55, 0.0), ((0.76, 9.0, _TUMOUR),))


def regions(recipe: Recipe, rng: np.random.Generator, tissue: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Benign tissue with a tumour whose larger part has the primary pattern."""
    found = np.where(tissue, Region.PROSTATE_BENIGN, Region.GLASS).astype(np.uint8)
    patterns = gleason(recipe)
    where = coarse_noise(rng, tissue, 450)
    which = coarse_noise(rng, tissue, 320)
    extent, share = rng.uniform(0.35, 0.75), rng.uniform(0.22, 0.42)
    if patterns is None:
        return found
    tumour = upper(where, tissue, extent)
    found[tumour] = patterns[0]
    found[upper(which, tumour, share)] = patterns[1]
    return found


def draw(scene: Scene) -> None:
    """Draw the tissue of all regions."""
    draw_stroma(scene, nuclei_per_mm2=800)
    draw_lymphocytes(scene, 90, Region.PROSTATE_BENIGN)
    _single_cells(scene, scene.lattice(13.5, Region.GLEASON_5, jitter=0.38))
    _cribriform(scene, scene.lattice(132, Region.GLEASON_4, jitter=0.12))
    small = scene.lattice(56, Region.GLEASON_3, jitter=0.2)
    draw_glands(scene, small, scene.rng.uniform(16, 26, len(small)), _SMALL)
    large = scene.lattice(148, Region.PROSTATE_BENIGN, jitter=0.14)
    draw_glands(scene, large, scene.rng.uniform(44, 70, len(large)), _BENIGN)


def _single_cells(scene: Scene, centre: Floats) -> None:
    """Pattern 5: no glands, cells alone and in cords."""
    rng, count = scene.rng, len(centre)
    kept = centre[rng.random(count) < 0.85]
    radius = rng.uniform(5.2, 7.4, len(kept))
    scene.canvas.fill_convex(
        ellipses(kept, radius, radius * 0.85, rng.uniform(0, np.pi, len(kept))), (0.2, 0.5, 0)
    )
    draw_nuclei(scene, kept, _WILD)


def _cribriform(scene: Scene, centre: Floats) -> None:
    """Pattern 4: large fused sheets, punched with round holes."""
    rng, canvas = scene.rng, scene.canvas
    sheets = wobbly(rng, centre, rng.uniform(50, 74, len(centre)), 0.17)
    canvas.fill(sheets, (0.24, 0.58, 0.0))
    for sheet in sheets:
        holes = packed(rng, sheet, 27.0, 0.78)
        size = rng.uniform(4.5, 9.5, len(holes))
        nuclei = packed(rng, sheet, 10.8)
        free = (np.linalg.norm(nuclei[:, None] - holes, axis=2) > size + 2.5).all(axis=1)
        canvas.fill_convex(ellipses(holes, size, size * rng.uniform(0.75, 1, len(size)), size, 20), LUMEN)
        draw_nuclei(scene, nuclei[free], _TUMOUR)
