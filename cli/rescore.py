"""`xmag rescore`: what another head says of every slide whose embeddings are stored."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import click

from cli import local


@click.command()
@click.argument("head")
@local.data_option
def rescore(head: str, data: Path | None) -> None:
    """Read all stored slides with the head release HEAD, one JSON object a line; no slide is opened.

    Slides are named by the SHA-256 of their bytes, as in each job's result. Nothing is written to the
    database: promote the head and submit the slides whose results are to be kept; they stay closed then too.
    The head itself may run at bf16, which moves a probability by 0.01 at most.
    """
    from xmag.nn.runtime import Engine
    from xmag.rescore import rescore as run

    settings = local.local_settings(data)
    engine = Engine(settings.releases_dir, settings.trusted_keys, settings.worker)
    began, count = time.monotonic(), 0
    for each in run(local.find_release(settings, head), engine, settings):
        click.echo(json.dumps(asdict(each)))
        count += 1
    nothing = "" if count else ": none was read with this head's encoder yet"
    click.echo(f"{count} slides in {time.monotonic() - began:.1f} s{nothing}", err=True)
