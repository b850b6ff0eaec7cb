"""`xmag serve | worker | dispatcher | migrate | settings`: one program each, for a service manager to run."""

import logging
import signal
import threading
from types import FrameType

import click

from xmag.config import Settings, load_settings
from xmag.errors import Code, PlaceError


@click.command()
def serve() -> None:
    """Run the gateway (REST) on XMAG_HOST:XMAG_PORT."""
    import uvicorn

    from service.app import create_app

    settings = _with_database()
    _log_requests()
    # uvicorn's own access log would show query strings, and an accession may be one
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


@click.command()
def worker() -> None:
    """Run a worker: Celery for the calls, XMAG_WORKER__SLOTS slides in flight."""
    from worker.app import main

    main(_with_database())


@click.command()
def dispatcher() -> None:
    """Run the dispatcher: rings workers, ends silent attempts, expires uploads."""
    from worker.dispatcher import run

    settings = _with_database()
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    run(settings, stop)


@click.command()
def migrate() -> None:
    """Bring the database of XMAG_DATABASE_URL to the newest schema."""
    from xmag.db.migrate import upgrade

    upgrade(_with_database().database_url.get_secret_value())
    click.echo("the database has the newest schema")


@click.command()
def settings() -> None:
    """Print the page of all settings (docs/settings.md)."""
    from cli.settings_page import settings_page

    click.echo(settings_page(), nl=False)


def _log_requests() -> None:
    """The gateway's own lines on stderr; they hold no values."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    ours = logging.getLogger("xmag")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)


def _with_database() -> Settings:
    found = load_settings()
    if not found.database_url.get_secret_value():
        raise PlaceError(Code.SETUP, "XMAG_DATABASE_URL is not set: set it, or use `xmag up`")
    return found
