"""What lies on slides and is not tissue: pen, and the scanner's black border."""

import cv2
import numpy as np
from numpy.typing import NDArray

PEN_COLOURS = {"blue": (38, 62, 160), "green": (30, 120, 70), "black": (40, 38, 42)}


def with_pen(rgb: NDArray[np.uint8], mpp: float, colour: str, seed: int) -> NDArray[np.uint8]:
    """A copy of (h, w, 3) with a wavy felt-pen stroke about 150 µm wide across it, translucent as ink is."""
    height, width = rgb.shape[:2]
    rng = np.random.default_rng(seed)
    x = np.linspace(-0.05, 1.05, 24) * width
    y = (rng.uniform(0.1, 0.9) + np.cumsum(rng.normal(0, 0.02, 24))) * height
    ink = np.full_like(rgb, 255)
    path = np.stack([x, y], axis=1).astype(np.int32)
    cv2.polylines(ink, [path], False, PEN_COLOURS[colour], max(1, round(150 / mpp)), cv2.LINE_AA)
    return np.asarray(cv2.multiply(rgb, ink, scale=1 / 255), dtype=np.uint8)


def with_border(rgb: NDArray[np.uint8], mpp: float, width_um: float = 100.0) -> NDArray[np.uint8]:
    """A copy of (h, w, 3) whose outermost ``width_um`` are black."""
    side = max(1, round(width_um / mpp))
    framed = np.zeros_like(rgb)
    framed[side:-side, side:-side] = rgb[side:-side, side:-side]
    return framed
