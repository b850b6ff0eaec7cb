"""Comparison d, second half: slides through the running service, and how long an urgent one waits."""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import script, slides
from benchmarks.measure import Json, Say, quantile, spread, timed
from benchmarks.routes import Target
from benchmarks.service import Ended, Service, serving, vectors
from benchmarks.subject import whole_grid
from benchmarks.weights import TASK
from xmag.manifest import TASK_LABELS, TilingSpec


@dataclass(frozen=True)
class Effort:
    """Tiles of a slide, jobs by number of submitters, urgent jobs, and slides of different bytes."""

    tiles: int
    jobs: dict[int, int]
    stats: int
    masters: int


SPARE = 24
"""Slides that the routine jobs leave to the urgent ones and to submitters that ask at the same moment."""

EFFORT = {
    "cpu": Effort(24, {1: 6, 4: 12, 16: 24}, 4, 80),
    "cuda": Effort(537, {1: 16, 4: 48, 16: 96}, 8, 96),
}


def compare(device: str, folder: Path, say: Say, effort: Effort | None = None) -> Json:
    """Throughput, latency, overhead and idleness on slides of the effort's size; ``folder`` caches slides."""
    effort = effort or EFFORT[device]
    plan = slides.small(effort.tiles) if device == "cpu" else slides.base_40x(effort.tiles)
    master = slides.made(plan, folder)
    with tempfile.TemporaryDirectory(prefix="xmag-bench-") as name:
        data = Path(name)
        masters = slides.copies(master, data / "masters", effort.masters)
        say("starting the service")
        with serving(data, masters) as service:
            rounds = {str(count): _round(service, count, jobs, say) for count, jobs in effort.jobs.items()}
            urgent = _urgent(service, effort.stats, say)
            reference = _reference(service, master, device)
    return {
        "device": device,
        "tiles": effort.tiles,
        "submitters": {count: _described(one, reference) for count, one in rounds.items()},
        "stat": urgent,
    }


@dataclass(frozen=True)
class _Round:
    jobs: list[Ended]
    wall: float
    cpu: float
    engine: float | None


def _round(service: Service, submitters: int, jobs: int, say: Say) -> _Round:
    say(f"{jobs} slides by {submitters} submitters")
    service.forget()
    before = service.engine_seconds()
    ids, cost = timed(lambda: service.run(submitters, jobs))
    after = service.engine_seconds()
    ended = service.ended(ids)
    wall = max(one.finished for one in ended) - min(one.created for one in ended)
    engine = None if before is None or after is None else after - before
    return _Round(ended, wall, cost.cpu, engine)


def _described(found: _Round, reference: np.ndarray) -> Json:
    jobs = found.jobs
    walls = [one.attempt_ended - one.started for one in jobs]
    return {
        "slides": len(jobs),
        "slides_per_minute": round(60 * len(jobs) / found.wall, 3),
        "wall_seconds": round(found.wall, 3),
        "cpu_seconds_per_slide": round(found.cpu / len(jobs), 3),
        "latency_seconds": _times([one.latency for one in jobs]),
        "claimed_after_seconds": _times([one.started - one.created for one in jobs]),
        "attempt_seconds": spread(walls),
        "stage_seconds": _stages(jobs),
        "overhead_seconds": spread(one.overhead for one in jobs),
        "overhead_share": spread(one.overhead / wall for one, wall in zip(jobs, walls, strict=True)),
        "engine_busy_share": None if found.engine is None else round(found.engine / found.wall, 4),
        "agreement": {"max_probability_difference": round(float(np.abs(vectors(jobs) - reference).max()), 6)},
    }


def _stages(jobs: Sequence[Ended]) -> dict[str, dict[str, float]]:
    return {stage: spread(one.stages[stage] for one in jobs) for stage in jobs[0].stages}


def _times(values: Sequence[float]) -> dict[str, float]:
    return {**spread(values), "p90": quantile(values, 0.9)}


def _urgent(service: Service, count: int, say: Say) -> Json:
    """STAT jobs one after another, on an idle service and while sixteen submitters keep it full."""
    say("urgent slides on an idle service")
    service.forget()
    alone = service.ended(service.run(1, count, "stat"))
    say("urgent slides under full load")
    service.forget()
    with _pressure(service, 16) as routine:
        loaded = service.ended(service.run(1, count, "stat"))
    others = service.ended(routine)
    return {
        "alone_seconds": _times([one.latency for one in alone]),
        "loaded_seconds": _times([one.latency for one in loaded]),
        "claimed_after_seconds": _times([one.started - one.created for one in loaded]),
        "routine_seconds": _times([one.latency for one in others]),
        "routine_jobs": len(others),
    }


@contextmanager
def _pressure(service: Service, submitters: int) -> Iterator[list[str]]:
    """Keep ``submitters`` routine jobs in the service while the block lasts; all ended ids afterwards."""
    stop = threading.Event()
    done: list[str] = []

    def work(_: int) -> None:
        with service.client() as client, service.database() as connection:
            while not stop.is_set() and service.left > SPARE:
                job = service.submit(client)
                done.append(job)
                service.wait(connection, job, 0.3)

    with ThreadPoolExecutor(submitters) as pool:
        working = [pool.submit(work, each) for each in range(submitters)]
        threading.Event().wait(2.0)
        try:
            yield done
        finally:
            stop.set()
        for one in working:
            one.result()


def _reference(service: Service, master: Path, device: str) -> np.ndarray:
    """(1, classes), the plain script's answer on the same pixels, classes by name."""
    plain = script.load(service.stack.settings.releases_dir, service.head, device)
    found = plain.predict(Target(master, whole_grid(master, TilingSpec())))
    order = np.argsort(TASK_LABELS[TASK])
    return found[order][None, :]
