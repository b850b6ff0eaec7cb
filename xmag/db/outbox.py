"""Bells for the broker, written beside the job and rung later by the dispatcher.

A bell says "look into the queue": it may be lost or rung twice without harm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import delete, exists, insert, or_, select, update
from sqlalchemy.orm import Session

from xmag.db.session import after, now
from xmag.db.tables import Job, Outbox


@dataclass(frozen=True, slots=True)
class Bell:
    """An unsent bell; all that goes to the broker is the job's id."""

    id: int
    job_id: UUID


def ring(session: Session, job_id: UUID, delay_s: float = 0.0) -> None:
    """Write a bell that is due ``delay_s`` from now."""
    session.execute(insert(Outbox).values(job_id=job_id, available_at=after(delay_s)))


def take_batch(session: Session, limit: int) -> list[Bell]:
    """Due bells, oldest first, locked until the transaction ends; others' locked bells are passed over."""
    due = (
        select(Outbox.id, Outbox.job_id)
        .where(Outbox.sent_at.is_(None), Outbox.available_at <= now())
        .order_by(Outbox.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [Bell(row.id, row.job_id) for row in session.execute(due)]


def mark_sent(session: Session, ids: Sequence[int]) -> None:
    """Note that the broker has these bells."""
    session.execute(update(Outbox).where(Outbox.id.in_(ids)).values(sent_at=now()))


def ring_again(session: Session, older_than_s: float, limit: int) -> int:
    """Ring for jobs that wait at the queue's front although their bell was sent long ago; how many.

    Only the ``limit`` most urgent jobs are looked at: any bell wakes a worker for the most urgent one, so a
    long backlog never floods the broker.
    """
    front = (
        select(Job.id)
        .where(Job.state == "queued", Job.available_at <= now())
        .order_by(Job.priority, Job.available_at, Job.id)
        .limit(limit)
        .subquery()
    )
    recent = or_(Outbox.sent_at.is_(None), Outbox.sent_at > after(-older_than_s))
    silent = select(front.c.id).where(~exists().where(Outbox.job_id == front.c.id, recent))
    rung = session.scalars(
        insert(Outbox).from_select(["job_id"], silent, include_defaults=False).returning(Outbox.id)
    )
    return len(rung.all())


def prune(session: Session, older_than_s: float = 86_400.0) -> int:
    """Delete bells sent long ago; how many."""
    old = delete(Outbox).where(Outbox.sent_at < after(-older_than_s)).returning(Outbox.id)
    return len(session.scalars(old).all())
