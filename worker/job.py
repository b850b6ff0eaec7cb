"""One claim from slide to committed end: the only place where an exception becomes a job's code."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from sqlalchemy import Engine as Database
from sqlalchemy.orm import Session

from worker.keeper import Keeper, StopWork
from worker.metrics import DATABASE_FAILURES, JOBS
from xmag import analyze
from xmag.config import Settings
from xmag.db import attempts, releases, results, slides
from xmag.db.session import transaction
from xmag.db.slides import SlideRow
from xmag.errors import JOB_CODES, Code, PlaceError, ReleaseError, SlideError, XmagError
from xmag.flights import Flights
from xmag.nn.runtime import Engine
from xmag.slide.decoders import Decoders
from xmag.slide.location import SlideLocation

LOG = logging.getLogger("worker")
UPLOADS_ROOT = "uploads"
SETTLE_SECONDS = 60.0
HAND_BACK_SECONDS = 5.0
BROKEN = "the service failed on this slide: its log names the reason under the job's id"


@dataclass(frozen=True)
class Place:
    """What the claims of one worker process share."""

    settings: Settings
    database: Database
    engine: Engine
    draining: threading.Event
    decoders: Decoders
    flights: Flights


@dataclass(frozen=True)
class Ending:
    """How an attempt ends: a name for people, and the guarded write (None: nothing may be written)."""

    outcome: str
    write: Callable[[Session], bool] | None
    code: str = ""
    seconds: float = SETTLE_SECONDS


def run(claim: attempts.Claim, place: Place) -> None:
    """Work on a claim and commit its end; a fenced attempt writes nothing."""
    fields = {"job": str(claim.job_id)}
    LOG.info("claimed", extra=fields)
    began = time.monotonic()
    with Keeper(place.database, claim, place.settings, place.draining) as keeper:
        outcome, code = _commit(_attempt(claim, place, keeper), claim, place)
    JOBS.labels(outcome, code).inc()
    fields |= {"outcome": outcome, "code": code}
    LOG.info("ended", extra={**fields, "seconds": round(time.monotonic() - began, 3)})


def _attempt(claim: attempts.Claim, place: Place, keeper: Keeper) -> Ending:
    try:
        analysis = analyze.analyze(
            _request(claim, place.settings),
            place.engine,
            place.settings,
            keeper.note,
            decoders=place.decoders,
            flights=place.flights,
            urgent=claim.urgent,
        )
    except StopWork as stop:
        return _stopped(claim, stop)
    except XmagError as error:
        return _failed(claim, place, error)
    except Exception:
        LOG.exception("the work failed", extra={"job": str(claim.job_id)})
        return _fail(claim, Code.INTERNAL, BROKEN)
    result = _result(analysis)
    return Ending("succeeded", lambda session: attempts.succeed(session, claim, result))


def _request(claim: attempts.Claim, settings: Settings) -> analyze.Request:
    return analyze.Request(
        location=locate(claim.slide, settings),
        heads=dict(claim.heads),
        mpp=claim.mpp,
        expected=claim.slide.fingerprint,
        known=slides.known(claim.slide),
    )


def locate(slide: SlideRow, settings: Settings) -> SlideLocation:
    """Where this worker finds the slide; raises SLIDE_NOT_FOUND when it does not have the root."""
    root = settings.uploads_dir if slide.root == UPLOADS_ROOT else settings.slide_roots.get(slide.root)
    if root is None:
        reason = "the worker has no slide root of this name: give it the same roots as the gateway"
        raise SlideError(Code.SLIDE_NOT_FOUND, reason)
    return SlideLocation(root, PurePosixPath(slide.relative))


def _result(analysis: analyze.Analysis) -> results.NewResult:
    return results.NewResult(
        slide=analysis.slide,
        tiles=analysis.tiles,
        predictions=tuple(
            results.NewPrediction(
                task=one.task,
                outcome=one.outcome,
                label=one.label,
                probabilities=one.probabilities,
                release=one.release,
            )
            for one in analysis.predictions
        ),
        overlays=analysis.overlays,
        embeddings=analysis.embeddings,
        provenance=analysis.provenance,
        document=analyze.to_json(analysis),
    )


def _stopped(claim: attempts.Claim, stop: StopWork) -> Ending:
    if stop.reason == "cancelled":
        return Ending("cancelled", lambda session: attempts.cancelled(session, claim))
    if stop.reason == "draining":
        write = lambda session: attempts.hand_back(session, claim)  # noqa: E731
        return Ending("handed_back", write, seconds=HAND_BACK_SECONDS)
    return Ending("fenced", None)


def _failed(claim: attempts.Claim, place: Place, error: XmagError) -> Ending:
    """A job's code; trouble of the place (a full disk) is tried again later, and not for ever."""
    LOG.warning("the work ended", extra={"job": str(claim.job_id), "code": error.code})
    if isinstance(error, PlaceError):
        lease, code, detail = place.settings.lease, error.code, error.detail
        return Ending("lost", lambda session: attempts.lost(session, claim, code, detail, lease), code)
    if error.code == Code.MODEL_INTEGRITY:
        _reject_damaged(claim, place)
    if error.code == Code.PATH_OUTSIDE_ROOT:
        return _fail(claim, Code.SLIDE_NOT_FOUND, error.detail)
    return _fail(claim, error.code if error.code in JOB_CODES else Code.INTERNAL, error.detail)


def _fail(claim: attempts.Claim, code: Code, detail: str) -> Ending:
    return Ending("failed", lambda session: attempts.fail(session, claim, code, detail), code)


def _commit(ending: Ending, claim: attempts.Claim, place: Place) -> tuple[str, str]:
    """Outcome and code of what was written; a result that the database refuses fails the job."""
    try:
        return _settle(ending, place.database)
    except XmagError as error:
        ending = _failed(claim, place, error)
    except Exception:
        LOG.exception("the end was refused", extra={"job": str(claim.job_id)})
        ending = _fail(claim, Code.INTERNAL, BROKEN)
    return _settle(ending, place.database)


def _settle(ending: Ending, database: Database) -> tuple[str, str]:
    """Commit the end, trying again while the database is away."""
    if ending.write is None:
        return ending.outcome, ending.code
    deadline, pause = time.monotonic() + ending.seconds, 0.1
    while True:
        try:
            with transaction(database) as session:
                written = ending.write(session)
            return (ending.outcome, ending.code) if written else ("fenced", "")
        except PlaceError as error:
            DATABASE_FAILURES.inc()
            if time.monotonic() > deadline:
                return "lost", error.code
        time.sleep(pause)
        pause = min(2.0, pause * 2)


def _reject_damaged(claim: attempts.Claim, place: Place) -> None:
    """Mark those of the claim's releases that do not load, so that nobody submits to them again."""
    for digest in sorted(set(claim.heads.values())):
        for damaged, reason in _damage(place.engine, digest):
            LOG.error("a release is damaged", extra={"digest": damaged})
            _settle(_rejection(damaged, reason), place.database)


def _rejection(digest: str, reason: str) -> Ending:
    def write(session: Session) -> bool:
        releases.reject(session, digest, reason)
        return True

    return Ending("rejected", write, seconds=HAND_BACK_SECONDS)


def _damage(engine: Engine, head: str) -> list[tuple[str, str]]:
    try:
        encoder = engine.head(head).manifest.encoder
    except ReleaseError as error:
        return [(head, error.detail)] if error.code == Code.MODEL_INTEGRITY else []
    try:
        engine.encoder(encoder)
    except ReleaseError as error:
        return [(encoder, error.detail)] if error.code == Code.MODEL_INTEGRITY else []
    return []
