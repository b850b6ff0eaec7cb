"""Slides as pictures: facts from an allow-list, a thumbnail, Deep Zoom tiles; never label or macro."""

from collections.abc import Callable
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response

from service.caching import etag, unchanged
from service.guard import GuardedRoute, OneGateway, scope
from service.schemas import SlideFacts
from xmag.db import slides
from xmag.db.slides import SlideRow
from xmag.errors import Code, RequestError
from xmag.slide.decoder import Decoder

router = APIRouter(prefix="/v1/slides/{slide_id}", tags=["slides"], route_class=GuardedRoute)

_VIEW = scope(
    "read",
    Code.NOT_FOUND,
    Code.SLIDE_NOT_FOUND,
    Code.SLIDE_CHANGED,
    Code.SLIDE_CORRUPT,
    Code.SLIDE_UNSUPPORTED,
    Code.DECODE_CRASH,
    Code.DECODE_TIMEOUT,
    Code.INVALID_REQUEST,
    Code.BUSY,
)


def _viewing(media: str) -> dict[str, Any]:
    """Keyword arguments of a route that answers with a picture."""
    pictures = {200: {"content": {media: {}}}, 304: {"description": "not modified"}}
    return {
        "response_class": Response,
        "openapi_extra": _VIEW["openapi_extra"],
        "responses": {**pictures, **_VIEW["responses"]},
    }


Level = Annotated[int, Path(ge=0, le=32)]
Place = Annotated[int, Path(ge=0, le=10_000_000)]


@router.get(
    "",
    response_model=SlideFacts,
    summary="Facts of a slide",
    **scope("read", Code.NOT_FOUND, Code.INVALID_REQUEST),
)
async def facts(slide_id: UUID, gateway: OneGateway) -> SlideFacts:
    """No path, no file name, no property of the file beyond this list."""
    return SlideFacts.of(await _row(gateway, slide_id))


@router.get("/thumbnail", summary="The whole slide, small", **_viewing("image/jpeg"))
async def thumbnail(
    request: Request,
    slide_id: UUID,
    gateway: OneGateway,
    max_px: Annotated[int, Query(ge=16, le=2048, description="longer side")] = 512,
) -> Response:
    """JPEG."""
    look = _thumbnail(max_px)
    return await _show(request, gateway, slide_id, look, "image/jpeg", f"thumbnail {max_px}")


@router.get("/dzi/slide.dzi", summary="Deep Zoom descriptor", **_viewing("application/xml"))
async def descriptor(request: Request, slide_id: UUID, gateway: OneGateway) -> Response:
    """XML for OpenSeadragon; tiles lie beside it."""
    return await _show(request, gateway, slide_id, _descriptor, "application/xml", "dzi")


@router.get(
    "/dzi/slide_files/{level}/{column}_{row}.{suffix}", summary="Deep Zoom tile", **_viewing("image/jpeg")
)
async def tile(
    request: Request,
    slide_id: UUID,
    level: Level,
    column: Place,
    row: Place,
    suffix: Literal["jpg", "jpeg"],  # noqa: ARG001 both are the same picture
    gateway: OneGateway,
) -> Response:
    """JPEG under either suffix; 404 outside the slide."""
    look = _tile(level, column, row)
    return await _show(request, gateway, slide_id, look, "image/jpeg", f"tile {level} {column} {row}")


async def _show(
    request: Request,
    gateway: OneGateway,
    slide_id: UUID,
    look: Callable[[Decoder], bytes],
    media: str,
    what: str,
) -> Response:
    slide = await _row(gateway, slide_id)
    seen = slide.fingerprint
    tag = etag(str(slide.id), str(seen.size), str(seen.mtime_ns), str(seen.inode), what)
    headers = {"ETag": tag, "Cache-Control": "private, max-age=3600"}
    if unchanged(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(await gateway.viewers.show(slide, look), media_type=media, headers=headers)


async def _row(gateway: OneGateway, slide_id: UUID) -> SlideRow:
    row = await gateway.database(lambda session: slides.get(session, slide_id))
    if row is None:
        raise RequestError(Code.NOT_FOUND, "no slide has this id")
    return row


def _thumbnail(max_px: int) -> Callable[[Decoder], bytes]:
    return lambda decoder: decoder.thumbnail(max_px)


def _descriptor(decoder: Decoder) -> bytes:
    return decoder.dzi().encode()


def _tile(level: int, column: int, row: int) -> Callable[[Decoder], bytes]:
    return lambda decoder: decoder.dzi_tile(level, column, row)
