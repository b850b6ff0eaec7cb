"""A running service to put load on: slides that it has not seen, submitters, and what its database says."""

import itertools
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg

from benchmarks.weights import TASK, publish_random
from cli.client import Client
from cli.local import local_settings, signing_key
from cli.stack import Stack, running_stack
from cli.weights import promote_head
from xmag.embedded.process import free_port
from xmag.errors import Code, PlaceError
from xmag.manifest import VitSpec

WAIT_SECONDS = 600.0
POLL_SECONDS = 0.02
JOBS = """
select j.id::text, j.state, extract(epoch from j.created_at)::float8,
       extract(epoch from a.started_at)::float8, extract(epoch from a.ended_at)::float8,
       extract(epoch from j.finished_at)::float8, r.provenance->'seconds', p.probabilities
from jobs j
left join attempts a on a.job_id = j.id and a.epoch = j.epoch
left join results r on r.job_id = j.id
left join predictions p on p.job_id = j.id
where j.id = any(%s::uuid[]) order by j.created_at
"""


@dataclass(frozen=True)
class Ended:
    """A job as the database has it; times in seconds of its clock, ``stages`` from the provenance."""

    id: str
    state: str
    created: float
    started: float
    attempt_ended: float
    finished: float
    stages: dict[str, float]
    probabilities: dict[str, float]

    @property
    def latency(self) -> float:
        """From the accepted request to the committed result."""
        return self.finished - self.created

    @property
    def overhead(self) -> float:
        """The attempt's seconds beyond opening, mask, decoding with encoding, and heads."""
        named = sum(self.stages.get(stage, 0.0) for stage in ("open", "mask", "encode", "head"))
        return self.attempt_ended - self.started - named


@dataclass
class Service:
    """A stack under load. Slides are copies of one file; ``fresh`` gives one that no job has had yet.

    As no result may come from the store, `forget` must be called before the masters run out.
    """

    stack: Stack
    masters: Sequence[Path]
    head: str
    metrics_ports: Sequence[int]
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _left: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def slides(self) -> Path:
        """The root ``slides`` of the service."""
        return self.stack.settings.data / "slides"

    def forget(self) -> None:
        """Empty the store, so that copies may be used again; no job may be under way."""
        shutil.rmtree(self.stack.settings.store_dir / "embeddings", ignore_errors=True)
        self._left = len(self.masters)

    def fresh(self) -> str:
        """The name of a new slide; raises PlaceError SETUP when every master has been used."""
        with self._lock:
            number, self._left = next(self._numbers), self._left - 1
        if self._left < 0:
            raise PlaceError(Code.SETUP, "the benchmark has too few different slides for its jobs")
        master = self.masters[number % len(self.masters)]
        name = f"{number}{master.suffix}"
        os.link(master, self.slides / name)
        return name

    @property
    def left(self) -> int:
        """How many fresh slides there are."""
        return self._left

    def client(self) -> Client:
        """A client with the first key."""
        return Client.to(self.stack.url, self.stack.api_key)

    def submit(self, client: Client, priority: str = "routine") -> str:
        """A job on a fresh slide; its id."""
        body = {"slide": {"root": "slides", "path": self.fresh()}, "tasks": [TASK], "priority": priority}
        return str(client.submit(body)["id"])

    @contextmanager
    def database(self) -> Iterator["psycopg.Connection[Any]"]:
        """A connection of the measurer's own; its polling costs the service nothing that counts."""
        url = self.stack.settings.database_url.get_secret_value().replace("+psycopg", "")
        with psycopg.connect(url, connect_timeout=5, autocommit=True) as connection:
            yield connection

    def wait(self, connection: "psycopg.Connection[Any]", job: str, poll: float = POLL_SECONDS) -> None:
        """Return when the job has ended; raises PlaceError SETUP when it does not."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            row = connection.execute("select finished_at from jobs where id = %s", (job,)).fetchone()
            if row and row[0]:
                return
            time.sleep(poll)
        raise PlaceError(Code.SETUP, "a job of the benchmark did not end: see log/worker.log")

    def ended(self, jobs: Sequence[str]) -> list[Ended]:
        """All of these jobs; raises PlaceError SETUP when one did not succeed."""
        with self.database() as connection:
            found = [Ended(*row) for row in connection.execute(JOBS, (list(jobs),))]
        if [one for one in found if one.state != "succeeded"] or len(found) != len(jobs):
            raise PlaceError(Code.SETUP, "a job of the benchmark failed: see log/worker.log")
        return found

    def engine_seconds(self) -> float | None:
        """Seconds that the workers' devices have worked, None when the workers do not say."""
        total = 0.0
        for port in self.metrics_ports:
            lines = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text.splitlines()
            said = [line.split()[1] for line in lines if line.startswith("xmag_engine_busy_seconds ")]
            if not said:
                return None
            total += float(said[0])
        return total

    def run(self, submitters: int, jobs: int, priority: str = "routine") -> list[str]:
        """Submit ``jobs`` slides, ``submitters`` at a time, each waiting for its own; their ids."""
        left = iter(range(jobs))

        def work(_: int) -> list[str]:
            done = []
            with self.client() as client, self.database() as connection:
                while self._next(left):
                    done.append(self.submit(client, priority))
                    self.wait(connection, done[-1], POLL_SECONDS * submitters)
            return done

        with ThreadPoolExecutor(submitters) as pool:
            return [job for done in pool.map(work, range(submitters)) for job in done]

    def _next(self, left: Iterator[int]) -> bool:
        with self._lock:
            return next(left, None) is not None


@contextmanager
def serving(
    data: Path,
    masters: Sequence[Path],
    *,
    vit: VitSpec | None = None,
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """The whole service on ``data`` with a release of random weights, warmed up by two jobs a worker."""
    data.mkdir(parents=True, exist_ok=True)
    head = publish_random(data / "releases", signing_key(data), vit)
    ports = [free_port() for _ in range(workers)]
    own = [{"XMAG_METRICS_PORT": str(port)} for port in ports]
    with ExitStack() as context:
        stack = context.enter_context(running_stack(data, port=0, environment=environment, workers=own))
        promote_head(local_settings(data), head)
        service = Service(stack, masters, head, ports)
        service.forget()
        warm = min(2 * workers, len(masters))
        service.ended(service.run(warm, warm))
        service.forget()
        yield service


def vectors(jobs: Sequence[Ended]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """(jobs, classes) probabilities, classes in the order of the labels' names."""
    return np.array([[one.probabilities[label] for label in sorted(one.probabilities)] for one in jobs])
