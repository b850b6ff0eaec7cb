"""Attention as a GeoJSON FeatureCollection that QuPath reads: one detection for each tile, level-0 px."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmag.errors import Code, RequestError
from xmag.heatmap import Overlay, relative_attention, sequential

BINS = 5
"""Classes of relative attention; QuPath colours objects by class."""


def attention_geojson(overlay: Overlay, task: str, labels: Sequence[str]) -> dict[str, Any]:
    """Tiles with attention, attention relative to the slide's greatest, and evidence for each label.

    Glass has no tile. Corners are whole level-0 px, clipped to the slide. Raises RequestError NOT_FOUND when
    the overlay does not hold the task.
    """
    if task not in overlay.attention:
        raise RequestError(Code.NOT_FOUND, "this result has no attention of that task")
    table = _measurements(overlay, task, labels)
    shares = relative_attention(overlay, task)
    features = [
        _feature(corners, _classification(share), {name: float(column[i]) for name, column in table.items()})
        for i, (corners, share) in enumerate(zip(_corners(overlay).tolist(), shares.tolist(), strict=True))
    ]
    return {"type": "FeatureCollection", "features": features}


def _measurements(overlay: Overlay, task: str, labels: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    evidence = overlay.evidence[task]
    return {
        "attention": overlay.attention[task],
        "relative attention": relative_attention(overlay, task),
        "tissue": overlay.grid.tissue,
        **{f"evidence {label}": evidence[:, c] for c, label in enumerate(labels)},
    }


def _corners(overlay: Overlay) -> NDArray[np.int64]:
    """(n, 4) whole level-0 px; neighbours share their rounded edge, and no tile is empty."""
    corners = np.rint(overlay.grid.corners()).astype(np.int64)
    size = np.array([overlay.width, overlay.height])
    low = np.minimum(corners[:, :2], size - 1)
    high = np.maximum(np.minimum(corners[:, 2:], size), low + 1)
    return np.concatenate([low, high], axis=1)


def _classification(share: float) -> dict[str, Any]:
    number = min(int(share * BINS), BINS - 1)
    colour = sequential()[round((number + 0.5) / BINS * 255)]
    step = 100 // BINS
    name = f"attention {number * step}-{(number + 1) * step} %"
    return {"name": name, "color": [int(channel) for channel in colour]}


def _feature(
    corners: Sequence[int], classification: dict[str, Any], measurements: dict[str, float]
) -> dict[str, Any]:
    x0, y0, x1, y1 = corners
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "detection",
            "classification": classification,
            "measurements": [{"name": name, "value": value} for name, value in measurements.items()],
        },
    }
