"""`xmag up`: the whole service on this machine until it is told to stop."""

import signal
import threading
from pathlib import Path
from types import FrameType

import click

from cli.local import active_heads, data_option, database
from cli.stack import running_stack
from cli.weights import promote_head
from xmag.config import Settings, load_settings
from xmag.db import releases
from xmag.errors import Code, PlaceError, XmagError


@click.command()
@click.option("--port", default=8080, show_default=True, help="Another one is taken if it is not free.")
@click.option("--root", "roots", multiple=True, metavar="NAME=DIR", help="A folder of slides, by name.")
@data_option
def up(port: int, roots: tuple[str, ...], data: Path | None) -> None:
    """Run PostgreSQL, Valkey, gateway, dispatcher and worker; stop with Ctrl-C."""
    folder = (data or load_settings().data).absolute()
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    with running_stack(folder, roots=_roots(roots), port=port, reporter=_say) as stack:
        served = _serve_promoted(stack.settings)
        click.echo(f"URL      {stack.url}    (API: {stack.url}/openapi.json)")
        click.echo(f"API key  {stack.api_key}")
        click.echo(f"data     {folder}    slides: {folder / 'slides'}")
        click.echo(_weights(folder, served))
        click.echo("running; stop with Ctrl-C")
        while not stop.wait(0.5):
            pass
        _say("stopping")
    _say("stopped")


def _serve_promoted(settings: Settings) -> list[str]:
    """Serve what was promoted while no database ran; the tasks that are served."""
    served = set(_served(settings))
    for task, digest in active_heads(settings.data).items():
        if task in served:
            continue
        try:
            promote_head(settings, digest)
        except XmagError as error:
            _say(f"{task} is not served, its promoted release cannot be used: {error.detail}")
    return _served(settings)


def _served(settings: Settings) -> list[str]:
    with database(settings) as session:
        return sorted(releases.active(session))


def _weights(folder: Path, served: list[str]) -> str:
    if served:
        return f"tasks    {', '.join(served)}"
    if active_heads(folder):
        return "tasks    none: the promoted releases cannot be used, see `xmag weights verify`"
    return "tasks    none: no weights are promoted; run `make demo`, or `xmag weights publish` and `promote`"


def _roots(pairs: tuple[str, ...]) -> dict[str, Path]:
    roots: dict[str, Path] = {}
    for pair in pairs:
        name, _, folder = pair.partition("=")
        if not name or not Path(folder or "?").is_dir():
            raise PlaceError(Code.SETUP, "--root needs NAME=DIR with a folder that exists")
        roots[name] = Path(folder)
    return roots


def _say(message: str) -> None:
    click.echo(message, err=True)
