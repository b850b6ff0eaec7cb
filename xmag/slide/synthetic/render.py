"""From a recipe to pixels: fields of tissue, drawn in stain concentrations and developed at a site."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from xmag.manifest import Task
from xmag.slide.synthetic import breast, kidney, lung, prostate
from xmag.slide.synthetic.appearance import SITES, develop, optical_density
from xmag.slide.synthetic.canvas import Canvas
from xmag.slide.synthetic.recipe import Recipe
from xmag.slide.synthetic.scene import Region, Scene, coverage, outline, region_map

FIELD_UM = 1792.0
"""Larger slides are mosaics of independent fields of about this size and of the same recipe."""

_COARSEST_DRAWN_MPP = 1.0


@dataclass(frozen=True)
class Rendered:
    """A slide's pixels.

    Attributes:
        rgb: (h, w, 3) uint8 at the recipe's mpp.
        regions: (h, w) uint8, values of `Region`; 0 is glass.
        label: of the whole slide.
    """

    rgb: NDArray[np.uint8]
    regions: NDArray[np.uint8]
    label: str


@dataclass(frozen=True)
class _Organ:
    regions: Callable[[Recipe, np.random.Generator, NDArray[np.bool_]], NDArray[np.uint8]]
    draw: Callable[[Scene], None]


_ORGANS: dict[Task, _Organ] = {
    "isup": _Organ(prostate.regions, prostate.draw),
    "nsclc": _Organ(lung.regions, lung.draw),
    "rcc": _Organ(kidney.regions, kidney.draw),
    "odx": _Organ(breast.regions, breast.draw),
}


def render(recipe: Recipe) -> Rendered:
    """Draw a whole slide; the same recipe gives the same bytes."""
    rows = list(_rows(recipe))
    rgb, regions = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    return Rendered(rgb, regions, recipe.label)


def strips(recipe: Recipe) -> Iterator[NDArray[np.uint8]]:
    """The pixels of `render` from top to bottom, one row of fields at a time."""
    for rgb, _ in _rows(recipe):
        yield rgb


def _rows(recipe: Recipe) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Pixels and regions of each row of fields."""
    extents = (recipe.height_um, recipe.width_um)
    tall, wide = (_cuts(*each) for each in zip(recipe.shape, extents, strict=True))
    size = (recipe.height_um / (len(tall) - 1), recipe.width_um / (len(wide) - 1))
    for row in range(len(tall) - 1):
        fields = [
            _field(recipe, (row, column), (tall[row + 1] - tall[row], wide[column + 1] - wide[column]), size)
            for column in range(len(wide) - 1)
        ]
        rgb, regions = (np.concatenate(parts, axis=1) for parts in zip(*fields, strict=True))
        yield rgb, regions


def _cuts(pixels: int, extent_um: float) -> list[int]:
    """Where fields begin and end along an axis."""
    count = max(1, math.ceil(extent_um / FIELD_UM - 0.01))
    return [round(pixels * index / count) for index in range(count + 1)]


def _field(
    recipe: Recipe, place: tuple[int, int], shape: tuple[int, int], size: tuple[float, float]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels and regions of one field of ``size`` µm (no rounding: it draws the random numbers).

    Coarse mpp are drawn finer and averaged.
    """
    finer = math.ceil(recipe.mpp / _COARSEST_DRAWN_MPP)
    canvas = Canvas(size, (shape[0] * finer, shape[1] * finer))
    rng = recipe.rng(3, *place)
    organ = _ORGANS[recipe.task]
    scene = Scene(recipe, rng, canvas, organ.regions(recipe, rng, outline(rng, size)))
    organ.draw(scene)
    sheet = _section(scene)
    if finer > 1:
        sheet = np.asarray(cv2.resize(sheet, shape[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
    site = SITES[recipe.site]
    density = optical_density(site, np.random.default_rng([recipe.seed, recipe.site]))
    noise = np.random.default_rng([recipe.seed, recipe.site, *place])
    rgb = develop(sheet, recipe.mpp, site, density, noise)
    return rgb, region_map(scene.regions, shape)


def _section(scene: Scene) -> NDArray[np.uint8]:
    """The drawn sheet with uneven staining and chromatin grain, cut to the tissue's outline."""
    sheet, rng = scene.canvas.sheet, scene.rng
    _stain(sheet, rng, scene.size_um, 2.5, (0.16, 0.07, 0.05))
    _stain(sheet, rng, scene.size_um, 60.0, (0.07, 0.10, 0.05))
    tissue = coverage(scene.regions != Region.GLASS, (sheet.shape[0], sheet.shape[1]))
    edge = np.clip((tissue.astype(np.int16) - 112) * 8, 0, 255).astype(np.uint8)
    return np.asarray(cv2.multiply(sheet, cv2.merge([edge, edge, edge]), scale=1 / 255), dtype=np.uint8)


def _stain(
    sheet: NDArray[np.uint8],
    rng: np.random.Generator,
    size_um: tuple[float, float],
    cell_um: float,
    amount: tuple[float, float, float],
) -> None:
    """Multiply ``sheet`` in place by smooth noise around 1."""
    shape = (max(2, round(size_um[0] / cell_um)), max(2, round(size_um[1] / cell_um)), 1)
    lattice = np.clip(128 * (1 + rng.standard_normal(shape) * amount), 0, 255).astype(np.uint8)
    factor = cv2.resize(lattice, (sheet.shape[1], sheet.shape[0]), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(sheet, factor, dst=sheet, scale=1 / 128)
