"""The tables. Triggers (final states, growing epochs, append-only tables) stand in ``migrations``.

All times are the database's. Rows never leave this room: functions hand out frozen views of them.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from xmag.db.base import Base, Big, Id, Now, one_of
from xmag.errors import JOB_CODES

STATES = ("queued", "running", "succeeded", "failed", "cancelled", "dead")
TERMINAL = ("succeeded", "failed", "cancelled", "dead")
PRIORITIES = {"stat": 0, "routine": 5, "batch": 9}
OUTCOMES = ("ok", "failed", "transient", "handback", "lost", "cancelled")
PREDICTION_OUTCOMES = ("predicted", "abstained", "out_of_distribution", "qc_failed", "not_applicable")
UPLOAD_STATES = ("open", "finalizing", "stored", "rejected", "expired")
RELEASE_STATES = ("registered", "verified", "rejected", "retired")


class Case(Base):
    """A pathology case; its accession is patient data."""

    __tablename__ = "cases"
    id: Mapped[Id]
    accession: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[Now]


class Slide(Base):
    """One version of one file, as it was named by those who sent it."""

    __tablename__ = "slides"
    id: Mapped[Id]
    naming: Mapped[str] = mapped_column(comment="sha256 of place, version, accession and the other tags")
    case_id: Mapped[UUID | None] = mapped_column(ForeignKey("cases.id"), index=True)
    root: Mapped[str]
    relative: Mapped[str]
    size: Mapped[Big]
    mtime_ns: Mapped[Big]
    inode: Mapped[str] = mapped_column(comment="text: an inode may pass 63 bits")
    source: Mapped[str]
    sha256: Mapped[str | None] = mapped_column(index=True)
    vendor: Mapped[str | None]
    width: Mapped[int | None]
    height: Mapped[int | None]
    mpp_x: Mapped[float | None] = mapped_column(comment="from the file, micrometres a level-0 pixel")
    mpp_y: Mapped[float | None]
    specimen: Mapped[str | None]
    block: Mapped[str | None]
    stain: Mapped[str | None]
    scanner: Mapped[str | None]
    created_at: Mapped[Now]
    __table_args__ = (
        UniqueConstraint("naming", name="uq_slides_naming"),
        CheckConstraint(one_of("source", ("path", "upload")), name="source"),
        CheckConstraint("size >= 0", name="size"),
        CheckConstraint("(mpp_x IS NULL) = (mpp_y IS NULL)", name="mpp"),
    )


class Upload(Base):
    """A resumable upload; bytes before ``offset_bytes`` are on disk for certain."""

    __tablename__ = "uploads"
    id: Mapped[Id]
    principal: Mapped[str]
    size: Mapped[Big]
    offset_bytes: Mapped[Big] = mapped_column(server_default="0")
    declared_sha256: Mapped[str | None]
    sha256: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default="open")
    reason: Mapped[str | None]
    created_at: Mapped[Now]
    expires_at: Mapped[datetime]
    __table_args__ = (
        CheckConstraint(one_of("state", UPLOAD_STATES), name="state"),
        CheckConstraint("size > 0 AND offset_bytes BETWEEN 0 AND size", name="offset"),
        CheckConstraint("state NOT IN ('finalizing', 'stored') OR offset_bytes = size", name="complete"),
        CheckConstraint("(state = 'stored') = (sha256 IS NOT NULL)", name="stored"),
        Index("ix_uploads_unfinished", "principal", postgresql_where=text("state IN ('open', 'finalizing')")),
    )


class Release(Base):
    """An immutable version of an encoder or head; only ``state`` and ``reason`` change."""

    __tablename__ = "releases"
    digest: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    task: Mapped[str | None]
    encoder: Mapped[str | None]
    manifest: Mapped[dict[str, Any]]
    signer: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="registered")
    reason: Mapped[str | None]
    created_at: Mapped[Now]
    __table_args__ = (
        CheckConstraint("digest ~ '^[0-9a-f]{64}$'", name="digest"),
        CheckConstraint(one_of("kind", ("encoder", "head")), name="kind"),
        CheckConstraint("(kind = 'head') = (task IS NOT NULL AND encoder IS NOT NULL)", name="head"),
        CheckConstraint(one_of("state", RELEASE_STATES), name="state"),
        CheckConstraint("(state = 'rejected') = (reason IS NOT NULL)", name="reason"),
    )


class Deployment(Base):
    """That a head served a task; ``previous`` is the deployment a rollback returns to."""

    __tablename__ = "deployments"
    id: Mapped[Big] = mapped_column(primary_key=True)
    task: Mapped[str]
    digest: Mapped[str] = mapped_column(ForeignKey("releases.digest"))
    previous: Mapped[int | None] = mapped_column(BigInteger, ForeignKey("deployments.id"))
    active: Mapped[bool]
    actor: Mapped[str]
    created_at: Mapped[Now]
    __table_args__ = (
        Index("uq_deployments_active", "task", unique=True, postgresql_where=text("active")),
        CheckConstraint("previous < id", name="previous"),
    )


class Job(Base):
    """One slide, some tasks, one state."""

    __tablename__ = "jobs"
    id: Mapped[Id]
    slide_id: Mapped[UUID] = mapped_column(ForeignKey("slides.id"), index=True)
    principal: Mapped[str]
    tasks: Mapped[list[str]]
    priority: Mapped[int] = mapped_column(SmallInteger)
    state: Mapped[str] = mapped_column(server_default="queued")
    available_at: Mapped[Now]
    deadline_at: Mapped[datetime]
    epoch: Mapped[int] = mapped_column(server_default="0", comment="fencing token: one for each claim")
    lost_attempts: Mapped[int] = mapped_column(server_default="0")
    max_lost: Mapped[int]
    lease_until: Mapped[datetime | None]
    worker: Mapped[str | None]
    stage: Mapped[str | None]
    done: Mapped[int] = mapped_column(server_default="0")
    total: Mapped[int] = mapped_column(server_default="0")
    mpp_x: Mapped[float | None] = mapped_column(comment="given by a person, with the reason")
    mpp_y: Mapped[float | None]
    mpp_reason: Mapped[str | None]
    cancel_requested_at: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
    retry_of: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[Now]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint(one_of("state", STATES), name="state"),
        CheckConstraint("priority IN (0, 5, 9)", name="priority"),
        CheckConstraint("cardinality(tasks) > 0", name="tasks"),
        CheckConstraint("epoch >= 0", name="epoch"),
        CheckConstraint("max_lost > 0 AND lost_attempts BETWEEN 0 AND max_lost", name="lost"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="lease"),
        CheckConstraint("(state = 'running') = (worker IS NOT NULL)", name="worker"),
        CheckConstraint("state <> 'running' OR (epoch > 0 AND started_at IS NOT NULL)", name="started"),
        CheckConstraint(f"({one_of('state', TERMINAL)}) = (finished_at IS NOT NULL)", name="finished"),
        CheckConstraint("(state IN ('failed', 'dead')) = (error_code IS NOT NULL)", name="failed"),
        CheckConstraint(one_of("error_code", sorted(JOB_CODES)), name="code"),
        CheckConstraint("state <> 'queued' OR cancel_requested_at IS NULL", name="queued"),
        CheckConstraint("state <> 'cancelled' OR cancel_requested_at IS NOT NULL", name="cancelled"),
        CheckConstraint("done >= 0 AND total >= done", name="progress"),
        CheckConstraint("num_nonnulls(mpp_x, mpp_y, mpp_reason) IN (0, 3)", name="mpp"),
        Index("ix_jobs_queue", "priority", "available_at", "id", postgresql_where=text("state = 'queued'")),
        Index("ix_jobs_deadline", "deadline_at", postgresql_where=text("state = 'queued'")),
        Index("ix_jobs_lease", "lease_until", postgresql_where=text("state = 'running'")),
        Index("ix_jobs_page", "created_at", "id"),
        Index("ix_jobs_state_page", "state", "created_at", "id"),
        Index("ix_jobs_retry_of", "retry_of", postgresql_where=text("retry_of IS NOT NULL")),
    )


class JobRelease(Base):
    """The head that a job was pinned to at submit."""

    __tablename__ = "job_releases"
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    task: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(ForeignKey("releases.digest"))
    __table_args__ = (UniqueConstraint("job_id", "task", "digest"),)


class Attempt(Base):
    """One claim of one job; open while the job runs."""

    __tablename__ = "attempts"
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    worker: Mapped[str]
    started_at: Mapped[Now]
    last_beat_at: Mapped[Now]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    error_code: Mapped[str | None]
    __table_args__ = (
        CheckConstraint(one_of("outcome", OUTCOMES), name="outcome"),
        CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name="ended"),
        CheckConstraint("error_code ~ '^[A-Z_]+$'", name="code"),
        Index("uq_attempts_open", "job_id", unique=True, postgresql_where=text("ended_at IS NULL")),
    )


class Result(Base):
    """The one committed result of a job, written by the attempt that finished it."""

    __tablename__ = "results"
    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    epoch: Mapped[int]
    tiles: Mapped[int]
    document: Mapped[dict[str, Any]]
    overlays: Mapped[dict[str, str]] = mapped_column(comment="task -> sha256 of the stored overlay")
    embeddings: Mapped[dict[str, str]] = mapped_column(comment="encoder digest -> store key")
    provenance: Mapped[dict[str, Any]]
    created_at: Mapped[Now]
    __table_args__ = (
        ForeignKeyConstraint(["job_id", "epoch"], ["attempts.job_id", "attempts.epoch"]),
        CheckConstraint("tiles >= 0", name="tiles"),
    )


class Prediction(Base):
    """One task's answer, by the release that the job was pinned to."""

    __tablename__ = "predictions"
    job_id: Mapped[UUID] = mapped_column(ForeignKey("results.job_id"), primary_key=True)
    task: Mapped[str] = mapped_column(primary_key=True)
    outcome: Mapped[str]
    label: Mapped[str | None]
    probabilities: Mapped[dict[str, float]]
    release: Mapped[str]
    __table_args__ = (
        ForeignKeyConstraint(
            ["job_id", "task", "release"],
            ["job_releases.job_id", "job_releases.task", "job_releases.digest"],
            name="fk_predictions_pinned",
        ),
        CheckConstraint(one_of("outcome", PREDICTION_OUTCOMES), name="outcome"),
        CheckConstraint("outcome <> 'predicted' OR label IS NOT NULL", name="label"),
    )


class Outbox(Base):
    """A bell that the dispatcher rings with the broker once its time has come."""

    __tablename__ = "outbox"
    id: Mapped[Big] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    available_at: Mapped[Now]
    sent_at: Mapped[datetime | None]
    __table_args__ = (
        Index("ix_outbox_job_id", "job_id", "sent_at"),
        Index("ix_outbox_unsent", "id", postgresql_where=text("sent_at IS NULL")),
        Index("ix_outbox_sent_at", "sent_at", postgresql_where=text("sent_at IS NOT NULL")),
    )


class IdempotencyKey(Base):
    """The job that a caller's key led to."""

    __tablename__ = "idempotency"
    principal: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", deferrable=True, initially="DEFERRED"))
    created_at: Mapped[Now]


class ApiKey(Base):
    """A caller's key; only the hash of its secret is kept."""

    __tablename__ = "api_keys"
    prefix: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[bytes]
    name: Mapped[str]
    scopes: Mapped[list[str]]
    created_at: Mapped[Now]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    __table_args__ = (
        CheckConstraint("octet_length(sha256) = 32", name="sha256"),
        CheckConstraint("scopes <@ ARRAY['submit', 'read', 'releases', 'admin']", name="scopes"),
    )


class Audit(Base):
    """Who did what; each row's hash covers the row before it."""

    __tablename__ = "audit"
    seq: Mapped[Big] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    actor: Mapped[str]
    action: Mapped[str]
    object_type: Mapped[str]
    object_id: Mapped[str]
    detail: Mapped[dict[str, Any]]
    prev: Mapped[bytes]
    hash: Mapped[bytes] = mapped_column(unique=True)
    __table_args__ = (Index("ix_audit_object", "object_type", "object_id"),)
