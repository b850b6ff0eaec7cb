"""Resumable uploads: tus 1.0 core, creation, checksum, termination, expiration."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Request, Response

from service.guard import Caller, GuardedRoute, OneGateway, scope
from service.problems import RefusedError
from service.upload_files import parse_metadata
from service.uploading import append, current, end_upload, open_upload
from xmag.db.uploads import UploadRow
from xmag.errors import Code, RequestError

VERSION = "1.0.0"
BYTES = "application/offset+octet-stream"
EXTENSIONS = "creation,checksum,termination,expiration"

router = APIRouter(prefix="/v1/uploads", tags=["uploads"], route_class=GuardedRoute)


def tus(tus_resumable: Annotated[str | None, Header(examples=[VERSION])] = None) -> None:
    """Refuse another or no protocol version."""
    if tus_resumable != VERSION:
        raise RefusedError(
            Code.PRECONDITION, f"send `Tus-Resumable: {VERSION}`", headers={"Tus-Version": VERSION}
        )


Tus = Depends(tus)
WholeNumber = Annotated[str, Header(pattern=r"^[0-9]{1,18}$", examples=["0"])]
STEP = (Code.PRECONDITION, Code.NOT_FOUND, Code.GONE, Code.INVALID_REQUEST)


@router.options("", status_code=204, summary="What this tus server can do", **scope("open"))
async def discover(gateway: OneGateway) -> Response:
    """Versions, extensions and caps."""
    return Response(
        status_code=204,
        headers={
            "Tus-Version": VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Max-Size": str(gateway.settings.uploads.max_bytes),
            "Tus-Checksum-Algorithm": "sha256,sha1",
        },
    )


@router.post(
    "",
    status_code=201,
    summary="Begin an upload",
    response_class=Response,
    dependencies=[Tus],
    **scope(
        "submit",
        Code.PRECONDITION,
        Code.INVALID_REQUEST,
        Code.UNSUPPORTED_MEDIA,
        Code.TOO_LARGE,
        Code.TOO_MANY,
        Code.DISK_FULL,
    ),
)
async def begin(
    gateway: OneGateway,
    caller: Caller,
    upload_length: WholeNumber,
    upload_metadata: Annotated[str, Header(max_length=4096)] = "",
) -> Response:
    """The answer's Location is where the bytes go; its last segment is the id to submit.

    `Upload-Metadata` may hold `filename` (only its suffix is read) and `sha256` of the whole file (hex).
    """
    suffix, sha256 = parse_metadata(upload_metadata)
    if int(upload_length) == 0:
        raise RequestError(Code.INVALID_REQUEST, "a slide has at least one byte: send its Upload-Length")
    upload_id = await open_upload(gateway, int(upload_length), suffix, sha256, caller)
    expires = datetime.now(UTC) + timedelta(seconds=gateway.settings.uploads.expire_seconds)
    headers = {
        "Location": f"/v1/uploads/{upload_id}",
        "Upload-Expires": format_datetime(expires, usegmt=True),
    }
    return Response(status_code=201, headers=headers)


@router.head(
    "/{upload_id}",
    summary="How far an upload is",
    response_class=Response,
    dependencies=[Tus],
    **scope("submit", *STEP),
)
async def progress(gateway: OneGateway, caller: Caller, upload_id: UUID) -> Response:
    """`Upload-Offset` bytes are durable; continue from there."""
    return Response(headers=_state(await current(gateway, upload_id, caller)))


_SEND = scope(
    "submit",
    *STEP,
    Code.UNSUPPORTED_MEDIA,
    Code.OFFSET_MISMATCH,
    Code.CHECKSUM_MISMATCH,
    Code.LOCKED,
    Code.TOO_LARGE,
    Code.DISK_FULL,
)
_BYTES = {"required": True, "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}


@router.patch(
    "/{upload_id}",
    status_code=204,
    summary="Send bytes",
    response_class=Response,
    dependencies=[Tus],
    responses=_SEND["responses"],
    openapi_extra={**_SEND["openapi_extra"], "requestBody": _BYTES},
)
async def send(
    request: Request,
    gateway: OneGateway,
    caller: Caller,
    upload_id: UUID,
    upload_offset: WholeNumber,
    content_type: Annotated[str, Header()] = "",
    upload_checksum: Annotated[str | None, Header(max_length=128)] = None,
) -> Response:
    """The raw bytes from `Upload-Offset` on. The last ones are answered once the whole file is checked."""
    if content_type != BYTES:
        raise RequestError(Code.UNSUPPORTED_MEDIA, f"send the bytes as `Content-Type: {BYTES}`")
    row = await append(gateway, upload_id, int(upload_offset), request, upload_checksum, caller)
    return Response(status_code=204, headers=_state(row))


@router.delete(
    "/{upload_id}",
    status_code=204,
    summary="Give an upload up",
    response_class=Response,
    dependencies=[Tus],
    **scope("submit", *STEP, Code.CONFLICT, Code.LOCKED),
)
async def terminate(gateway: OneGateway, caller: Caller, upload_id: UUID) -> Response:
    """Deletes the bytes; a stored upload stays, jobs may need it (409)."""
    await end_upload(gateway, upload_id, caller)
    return Response(status_code=204)


def _state(row: UploadRow) -> dict[str, str]:
    headers: dict[str, Any] = {"Upload-Offset": str(row.offset_bytes), "Upload-Length": str(row.size)}
    if row.state == "open":
        headers["Upload-Expires"] = format_datetime(row.expires_at.astimezone(UTC), usegmt=True)
    return headers
