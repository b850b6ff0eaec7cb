"""Jobs, their attempts and results."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("slide_id", sa.Uuid(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("tasks", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column(
            "available_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("deadline_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column(
            "epoch",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="fencing token: one for each claim",
        ),
        sa.Column("lost_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_lost", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("total", sa.Integer(), server_default="0", nullable=False),
        sa.Column("mpp_x", sa.Double(), nullable=True, comment="given by a person, with the reason"),
        sa.Column("mpp_y", sa.Double(), nullable=True),
        sa.Column("mpp_reason", sa.Text(), nullable=True),
        sa.Column("cancel_requested_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("retry_of", sa.Uuid(), nullable=True),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_jobs_lease")),
        sa.CheckConstraint("(state = 'running') = (worker IS NOT NULL)", name=op.f("ck_jobs_worker")),
        sa.CheckConstraint(
            "(state IN ('failed', 'dead')) = (error_code IS NOT NULL)", name=op.f("ck_jobs_failed")
        ),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'cancelled', 'dead')) = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_finished"),
        ),
        sa.CheckConstraint(
            "error_code IN ('DECODE_CRASH', 'DECODE_TIMEOUT', 'INFER_NAN', 'INFER_OOM', "
            "'INTERNAL', 'MODEL_INTEGRITY', 'MODEL_UNAVAILABLE', 'MPP_MISSING', 'NO_TISSUE', "
            "'QUEUE_TIMEOUT', 'SLIDE_CHANGED', 'SLIDE_CORRUPT', 'SLIDE_NOT_FOUND', "
            "'SLIDE_TOO_LARGE', 'SLIDE_UNSUPPORTED', 'TIME_LIMIT')",
            name=op.f("ck_jobs_code"),
        ),
        sa.CheckConstraint(
            "state <> 'cancelled' OR cancel_requested_at IS NOT NULL", name=op.f("ck_jobs_cancelled")
        ),
        sa.CheckConstraint("state <> 'queued' OR cancel_requested_at IS NULL", name=op.f("ck_jobs_queued")),
        sa.CheckConstraint(
            "state <> 'running' OR (epoch > 0 AND started_at IS NOT NULL)", name=op.f("ck_jobs_started")
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'dead')",
            name=op.f("ck_jobs_state"),
        ),
        sa.CheckConstraint("cardinality(tasks) > 0", name=op.f("ck_jobs_tasks")),
        sa.CheckConstraint("done >= 0 AND total >= done", name=op.f("ck_jobs_progress")),
        sa.CheckConstraint("epoch >= 0", name=op.f("ck_jobs_epoch")),
        sa.CheckConstraint(
            "max_lost > 0 AND lost_attempts BETWEEN 0 AND max_lost", name=op.f("ck_jobs_lost")
        ),
        sa.CheckConstraint("num_nonnulls(mpp_x, mpp_y, mpp_reason) IN (0, 3)", name=op.f("ck_jobs_mpp")),
        sa.CheckConstraint("priority IN (0, 5, 9)", name=op.f("ck_jobs_priority")),
        sa.ForeignKeyConstraint(["retry_of"], ["jobs.id"], name="fk_jobs_retry_of"),
        sa.ForeignKeyConstraint(["slide_id"], ["slides.id"], name="fk_jobs_slide_id"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_deadline", "jobs", ["deadline_at"], postgresql_where=sa.text("state = 'queued'"))
    op.create_index("ix_jobs_lease", "jobs", ["lease_until"], postgresql_where=sa.text("state = 'running'"))
    op.create_index("ix_jobs_page", "jobs", ["created_at", "id"])
    op.create_index(
        "ix_jobs_queue",
        "jobs",
        ["priority", "available_at", "id"],
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_jobs_retry_of", "jobs", ["retry_of"], postgresql_where=sa.text("retry_of IS NOT NULL")
    )
    op.create_index("ix_jobs_slide_id", "jobs", ["slide_id"])
    op.create_index("ix_jobs_state_page", "jobs", ["state", "created_at", "id"])
    op.create_table(
        "job_releases",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["releases.digest"], name="fk_job_releases_digest"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_releases_job_id"),
        sa.PrimaryKeyConstraint("job_id", "task", name="pk_job_releases"),
        sa.UniqueConstraint("job_id", "task", "digest", name="uq_job_releases_job_id_task_digest"),
    )
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column(
            "started_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "last_beat_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.CheckConstraint("error_code ~ '^[A-Z_]+$'", name=op.f("ck_attempts_code")),
        sa.CheckConstraint(
            "outcome IN ('ok', 'failed', 'transient', 'handback', 'lost', 'cancelled')",
            name=op.f("ck_attempts_outcome"),
        ),
        sa.CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name=op.f("ck_attempts_ended")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id"),
        sa.PrimaryKeyConstraint("job_id", "epoch", name="pk_attempts"),
    )
    op.create_index(
        "uq_attempts_open", "attempts", ["job_id"], unique=True, postgresql_where=sa.text("ended_at IS NULL")
    )
    op.create_table(
        "results",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("tiles", sa.Integer(), nullable=False),
        sa.Column("document", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "overlays",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="task -> sha256 of the stored overlay",
        ),
        sa.Column(
            "embeddings",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="encoder digest -> store key",
        ),
        sa.Column("provenance", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("tiles >= 0", name=op.f("ck_results_tiles")),
        sa.ForeignKeyConstraint(
            ["job_id", "epoch"], ["attempts.job_id", "attempts.epoch"], name="fk_results_job_id_epoch"
        ),
        sa.PrimaryKeyConstraint("job_id", name="pk_results"),
    )
    op.create_table(
        "predictions",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True),
        sa.Column("probabilities", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("release", sa.Text(), nullable=False),
        sa.CheckConstraint("outcome <> 'predicted' OR label IS NOT NULL", name=op.f("ck_predictions_label")),
        sa.CheckConstraint(
            "outcome IN ('predicted', 'abstained', 'out_of_distribution', 'qc_failed', 'not_applicable')",
            name=op.f("ck_predictions_outcome"),
        ),
        sa.ForeignKeyConstraint(
            ["job_id", "task", "release"],
            ["job_releases.job_id", "job_releases.task", "job_releases.digest"],
            name="fk_predictions_pinned",
        ),
        sa.ForeignKeyConstraint(["job_id"], ["results.job_id"], name="fk_predictions_job_id"),
        sa.PrimaryKeyConstraint("job_id", "task", name="pk_predictions"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column(
            "available_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("sent_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_outbox_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_job_id", "outbox", ["job_id", "sent_at"])
    op.create_index(
        "ix_outbox_sent_at", "outbox", ["sent_at"], postgresql_where=sa.text("sent_at IS NOT NULL")
    )
    op.create_index("ix_outbox_unsent", "outbox", ["id"], postgresql_where=sa.text("sent_at IS NULL"))
    op.create_table(
        "idempotency",
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_idempotency_job_id", initially="DEFERRED", deferrable=True
        ),
        sa.PrimaryKeyConstraint("principal", "key", name="pk_idempotency"),
    )


def downgrade() -> None:
    op.drop_table("idempotency")
    op.drop_table("outbox")
    op.drop_table("predictions")
    op.drop_table("results")
    op.drop_table("attempts")
    op.drop_table("job_releases")
    op.drop_table("jobs")
