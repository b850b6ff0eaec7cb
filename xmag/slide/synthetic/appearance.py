"""From stain concentrations to the pixels of a site's scanner: Beer-Lambert, blur, gamma, noise."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from xmag.slide.synthetic.canvas import SCALE

_STRIP = 256


@dataclass(frozen=True)
class Site:
    """How a laboratory stains and scans.

    Attributes:
        stains: optical density (R, G, B) of one unit of haematoxylin, eosin and orange.
        glass: what the empty slide looks like, 0-1.
        blur_um: standard deviation of the optics' blur.
        gamma: exponent of the transmitted light.
        noise: standard deviation of the sensor's noise, 0-255.
        section: thickness of the section relative to the reference, per stain.
    """

    stains: tuple[tuple[float, float, float], ...]
    glass: tuple[float, float, float]
    blur_um: float
    gamma: float
    noise: float
    section: tuple[float, float, float]


SITES = (
    Site(
        stains=((0.95, 1.08, 0.52), (0.10, 0.86, 0.40), (0.09, 0.72, 0.66)),
        glass=(0.955, 0.955, 0.96),
        blur_um=0.35,
        gamma=1.0,
        noise=2.0,
        section=(1.0, 1.0, 1.0),
    ),
    Site(
        stains=((0.76, 1.10, 0.70), (0.22, 0.74, 0.46), (0.16, 0.64, 0.74)),
        glass=(0.925, 0.93, 0.915),
        blur_um=0.8,
        gamma=1.12,
        noise=3.5,
        section=(1.2, 0.78, 0.9),
    ),
)
"""Two laboratories; the second stains bluer and greyer, and scans softer."""


def optical_density(site: Site, rng: np.random.Generator) -> NDArray[np.float32]:
    """(3, 3) density of one canvas unit, rows R, G, B; varies a little from slide to slide."""
    stains = np.array(site.stains) * (1 + rng.normal(0, 0.03, (3, 3)))
    section = np.array(site.section) * np.exp(rng.normal(0, 0.06, 3))
    return np.asarray((stains * section[:, None]).T * site.gamma / SCALE, dtype=np.float32)


def develop(
    sheet: NDArray[np.uint8],
    mpp: float,
    site: Site,
    density: NDArray[np.float32],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Concentrations (h, w, 3) to RGB (h, w, 3); works in strips to bound memory. ``rng`` makes the noise."""
    light = np.asarray(site.glass) ** site.gamma * 255.0
    if site.blur_um / mpp > 0.25:
        sheet = np.asarray(cv2.GaussianBlur(sheet, (0, 0), site.blur_um / mpp), dtype=np.uint8)
    rgb = np.empty_like(sheet)
    for top in range(0, len(sheet), _STRIP):
        strip = sheet[top : top + _STRIP]
        through = np.exp(-cv2.transform(strip.astype(np.float32), density)) * light.astype(np.float32)
        through += rng.standard_normal((*strip.shape[:2], 1), dtype=np.float32) * np.float32(site.noise)
        rgb[top : top + _STRIP] = np.clip(np.rint(through), 0, 255).astype(np.uint8)
    return rgb
