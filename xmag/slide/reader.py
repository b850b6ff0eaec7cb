"""Opening a slide: allow-listed vendors and facts, caps, pixels in one frame. Runs in the decoder process.

Nothing but the facts of `SlideInfo` leaves the file: no label, no macro image, no date, no name.
"""

import math
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from xmag.config import Decode, Route
from xmag.errors import Code, SlideError
from xmag.slide import resample
from xmag.slide.identity import Identity, identify, sha256
from xmag.slide.info import LevelInfo, MppOverride, MppSource, SlideInfo
from xmag.slide.location import Fingerprint, SlideLocation, fingerprint
from xmag.slide.resample import Box
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

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Slide:
    """An open slide; ``close`` it. ``fd`` is the named file, ``route`` how its pixels may be read."""

    handle: openslide.OpenSlide
    fd: int
    info: SlideInfo
    identity: Identity
    resources: ExitStack
    route: Route

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
        handle, fd = _open_handle(location, identity.files[location], stack)
        info = _info(handle, mpp)
        _check_caps(info, limits)
        _check_substance(info, identity.size)
        if digest:
            info = replace(info, sha256=sha256(identity, on_progress))
        identity.check()
        return Slide(handle, fd, info, identity, stack.pop_all(), limits.route)


def _open_handle(
    location: SlideLocation, known: Fingerprint, stack: ExitStack
) -> tuple[openslide.OpenSlide, int]:
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
    return handle, fd


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
    """Resample a box of a level by OpenSlide, as `xmag.slide.resample.shrink` does."""

    def read(left: int, top: int, width: int, height: int) -> tuple[Image.Image, float, float]:
        return _read(slide, level, left, top, width, height)

    return resample.shrink(read, box, size, resampling, tick)


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
