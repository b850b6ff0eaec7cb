"""Threads that take the most urgent job and work on it: rung awake by Celery, looking by themselves too.

One thread more takes stat jobs alone, so that they start while all others are at work on routine ones.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from worker import job
from worker.metrics import DATABASE_FAILURES, ENGINE_BUSY, SLOTS_BUSY, count_reaped
from xmag.config import Settings
from xmag.db import attempts, releases
from xmag.db.session import connect, transaction
from xmag.errors import PlaceError, XmagError
from xmag.flights import Flights
from xmag.nn.runtime import Engine
from xmag.slide.decoders import Decoders

LOG = logging.getLogger("worker")
REAP_SECONDS = 5.0
STOP_SECONDS = 60.0
SLOTS = {"cpu": 2, "cuda": 12}
"""Enough that the next tiles are at hand: hashing and reading a slide take a core for about a second."""

T = TypeVar("T")


class Slots:
    """The slides in flight of one worker process; they share one engine."""

    def __init__(self, settings: Settings) -> None:
        """Raises PlaceError SETUP when the wished device is absent. Touches neither database nor broker."""
        self._settings = settings
        self.draining = threading.Event()
        engine = Engine(settings.releases_dir, settings.trusted_keys, settings.worker)
        count = settings.worker.slots or SLOTS[engine.device]
        self._place = job.Place(
            settings=settings,
            database=connect(settings.database_url.get_secret_value(), pool=2 * (count + 1) + 1),
            engine=engine,
            draining=self.draining,
            decoders=Decoders(settings.decode),
            flights=Flights(),
        )
        self._bells = [threading.Event() for _ in range(count + 1)]
        self._threads = [
            threading.Thread(target=self._work, args=(index,), name=f"slot-{index}", daemon=True)
            for index in range(count + 1)
        ]
        ENGINE_BUSY.set_function(lambda: engine.busy_seconds)

    @property
    def count(self) -> int:
        """Slides in flight, without the urgent one."""
        return len(self._threads) - 1

    def start(self) -> None:
        """Let the threads look for work, and load the releases that serve before they are asked for."""
        for thread in self._threads:
            thread.start()
        threading.Thread(target=self._load, name="load", daemon=True).start()

    def ring(self) -> None:
        """Wake whoever is idle."""
        for bell in self._bells:
            bell.set()

    def drain(self) -> None:
        """Claim nothing more and hand running jobs back at their next batch. Safe in a signal handler."""
        self.draining.set()

    def join(self, seconds: float = STOP_SECONDS) -> bool:
        """Wait for the threads after `drain`, close the connections; False if one did not end in time."""
        self.ring()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._place.decoders.close()
        self._place.database.dispose()
        return not any(thread.is_alive() for thread in self._threads)

    def alive(self) -> bool:
        """Whether every thread still runs; a dead one is a fault of the program."""
        return all(thread.is_alive() for thread in self._threads)

    def _work(self, index: int) -> None:
        name = f"{socket.gethostname()}:{os.getpid()}:{index}"
        bell, urgent = self._bells[index], index == self.count
        reap_at = 0.0
        while not self.draining.is_set():
            bell.clear()
            if index == 0 and time.monotonic() > reap_at:
                self._survive(self._reap)
                reap_at = time.monotonic() + REAP_SECONDS
            claim = self._survive(lambda: self._claim(name, urgent))
            if claim is None:
                bell.wait(self._settings.lease.poll_seconds)
            else:
                self._run(claim)

    def _survive(self, ask: Callable[[], T]) -> T | None:
        """A database that is away, or refuses (no schema yet, a standby), must not cost the thread."""
        try:
            return ask()
        except PlaceError as error:
            DATABASE_FAILURES.inc()
            LOG.warning("no claim", extra={"code": error.code})
        except Exception:
            LOG.exception("the queue cannot be read")
        return None

    def _run(self, claim: attempts.Claim) -> None:
        """The thread's edge: a fault costs the attempt, and its lease says so."""
        try:
            with SLOTS_BUSY.track_inprogress():
                job.run(claim, self._place)
        except Exception:
            LOG.exception("an attempt broke off", extra={"job": str(claim.job_id)})

    def _claim(self, name: str, urgent: bool) -> attempts.Claim | None:
        with transaction(self._place.database) as session:
            return attempts.claim_next(session, name, self._settings.lease, urgent=urgent)

    def _load(self) -> None:
        """A release that does not load is dealt with by the first job that asks for it."""
        for digest in self._survive(self._serving) or []:
            if self.draining.is_set():
                return
            try:
                head = self._place.engine.head(digest)
                encoder = self._place.engine.encoder(head.manifest.encoder)
                precision, *_ = self._place.engine.accepted(encoder, [head])
                numerics = self._place.engine.numerics(encoder, precision)
                LOG.info("a release is ready", extra={"digest": digest, "numerics": numerics})
            except XmagError as error:
                LOG.warning("a release does not load", extra={"digest": digest, "code": error.code})
            except Exception:
                LOG.exception("a release does not load", extra={"digest": digest})

    def _serving(self) -> list[str]:
        with transaction(self._place.database) as session:
            return list(releases.active(session).values())

    def _reap(self) -> None:
        """The dispatcher does this too; jobs must not hang when there is none."""
        with transaction(self._place.database) as session:
            reaped = attempts.reap(session, self._settings.lease)
        count_reaped(reaped)
