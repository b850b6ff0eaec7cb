"""`xmag analyze`: one slide in this process, by the same code as a worker and without any server."""

import json
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import click

from cli import local
from xmag.config import Settings
from xmag.errors import Code, ReleaseError, RequestError, XmagError
from xmag.manifest import HeadManifest
from xmag.registry import read_manifest
from xmag.slide.info import MppOverride
from xmag.slide.location import SlideLocation
from xmag.units import MPP_RANGE, Mpp, MppXY


@click.command()
@click.argument("slide", type=click.Path(path_type=Path))
@click.option("--tasks", default="all", show_default=True, help="all, or names with commas.")
@click.option("--release", "digests", multiple=True, help="Use this head instead of the promoted ones.")
@click.option("--mpp", default=None, metavar="X[,Y]", help="µm for each pixel; wins over the file.")
@click.option("--mpp-reason", default=None, help="Why; kept in the provenance.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@local.data_option
def analyze(
    slide: Path,
    tasks: str,
    digests: tuple[str, ...],
    mpp: str | None,
    mpp_reason: str | None,
    as_json: bool,
    data: Path | None,
) -> None:
    """Read SLIDE with the promoted heads of the data folder."""
    try:
        override = parse_mpp(mpp, mpp_reason)
        document = analyze_file(slide, local.local_settings(data), tasks, digests, override)
    except XmagError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"error": {"code": error.code, "detail": error.detail}}))
        sys.exit(1)
    click.echo(json.dumps(document) if as_json else table(document))


def analyze_file(
    slide: Path,
    settings: Settings,
    tasks: str,
    digests: tuple[str, ...] = (),
    mpp: MppOverride | None = None,
) -> dict[str, Any]:
    """The document of one slide anywhere on this machine; raises XmagError."""
    from xmag.analyze import Progress, Request, to_json
    from xmag.analyze import analyze as run
    from xmag.nn.runtime import Engine

    def report(progress: Progress) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{progress.stage:<7} {progress.done}/{progress.total}   ", nl=False, err=True)

    heads = _heads(settings, tasks, digests)
    engine = Engine(settings.releases_dir, settings.trusted_keys, settings.worker)
    return to_json(run(Request(locate(slide), heads, mpp), engine, settings, report))


def locate(slide: Path) -> SlideLocation:
    """A file named by a person may be reached through links; from its real folder on none is followed."""
    real = slide.expanduser().resolve()
    return SlideLocation(real.parent, PurePosixPath(real.name))


def parse_mpp(text: str | None, reason: str | None) -> MppOverride | None:
    """``0.25`` or ``0.25,0.26`` with a reason; raises RequestError INVALID_REQUEST."""
    if text is None and reason is None:
        return None
    mpp = _mpp(text) if text else None
    if not mpp or not reason:
        raise RequestError(Code.INVALID_REQUEST, "--mpp and --mpp-reason go together")
    return MppOverride(mpp, reason)


def _mpp(text: str) -> MppXY:
    try:
        axes = [float(part) for part in text.split(",")]
    except ValueError:
        axes = []
    if len(axes) not in (1, 2):
        raise RequestError(
            Code.INVALID_REQUEST, "--mpp is one number, or two with a comma, in µm for each pixel"
        )
    mpp = MppXY(Mpp(axes[0]), Mpp(axes[-1]))
    if not mpp.plausible():
        low, high = MPP_RANGE
        reason = f"--mpp lies from {low:g} to {high:g} µm for each pixel, and is alike along both axes"
        raise RequestError(Code.INVALID_REQUEST, reason)
    return mpp


def table(document: dict[str, Any]) -> str:
    """Lines for a person."""
    rows = [f"{document['tiles']} tiles"]
    for one in document["predictions"]:
        best = max(one["probabilities"].values(), default=float("nan"))
        rows.append(
            f"{one['task']:<6} {one['label'] or '-':<6} {best:.3f}  {one['outcome']}  {one['notice']}"
        )
    return "\n".join(rows)


def _heads(settings: Settings, tasks: str, digests: tuple[str, ...]) -> dict[str, str]:
    if not digests:
        return local.chosen_heads(settings.data, local.parse_tasks(tasks), every=tasks == "all")
    found = (local.find_release(settings, digest) for digest in digests)
    return {_task(settings, digest): digest for digest in found}


def _task(settings: Settings, digest: str) -> str:
    manifest = read_manifest(settings.releases_dir, digest)
    if not isinstance(manifest, HeadManifest):
        raise ReleaseError(Code.MODEL_UNAVAILABLE, "--release takes heads: this release is an encoder")
    return manifest.task
