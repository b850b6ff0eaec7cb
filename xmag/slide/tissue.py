"""Tissue on a low level, by fixed colour rules: the same pixels give the same mask everywhere.

H&E absorbs green most: eosin is pink, haematoxylin purple-blue, and in both green is the smallest channel
or nearly so. Glass is colourless at any brightness; borders and black ink are dark and colourless; green,
cyan and blue ink leave more green than red; yellow leaves more green than blue; pure blue and pure red ink
are more saturated than stain. Violet and pale red ink lie inside the colours of H&E and are not told from
tissue.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from xmag.manifest import TissueSpec

DARKEST = 70
"""Largest channel below this is border, ink or fold shadow; 0-255."""

GREEN_OVER_RED = 0.1
"""Most that green may pass red, in units of the pixel's colourfulness (hue at least 234 degrees)."""

GREEN_OVER_BLUE = 0.4
"""Most that green may pass blue, in the same units (hue at most 24 degrees)."""

BLUE_INK = 0.7
"""A bluish pixel (hue below 255 degrees) more saturated than this is ink."""

RED_INK = 0.8
"""A red pixel (hue above 345 degrees) more saturated than this is ink."""

CLOSE_UM = 16.0
"""Gaps up to about twice this are bridged (fat, torn stroma)."""

OPEN_UM = 16.0
"""Specks and fringes up to about twice this are dropped."""


BAND = 256
"""Rows of which the colours are judged at once: bounds the memory."""


def tissue_mask(rgb: NDArray[np.uint8], mpp: float, spec: TissueSpec) -> NDArray[np.bool_]:
    """Tell tissue from glass, ink and border.

    Args:
        rgb: (h, w, 3), the whole slide, transparent parts white.
        mpp: micrometres for each pixel of ``rgb``.
        spec: thresholds.

    Returns:
        (h, w), true on tissue.
    """
    smooth = cv2.medianBlur(rgb, 3)
    mask = np.empty(rgb.shape[:2], np.uint8)
    for top in range(0, len(rgb), BAND):
        mask[top : top + BAND] = _stained(np.asarray(smooth[top : top + BAND], np.uint8), spec.saturation)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _disc(CLOSE_UM / mpp)).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(OPEN_UM / mpp)).astype(np.uint8)
    holes = _components_below(1 - mask, spec.max_hole_um2 / mpp**2, connectivity=4)
    mask = mask | holes
    dust = _components_below(mask, spec.min_area_um2 / mpp**2, connectivity=8)
    return (mask & ~dust).astype(np.bool_)


def _stained(rgb: NDArray[np.uint8], saturation: int) -> NDArray[np.bool_]:
    """(h, w), true where the colour is one of H&E."""
    red, green, blue = (rgb[..., channel].astype(np.float32) for channel in range(3))
    largest = np.maximum(np.maximum(red, green), blue)
    chroma = largest - np.minimum(np.minimum(red, green), blue)
    hue = (green - red <= GREEN_OVER_RED * chroma) & (green - blue <= GREEN_OVER_BLUE * chroma)
    bluish = (largest == blue) & (red - green < 0.25 * chroma)
    reddish = (largest == red) & (blue - green < 0.25 * chroma)
    ink = (bluish & (chroma > BLUE_INK * largest)) | (reddish & (chroma > RED_INK * largest))
    stained: NDArray[np.bool_] = (chroma >= max(saturation, 1)) & (largest >= DARKEST) & hue & ~ink
    return stained


def _disc(radius: float) -> NDArray[np.uint8]:
    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)).astype(np.uint8)


def _components_below(mask: NDArray[np.uint8], pixels: float, *, connectivity: int) -> NDArray[np.uint8]:
    """(h, w), 1 on the components of ``mask`` smaller than ``pixels``."""
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=connectivity)
    small = statistics[:, cv2.CC_STAT_AREA] < pixels
    small[0] = False
    chosen: NDArray[np.uint8] = small[labels].astype(np.uint8)
    return chosen
