"""A synthetic cohort as slide files: rendered once, in parallel, kept under names that say what it is."""

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from xmag.errors import Code, PlaceError
from xmag.files import disk_guard, write_atomic
from xmag.manifest import TASK_LABELS, Frozen, Task
from xmag.slide.synthetic.recipe import Recipe, Size, cohort, odx_traits
from xmag.slide.synthetic.render import render
from xmag.slide.synthetic.scene import Region
from xmag.slide.synthetic.write import write_svs, write_tiff

T = TypeVar("T")
Report = Callable[[int, int], None]
Split = Literal["train", "test"]

FIRST_SEED: dict[str, int] = {"train": 1_000_000, "test": 2_000_000}
"""Seeds of the two splits; slides that are only shown (the demo's) have seeds from `SHOWN_SEED`."""

SHOWN_SEED = 3_000_000

MOST = 1_000_000
"""Slides of one task and split, so that their seeds stay apart."""

PATCH_UM = 28.0
"""Side of a ViT patch on the slide: 14 px at 2.0 mpp."""

GRADES = (-0.43, 0.43)
"""Breast tumour is taught in thirds of nuclear grade (standard normal)."""

KINDS = len(Region) + len(GRADES) * 2
"""Kinds of tissue that a patch can be of; 0 is glass."""


TRAIN: dict[Task, int] = {"nsclc": 30, "rcc": 36, "isup": 120, "odx": 110}
TEST: dict[Task, int] = {"nsclc": 40, "rcc": 42, "isup": 60, "odx": 80}


class CohortSpec(Frozen):
    """Sizes and numbers of the slides; test seeds and train seeds never meet."""

    train: dict[Task, int] = TRAIN
    test: dict[Task, int] = TEST
    side_um: float = 1344.0
    mpp: float = 1.0
    site: int = 0


@dataclass(frozen=True)
class Member:
    """One slide of a cohort; its patches' kinds of tissue lie beside it as PNG."""

    recipe: Recipe
    path: Path

    @property
    def target(self) -> int:
        """Index of the label."""
        return TASK_LABELS[self.recipe.task].index(self.recipe.label)

    @property
    def kinds_path(self) -> Path:
        """Map (h, w) uint8, one pixel for each `PATCH_UM`."""
        return self.path.with_suffix(".png")


def recipes(spec: CohortSpec, split: Split) -> list[Recipe]:
    """The slides of a split, task by task."""
    counts = spec.train if split == "train" else spec.test
    if max(counts.values()) > MOST:
        raise ValueError(f"at most {MOST} slides of a task")
    first = FIRST_SEED[split]
    size: Size = {"width_um": spec.side_um, "height_um": spec.side_um, "mpp": spec.mpp}
    return [
        recipe
        for task, count in counts.items()
        for recipe in cohort(task, range(first, first + count), spec.site, **size)
    ]


def make(folder: Path, wanted: Sequence[Recipe], report: Report) -> list[Member]:
    """Write the slides that are not there yet; an interrupted call goes on where it stopped."""
    members = [Member(recipe, folder / file_name(recipe)) for recipe in wanted]
    missing = [member for member in members if not member.path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    there = len(members) - len(missing)
    in_processes(_write, missing, lambda done, _: report(there + done, len(members)))
    return members


def in_processes(work: Callable[[T], None], items: Sequence[T], report: Report) -> None:
    """Do ``work`` on each item in as many fresh processes as there are processors.

    Raises what ``work`` raises, and PlaceError SETUP when a process was killed.
    """
    report(0, len(items))
    if items:
        context = multiprocessing.get_context("spawn")
        with _broken_guard(), ProcessPoolExecutor(min(cores(), len(items)), context) as pool:
            for done, _ in enumerate(pool.map(work, items), 1):
                report(done, len(items))


@contextmanager
def _broken_guard() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        reason = "a process that draws slides was ended, likely for want of memory: free some, then run again"
        raise PlaceError(Code.SETUP, reason) from None


def file_name(recipe: Recipe) -> str:
    """Says task and seed; SVS and generic TIFF by turns. The digest covers every field and the label."""
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    return f"{recipe.task}-{recipe.seed}-{digest}{'.tif' if recipe.seed % 2 else '.svs'}"


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def kinds_map(recipe: Recipe, regions: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Kind of tissue at the centre of each patch, (h, w) in steps of `PATCH_UM`; regions are at the mpp."""
    at = [
        ((np.arange(int(side * recipe.mpp // PATCH_UM)) + 0.5) * PATCH_UM / recipe.mpp).astype(np.int64)
        for side in regions.shape
    ]
    kinds = regions[at[0]][:, at[1]]
    if recipe.task != "odx":
        return kinds
    third = int(np.searchsorted(GRADES, odx_traits(recipe).grade))
    breast = kinds >= Region.BREAST_TUBULES
    return np.where(breast, kinds + 2 * third, kinds).astype(np.uint8)


def _write(member: Member) -> None:
    """The slide's file appears last and whole, so its presence means that both are there."""
    cv2.setNumThreads(1)
    rendered = render(member.recipe)
    _, png = cv2.imencode(".png", kinds_map(member.recipe, rendered.regions))
    write_atomic(member.kinds_path, png.tobytes())
    half = member.path.with_name(f".{member.path.stem}.{os.getpid()}{member.path.suffix}")
    write = write_svs if member.path.suffix == ".svs" else write_tiff
    with disk_guard():
        write(half, rendered.rgb, member.recipe.mpp, levels=(1, 4))
    half.replace(member.path)
