"""What a synthetic slide is made from: a task, a label, a seed and a site.

The same seed at another site is the same tissue under another scanner and stain (a counterfactual pair); at
another mpp it is the same tissue at another magnification.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np

from xmag.manifest import TASK_LABELS, Task

ODX_CUTOFF = 25.0
"""Recurrence scores above it are `high`."""

ODX_SLOPE = 1.25
"""Log-odds of `high` for one standard deviation of `OdxTraits.burden`; fixes `ODX_CEILING`."""

ODX_CEILING = 0.78
"""AUC of the noise-free risk itself: no reader of the pixels can do better on a large cohort."""

TASKS = tuple(TASK_LABELS)


@dataclass(frozen=True)
class Recipe:
    """One synthetic slide; sizes in µm, ``mpp`` in µm for each pixel of level 0."""

    task: Task
    label: str
    seed: int
    site: int = 0
    width_um: float = 1792.0
    height_um: float = 1792.0
    mpp: float = 0.5

    def __post_init__(self) -> None:
        if self.label not in TASK_LABELS[self.task]:
            raise ValueError(f"the labels of {self.task} are {', '.join(TASK_LABELS[self.task])}")
        if self.seed < 0 or self.site not in (0, 1):
            raise ValueError("the seed must not be negative and the site must be 0 or 1")
        if not (self.mpp > 0 and self.width_um > 0 and self.height_um > 0):
            raise ValueError("sizes and mpp must be positive")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of level 0 in pixels."""
        return max(1, round(self.height_um / self.mpp)), max(1, round(self.width_um / self.mpp))

    def rng(self, *stream: int) -> np.random.Generator:
        """Random numbers of the tissue: depend on task, label, seed and ``stream``; never on site or mpp."""
        label = TASK_LABELS[self.task].index(self.label)
        return np.random.default_rng([self.seed, TASKS.index(self.task), label, *stream])


class Size(TypedDict, total=False):
    """Optional fields of a recipe that a cohort shares."""

    width_um: float
    height_um: float
    mpp: float


def cohort(task: Task, seeds: Iterable[int], site: int = 0, **size: Unpack[Size]) -> list[Recipe]:
    """One recipe for each seed; a label depends on its seed alone, and runs of seeds are balanced."""
    return [Recipe(task, label_of(task, seed), seed, site, **size) for seed in seeds]


def label_of(task: Task, seed: int) -> str:
    """Label of a seed: every block of as many seeds as labels is a shuffled deck of all of them."""
    labels = TASK_LABELS[task]
    block, place = divmod(seed, len(labels))
    deck = np.random.default_rng([TASKS.index(task), block]).permutation(len(labels))
    return labels[int(deck[place])]


@dataclass(frozen=True)
class OdxTraits:
    """What shows in the tissue of an `odx` slide; each is standard normal over a balanced cohort."""

    mitoses: float
    grade: float
    tubules: float

    @property
    def burden(self) -> float:
        """Weighted sum, standard normal: more mitoses, higher grade, fewer tubules."""
        return 0.40 * self.mitoses + 0.648 * self.grade - 0.648 * self.tubules

    @property
    def risk(self) -> float:
        """Probability that the recurrence score is above `ODX_CUTOFF`."""
        return 1.0 / (1.0 + math.exp(-ODX_SLOPE * self.burden))


def odx_score(traits: OdxTraits, rng: np.random.Generator) -> float:
    """Recurrence score: linear in the burden, plus logistic noise that no pixel shows."""
    return ODX_CUTOFF + 8.0 * (ODX_SLOPE * traits.burden + float(rng.logistic()))


def odx_traits(recipe: Recipe) -> OdxTraits:
    """Traits drawn until their score falls on the side of the recipe's label."""
    rng = recipe.rng(1)
    while True:
        traits = OdxTraits(*rng.standard_normal(3).tolist())
        if (odx_score(traits, rng) > ODX_CUTOFF) == (recipe.label == "high"):
            return traits


def odx_risk(recipe: Recipe) -> float:
    """Noise-free risk of an `odx` recipe, 0-1: the best score any reader of its pixels could give."""
    return odx_traits(recipe).risk


GLEASON: dict[str, tuple[tuple[int, int], ...]] = {
    "0": (),
    "1": ((3, 3),),
    "2": ((3, 4),),
    "3": ((4, 3),),
    "4": ((4, 4), (3, 5), (5, 3)),
    "5": ((4, 5), (5, 4), (5, 5)),
}
"""Primary and secondary Gleason patterns of each ISUP grade."""


def gleason(recipe: Recipe) -> tuple[int, int] | None:
    """Primary and secondary pattern of an `isup` recipe; None when benign."""
    choices = GLEASON[recipe.label]
    return choices[int(recipe.rng(2).integers(len(choices)))] if choices else None
