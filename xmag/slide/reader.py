"""Opening a slide: allow-listed vendors and facts, caps, pixels in one frame. Runs in the decoder process.

Nothing but the facts of `SlideInfo` leaves the file: no label, no macro image, no date, no name.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from xmag.config import Decode
from xmag.errors import Code, SlideError
from xmag.slide.identity import Identity, identify, sha256
from xmag.slide.info import LevelInfo, MppOverride, MppSource, SlideInfo
from xmag.slide.location import Fingerprint, SlideLocation, fingerprint
from xmag.slide.tiff import cut_short
from xmag.units import Level0Px, Mpp, MppXY

VENDORS = frozenset(
    {
        "aperio",
        "dicom",
        "generic-tiff",
        "hamamatsu",
        "huron",
        "leica",
        "mirax",
        "philips",
        "sakura",
        "trestle",
        "ventana",
        "zeiss",
    }
)
"""OpenSlide's names of the formats that are read."""

NEEDED_SUFFIX = {"dicom": frozenset({".dcm"}), "mirax": frozenset({".mrxs"})}
HAMAMATSU_INDEX = frozenset({".vms", ".vmu"})
"""Formats that name other files are read under their own suffix alone: it tells `identify` what to check."""

MAX_LEVELS = 64
MAX_PIXELS_PER_BYTE = 20_000
"""Of level 0, above which a file holds next to nothing: well-packed blank tiles stay a decade below."""

SMALL_PIXELS = 25_000_000
"""Slides of fewer pixels are read quickly, however empty."""

MAX_BLOCK = 4096
"""Side of the largest source block, without the filter's margin, that is held in memory."""

MAX_STEP = 256
"""Source pixels for each pixel of a result; beyond it means come first, to bound the filter's margin."""

WHITE = (255, 255, 255)

RESAMPLING = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
_SUPPORT = {"lanczos": 3.0, "bicubic": 2.0, "bilinear": 1.0, "box": 0.5}

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 (real)."""


@dataclass(frozen=True)
class Slide:
    """An open slide; ``close`` it."""

    handle: openslide.OpenSlide
    info: SlideInfo
    identity: Identity
    resources: ExitStack

    def close(self) -> None:
        """Close the file."""
        self.resources.close()

    def level_for(self, downsample: float) -> int:
        """The smallest level that still holds the detail wanted; 2 % short of it is near enough."""
        fitting = [i for i, each in enumerate(self.info.levels) if each.downsample <= downsample * 1.02]
        return max(fitting, key=lambda i: self.info.levels[i].downsample, default=0)

    def scale(self, level: int) -> tuple[float, float]:
        """Level-0 pixels for each pixel of ``level`` along x and y."""
        here = self.info.levels[level]
        return _axis_scale(self.info.width, here.width), _axis_scale(self.info.height, here.height)


def open_slide(
    location: SlideLocation,
    limits: Decode,
    *,
    mpp: MppOverride | None,
    expected: Fingerprint | None,
    digest: bool,
    on_progress: Callable[[float], None],
) -> Slide:
    """Open, check the caps and take the digest.

    Raises SLIDE_NOT_FOUND, SLIDE_UNSUPPORTED, SLIDE_CORRUPT, SLIDE_TOO_LARGE, SLIDE_CHANGED and
    PATH_OUTSIDE_ROOT.
    """
    identity = identify(location)
    if expected is not None and identity.files[location] != expected:
        raise SlideError(
            Code.SLIDE_CHANGED, "the slide changed on disk since it was registered: submit it again"
        )
    if identity.size > limits.max_file_bytes:
        raise SlideError(Code.SLIDE_TOO_LARGE, f"the slide's files pass {limits.max_file_bytes} bytes")
    with ExitStack() as stack:
        handle = _open_handle(location, identity.files[location], stack)
        info = _info(handle, mpp)
        _check_caps(info, limits)
        _check_substance(info, identity.size)
        if digest:
            info = replace(info, sha256=sha256(identity, on_progress))
        identity.check()
        return Slide(handle, info, identity, stack.pop_all())


def _open_handle(location: SlideLocation, known: Fingerprint, stack: ExitStack) -> openslide.OpenSlide:
    fd = location.open_fd()
    stack.callback(os.close, fd)
    if fingerprint(fd) != known:
        raise SlideError(Code.SLIDE_CHANGED, "the slide was replaced while it was opened: submit it again")
    by_fd = sys.platform == "linux" and not location.in_folder
    path = f"/proc/self/fd/{fd}" if by_fd else str(location.root / location.relative)
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor is None:
        raise _unrecognised(fd)
    if vendor not in VENDORS or not _suffix_fits(vendor, location.relative.suffix.lower(), fd):
        raise SlideError(
            Code.SLIDE_UNSUPPORTED,
            "this slide format is not supported under this file suffix: see the list of formats",
        )
    handle = openslide.OpenSlide(path)
    stack.callback(handle.close)
    return handle


def _suffix_fits(vendor: str, suffix: str, fd: int) -> bool:
    """Whether all files that the slide may name were checked; NDPI, Hamamatsu's TIFF, names none."""
    if vendor == "hamamatsu" and os.pread(fd, 2, 0) not in {b"II", b"MM"}:
        return suffix in HAMAMATSU_INDEX
    return vendor not in NEEDED_SUFFIX or suffix in NEEDED_SUFFIX[vendor]


def _unrecognised(fd: int) -> SlideError:
    if not os.fstat(fd).st_size or cut_short(fd):
        return SlideError(Code.SLIDE_CORRUPT, "the slide is empty or cut short: copy it again")
    return SlideError(Code.SLIDE_UNSUPPORTED, "the file is no slide that OpenSlide reads")


def _info(handle: openslide.OpenSlide, override: MppOverride | None) -> SlideInfo:
    width, height = handle.dimensions
    mpp, source = _mpp(handle, override)
    return SlideInfo(
        sha256="",
        width=Level0Px(width),
        height=Level0Px(height),
        mpp=mpp,
        mpp_source=source,
        vendor=handle.properties[openslide.PROPERTY_NAME_VENDOR],
        levels=tuple(
            LevelInfo(w, h, float(downsample))
            for (w, h), downsample in zip(handle.level_dimensions, handle.level_downsamples, strict=True)
        ),
    )


def _mpp(handle: openslide.OpenSlide, override: MppOverride | None) -> tuple[MppXY | None, MppSource | None]:
    if override is not None:
        return override.mpp, "request"
    x = _positive(handle.properties.get(openslide.PROPERTY_NAME_MPP_X))
    y = _positive(handle.properties.get(openslide.PROPERTY_NAME_MPP_Y))
    if x is None or y is None:
        return None, None
    return MppXY(Mpp(x), Mpp(y)), "file"


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _check_caps(info: SlideInfo, limits: Decode) -> None:
    if any(not (1 <= each.width <= info.width and 1 <= each.height <= info.height) for each in info.levels):
        raise SlideError(
            Code.SLIDE_CORRUPT, "the slide's levels do not fit each other: scan or copy it again"
        )
    if max(info.width, info.height) > limits.max_side or info.width * info.height > limits.max_pixels:
        raise SlideError(Code.SLIDE_TOO_LARGE, "the slide has more pixels than the service accepts")
    if len(info.levels) > MAX_LEVELS:
        raise SlideError(Code.SLIDE_TOO_LARGE, f"the slide has more than {MAX_LEVELS} levels")


def _check_substance(info: SlideInfo, size: int) -> None:
    """A header of a few bytes may declare billions of pixels, and reading blanks keeps a decoder busy too."""
    pixels = info.width * info.height
    if pixels > max(SMALL_PIXELS, MAX_PIXELS_PER_BYTE * size):
        raise SlideError(
            Code.SLIDE_CORRUPT, "the file is far too small for the pixels it declares: copy it again"
        )


def _axis_scale(base: int, length: int) -> float:
    """Scale of a level along one axis: the whole number it was made with, if rounding explains the rest."""
    whole = round(base / length)
    return float(whole) if abs(base / whole - length) < 1 else base / length


def shrink(
    slide: Slide, level: int, box: Box, size: tuple[int, int], resampling: str, tick: Callable[[float], None]
) -> NDArray[np.uint8]:
    """Resample a box of a level.

    Args:
        slide: an open slide.
        level: index of the pyramid level to read.
        box: in the level's pixels, real; white outside the slide and where it is transparent.
        size: width and height of the result.
        resampling: a name in `RESAMPLING`.
        tick: called with the share done after each block read.

    Returns:
        (height, width, 3) RGB, the same for any block size.
    """
    width, height = size
    step_x, step_y = (box[2] - box[0]) / width, (box[3] - box[1]) / height
    if max(step_x, step_y) > MAX_STEP:
        finer = (
            max(width, int((box[2] - box[0]) / MAX_STEP) + 1),
            max(height, int((box[3] - box[1]) / MAX_STEP) + 1),
        )
        means = Image.fromarray(shrink(slide, level, box, finer, "box", tick))
        return np.asarray(means.resize(size, RESAMPLING[resampling]))
    result = np.empty((height, width, 3), np.uint8)
    for top, bottom in _spans(height, MAX_BLOCK / step_y):
        for left, right in _spans(width, MAX_BLOCK / step_x):
            part = (
                box[0] + left * step_x,
                box[1] + top * step_y,
                box[0] + right * step_x,
                box[1] + bottom * step_y,
            )
            result[top:bottom, left:right] = _resample(
                slide, level, part, (right - left, bottom - top), resampling
            )
            tick((top * width + right * (bottom - top)) / (width * height))
    return result


def _spans(length: int, block: float) -> Iterator[tuple[int, int]]:
    step = max(1, min(length, int(block)))
    for start in range(0, length, step):
        yield start, min(start + step, length)


def _resample(
    slide: Slide, level: int, box: Box, size: tuple[int, int], resampling: str
) -> NDArray[np.uint8]:
    """Read a box with the margin that the filter needs and resample it at real coordinates."""
    support = _SUPPORT[resampling]
    margin_x = support * max(1.0, (box[2] - box[0]) / size[0]) + 1
    margin_y = support * max(1.0, (box[3] - box[1]) / size[1]) + 1
    left, top = math.floor(box[0] - margin_x), math.floor(box[1] - margin_y)
    right, bottom = math.ceil(box[2] + margin_x), math.ceil(box[3] + margin_y)
    image, origin_x, origin_y = _read(slide, level, left, top, right - left + 1, bottom - top + 1)
    inner = (box[0] - origin_x, box[1] - origin_y, box[2] - origin_x, box[3] - origin_y)
    return np.asarray(image.resize(size, RESAMPLING[resampling], box=inner))


def _read(
    slide: Slide, level: int, left: int, top: int, width: int, height: int
) -> tuple[Image.Image, float, float]:
    """Read a region as RGB on white, and where in the level it truly starts.

    OpenSlide takes level-0 coordinates and interpolates between pixels of the level, so the region starts at
    a whole level-0 pixel, which is not always a whole pixel of the level. It truncates a negative start to
    whole pixels, so that part is filled here.
    """
    downsample = slide.info.levels[level].downsample
    pad_x, pad_y = max(0, -left), max(0, -top)
    x, y = round((left + pad_x) * downsample), round((top + pad_y) * downsample)
    inside = (max(1, width - pad_x), max(1, height - pad_y))
    image = on_white(slide.handle.read_region((x, y), level, inside))
    if pad_x or pad_y:
        canvas = Image.new("RGB", (width, height), WHITE)
        canvas.paste(image, (pad_x, pad_y))
        image = canvas
    return image, x / downsample - pad_x, y / downsample - pad_y


def on_white(rgba: Image.Image) -> Image.Image:
    """RGB of an RGBA image over white."""
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB")
    white = Image.new("RGB", rgba.size, WHITE)
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white
