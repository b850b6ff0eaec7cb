"""The outermost layer: request ids, security headers, the access log, and the last-resort handler."""

import logging
import time
import traceback
from typing import Any
from uuid import uuid4

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics, known_method
from service.problems import respond
from xmag.errors import Code

access = logging.getLogger("xmag.access")
faults = logging.getLogger("xmag.service")

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Edge:
    """ASGI middleware. What it logs: method, route template, status, milliseconds and the request id."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = str(uuid4())
        scope["xmag.request_id"] = request_id
        started, status = time.monotonic(), 0

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _headers(scope, message.get("headers", []), request_id)}
            await send(message)

        try:
            await self.app(scope, receive, dressed)
        except ClientDisconnect:
            pass
        except Exception as error:  # noqa: BLE001 the last-resort handler of this process's edge
            faults.error("request %s failed: %s", request_id, _where(error))
            if not status:
                await respond(Code.INTERNAL, _SORRY, request_id)(scope, receive, dressed)
        finally:
            self._record(scope, status or 499, time.monotonic() - started, request_id)

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = known_method(scope["method"])
        self.metrics.answered(route, method, status, seconds)
        access.info("%s %s %d %.0fms %s", method, route, status, seconds * 1000, request_id)


_SORRY = "a fault of ours: report the request's id, which the log knows"


def _headers(scope: Scope, given: list[Any], request_id: str) -> list[tuple[bytes, bytes]]:
    headers = [(bytes(name).lower(), bytes(value)) for name, value in given]
    names = {name for name, _ in headers}
    extra = {**SECURITY_HEADERS, "x-request-id": request_id}
    if scope["path"].startswith("/v1/uploads"):
        extra["tus-resumable"] = "1.0.0"
    headers += [
        (name.encode(), value.encode()) for name, value in extra.items() if name.encode() not in names
    ]
    return headers


def _where(error: BaseException) -> str:
    """The kind of error and its places in the code, never its message: that may hold a patient's data."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}"
