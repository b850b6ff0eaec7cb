"""`xmag slides`: synthetic slides to try the service with."""

from pathlib import Path
from typing import get_args

import click

from cli import local
from xmag.manifest import TASK_LABELS, Task


@click.group()
def slides() -> None:
    """Make synthetic slides."""


@slides.command()
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASK_LABELS)), help="[default: every]")
@click.option("--count", default=1, show_default=True, type=click.IntRange(min=1), help="For each task.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the first slide.")
@click.option("--site", default=0, show_default=True, type=click.IntRange(0, 1))
@click.option("--mpp", default=0.5, show_default=True, help="µm for each pixel.")
@click.option("--size", default=1792.0, show_default=True, help="Side in µm.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=None)
@local.data_option
def make(
    tasks: tuple[Task, ...],
    count: int,
    seed: int,
    site: int,
    mpp: float,
    size: float,
    out: Path | None,
    data: Path | None,
) -> None:
    """Write procedural H&E slides (SVS) and print each path with its truth."""
    from xmag.slide.synthetic.recipe import cohort
    from xmag.slide.synthetic.write import write_slide

    folder = out or local.local_settings(data).data / "slides"
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks or get_args(Task):
        for recipe in cohort(task, range(seed, seed + count), site, width_um=size, height_um=size, mpp=mpp):
            path = write_slide(folder / f"{task}-{recipe.seed}-site{site}.svs", recipe)
            click.echo(f"{path}  {task}  {recipe.label}")
