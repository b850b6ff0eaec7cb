"""Resampling at real coordinates, in blocks: the same for every route by which pixels are read."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_BLOCK = 4096
"""Side of the largest source block, without the filter's margin, that is held in memory."""

MAX_STEP = 256
"""Source pixels for each pixel of a result; beyond it means come first, to bound the filter's margin."""

RESAMPLING = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
_SUPPORT = {"lanczos": 3.0, "bicubic": 2.0, "bilinear": 1.0, "box": 0.5}

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 (real)."""

Read = Callable[[int, int, int, int], tuple[Image.Image, float, float]]
"""From left, top, width and height to the region as RGB, white outside, and where it truly starts."""


def shrink(
    read: Read,
    box: Box,
    size: tuple[int, int],
    resampling: str,
    tick: Callable[[float], None],
    block: int = MAX_BLOCK,
) -> NDArray[np.uint8]:
    """Resample a box.

    Args:
        read: gives regions of the source.
        box: in the source's pixels, real.
        size: width and height of the result.
        resampling: a name in `RESAMPLING`.
        tick: called with the share done after each block read.
        block: side of a source block, without the filter's margin.

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
        means = Image.fromarray(shrink(read, box, finer, "box", tick, block))
        return np.asarray(means.resize(size, RESAMPLING[resampling]))
    result = np.empty((height, width, 3), np.uint8)
    for top, bottom in _spans(height, block / step_y):
        for left, right in _spans(width, block / step_x):
            part = (
                box[0] + left * step_x,
                box[1] + top * step_y,
                box[0] + right * step_x,
                box[1] + bottom * step_y,
            )
            result[top:bottom, left:right] = _resample(read, part, (right - left, bottom - top), resampling)
            tick((top * width + right * (bottom - top)) / (width * height))
    return result


def _spans(length: int, block: float) -> Iterator[tuple[int, int]]:
    step = max(1, min(length, int(block)))
    for start in range(0, length, step):
        yield start, min(start + step, length)


def _resample(read: Read, box: Box, size: tuple[int, int], resampling: str) -> NDArray[np.uint8]:
    """Read a box with the margin that the filter needs and resample it at real coordinates."""
    support = _SUPPORT[resampling]
    margin_x = support * max(1.0, (box[2] - box[0]) / size[0]) + 1
    margin_y = support * max(1.0, (box[3] - box[1]) / size[1]) + 1
    left, top = math.floor(box[0] - margin_x), math.floor(box[1] - margin_y)
    right, bottom = math.ceil(box[2] + margin_x), math.ceil(box[3] + margin_y)
    image, origin_x, origin_y = read(left, top, right - left + 1, bottom - top + 1)
    inner = (box[0] - origin_x, box[1] - origin_y, box[2] - origin_x, box[3] - origin_y)
    return np.asarray(image.resize(size, RESAMPLING[resampling], box=inner))
