"""The slides that `xmag demo` shows: every label of every task, with seeds that training never sees."""

import os
from dataclasses import dataclass
from pathlib import Path

from training.cohort import SHOWN_SEED, Report, in_processes
from training.demo import generator
from xmag.files import disk_guard
from xmag.manifest import TASK_LABELS, Task
from xmag.slide.synthetic.recipe import Recipe
from xmag.slide.synthetic.write import write_slide

OTHER_SITE_EVERY = 4
"""One slide in so many comes from the other laboratory, which the weights never saw."""


@dataclass(frozen=True)
class Shown:
    """A slide beneath the root ``slides``."""

    recipe: Recipe
    path: Path

    @property
    def name(self) -> str:
        """As the table says it."""
        return self.path.name


def shown(folder: Path, tasks: tuple[Task, ...], per_label: int, side_um: float) -> list[Shown]:
    """What to show; SVS and TIFF by turns, some at site 1, all at 0.5 µm for each pixel."""
    cases = [
        (task, label, number)
        for task in tasks
        for label in TASK_LABELS[task]
        for number in range(1, per_label + 1)
    ]
    return [_shown(folder / f"demo-{generator()}", *case, place, side_um) for place, case in enumerate(cases)]


def make(slides: list[Shown], report: Report) -> None:
    """Write the slides that are not there."""
    in_processes(_write, [slide for slide in slides if not slide.path.exists()], report)


def _shown(folder: Path, task: Task, label: str, number: int, place: int, side_um: float) -> Shown:
    site = int(place % OTHER_SITE_EVERY == OTHER_SITE_EVERY - 1)
    recipe = Recipe(task, label, SHOWN_SEED + number, site, side_um, side_um)
    size = f"{side_um / 1000:g}mm"
    name = f"{task}-{label.lower()}-{number}-{size}-site{site}.{'tif' if place % 2 else 'svs'}"
    return Shown(recipe, folder / name)


def _write(slide: Shown) -> None:
    slide.path.parent.mkdir(parents=True, exist_ok=True)
    half = slide.path.with_name(f".{os.getpid()}-{slide.name}")
    with disk_guard():
        write_slide(half, slide.recipe)
    half.replace(slide.path)
