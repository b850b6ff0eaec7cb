"""Keeps a claim's lease while its slide is worked on, and tells the work when it must stop."""

import logging
import os
import threading
import time
from types import TracebackType
from typing import Literal, Self

from sqlalchemy import Engine as Database

from worker.metrics import STAGE_SECONDS, TILES
from xmag.analyze import Progress
from xmag.config import Settings
from xmag.db import attempts
from xmag.db.session import transaction
from xmag.errors import Code, JobError, XmagError

LOG = logging.getLogger("worker")
REPORT_SECONDS = 1.0
STUCK_EXIT = 70

Reason = Literal["cancelled", "fenced", "draining"]


class StopWork(Exception):  # noqa: N818 - a control signal of this program, not an error
    """The attempt must end now, without a result."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Keeper:
    """A thread that renews the lease of one claim, and the ears of the work on it.

    Silence of the work is forgiven for the decoder's timeout and one lease, so that a hanging decoder ends as
    DECODE_TIMEOUT; then the lease is let go. After twice that time the process ends itself: a thread
    cannot be killed, and the service manager starts a new process.
    """

    def __init__(
        self, database: Database, claim: attempts.Claim, settings: Settings, draining: threading.Event
    ) -> None:
        self._database = database
        self._claim = claim
        self._lease = settings.lease
        self._patience = settings.decode.timeout_seconds + settings.lease.seconds
        self._draining = draining
        self._stop: Reason | None = None
        self._closed = threading.Event()
        self._news = threading.Event()
        now = time.monotonic()
        self._ends = now + settings.worker.job_seconds
        self._heard = self._stage_began = now
        self._progress = Progress("open", 0, 0)
        self._thread = threading.Thread(target=self._run, name=f"keeper-{claim.job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._news.set()
        self._thread.join()

    def note(self, progress: Progress) -> None:
        """Called by the work between batches; raises StopWork, or JobError TIME_LIMIT."""
        now = time.monotonic()
        before, self._progress, self._heard = self._progress, progress, now
        _measure(before, progress, now - self._stage_began)
        if progress.stage != before.stage:
            self._stage_began = now
            self._news.set()
        if self._stop:
            raise StopWork(self._stop)
        if self._draining.is_set():
            raise StopWork("draining")
        if now > self._ends:
            raise JobError(
                Code.TIME_LIMIT, "the attempt took longer than worker.job_seconds: raise the limit"
            )

    def _run(self) -> None:
        tick = min(REPORT_SECONDS, self._lease.seconds / 4)
        last_beat, shown = time.monotonic(), self._progress
        while not self._closed.is_set():
            self._news.wait(tick)
            self._news.clear()
            silence = time.monotonic() - self._heard
            if silence > 2 * self._patience:
                _exit_stuck(self._claim)
            moved = self._progress != shown
            due = time.monotonic() - last_beat >= self._lease.seconds / 4 and silence < self._patience
            if (moved or due) and not self._closed.is_set() and self._stop is None:
                last_beat, shown = time.monotonic(), self._progress
                self._beat(shown)

    def _beat(self, progress: Progress) -> None:
        """Renew; a database that is away is no reason to stop computing, for the lease decides."""
        try:
            with transaction(self._database) as session:
                beat = attempts.beat(
                    session, self._claim, self._lease, progress.stage, progress.done, progress.total
                )
        except XmagError as error:
            LOG.warning("beat failed", extra={"job": str(self._claim.job_id), "code": error.code})
            return
        if not beat.alive:
            self._stop = "fenced"
        elif beat.cancel:
            self._stop = "cancelled"


def _measure(before: Progress, now: Progress, seconds: float) -> None:
    if now.stage != before.stage:
        STAGE_SECONDS.labels(before.stage).observe(seconds)
    if now.stage == before.stage == "encode":
        TILES.inc(max(0, now.done - before.done))


def _exit_stuck(claim: attempts.Claim) -> None:
    LOG.critical("a slot is stuck: the process ends", extra={"job": str(claim.job_id)})
    os._exit(STUCK_EXIT)
