"""`xmag demo`: the real service once, from nothing to heatmaps, on synthetic slides."""

import json
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import httpx

from cli.client import Client
from cli.contact_sheet import Card, contact_sheet
from cli.demo_slides import Shown, make, shown
from cli.local import data_option, database, local_settings, signing_key
from cli.stack import Stack, running_stack
from cli.weights import promote_head
from training.demo import build_demo_releases
from xmag.config import load_settings
from xmag.db import releases
from xmag.errors import Code, PlaceError
from xmag.manifest import TASK_LABELS, Task
from xmag.registry import read_manifest

SPEAK_SECONDS = 10.0
WAIT_SECONDS = 900.0


@dataclass(frozen=True)
class Row:
    """One line of the table, kept in ``demo/results.json``."""

    slide: str
    task: str
    truth: str
    prediction: str
    probability: float
    outcome: str
    seconds: float
    notice: str


class Steps:
    """Says each step's name and progress on stderr, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._step = ""
        self._spoke = 0.0

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None:
        now = time.monotonic()
        if step == self._step and done < total and now - self._spoke < SPEAK_SECONDS:
            return
        if step == self._step and done == total and total == 0:
            return
        self._step, self._spoke = step, now
        count = f"  {done}/{total}" if total else ""
        click.echo(f"[{now - self._start:4.0f} s] {step}{count}", err=True)

    def named(self, step: str) -> Callable[[int, int], None]:
        """Progress of one step."""
        return lambda done, total: self(step, done, total)


@click.command()
@click.option("--per-label", default=1, show_default=True, type=click.IntRange(1, 100), help="Slides of a label.")
@click.option("--side", default=3584.0, show_default=True, type=click.FloatRange(448), help="Of a slide, µm.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASK_LABELS)), help="[default: every]")
@click.option("--port", default=8080, show_default=True, help="Another one is taken if it is not free.")
@data_option
def demo(per_label: int, side: float, tasks: tuple[Task, ...], port: int, data: Path | None) -> None:
    """Train demo weights, start the service, submit slides over REST, and show what it says of them."""
    folder, say = (data or load_settings().data).absolute(), Steps()
    slides = shown(folder / "slides", tasks or tuple(TASK_LABELS), per_label, side)
    heads = build_demo_releases(folder, signing_key(folder), say)
    make(slides, say.named("making the demo slides"))
    with running_stack(folder, port=port, reporter=say) as stack:
        _promote(stack, heads)
        cards = _read_slides(Client.to(stack.url, stack.api_key), folder, slides, say)
        say("stopping")
    rows = [_row(card) for card in cards]
    click.echo(table(rows))
    sheet = _write(folder / "demo", rows, cards)
    click.echo(f"\n{' / '.join(sorted({row.notice for row in rows if row.notice}))}")
    click.echo(f"heatmaps       {folder / 'demo' / 'heatmaps'}\ncontact sheet  {sheet}")
    say("done")
    sys.exit(0 if all(row.outcome == "predicted" for row in rows) else 1)
