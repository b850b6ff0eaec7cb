"""The dispatcher against a real database and a real broker that come and go."""

import threading
from datetime import timedelta

from pydantic import SecretStr

from tests.integration.worker.conftest import wait_for
from worker import dispatcher
from worker.broker import QUEUE, TASK, celery_app
from worker.dispatcher import Chore
from xmag.db import outbox, uploads
from xmag.db.session import transaction
from xmag.errors import Code, JobError, PlaceError, XmagError


def unsent(engine) -> int:
    with transaction(engine) as session:
        return len(outbox.take_batch(session, 100))


def test_a_bell_carries_the_id_and_nothing_else(settings, engine, broker, hospital):
    job_id = hospital.job(accession="ACC-77")
    with celery_app(settings, socket_seconds=1) as app:
        dispatcher.ring(engine, app)
        (raw,) = broker.lrange(QUEUE, 0, -1)
        assert b"ACC-77" not in raw
        with app.connection_for_read() as connection, connection.SimpleQueue(QUEUE) as queue:
            received = queue.get(timeout=5)
            received.ack()
    assert received.headers["task"] == TASK
    assert received.payload[:2] == [[str(job_id)], {}]
    assert unsent(engine) == 0


def test_bells_wait_for_a_broker_that_is_away(settings, engine, hospital):
    hospital.job()
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:9/0")})
    with celery_app(away, socket_seconds=0.5) as app:
        chore = Chore(0.1, lambda: dispatcher.ring(engine, app))
        chore.run_if_due()
    assert chore.failures == 1
    assert unsent(engine) == 1


def test_a_chore_waits_longer_while_the_database_is_away_and_then_goes_on():
    outcomes: list[XmagError] = [PlaceError(Code.DATABASE_UNAVAILABLE, "away")] * 2
    outcomes.append(JobError(Code.INTERNAL, "the database refused: a constraint"))

    def act() -> None:
        if outcomes:
            raise outcomes.pop()

    chore = Chore(1.0, act)
    pauses = []
    for _ in range(4):
        chore.due = 0.0
        chore.run_if_due()
        pauses.append(chore.failures)
    assert pauses == [1, 2, 3, 0]


def test_the_whole_dispatcher_rings_reaps_and_expires(settings, engine, broker, hospital):
    lost, rung = hospital.job(), hospital.job()
    claim = hospital.take()
    assert claim.job_id == lost
    hospital.sql("update jobs set lease_until = clock_timestamp() - interval '1 s' where state = 'running'")
    with transaction(engine) as session:
        upload = uploads.create(session, "ann", 10, None, 60, 5)
    settings.uploads_dir.mkdir()
    left = settings.uploads_dir / f"{upload}.svs"
    left.write_bytes(b"part")
    hospital.sql("update uploads set expires_at = now() - :age", age=timedelta(seconds=1))
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(settings, stop))
    thread.start()
    try:
        wait_for(lambda: hospital.view(lost).state == "queued")
        wait_for(lambda: not left.exists())
        wait_for(lambda: str(rung).encode() in b"".join(broker.lrange(QUEUE, 0, -1)))
    finally:
        stop.set()
        thread.join()
    assert unsent(engine) <= 1
