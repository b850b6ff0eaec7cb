"""The worker program: Celery listens for bells in the main thread, the slots do the work.

``celery -A worker.app:app worker --pool=solo`` and ``xmag worker`` are the same. The slots start before
the broker is looked for, so jobs flow while Redis is absent or sick.
"""

import functools
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from celery import Celery, signals

from worker import log, metrics
from worker.broker import QUEUE, TASK, celery_app
from worker.slots import Slots
from xmag.config import Settings, load_settings
from xmag.errors import XmagError

LOG = logging.getLogger("worker")
BROKER_SECONDS = 10.0
STUCK_EXIT = 70
ARGUMENTS = (
    "--quiet",
    "worker",
    "--pool=solo",
    "--without-gossip",
    "--without-mingle",
    "--without-heartbeat",
    f"--queues={QUEUE}",
)


def __getattr__(name: str) -> Celery:
    """``worker.app:app``, built when first asked for: importing this module reads no setting."""
    if name == "app":
        return _app()
    raise AttributeError(name)


@functools.cache
def _app() -> Celery:
    return with_slots(load_settings())


def with_slots(settings: Settings) -> Celery:
    """The Celery app whose worker owns the slots: started before it connects, drained when it stops."""
    app = celery_app(settings, socket_seconds=BROKER_SECONDS)
    life = Life(settings)
    signals.setup_logging.connect(life.log, weak=False)
    signals.worker_init.connect(life.begin, weak=False)
    signals.worker_shutting_down.connect(life.drain, weak=False)
    signals.worker_shutdown.connect(life.end, weak=False)

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def run_job(_job_id: str) -> None:
        """A bell: whoever is idle looks into the queue for the most urgent job, not necessarily this one."""
        life.ring()

    return app


class Life:
    """Ties the slots to the signals of a Celery worker; they exist only in a worker that has begun."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._slots: Slots | None = None

    def log(self, **_: Any) -> None:
        """Instead of Celery's own logging."""
        log.configure()

    def begin(self, **_: Any) -> None:
        """Before the broker is looked for.

        Celery swallows what a signal's receiver raises: a worker without slots would hear bells for ever.
        """
        log.configure()
        try:
            self._slots = begin_slots(self._settings)
        except XmagError as error:
            sys.exit(f"error: {error.code}: {error.detail}")
        except Exception:
            LOG.exception("the slots did not start")
            sys.exit(1)

    def ring(self) -> None:
        """Wake an idle slot."""
        if self._slots:
            self._slots.ring()

    def drain(self, **_: Any) -> None:
        """Called in a signal handler."""
        if self._slots:
            self._slots.drain()

    def end(self, **_: Any) -> None:
        """After the consumer has stopped."""
        if self._slots:
            end_slots(self._slots)


def begin_slots(settings: Settings) -> Slots:
    """Load the engine, serve metrics, start the threads."""
    slots = Slots(settings)
    metrics.serve(settings)
    slots.start()
    LOG.info("ready", extra={"count": slots.count})
    return slots


def end_slots(slots: Slots) -> None:
    """Drain and wait; a thread that does not end takes the process with it."""
    slots.drain()
    if not slots.join():
        LOG.critical("a slot did not end: the process does")
        os._exit(STUCK_EXIT)


def main(settings: Settings) -> None:
    """Run until SIGTERM; without a broker URL the slots work by polling alone."""
    if settings.redis_url.get_secret_value():
        with_slots(settings).worker_main(list(ARGUMENTS))
        return
    log.configure()
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    slots = begin_slots(settings)
    while not stop.wait(1.0) and slots.alive():
        pass
    end_slots(slots)
