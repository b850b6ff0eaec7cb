"""Measure everything, or some parts, and write the report.

    python -m benchmarks               all parts (make bench)
    python -m benchmarks a d           these parts; the others keep the figures of the last run
    python -m benchmarks report FILE…  docs/performance.md from results, without measuring

Parts: a reading, b encoding, c the paper's Figure 3, d file to prediction and the service, e growth.
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks import (
    encoding,
    figure3,
    growth,
    prediction,
    queue_depth,
    reading,
    report,
    rescoring,
    slides,
    throughput,
)
from benchmarks.machine import machine
from benchmarks.measure import Json
from benchmarks.subject import random_subject, some_tiles
from xmag.errors import XmagError
from xmag.files import write_atomic
from xmag.manifest import TilingSpec
from xmag.nn.runtime import choose_device

FOLDER = Path(__file__).parent / "results"
RESULTS = FOLDER / "latest.json"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
REPEATS = 5
SCRIPT_TILES = {"cpu": 36, "cuda": 537}


def say(message: str) -> None:
    """Progress, on stderr, with the clock."""
    click.echo(f"[{datetime.now().strftime('%H:%M:%S')}] {message}", err=True)


def part_a(_: str) -> Json:
    """Reading."""
    return {"slides": reading.compare(_large(), REPEATS, 0, say)}


def part_b(_: str) -> Json:
    """Encoding."""
    with random_subject() as subject:
        return {"slides": encoding.compare(_large()[:1], subject, 3, 0, say)}


def part_c(device: str) -> Json:
    """Figure 3."""
    path = slides.made(slides.small(36), FOLDER / "slides")
    return figure3.compare(device, some_tiles(path, TilingSpec(), 16), say)


def part_d(device: str) -> Json:
    """File to prediction, alone and through the service."""
    tiles = SCRIPT_TILES[device]
    small = device == "cpu"
    plans = {
        "40x": slides.small(tiles) if small else slides.base_40x(tiles),
        "20x": slides.small(tiles, 0.5) if small else slides.base_20x(tiles),
    }
    made = [(name, slides.made(plan, FOLDER / "slides")) for name, plan in plans.items()]
    with random_subject() as subject:
        found = prediction.compare(made, subject, 3, say, int8=small)
    return {"device": device, "slides": found, "service": throughput.compare(device, FOLDER / "slides", say)}


def part_e(device: str) -> Json:
    """Growth."""
    return {
        "tissue": growth.tissue(FOLDER / "slides", 3, say),
        "workers": growth.workers(device, FOLDER / "slides", say),
        "queue": queue_depth.compare(say),
        "rescoring": rescoring.compare(say),
    }


PARTS: dict[str, Callable[[str], Json]] = {"a": part_a, "b": part_b, "c": part_c, "d": part_d, "e": part_e}


def _large() -> list[tuple[str, Path]]:
    say("making the slides")
    plans = {"40x": slides.base_40x(), "20x": slides.base_20x()}
    return [(name, slides.made(plan, FOLDER / "slides")) for name, plan in plans.items()]


@click.command()
@click.argument("words", nargs=-1)
def main(words: tuple[str, ...]) -> None:
    """Measure all parts, the named ones, or render results: see this module's own words."""
    if words and words[0] == "report":
        runs = [json.loads(Path(file).read_text()) for file in words[1:] or (str(RESULTS),)]
        report.write(runs, PAGE)
        click.echo(report.text_table(runs))
        return
    unknown = set(words) - set(PARTS)
    if unknown:
        raise click.UsageError(f"unknown part {min(unknown)}: choose of {', '.join(PARTS)}, or report FILE")
    try:
        measure(words or tuple(PARTS))
    except XmagError as error:
        raise click.ClickException(f"{error.code}: {error.detail}") from None


def measure(parts: tuple[str, ...]) -> None:
    """Run parts in order; each is written as soon as it is there, beside what earlier runs left."""
    device = choose_device("auto")
    say("measuring the machine")
    results = _kept(device) | {"machine": machine(), "device": device}
    for part in parts:
        say(f"part {part}: {(PARTS[part].__doc__ or '').rstrip('.').lower()}")
        begun = time.monotonic()
        found = PARTS[part](device)
        minutes = round((time.monotonic() - begun) / 60, 1)
        results["parts"][part] = {**found, "measured": _today(), "minutes": minutes}
        FOLDER.mkdir(exist_ok=True)
        write_atomic(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    report.write([results], PAGE)
    click.echo(report.text_table([results]))
    click.echo(f"\nwritten to {_near(RESULTS)} and {_near(PAGE)}")


def _kept(device: str) -> dict[str, Any]:
    """The last results if they are this device's, else nothing."""
    if RESULTS.exists():
        known = dict(json.loads(RESULTS.read_text()))
        if known.get("device") == device and isinstance(known.get("parts"), dict):
            return known
    return {"parts": {}}


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")


def _near(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    main()
