"""RFC 9457 problem details: the only shape in which this API says no."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from xmag.errors import Code, XmagError

MEDIA_TYPE = "application/problem+json"
INSTANCE = "urn:uuid:5a1e3d0c-5f0e-4f6e-9d1b-1f4c8f1f2b7a"

STATUS: dict[Code, tuple[int, str]] = {
    Code.SLIDE_NOT_FOUND: (422, "No such slide"),
    Code.SLIDE_UNSUPPORTED: (422, "The slide's format is not supported"),
    Code.SLIDE_CORRUPT: (422, "The slide is damaged"),
    Code.SLIDE_TOO_LARGE: (422, "The slide is too large"),
    Code.SLIDE_CHANGED: (409, "The slide's file has changed"),
    Code.MPP_MISSING: (422, "The slide's resolution is not known"),
    Code.NO_TISSUE: (422, "No tissue on the slide"),
    Code.DECODE_CRASH: (422, "The slide broke its reader"),
    Code.DECODE_TIMEOUT: (422, "The slide's reader gave no answer"),
    Code.MODEL_UNAVAILABLE: (409, "No release serves this"),
    Code.MODEL_INTEGRITY: (409, "The release is damaged or not trusted"),
    Code.INFER_OOM: (500, "Out of memory"),
    Code.INFER_NAN: (500, "Not a number"),
    Code.TIME_LIMIT: (500, "Time limit"),
    Code.QUEUE_TIMEOUT: (500, "Waited too long"),
    Code.INTERNAL: (500, "Internal error"),
    Code.INVALID_REQUEST: (422, "Invalid request"),
    Code.UNKNOWN_TASK: (422, "Unknown task"),
    Code.NOT_FOUND: (404, "Not found"),
    Code.PATH_OUTSIDE_ROOT: (422, "The path leaves its root"),
    Code.CONFLICT: (409, "Conflict with the present state"),
    Code.IDEMPOTENCY_MISMATCH: (422, "Idempotency key used with another body"),
    Code.UNAUTHENTICATED: (401, "No valid key"),
    Code.FORBIDDEN: (403, "The key lacks a scope"),
    Code.GONE: (410, "Gone"),
    Code.TOO_LARGE: (413, "Too large"),
    Code.OFFSET_MISMATCH: (409, "Wrong offset"),
    Code.CHECKSUM_MISMATCH: (460, "Checksum mismatch"),
    Code.LOCKED: (423, "Locked"),
    Code.UNSUPPORTED_MEDIA: (415, "Unsupported media type"),
    Code.PRECONDITION: (412, "Precondition failed"),
    Code.TOO_MANY: (429, "Too many"),
    Code.BUSY: (503, "Busy"),
    Code.DATABASE_UNAVAILABLE: (503, "The database does not answer"),
    Code.DISK_FULL: (507, "Disk full"),
    Code.SETUP: (500, "The service is not set up"),
}
"""The one table from code to status and title."""

RETRY_AFTER: dict[Code, int] = {
    Code.LOCKED: 1,
    Code.TOO_MANY: 30,
    Code.BUSY: 2,
    Code.DATABASE_UNAVAILABLE: 2,
    Code.DISK_FULL: 60,
}
"""Seconds after which the same request may succeed."""

_HTTP_CODES = {404: Code.NOT_FOUND, 413: Code.TOO_LARGE, 415: Code.UNSUPPORTED_MEDIA}


class FieldError(BaseModel):
    """One field that did not validate; its value is never repeated."""

    loc: list[str | int] = Field(examples=[["body", "slide", "path"]])
    msg: str = Field(examples=["Field required"])
    type: str = Field(examples=["missing"])


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(examples=["urn:xmag:problem:not-found"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["no job with this id"])
    code: Code = Field(examples=["NOT_FOUND"])
    instance: str = Field(examples=[INSTANCE], description="request id")
    errors: list[FieldError] = Field(default_factory=list)


class RefusedError(XmagError):
    """An error with its own status or headers, where the table's do not fit the route."""

    def __init__(
        self, code: Code, detail: str, *, status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code, detail)
        self.status = status
        self.headers = dict(headers or {})


def respond(
    code: Code,
    detail: str,
    request_id: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, Any]] = (),
) -> Response:
    """The response for one problem; ``Retry-After`` comes from its table unless given."""
    status = status or STATUS[code][0]
    content = {**body(code, detail, f"urn:uuid:{request_id}", status), "errors": list(errors)}
    retry = {"Retry-After": str(RETRY_AFTER[code])} if code in RETRY_AFTER else {}
    return JSONResponse(content, status, {**retry, **(headers or {})}, MEDIA_TYPE)


def request_id(request: Request) -> str:
    """The id that the edge gave this request."""
    return str(request.scope.get("xmag.request_id", "00000000-0000-0000-0000-000000000000"))


async def on_xmag_error(request: Request, error: Exception) -> Response:
    """Errors raised on purpose: their detail was written for the caller."""
    assert isinstance(error, XmagError)
    status = error.status if isinstance(error, RefusedError) else None
    headers = error.headers if isinstance(error, RefusedError) else {}
    if error.code is Code.UNAUTHENTICATED:
        headers = {"WWW-Authenticate": 'Bearer realm="xmag"', **headers}
    return respond(error.code, error.detail, request_id(request), status=status, headers=headers)


async def on_validation_error(request: Request, error: Exception) -> Response:
    """What did not fit the schema: 400 for unreadable JSON, else 422; never with the values sent."""
    assert isinstance(error, RequestValidationError)
    found = [{"loc": list(e["loc"]), "msg": _message(e), "type": e["type"]} for e in error.errors()]
    if any(e["type"] == "json_invalid" for e in found):
        return respond(Code.INVALID_REQUEST, "the body is not JSON", request_id(request), status=400)
    unknown = any(e["type"] == "literal_error" and {"task", "tasks"} & set(e["loc"]) for e in found)
    code = Code.UNKNOWN_TASK if unknown else Code.INVALID_REQUEST
    detail = "the request does not fit its schema: see `errors`"
    return respond(code, detail, request_id(request), errors=found)


async def on_http_error(request: Request, error: Exception) -> Response:
    """The framework's own refusals: no such route, wrong method, unreadable body."""
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, Code.INVALID_REQUEST)
    return respond(
        code, str(error.detail), request_id(request), status=error.status_code, headers=error.headers
    )


def _message(error: Mapping[str, Any]) -> str:
    """Pydantic's sentence, unless it was made by our own ValueError (kept, it holds no value)."""
    return str(error["msg"]).removeprefix("Value error, ")


def documented(*codes: Code) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for the codes, grouped by status."""
    grouped: dict[int | str, list[Code]] = {}
    for code in codes:
        grouped.setdefault(STATUS[code][0], []).append(code)
    return {
        status: example(group[0], int(status), "; ".join(f"{STATUS[code][1]} (`{code}`)" for code in group))
        for status, group in grouped.items()
    }


def example(code: Code, status: int, description: str) -> dict[str, Any]:
    """OpenAPI of one problem response."""
    shown = body(code, "a sentence for people that says what to do next", INSTANCE, status)
    schema = {"$ref": "#/components/schemas/Problem"}
    found: dict[str, Any] = {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": schema, "example": shown}},
    }
    if code in RETRY_AFTER:
        found["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return found


def body(code: Code, detail: str, instance: str, status: int) -> dict[str, Any]:
    """The members of a problem document."""
    return {
        "type": f"urn:xmag:problem:{code.lower().replace('_', '-')}",
        "title": STATUS[code][1],
        "status": status,
        "detail": detail,
        "code": code,
        "instance": instance,
        "errors": [],
    }
