"""Comparison e: what a claim and a submit cost while 10 to 100,000 jobs wait."""

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Engine

from benchmarks.measure import Json, Say, ratio, spread
from xmag import embedded
from xmag.config import Lease
from xmag.db import attempts, jobs, releases, slides
from xmag.db.migrate import upgrade
from xmag.db.session import connect, transaction
from xmag.manifest import TASK_LABELS, AbmilSpec, EncoderManifest, HeadManifest, Licence, VitSpec, digest
from xmag.slide.location import Fingerprint

DEPTHS = (10, 100, 1_000, 10_000, 100_000)
CALLS = 30
LEASE = Lease()
LICENCE = Licence(name="none", permitted_use="demo")
BACKLOG = """
with new as (
    insert into jobs (id, slide_id, principal, tasks, priority, max_lost, available_at, deadline_at)
    select gen_random_uuid(), %(slide)s, 'bench', array['nsclc'], 5, 3,
           now() - interval '1 hour' + number * interval '1 millisecond', now() + interval '1 day'
    from generate_series(1, %(count)s) as number
    returning id
), bound as (
    insert into job_releases (job_id, task, digest) select id, 'nsclc', %(head)s from new returning job_id
)
insert into outbox (job_id, sent_at) select job_id, now() from bound
"""


def compare(say: Say, depths: tuple[int, ...] = DEPTHS, calls: int = CALLS) -> Json:
    """Milliseconds of `claim_next` and of a submit against an embedded PostgreSQL, by queued jobs."""
    with (
        tempfile.TemporaryDirectory(prefix="xmag-bench-") as name,
        embedded.start(Path(name), redis=False) as servers,
    ):
        upgrade(servers.database_url)
        database = connect(servers.database_url)
        try:
            points = _points(database, servers.database_url, depths, calls, say)
        finally:
            database.dispose()
    first, last = points[0], points[-1]
    return {
        "points": points,
        "deepest_vs_shallowest": {
            what: ratio(last[what]["median"], first[what]["median"]) for what in ("claim_ms", "submit_ms")
        },
    }


def _points(database: Engine, url: str, depths: tuple[int, ...], calls: int, say: Say) -> list[Json]:
    head, slide = _hospital(database)
    points, queued = [], 0
    for depth in depths:
        say(f"{depth} queued jobs")
        _fill(url, head, slide, depth - queued)
        points.append({"queued": depth, **_point(database, slide, calls)})
        queued = depth
    return points


def _hospital(database: Engine) -> tuple[str, UUID]:
    """A head that serves nsclc, and a slide; nothing of them is ever opened."""
    base: dict[str, Any] = {
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "code_version": "bench",
        "licence": LICENCE,
        "weights_sha256": "0" * 64,
        "self_test_sha256": "1" * 64,
    }
    encoder = EncoderManifest(name="encoder", architecture=VitSpec(), **base)
    abmil = AbmilSpec(in_dim=768, classes=2)
    head = HeadManifest(
        name="head",
        task="nsclc",
        labels=TASK_LABELS["nsclc"],
        encoder=digest(encoder),
        architecture=abmil,
        **base,
    )
    with transaction(database) as session:
        for manifest in (encoder, head):
            releases.register(session, digest(manifest), manifest, "bench")
        releases.promote(session, digest(head), "bench")
        new = slides.NewSlide("slides", "one.svs", Fingerprint(1, 1, 1), "path")
        return digest(head), slides.add(session, new)


def _fill(url: str, head: str, slide: UUID, count: int) -> None:
    """Queue jobs by SQL, and let the planner know of them as autovacuum would."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(BACKLOG, {"slide": slide, "head": head, "count": count})
        connection.execute("analyze")


def _point(database: Engine, slide: UUID, calls: int) -> Json:
    """Each claim takes a job away and each submit adds one, so the depth stays."""
    new = jobs.NewJob(slide, ("nsclc",), "routine", "bench")
    claims, submits = [], []
    for _ in range(calls):
        submits.append(_milliseconds(lambda: _submit(database, new)))
        claims.append(_milliseconds(lambda: _claim(database)))
    return {"calls": calls, "claim_ms": spread(claims), "submit_ms": spread(submits)}


def _submit(database: Engine, new: jobs.NewJob) -> None:
    with transaction(database) as session:
        jobs.submit(session, new, None, LEASE)


def _claim(database: Engine) -> None:
    with transaction(database) as session:
        assert attempts.claim_next(session, "bench", LEASE) is not None


def _milliseconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)
