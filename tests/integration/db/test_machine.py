"""The state machine against a model: any order of calls by callers, workers, zombies and the reaper."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from xmag.config import Lease
from xmag.db import attempts, audit, jobs, outbox
from xmag.db.session import connect, transaction
from xmag.db.tables import TERMINAL
from xmag.errors import Code, RequestError

LEASE = Lease(max_lost=2, backoff_seconds=0)
PAST = "clock_timestamp() - interval '1 s'"
RANK = {"stat": 0, "routine": 5, "batch": 9}
BROKEN = {
    "I2 succeeded <=> one result of the last epoch": """
        SELECT id FROM jobs j WHERE (state = 'succeeded') <> EXISTS
        (SELECT 1 FROM results r WHERE r.job_id = j.id AND r.epoch = j.epoch)""",
    "I4 running <=> one open attempt, of the last epoch": """
        SELECT id FROM jobs j WHERE (state = 'running')::int <>
        (SELECT count(*) FROM attempts a WHERE a.job_id = j.id AND ended_at IS NULL AND a.epoch = j.epoch)""",
    "I4 no other open attempt": """
        SELECT job_id FROM attempts a JOIN jobs j ON j.id = a.job_id
        WHERE ended_at IS NULL AND a.epoch <> j.epoch""",
    "I5 running <=> lease": "SELECT id FROM jobs WHERE (state = 'running') <> (lease_until IS NOT NULL)",
    "I6 lost attempts are bounded": "SELECT id FROM jobs WHERE lost_attempts > max_lost",
    "I8 only success has a result": """
        SELECT id FROM jobs JOIN results ON job_id = id WHERE state <> 'succeeded'""",
    "I9 the pinned release answers": """
        SELECT p.job_id FROM predictions p LEFT JOIN job_releases r
        ON (r.job_id, r.task, r.digest) = (p.job_id, p.task, p.release) WHERE r.job_id IS NULL""",
    "I12 one final audit event for each ended job": """
        SELECT id FROM jobs j WHERE (finished_at IS NOT NULL)::int <>
        (SELECT count(*) FROM audit WHERE object_id = j.id::text AND action = 'job.' || j.state)""",
    "I12 one claim event for each epoch": """
        SELECT id FROM jobs j WHERE epoch <>
        (SELECT count(*) FROM audit WHERE object_id = j.id::text AND action = 'job.claimed')""",
}


@dataclass
class Model:
    """What a job should be."""

    order: int
    priority: str
    state: str = "queued"
    epoch: int = 0
    lost: int = 0
    cancel: bool = False
    expired: bool = False
    late: bool = False
    rung: bool = False

    def end(self, how: str) -> None:
        """What a call that holds the job makes of it."""
        if how == "fail":
            self.state = "failed"
        elif self.cancel:
            self.lost += how == "lose"
            self.state = "cancelled"
        elif how == "succeed":
            self.state = "succeeded"
        elif how != "stop":
            self.lost += how == "lose"
            self.rung = False
            self.state = "dead" if self.lost >= LEASE.max_lost else "queued"


class Machine(RuleBasedStateMachine):
    """Every step is a committed transaction on a real database."""

    hospital: Any
    claims = Bundle("claims")
    known = Bundle("known")

    def __init__(self, hospital: Any, result_of: Callable[[attempts.Claim], Any]) -> None:
        super().__init__()
        self.hospital = hospital
        self.result_of = result_of
        self.models: dict[UUID, Model] = {}
        self.final: dict[UUID, str] = {}
        self.keys: dict[str, UUID] = {}

    def teardown(self) -> None:
        self.hospital.engine.dispose()

    def held(self, claim: attempts.Claim) -> Model | None:
        model = self.models[claim.job_id]
        return model if model.state == "running" and model.epoch == claim.epoch else None

    def add(self, job_id: UUID, priority: str) -> UUID:
        assert job_id not in self.models
        self.models[job_id] = Model(len(self.models), priority)
        return job_id

    @initialize(target=known, priorities=st.lists(st.sampled_from(list(RANK)), min_size=2, max_size=4))
    def open(self, priorities: list[jobs.Priority]) -> Any:
        self.hospital.open_ward()
        return multiple(*(self.submit(priority, "") for priority in priorities))

    @rule(target=known, priority=st.sampled_from(list(RANK)), key=st.sampled_from(["", "", "k1", "k2"]))
    def submit(self, priority: jobs.Priority, key: str) -> UUID:
        given = jobs.Idempotency(key, "body") if key else None
        slide_id = self.hospital.add()
        with transaction(self.hospital.engine) as session:
            new = jobs.NewJob(slide_id, ("nsclc", "rcc"), priority, "ann")
            submitted = jobs.submit(session, new, given, LEASE)
        assert submitted.created == (key not in self.keys)
        if not submitted.created:
            assert submitted.job_id == self.keys[key]
            return submitted.job_id
        if key:
            self.keys[key] = submitted.job_id
        return self.add(submitted.job_id, priority)

    @rule(target=claims)
    def claim(self) -> Any:
        queued = [
            (RANK[m.priority], m.order, job_id)
            for job_id, m in self.models.items()
            if m.state == "queued" and not m.late
        ]
        claim = self.hospital.claim()
        if not queued:
            assert claim is None
            return multiple()
        model = self.models[min(queued)[2]]
        assert claim.job_id == min(queued)[2]
        model.state, model.epoch, model.expired = "running", model.epoch + 1, False
        assert claim.epoch == model.epoch
        return claim

    @rule(claim=claims)
    def beat(self, claim: attempts.Claim) -> None:
        model = self.held(claim)
        with transaction(self.hospital.engine) as session:
            beat = attempts.beat(session, claim, LEASE, "encode", 1, 2)
        assert beat == attempts.Beat(model is not None, model is not None and model.cancel)
        if model:
            model.expired = False

    @rule(claim=claims, how=st.sampled_from(["succeed", "succeed", "fail", "lose", "hand back", "stop"]))
    def end(self, claim: attempts.Claim, how: str) -> None:
        model = self.held(claim)
        ended = model is not None
        with transaction(self.hospital.engine) as session:
            if how == "succeed":
                ended = ended and not model.cancel
                assert attempts.succeed(session, claim, self.result_of(claim)) == ended
            elif how == "fail":
                assert attempts.fail(session, claim, Code.NO_TISSUE, "none") == ended
            elif how == "lose":
                assert attempts.lost(session, claim, Code.DISK_FULL, "full", LEASE) == ended
            elif how == "hand back":
                assert attempts.hand_back(session, claim) == ended
            else:
                assert attempts.cancelled(session, claim) == (ended and model.cancel)
        if model is not None:
            model.end(how)

    @rule(job_id=known)
    def cancel(self, job_id: UUID) -> None:
        model = self.models[job_id]
        if model.state in TERMINAL:
            with pytest.raises(RequestError, match="CONFLICT"), transaction(self.hospital.engine) as session:
                jobs.request_cancel(session, job_id, "ann")
            return
        with transaction(self.hospital.engine) as session:
            jobs.request_cancel(session, job_id, "ann")
        model.cancel = True
        if model.state == "queued":
            model.state = "cancelled"

    @rule(target=known, job_id=known)
    def retry(self, job_id: UUID) -> Any:
        model = self.models[job_id]
        if model.state not in TERMINAL:
            with pytest.raises(RequestError, match="CONFLICT"), transaction(self.hospital.engine) as session:
                jobs.retry(session, job_id, "ann", LEASE)
            return multiple()
        with transaction(self.hospital.engine) as session:
            again = jobs.retry(session, job_id, "ann", LEASE)
        return self.add(again, model.priority)

    @rule(claim=claims, swept=st.booleans())
    def fall_silent(self, claim: attempts.Claim, swept: bool) -> None:
        self.hospital.sql(
            f"UPDATE jobs SET lease_until = {PAST} WHERE id = :id AND lease_until > {PAST}", id=claim.job_id
        )
        self.models[claim.job_id].expired = self.models[claim.job_id].state == "running"
        if swept:
            self.reap()

    @rule(job_id=known)
    @precondition(lambda self: any(model.state == "queued" for model in self.models.values()))
    def wait_too_long(self, job_id: UUID) -> None:
        self.hospital.sql(
            f"UPDATE jobs SET deadline_at = {PAST} WHERE id = :id AND state = 'queued'", id=job_id
        )
        self.models[job_id].late |= self.models[job_id].state == "queued"

    @rule()
    def reap(self) -> None:
        expected = {"queued": 0, "dead": 0, "cancelled": 0, "failed": 0}
        for model in self.models.values():
            if model.state == "running" and model.expired:
                model.end("lose")
                expected[model.state] += 1
        for model in self.models.values():
            if model.state == "queued" and model.late:
                model.state = "failed"
                expected["failed"] += 1
        with transaction(self.hospital.engine) as session:
            reaped = attempts.reap(session, LEASE)
        assert reaped == attempts.Reaped(*expected.values())

    @rule()
    def ring(self) -> None:
        with transaction(self.hospital.engine) as session:
            bells = outbox.take_batch(session, 100)
            outbox.mark_sent(session, [bell.id for bell in bells])
        unheard = {
            job_id for job_id, model in self.models.items() if model.state == "queued" and not model.rung
        }
        assert unheard <= {bell.job_id for bell in bells}
        for job_id in unheard:
            self.models[job_id].rung = True

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        rows = self.hospital.sql("SELECT id, state, epoch, lost_attempts, to_jsonb(jobs) AS whole FROM jobs")
        stored = {row["id"]: (row["state"], row["epoch"], row["lost_attempts"]) for row in rows}
        assert stored == {job_id: (m.state, m.epoch, m.lost) for job_id, m in self.models.items()}
        for row in rows:
            if row["state"] in TERMINAL:
                whole = json.dumps(row["whole"], sort_keys=True)
                assert self.final.setdefault(row["id"], whole) == whole

    @invariant()
    def nothing_is_broken(self) -> None:
        found = " UNION ALL ".join(
            f"SELECT {number} AS which FROM ({query}) AS q{number}"
            for number, query in enumerate(BROKEN.values())
        )
        assert [list(BROKEN)[row["which"]] for row in self.hospital.sql(found)] == []

    @invariant()
    def the_audit_chain_holds(self) -> None:
        with transaction(self.hospital.engine) as session:
            assert audit.verify(session).broken_at is None


def test_every_order_of_calls_keeps_the_invariants(
    new_database: Callable[[], str], at: Callable[..., Any], answer: Callable[[attempts.Claim], Any]
) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Machine(at(connect(new_database(), pool=2), LEASE), answer),
        settings=settings(
            max_examples=30,
            stateful_step_count=50,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
