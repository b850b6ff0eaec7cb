"""A small hospital: an encoder, a head for each task, and slides to submit."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from xmag import manifest as m
from xmag.config import Lease
from xmag.db import attempts, jobs, releases, slides
from xmag.db.results import NewPrediction, NewResult
from xmag.db.session import transaction
from xmag.slide.info import LevelInfo, SlideInfo
from xmag.slide.location import Fingerprint
from xmag.units import Level0Px, Mpp, MppXY

LEASE = Lease(seconds=30, max_lost=3, backoff_seconds=0)
CREATED = datetime(2026, 1, 1, tzinfo=UTC)
LICENCE = m.Licence(name="demo", permitted_use="demo")


def encoder(name: str = "encoder") -> m.EncoderManifest:
    return m.EncoderManifest(
        name=name,
        created=CREATED,
        code_version="test",
        licence=LICENCE,
        weights_sha256="0" * 64,
        self_test_sha256="1" * 64,
        architecture=m.VitSpec(),
    )


def head(task: m.Task, bound_to: str, name: str = "head") -> m.HeadManifest:
    labels = m.TASK_LABELS[task]
    return m.HeadManifest(
        name=name,
        created=CREATED,
        code_version="test",
        licence=LICENCE,
        weights_sha256="2" * 64,
        self_test_sha256="3" * 64,
        task=task,
        labels=labels,
        encoder=bound_to,
        architecture=m.AbmilSpec(in_dim=768, classes=len(labels)),
    )


@dataclass
class Hospital:
    """Calls on one database, each in its own transaction."""

    engine: Engine
    lease: Lease = LEASE
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def register(self, manifest: m.EncoderManifest | m.HeadManifest) -> str:
        digest = m.digest(manifest)
        with transaction(self.engine) as session:
            releases.register(session, digest, manifest, "signer")
        return digest

    def promote(self, digest: str) -> str:
        with transaction(self.engine) as session:
            releases.promote(session, digest, "ann")
        return digest

    def open_ward(self) -> None:
        bound_to = self.register(encoder())
        for task in ("nsclc", "rcc"):
            self.promote(self.register(head(task, bound_to)))

    def slide(self, **given: Any) -> slides.NewSlide:
        number = next(self.numbers)
        new = slides.NewSlide("slides", f"{number}.svs", Fingerprint(100, number, number), "path")
        return replace(new, **given)

    def add(self, **given: Any) -> UUID:
        with transaction(self.engine) as session:
            return slides.add(session, self.slide(**given))

    def job(
        self, priority: jobs.Priority = "routine", tasks: Sequence[str] = ("nsclc",), **given: Any
    ) -> UUID:
        with transaction(self.engine) as session:
            slide_id = slides.add(session, self.slide(**given))
            new = jobs.NewJob(slide_id, tuple(tasks), priority, "ann")
            return jobs.submit(session, new, None, self.lease).job_id

    def claim(self, worker: str = "w1") -> attempts.Claim | None:
        with transaction(self.engine) as session:
            return attempts.claim_next(session, worker, self.lease)

    def take(self) -> attempts.Claim:
        claim = self.claim()
        assert claim is not None
        return claim

    def finish(self, claim: attempts.Claim) -> bool:
        with transaction(self.engine) as session:
            return attempts.succeed(session, claim, result_of(claim))

    def view(self, job_id: UUID) -> jobs.JobView:
        with transaction(self.engine) as session:
            view = jobs.get(session, job_id)
        assert view is not None
        return view

    def sql(self, statement: str, **values: Any) -> list[Any]:
        with self.engine.begin() as connection:
            found = connection.execute(text(statement), values)
            return list(found.mappings()) if found.returns_rows else []


def info(sha256: str = "a" * 64) -> SlideInfo:
    levels = (LevelInfo(1000, 800, 1.0),)
    return SlideInfo(
        sha256, Level0Px(1000), Level0Px(800), MppXY(Mpp(0.5), Mpp(0.5)), "file", "aperio", levels
    )


def result_of(claim: attempts.Claim) -> NewResult:
    answers = [
        NewPrediction(task, "predicted", "LUAD", {"LUAD": 0.75, "LUSC": 0.25}, digest)
        for task, digest in claim.heads.items()
    ]
    overlays = dict.fromkeys(claim.heads, "b" * 64)
    return NewResult(info(), 7, answers, overlays, {"c" * 64: "key"}, {"epoch": claim.epoch}, {"tiles": 7})


@pytest.fixture
def hospital(engine: Engine) -> Hospital:
    """A migrated database with heads for nsclc and rcc."""
    opened = Hospital(engine)
    opened.open_ward()
    return opened


@pytest.fixture
def make_head(hospital: Hospital) -> Callable[..., str]:
    """Registers and promotes another head of a task; returns its digest."""

    def make(task: m.Task, name: str) -> str:
        return hospital.promote(hospital.register(head(task, m.digest(encoder()), name)))

    return make


@pytest.fixture
def answer() -> Callable[[attempts.Claim], NewResult]:
    """Makes the result of a claim."""
    return result_of


@pytest.fixture
def at() -> Callable[..., Hospital]:
    """Opens a hospital on a database of the test's own making."""
    return Hospital


@pytest.fixture
def orphan(hospital: Hospital) -> str:
    """A registered head whose encoder is not."""
    return hospital.register(head("nsclc", "f" * 64, "orphan"))


@pytest.fixture
def manifest() -> m.EncoderManifest:
    """An encoder's manifest."""
    return encoder("other")
