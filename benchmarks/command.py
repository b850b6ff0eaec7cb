"""`xmag bench`: one comparison on given slides, on this machine; the report names slides by number alone.

It stands here and not in `cli`, which is beneath: the benchmarks use the command line's service and client.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks.measure import Json
from benchmarks.sections import routes_text
from cli import local
from xmag.config import Settings
from xmag.errors import Code, RequestError, SlideError, XmagError
from xmag.manifest import HeadManifest
from xmag.registry import listing, read_manifest

Compare = Callable[[list[tuple[str, Path]], Callable[[str], None]], list[Json]]


@click.group()
def bench() -> None:
    """Measure reading, encoding, or file to prediction on slides of yours, beside what is used today."""


def slide_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """SLIDE..., --repeats and --json."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one object."),
        click.option("--repeats", default=3, show_default=True, type=click.IntRange(1, 100)),
        click.argument(
            "slides", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SLIDE..."
        ),
    ):
        command = option(command)
    return command


@bench.command()
@slide_options
@click.option("--tiles", default=0, type=click.IntRange(0), help="Most tiles of a slide [default: all].")
def read(slides: tuple[Path, ...], repeats: int, tiles: int, as_json: bool) -> None:
    """Read all tissue tiles: ours, ours by OpenSlide, and OpenSlide, tiffslide and pyvips tile by tile."""

    def compare(given: list[tuple[str, Path]], say: Callable[[str], None]) -> list[Json]:
        from benchmarks import reading

        return reading.compare(given, repeats, tiles, say)

    _run("read", slides, as_json, compare)


@bench.command()
@slide_options
@click.option("--tiles", default=0, type=click.IntRange(0), help="Most tiles [default: by device].")
@click.option("--release", default=None, metavar="DIGEST", help="This head's encoder, not the promoted one.")
@local.data_option
def encode(
    slides: tuple[Path, ...], repeats: int, tiles: int, release: str | None, data: Path | None, as_json: bool
) -> None:
    """Embed tiles at every precision that passes its check, beside plain timm in fp32.

    Without promoted weights a full-size encoder of random weights is measured, and the report says so.
    """

    def compare(given: list[tuple[str, Path]], say: Callable[[str], None]) -> list[Json]:
        from benchmarks import encoding

        with _subject(local.local_settings(data), release) as subject:
            return encoding.compare(given, subject, repeats, tiles, say)

    _run("encode", slides, as_json, compare)


@bench.command()
@slide_options
@click.option("--release", default=None, metavar="DIGEST", help="This head, not a promoted one.")
@local.data_option
def slide(
    slides: tuple[Path, ...], repeats: int, release: str | None, data: Path | None, as_json: bool
) -> None:
    """Read whole slides, file to prediction, beside a plain script of OpenSlide, timm and ABMIL.

    Without promoted weights networks of random weights are measured, and the report says so.
    """

    def compare(given: list[tuple[str, Path]], say: Callable[[str], None]) -> list[Json]:
        from benchmarks import prediction

        with _subject(local.local_settings(data), release) as subject:
            return prediction.compare(given, subject, repeats, say)

    _run("slide", slides, as_json, compare)


def _run(comparison: str, slides: tuple[Path, ...], as_json: bool, compare: Compare) -> None:
    try:
        given = [(str(number), _existing(path)) for number, path in enumerate(slides, 1)]
        from benchmarks.machine import machine

        _say("measuring the machine")
        document = {"comparison": comparison, "machine": machine(), "slides": compare(given, _say)}
    except XmagError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"error": {"code": error.code, "detail": error.detail}}))
        sys.exit(1)
    click.echo(json.dumps(document) if as_json else table(document))


def table(document: Json) -> str:
    """Lines for a person: for each slide its routes, with what they cost and how they agree."""
    return "\n\n".join(routes_text(slide) for slide in document["slides"])


def _say(message: str) -> None:
    if sys.stderr.isatty():
        click.echo(message, err=True)


def _existing(path: Path) -> Path:
    real = path.expanduser().resolve()
    if not real.is_file():
        raise SlideError(Code.SLIDE_NOT_FOUND, "no slide at this path")
    return real


@contextmanager
def _subject(settings: Settings, release: str | None) -> Iterator[Any]:
    """A `Subject` with the asked head, else a promoted one, else random weights."""
    from benchmarks.subject import Subject, random_subject

    digest = local.find_release(settings, release) if release else _promoted(settings)
    if digest is None:
        with random_subject() as subject:
            yield subject
        return
    yield Subject(settings, _head(settings, digest), digest)


def _promoted(settings: Settings) -> str | None:
    active = local.active_heads(settings.data)
    return active[min(active)] if active else None


def _head(settings: Settings, digest: str) -> str:
    """The digest of a head; for an encoder that of a head that reads it. Raises RequestError NOT_FOUND."""
    manifest = read_manifest(settings.releases_dir, digest)
    if isinstance(manifest, HeadManifest):
        return digest
    for other in listing(settings.releases_dir):
        reader = read_manifest(settings.releases_dir, other)
        if isinstance(reader, HeadManifest) and reader.encoder == digest:
            return other
    raise RequestError(Code.NOT_FOUND, "no head reads this encoder: publish one, or name another release")
