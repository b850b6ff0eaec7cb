"""Rings the workers, ends what has been silent too long, expires uploads. Imports no torch.

Any number may run at once: every step locks what it takes, and a bell rung twice does no harm.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError
from sqlalchemy import Engine as Database

from worker import log, metrics
from worker.broker import QUEUE, TASK, celery_app
from xmag.config import Settings
from xmag.db import attempts, outbox, uploads
from xmag.db.session import connect, transaction
from xmag.errors import XmagError

LOG = logging.getLogger("dispatcher")
BATCH = 100
RING_SECONDS = 0.2
REAP_SECONDS = 1.0
EXPIRE_SECONDS = 60.0
BROKER_SECONDS = 1.0
LONGEST_PAUSE = 10.0
BROKER_ERRORS = (KombuError, RedisError, OSError)


@dataclass
class Chore:
    """Something done every ``seconds``; after a failure it waits longer and longer, up to `LONGEST_PAUSE`."""

    seconds: float
    act: Callable[[], None]
    due: float = field(default=0.0, init=False)
    failures: int = field(default=0, init=False)

    def run_if_due(self) -> None:
        """Do it when its time has come; the database or broker may be away, or refuse this one chore."""
        if time.monotonic() < self.due:
            return
        try:
            self.act()
            self.failures = 0
        except XmagError as error:
            metrics.DATABASE_FAILURES.inc()
            self._failed(error.code)
        except BROKER_ERRORS as error:
            metrics.BROKER_FAILURES.inc()
            self._failed(type(error).__name__)
        pause = self.seconds * 2.0 ** min(self.failures, 16)
        self.due = time.monotonic() + (min(pause, max(self.seconds, LONGEST_PAUSE)))

    def _failed(self, code: str) -> None:
        if self.failures == 0:
            LOG.warning("out of reach, trying again", extra={"code": code})
        self.failures += 1


def run(settings: Settings, stop: threading.Event) -> None:
    """Work until ``stop`` is set; survives restarts of the database and the broker."""
    log.configure()
    metrics.serve(settings)
    database = connect(settings.database_url.get_secret_value(), pool=2)
    chores = [
        Chore(REAP_SECONDS, lambda: reap(database, settings)),
        Chore(EXPIRE_SECONDS, lambda: expire(database, settings)),
    ]
    if settings.redis_url.get_secret_value():
        app = celery_app(settings, socket_seconds=BROKER_SECONDS)
        chores.append(Chore(RING_SECONDS, lambda: ring(database, app)))
        chores.append(Chore(settings.lease.rering_seconds / 4, lambda: ring_again(database, settings)))
    LOG.info("ready")
    while not stop.is_set():
        for chore in chores:
            chore.run_if_due()
        metrics.LAST_ROUND.set_to_current_time()
        stop.wait(RING_SECONDS / 2)
    database.dispose()


def ring(database: Database, app: Celery) -> None:
    """Send the due bells; a broker that does not take one leaves all of the batch for later."""
    with transaction(database) as session:
        bells = outbox.take_batch(session, BATCH)
        if not bells:
            return
        with app.producer_or_acquire() as producer:
            for bell in bells:
                app.send_task(
                    TASK,
                    args=(str(bell.job_id),),
                    queue=QUEUE,
                    retry=False,
                    producer=producer,
                    ignore_result=True,
                )
        outbox.mark_sent(session, [bell.id for bell in bells])
    metrics.BELLS.inc(len(bells))


def ring_again(database: Database, settings: Settings) -> None:
    """Bells for queued jobs that have waited long; old bells are forgotten."""
    with transaction(database) as session:
        outbox.ring_again(session, settings.lease.rering_seconds, BATCH)
        outbox.prune(session)


def reap(database: Database, settings: Settings) -> None:
    """End attempts whose worker is silent and jobs that waited too long."""
    with transaction(database) as session:
        reaped = attempts.reap(session, settings.lease)
    metrics.count_reaped(reaped)


def expire(database: Database, settings: Settings) -> None:
    """Forget abandoned uploads and delete their bytes."""
    with transaction(database) as session:
        expired = uploads.expire(session)
    for upload in expired:
        for path in settings.uploads_dir.glob(f"{upload}.*"):
            path.unlink(missing_ok=True)
    if expired:
        LOG.info("uploads expired", extra={"count": len(expired)})
