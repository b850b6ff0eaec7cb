"""The state machine against a model: any order of calls by callers, workers, zombies and the reaper."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from xmag.db import attempts, audit, jobs
from xmag.db.session import connect, transaction
from xmag.db.tables import TERMINAL
from xmag.errors import Code, RequestError

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
    "every queued job has a bell": """
        SELECT id FROM jobs j WHERE state = 'queued' AND NOT EXISTS
        (SELECT 1 FROM outbox o WHERE o.job_id = j.id AND sent_at IS NULL)""",
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

    def lose(self, most: int) -> str:
        self.lost += 1
        if self.cancel:
            self.state = "cancelled"
        else:
            self.state = "dead" if self.lost >= most else "queued"
        return self.state


class Machine(RuleBasedStateMachine):
    """Every step is a committed transaction on a real database."""

    hospital: Any
    claims = Bundle("claims")
    known = Bundle("known")

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.hospital = make()
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

    @initialize()
    def open(self) -> None:
        self.hospital.open_ward()

    @rule(target=known, priority=st.sampled_from(list(RANK)), key=st.sampled_from(["", "", "k1", "k2"]))
    def submit(self, priority: jobs.Priority, key: str) -> UUID:
        given = jobs.Idempotency(key, "body") if key else None
        slide_id = self.hospital.add()
        with transaction(self.hospital.engine) as session:
            new = jobs.NewJob(slide_id, ("nsclc", "rcc"), priority, "ann")
            submitted = jobs.submit(session, new, given, self.hospital.lease)
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
            beat = attempts.beat(session, claim, self.hospital.lease, "encode", 1, 2)
        assert beat == attempts.Beat(model is not None, model is not None and model.cancel)
        if model:
            model.expired = False

    @rule(claim=claims)
    def succeed(self, claim: attempts.Claim) -> None:
        model = self.held(claim)
        assert self.hospital.finish(claim) == (model is not None and not model.cancel)
        if model:
            model.state = "cancelled" if model.cancel else "succeeded"

    @rule(claim=claims)
    def fail(self, claim: attempts.Claim) -> None:
        model = self.held(claim)
        with transaction(self.hospital.engine) as session:
            assert attempts.fail(session, claim, Code.NO_TISSUE, "none") == (model is not None)
        if model:
            model.state = "failed"

    @rule(claim=claims)
    def lose(self, claim: attempts.Claim) -> None:
        model = self.held(claim)
        with transaction(self.hospital.engine) as session:
            lost = attempts.lost(session, claim, Code.DISK_FULL, "full", self.hospital.lease)
        assert lost == (model is not None)
        if model:
            model.lose(self.hospital.lease.max_lost)

    @rule(claim=consumes(claims))
    def hand_back(self, claim: attempts.Claim) -> None:
        model = self.held(claim)
        with transaction(self.hospital.engine) as session:
            assert attempts.hand_back(session, claim) == (model is not None)
        if model:
            model.state = "cancelled" if model.cancel else "queued"

    @rule(claim=claims)
    def stop(self, claim: attempts.Claim) -> None:
        model = self.held(claim)
        with transaction(self.hospital.engine) as session:
            assert attempts.cancelled(session, claim) == (model is not None and model.cancel)
        if model and model.cancel:
            model.state = "cancelled"

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
                jobs.retry(session, job_id, "ann", self.hospital.lease)
            return multiple()
        with transaction(self.hospital.engine) as session:
            again = jobs.retry(session, job_id, "ann", self.hospital.lease)
        return self.add(again, model.priority)

    @rule(claim=claims)
    def expire(self, claim: attempts.Claim) -> None:
        model = self.models[claim.job_id]
        self.hospital.sql(
            "UPDATE jobs SET lease_until = clock_timestamp() - interval '1 s'"
            " WHERE id = :id AND state = 'running'",
            id=claim.job_id,
        )
        model.expired = model.state == "running"

    @rule(job_id=known)
    @precondition(lambda self: any(model.state == "queued" for model in self.models.values()))
    def pass_deadline(self, job_id: UUID) -> None:
        self.hospital.sql(
            "UPDATE jobs SET deadline_at = clock_timestamp() WHERE id = :id AND state = 'queued'", id=job_id
        )
        self.models[job_id].late |= self.models[job_id].state == "queued"

    @rule()
    def reap(self) -> None:
        expected = {"queued": 0, "dead": 0, "cancelled": 0, "failed": 0}
        for model in self.models.values():
            if model.state == "running" and model.expired:
                expected[model.lose(self.hospital.lease.max_lost)] += 1
        for model in self.models.values():
            if model.state == "queued" and model.late:
                model.state = "failed"
                expected["failed"] += 1
        with transaction(self.hospital.engine) as session:
            reaped = attempts.reap(session, self.hospital.lease)
        assert reaped == attempts.Reaped(*expected.values())

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
    new_database: Callable[[], str], at: Callable[[Any], Any]
) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Machine(lambda: at(connect(new_database(), pool=2))),
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
