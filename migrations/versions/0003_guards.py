"""What no program may do, whatever its bugs: triggers on final states, epochs and append-only tables."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JOB_STEP = """
CREATE FUNCTION guard_job_step() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.finished_at IS NOT NULL THEN
        RAISE EXCEPTION 'a finished job never changes' USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.epoch < OLD.epoch OR NEW.lost_attempts < OLD.lost_attempts THEN
        RAISE EXCEPTION 'the epoch and the lost attempts only grow' USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.state = 'queued' AND NEW.state = 'running' AND NEW.epoch <> OLD.epoch + 1 THEN
        RAISE EXCEPTION 'a claim takes the next epoch' USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.state = 'queued' AND NEW.state IN ('succeeded', 'dead') THEN
        RAISE EXCEPTION 'a queued job must run first' USING ERRCODE = 'restrict_violation';
    END IF;
    IF (NEW.id, NEW.slide_id, NEW.tasks, NEW.principal, NEW.created_at)
        IS DISTINCT FROM (OLD.id, OLD.slide_id, OLD.tasks, OLD.principal, OLD.created_at) THEN
        RAISE EXCEPTION 'what a job was asked for never changes' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""
JOB_WHOLE = """
CREATE FUNCTION guard_job_whole() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    key uuid;
    job jobs%ROWTYPE;
    answers integer;
BEGIN
    IF TG_TABLE_NAME = 'jobs' THEN
        key := NEW.id;
    ELSE
        key := NEW.job_id;
    END IF;
    SELECT * INTO job FROM jobs WHERE id = key;
    IF (job.state = 'running') <> EXISTS
        (SELECT 1 FROM attempts WHERE job_id = job.id AND epoch = job.epoch AND ended_at IS NULL) THEN
        RAISE EXCEPTION 'a job runs while its last attempt is open' USING ERRCODE = 'restrict_violation';
    END IF;
    IF (job.state = 'succeeded') <> EXISTS (SELECT 1 FROM results WHERE job_id = job.id AND epoch = job.epoch)
        OR job.state <> 'succeeded' AND EXISTS (SELECT 1 FROM results WHERE job_id = job.id) THEN
        RAISE EXCEPTION 'a job has a result exactly if it succeeded' USING ERRCODE = 'restrict_violation';
    END IF;
    SELECT count(*) INTO answers FROM predictions WHERE job_id = job.id;
    IF job.state = 'succeeded' AND answers <> cardinality(job.tasks) THEN
        RAISE EXCEPTION 'a result answers every task' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$
"""
FROZEN = """
CREATE FUNCTION guard_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is refused on %', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$
"""
RELEASE = """
CREATE FUNCTION guard_release() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_jsonb(NEW) - 'state' - 'reason' <> to_jsonb(OLD) - 'state' - 'reason' THEN
        RAISE EXCEPTION 'a release never changes' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""
ATTEMPT = """
CREATE FUNCTION guard_attempt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.ended_at IS NOT NULL THEN
        RAISE EXCEPTION 'an ended attempt never changes' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$
"""
FUNCTIONS = {
    "guard_job_step": JOB_STEP,
    "guard_job_whole": JOB_WHOLE,
    "guard_frozen": FROZEN,
    "guard_release": RELEASE,
    "guard_attempt": ATTEMPT,
}
APPEND_ONLY = ("results", "predictions", "audit", "job_releases")
NEVER_DELETED = ("jobs", "attempts", "releases", "deployments", "slides")


def upgrade() -> None:
    for definition in FUNCTIONS.values():
        op.execute(definition)
    _before("jobs", "UPDATE", "guard_job_step")
    _before("releases", "UPDATE", "guard_release")
    _before("attempts", "UPDATE", "guard_attempt")
    _at_commit("jobs", "INSERT OR UPDATE OF state, epoch")
    _at_commit("attempts", "INSERT OR UPDATE OF ended_at")
    _at_commit("results", "INSERT")
    for table in APPEND_ONLY:
        _before(table, "UPDATE OR DELETE", "guard_frozen")
    for table in NEVER_DELETED:
        _before(table, "DELETE", "guard_frozen", name="kept")
    for table in (*APPEND_ONLY, *NEVER_DELETED):
        op.execute(
            f"CREATE TRIGGER {table}_whole BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION guard_frozen()"
        )


def downgrade() -> None:
    for name in FUNCTIONS:
        op.execute(f"DROP FUNCTION {name}() CASCADE")


def _before(table: str, events: str, function: str, name: str = "guarded") -> None:
    op.execute(
        f"CREATE TRIGGER {table}_{name} BEFORE {events} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}()"
    )


def _at_commit(table: str, events: str) -> None:
    op.execute(
        f"CREATE CONSTRAINT TRIGGER {table}_agrees AFTER {events} ON {table} "
        "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION guard_job_whole()"
    )
