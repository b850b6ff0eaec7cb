"""Views of a slide for people: Deep Zoom tiles and thumbnails, never the label or macro image.

Colours are the scanner's own: the ICC profile is not applied.
"""

from collections.abc import Callable
from io import BytesIO

from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from xmag.errors import Code, RequestError
from xmag.slide.reader import Slide, shrink
from xmag.slide.resample import MAX_BLOCK
from xmag.slide.tiles import whole

QUALITY = 85
MAX_THUMBNAIL = 4096

Tick = Callable[[float], None]


def generator(slide: Slide) -> DeepZoomGenerator:
    """The pyramid of 254 px tiles with 1 px overlap over the whole slide."""
    return DeepZoomGenerator(slide.handle, tile_size=254, overlap=1, limit_bounds=False)


def dzi(slide: Slide) -> str:
    """The descriptor, XML."""
    return str(generator(slide).get_dzi("jpeg"))


def dzi_tile(slide: Slide, level: int, column: int, row: int, tick: Tick) -> bytes:
    """One tile, JPEG; RequestError NOT_FOUND when the pyramid has no such tile."""
    pyramid = generator(slide)
    try:
        (x, y), source, (width, height) = pyramid.get_tile_coordinates(level, (column, row))
    except ValueError:
        raise RequestError(Code.NOT_FOUND, "the slide has no such tile") from None
    if width * height <= MAX_BLOCK**2:
        return _jpeg(pyramid.get_tile(level, (column, row)))
    # a slide without low levels: too much for one read
    downsample = slide.info.levels[source].downsample
    left, top = x / downsample, y / downsample
    size = pyramid.get_tile_dimensions(level, (column, row))
    box = (left, top, left + width, top + height)
    return _jpeg(Image.fromarray(shrink(slide, source, box, size, "box", tick)))


def thumbnail(slide: Slide, max_px: int, tick: Tick) -> bytes:
    """The whole slide within ``max_px`` (at most `MAX_THUMBNAIL`) along its longer side, JPEG."""
    longer = max(slide.info.width, slide.info.height)
    ratio = min(max(max_px, 1), MAX_THUMBNAIL, longer) / longer
    size = (max(1, round(slide.info.width * ratio)), max(1, round(slide.info.height * ratio)))
    return _jpeg(Image.fromarray(whole(slide, size, "lanczos", tick)))


def _jpeg(image: Image.Image) -> bytes:
    """JPEG without any metadata of the slide."""
    buffer = BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
