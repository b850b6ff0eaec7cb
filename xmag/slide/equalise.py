"""From means of pixels to what a release's filter would have made of the pixels themselves."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xmag.slide.resample import RESAMPLING

REACH = 3
"""Taps on either side of the middle."""

SMOOTH_STEP = 4.0
"""Further resampling from here on blurs more than the means did."""

NEAR = 1e-3
_PIXELS = 4


def taps(resampling: str, scale: int, step: float) -> NDArray[np.float32] | None:
    """Weights (2 `REACH` + 1,), symmetrical, of sum 1; None where means need no correction.

    A filter that reaches further than its means has steeper edges. The weights are the least-squares fit,
    over edges at every place, of what it gives when it shrinks pixels by ``scale * step``, from means of
    ``scale`` pixels that it then shrinks by ``step``.

    Args:
        resampling: a name in `RESAMPLING`.
        scale: whole pixels along an axis of which means were taken.
        step: means for each pixel of the result, at least about 1.
    """
    if scale == 1 or step > SMOOTH_STEP:
        return None
    margin = math.ceil(3 * step) + 2 + REACH
    count = math.ceil(_PIXELS * step) + 2 * margin
    edges = np.tri(count * scale, dtype=np.float32)
    means = edges.reshape(-1, count, scale).mean(axis=2)
    ends = (margin, margin + _PIXELS * step)
    wanted = _resized(edges, resampling, (ends[0] * scale, ends[1] * scale))
    shifted = [np.roll(means, by, axis=1) + np.roll(means, -by, axis=1) for by in range(REACH + 1)]
    parts = np.stack([_resized(each, resampling, ends).ravel() for each in shifted], axis=1)
    half = np.linalg.lstsq(parts, wanted.ravel(), rcond=None)[0]
    both = np.concatenate([half[:0:-1], [2 * half[0]], half[1:]])
    weights = np.asarray(both / both.sum(), np.float32)
    return weights if abs(weights[REACH] - 1) > NEAR or abs(weights[REACH + 1]) > NEAR else None


def _resized(rows: NDArray[np.float32], resampling: str, ends: tuple[float, float]) -> NDArray[np.float64]:
    """Each row resampled between ``ends``, (n, `_PIXELS`)."""
    image = Image.fromarray(np.ascontiguousarray(rows))
    box = (ends[0], 0, ends[1], image.height)
    return np.asarray(image.resize((_PIXELS, image.height), RESAMPLING[resampling], box=box), np.float64)
