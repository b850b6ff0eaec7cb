"""`xmag demo`: the real service once, from nothing to heatmaps, on synthetic slides."""

import json
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import click

from cli.client import Client
from cli.contact_sheet import Card, contact_sheet
from cli.demo_slides import Shown, make, shown
from cli.local import data_option, database, signing_key
from cli.stack import Stack, running_stack
from cli.weights import promote_head
from training.demo import build_demo_releases
from xmag.config import load_settings
from xmag.db import releases
from xmag.errors import Code, PlaceError
from xmag.files import write_atomic
from xmag.manifest import TASK_LABELS, Task
from xmag.registry import read_manifest

SHEET = "contact_sheet.png"
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


@dataclass(frozen=True)
class Read:
    """What the service made of a slide; the result and the pictures are empty if its job failed."""

    slide: Shown
    job: dict[str, Any]
    result: dict[str, Any]
    thumbnail: bytes
    heatmap: bytes


class Steps:
    """Says each step's name and progress on stderr, with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._step = ""
        self._spoke = 0.0

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None:
        """Speak when a step begins and ends, and now and then between."""
        now = time.monotonic()
        soon = now - self._spoke < SPEAK_SECONDS
        if step == self._step and (total == 0 or (done < total and soon)):
            return
        self._step, self._spoke = step, now
        count = f"  {done}/{total}" if total else ""
        click.echo(f"[{now - self._start:4.0f} s] {step}{count}", err=True)

    def named(self, step: str) -> Callable[[int, int], None]:
        """Progress of one step."""
        return lambda done, total: self(step, done, total)


@click.command()
@click.option(
    "--per-label", default=1, show_default=True, type=click.IntRange(1, 100), help="Slides of a label."
)
@click.option("--side", default=3584.0, show_default=True, type=click.FloatRange(448), help="Of a slide, µm.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASK_LABELS)), help="[default: every]")
@click.option("--port", default=8080, show_default=True, help="Another one is taken if it is not free.")
@data_option
def demo(per_label: int, side: float, tasks: tuple[Task, ...], port: int, data: Path | None) -> None:
    """Train demo weights, start the service, submit slides over REST, and show what it says of them."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))
    folder, say = (data or load_settings().data).absolute(), Steps()
    slides = shown(folder / "slides", tasks or get_args(Task), per_label, side)
    heads = build_demo_releases(folder, signing_key(folder), say)
    make(slides, say.named("making the demo slides"))
    with running_stack(folder, port=port, reporter=say) as stack:
        _promote(stack, heads)
        found = _read_all(Client.to(stack.url, stack.api_key), folder, slides, say)
        say("stopping the service")
    rows = [_row(read) for read in found]
    _write(folder / "demo", found, rows)
    say("done")
    click.echo(table(rows))
    click.echo("\n" + "; ".join(sorted({row.notice for row in rows if row.notice})))
    click.echo(f"heatmaps       {folder / 'demo' / 'heatmaps'}")
    click.echo(f"contact sheet  {folder / 'demo' / SHEET}")
    _require_all(found)


def table(rows: Sequence[Row]) -> str:
    """Aligned columns with a heading."""
    lines = [("slide", "task", "truth", "prediction", "probability", "outcome", "seconds")]
    lines += [
        (r.slide, r.task, r.truth, r.prediction, f"{r.probability:.3f}", r.outcome, f"{r.seconds:.1f}")
        for r in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _promote(stack: Stack, heads: dict[Task, str]) -> None:
    """Let the demo heads serve, unless a task is served by a release that is no demo."""
    releases_dir = stack.settings.releases_dir
    with database(stack.settings) as session:
        serving = releases.active(session)
    for task, digest in heads.items():
        now = serving.get(task, digest)
        if read_manifest(releases_dir, now).licence.permitted_use != "demo":
            reason = f"real weights serve {task} in this data folder: run the demo on another, --data DIR"
            raise PlaceError(Code.SETUP, reason)
        promote_head(stack.settings, digest)


def _read_all(client: Client, folder: Path, slides: Sequence[Shown], say: Steps) -> list[Read]:
    """Submit every slide, then wait for each in turn."""
    jobs = [client.submit(_body(folder, slide), f"demo-{uuid.uuid4()}")["id"] for slide in slides]
    found: list[Read] = []
    for slide, job_id in zip(slides, jobs, strict=True):
        say("reading the slides", len(found), len(slides))
        found.append(_read(client, slide, client.wait(job_id, WAIT_SECONDS, _quiet)))
    say("reading the slides", len(found), len(slides))
    return found


def _body(folder: Path, slide: Shown) -> dict[str, Any]:
    place = {"root": "slides", "path": slide.path.relative_to(folder / "slides").as_posix()}
    return {"slide": place, "tasks": [slide.recipe.task]}


def _read(client: Client, slide: Shown, job: dict[str, Any]) -> Read:
    if job["state"] != "succeeded":
        return Read(slide, job, {}, b"", b"")
    thumbnail = _fetch(client, f"/v1/slides/{job['slide']}/thumbnail")
    heatmap = _fetch(client, f"/v1/jobs/{job['id']}/heatmap/{slide.recipe.task}.png?overlay=true")
    return Read(slide, job, client.result(job["id"]), thumbnail, heatmap)


def _fetch(client: Client, path: str) -> bytes:
    reply = client.http.get(path)
    if not reply.is_success:
        reason = f"a picture could not be fetched (status {reply.status_code}): see log/serve.log"
        raise PlaceError(Code.SETUP, reason)
    return reply.content


def _quiet(_stage: str, _done: int, _total: int) -> None:
    """The demo shows slides, not their stages."""


def _row(read: Read) -> Row:
    """The one prediction of a slide, or its job's error as the outcome."""
    recipe, job = read.slide.recipe, read.job
    about = (read.slide.name, recipe.task, recipe.label)
    if not read.result:
        outcome = job["error"]["code"] if job["error"] else job["state"]
        return Row(*about, "-", 0.0, outcome, _seconds(job), "")
    (said,) = read.result["predictions"]
    probability = max(said["probabilities"].values())
    return Row(*about, said["label"] or "-", probability, said["outcome"], _seconds(job), said["notice"])


def _seconds(job: dict[str, Any]) -> float:
    """From the start of the job's latest attempt to its end."""
    if not job["started_at"]:
        return 0.0
    begun, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
    return round((ended - begun).total_seconds(), 2)


def _write(folder: Path, found: Sequence[Read], rows: Sequence[Row]) -> None:
    """``results.json``, ``heatmaps/`` and the contact sheet."""
    (folder / "heatmaps").mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(row) for row in rows], indent=1)
    write_atomic(folder / "results.json", text.encode())
    cards = []
    for read, row in zip(found, rows, strict=True):
        if read.result:
            write_atomic(folder / "heatmaps" / f"{read.slide.path.stem}.png", read.heatmap)
            cards.append(Card(**asdict(row), thumbnail=read.thumbnail, heatmap=read.heatmap))
    if cards:
        write_atomic(folder / SHEET, contact_sheet(cards))


def _require_all(found: Sequence[Read]) -> None:
    failed = [read for read in found if not read.result]
    if failed:
        error = failed[0].job["error"] or {"detail": "see log/worker.log in the data folder"}
        raise PlaceError(Code.SETUP, f"{len(failed)} of {len(found)} slides were not read: {error['detail']}")
