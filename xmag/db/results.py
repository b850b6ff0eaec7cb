"""Results: written once, by the attempt that holds the job; read by everyone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from xmag.db.tables import Prediction, Result
from xmag.slide.info import SlideInfo


@dataclass(frozen=True, slots=True)
class NewPrediction:
    """One task's answer; ``release`` is the digest of the head the job was pinned to."""

    task: str
    outcome: str
    label: str | None
    probabilities: dict[str, float]
    release: str


@dataclass(frozen=True, slots=True)
class NewResult:
    """What an attempt found; all files it names are already on disk.

    Attributes:
        slide: facts of the opened slide.
        tiles: number of tiles of the grid.
        predictions: one for each task of the job.
        overlays: task -> sha256 of the stored overlay.
        embeddings: encoder digest -> store key.
        provenance: versions, device, settings; no patient data.
        document: the whole `analyze.to_json` object.
    """

    slide: SlideInfo
    tiles: int
    predictions: Sequence[NewPrediction]
    overlays: dict[str, str] = field(default_factory=dict)
    embeddings: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResultView:
    """A committed result; ``predictions`` in order of task."""

    job_id: UUID
    epoch: int
    tiles: int
    predictions: tuple[NewPrediction, ...]
    overlays: dict[str, str]
    embeddings: dict[str, str]
    provenance: dict[str, Any]
    document: dict[str, Any]
    created_at: datetime


def load(session: Session, job_id: UUID) -> ResultView | None:
    """The result of a job, None while there is none."""
    row = session.get(Result, job_id)
    if row is None:
        return None
    found = select(Prediction).where(Prediction.job_id == job_id).order_by(Prediction.task)
    return ResultView(
        job_id=row.job_id,
        epoch=row.epoch,
        tiles=row.tiles,
        predictions=tuple(_prediction(one) for one in session.scalars(found)),
        overlays=row.overlays,
        embeddings=row.embeddings,
        provenance=row.provenance,
        document=row.document,
        created_at=row.created_at,
    )


def store(session: Session, job_id: UUID, epoch: int, new: NewResult) -> None:
    """Insert a result; the caller holds the job's row and this epoch."""
    values = {
        name: getattr(new, name) for name in ("tiles", "document", "overlays", "embeddings", "provenance")
    }
    session.execute(insert(Result).values(job_id=job_id, epoch=epoch, **values))
    rows = [{"job_id": job_id, **asdict(one)} for one in new.predictions]
    if rows:
        session.execute(insert(Prediction), rows)


def _prediction(row: Prediction) -> NewPrediction:
    return NewPrediction(row.task, row.outcome, row.label, row.probabilities, row.release)
