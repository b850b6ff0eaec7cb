"""Numbers for Prometheus: a registry for each app, labels from closed sets, no patient data."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300)

_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "PUT"})


class Metrics:
    """Counts requests by the route's template and shows the queue as last read from the database."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "xmag_http_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "xmag_http_request_seconds",
            "Time to the end of the response.",
            ["route", "method"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._bytes = Counter("xmag_upload_bytes", "Upload bytes acknowledged.", registry=self.registry)
        self._jobs = Gauge("xmag_jobs", "Jobs by state.", ["state", "priority"], registry=self.registry)
        self._up = Gauge("xmag_database_up", "1 if the database answered.", registry=self.registry)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(seconds)

    def uploaded(self, count: int) -> None:
        """Bytes that became durable."""
        self._bytes.inc(count)

    def page(self, counts: Mapping[tuple[str, str], int] | None, wanted: Iterable[tuple[str, str]]) -> bytes:
        """The text format; ``counts`` by (state, priority), None when the database did not answer."""
        self._up.set(counts is not None)
        self._jobs.clear()
        if counts is not None:
            for state, priority in wanted:
                self._jobs.labels(state, priority).set(counts.get((state, priority), 0))
        return generate_latest(self.registry)


def known_method(method: str) -> str:
    """The method, or ``other``: labels come from a closed set."""
    return method if method in _METHODS else "other"
