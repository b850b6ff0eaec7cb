"""Slides, uploads, releases, keys, audit."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cases",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("accession", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name="pk_cases"),
        sa.UniqueConstraint("accession", name="uq_cases_accession"),
    )
    op.create_table(
        "slides",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "naming",
            sa.Text(),
            nullable=False,
            comment="sha256 of place, version, accession and the other tags",
        ),
        sa.Column("case_id", sa.Uuid(), nullable=True),
        sa.Column("root", sa.Text(), nullable=False),
        sa.Column("relative", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("inode", sa.Text(), nullable=False, comment="text: an inode may pass 63 bits"),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("vendor", sa.Text(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("mpp_x", sa.Double(), nullable=True, comment="from the file, micrometres a level-0 pixel"),
        sa.Column("mpp_y", sa.Double(), nullable=True),
        sa.Column("specimen", sa.Text(), nullable=True),
        sa.Column("block", sa.Text(), nullable=True),
        sa.Column("stain", sa.Text(), nullable=True),
        sa.Column("scanner", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("source IN ('path', 'upload')", name=op.f("ck_slides_source")),
        sa.CheckConstraint("(mpp_x IS NULL) = (mpp_y IS NULL)", name=op.f("ck_slides_mpp")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_slides_size")),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"], name="fk_slides_case_id"),
        sa.PrimaryKeyConstraint("id", name="pk_slides"),
        sa.UniqueConstraint("naming", name="uq_slides_naming"),
    )
    op.create_index("ix_slides_case_id", "slides", ["case_id"])
    op.create_index("ix_slides_sha256", "slides", ["sha256"])
    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("offset_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("declared_sha256", sa.Text(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("(state = 'stored') = (sha256 IS NOT NULL)", name=op.f("ck_uploads_stored")),
        sa.CheckConstraint(
            "state IN ('open', 'finalizing', 'stored', 'rejected', 'expired')", name=op.f("ck_uploads_state")
        ),
        sa.CheckConstraint(
            "state NOT IN ('finalizing', 'stored') OR offset_bytes = size", name=op.f("ck_uploads_complete")
        ),
        sa.CheckConstraint("size > 0 AND offset_bytes BETWEEN 0 AND size", name=op.f("ck_uploads_offset")),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index(
        "ix_uploads_unfinished",
        "uploads",
        ["principal"],
        postgresql_where=sa.text("state IN ('open', 'finalizing')"),
    )
    op.create_table(
        "releases",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=True),
        sa.Column("encoder", sa.Text(), nullable=True),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("signer", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="registered", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(kind = 'head') = (task IS NOT NULL AND encoder IS NOT NULL)", name=op.f("ck_releases_head")
        ),
        sa.CheckConstraint("(state = 'rejected') = (reason IS NOT NULL)", name=op.f("ck_releases_reason")),
        sa.CheckConstraint("digest ~ '^[0-9a-f]{64}$'", name=op.f("ck_releases_digest")),
        sa.CheckConstraint("kind IN ('encoder', 'head')", name=op.f("ck_releases_kind")),
        sa.CheckConstraint(
            "state IN ('registered', 'verified', 'rejected', 'retired')", name=op.f("ck_releases_state")
        ),
        sa.PrimaryKeyConstraint("digest", name="pk_releases"),
    )
    op.create_table(
        "deployments",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("previous", sa.BigInteger(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("previous < id", name=op.f("ck_deployments_previous")),
        sa.ForeignKeyConstraint(["digest"], ["releases.digest"], name="fk_deployments_digest"),
        sa.ForeignKeyConstraint(["previous"], ["deployments.id"], name="fk_deployments_previous"),
        sa.PrimaryKeyConstraint("id", name="pk_deployments"),
    )
    op.create_index(
        "uq_deployments_active", "deployments", ["task"], unique=True, postgresql_where=sa.text("active")
    )
    op.create_table(
        "api_keys",
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "scopes <@ ARRAY['submit', 'read', 'releases', 'admin']", name=op.f("ck_api_keys_scopes")
        ),
        sa.CheckConstraint("octet_length(sha256) = 32", name=op.f("ck_api_keys_sha256")),
        sa.PrimaryKeyConstraint("prefix", name="pk_api_keys"),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("object_type", sa.Text(), nullable=False),
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("prev", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_audit"),
        sa.UniqueConstraint("hash", name="uq_audit_hash"),
    )
    op.create_index("ix_audit_object", "audit", ["object_type", "object_id"])


def downgrade() -> None:
    op.drop_table("audit")
    op.drop_table("api_keys")
    op.drop_table("deployments")
    op.drop_table("releases")
    op.drop_table("uploads")
    op.drop_table("slides")
    op.drop_table("cases")
