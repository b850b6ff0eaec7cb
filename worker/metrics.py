"""Counters of the worker and the dispatcher, served when ``metrics_port`` is set."""

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from xmag.config import Settings
from xmag.db.attempts import Reaped

JOBS = Counter("xmag_jobs_ended_total", "attempts that ended, by outcome and code", ["outcome", "code"])
TILES = Counter("xmag_tiles_encoded_total", "tiles that went through the encoder")
STAGE_SECONDS = Histogram(
    "xmag_stage_seconds",
    "time of one stage of one slide",
    ["stage"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800),
)
SLOTS_BUSY = Gauge("xmag_slots_busy", "slides in flight")
ENGINE_BUSY = Gauge("xmag_engine_busy_seconds", "seconds that the device has worked since the start")
BELLS = Counter("xmag_bells_rung_total", "messages sent to the broker")
BROKER_FAILURES = Counter("xmag_broker_failures_total", "failed tries to reach the broker")
DATABASE_FAILURES = Counter("xmag_database_failures_total", "failed tries to reach the database")
REAPED = Counter("xmag_jobs_reaped_total", "jobs whose worker was silent or whose time ran out", ["outcome"])
LAST_ROUND = Gauge("xmag_dispatcher_round_timestamp_seconds", "when the dispatcher last finished a round")


def count_reaped(reaped: Reaped) -> None:
    """Add what a sweep moved."""
    for outcome in ("requeued", "dead", "cancelled", "timed_out"):
        REAPED.labels(outcome).inc(getattr(reaped, outcome))


def serve(settings: Settings) -> None:
    """Answer scrapes on ``host:metrics_port``; nothing at port 0."""
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.host)
