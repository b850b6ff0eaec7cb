"""The listener for bells: whatever Redis answers, it listens again; work goes on meanwhile by polling."""

import logging
import time
from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer

LOG = logging.getLogger("worker")
PAUSE_SECONDS = 2.0
TICK_SECONDS = 0.1


class PatientConsumer(Consumer):  # type: ignore[misc]
    """Celery's own ends the process at an answer it does not know (MISCONF, NOPERM, a bell that is no JSON).

    A shutdown is a SystemExit and passes.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lost: tuple[type[Exception], ...] = self.conninfo.connection_errors
        self.connection_errors: tuple[type[Exception], ...] = (Exception,)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """The first connection failed."""
        super().on_connection_error_before_connected(exc)
        self._pause(exc)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """The listening failed; closes the connection."""
        super().on_connection_error_after_connected(exc)
        self._pause(exc)

    def _pause(self, error: Exception) -> None:
        """A lost connection is looked for with Celery's own pauses; raises WorkerShutdown."""
        if isinstance(error, self._lost):
            return
        LOG.warning("the broker is sick: listening again soon", extra={"error": type(error).__name__})
        ends = time.monotonic() + PAUSE_SECONDS
        while time.monotonic() < ends:
            state.maybe_shutdown()
            time.sleep(TICK_SECONDS)
