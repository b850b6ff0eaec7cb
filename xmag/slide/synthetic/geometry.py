"""Shapes and point patterns in micrometres; polygons are (n, k, 2) arrays of x, y."""

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def smooth_noise(
    rng: np.random.Generator, size_um: tuple[float, float], cell_um: float, step_um: float
) -> Floats:
    """Standard normal lattice of ``cell_um`` over ``size_um`` (height, width), resampled to ``step_um``."""
    height, width = size_um
    lattice = rng.standard_normal((max(2, round(height / cell_um)), max(2, round(width / cell_um))))
    shape = (max(1, round(width / step_um)), max(1, round(height / step_um)))
    return np.asarray(cv2.resize(lattice, shape, interpolation=cv2.INTER_CUBIC), dtype=np.float64)


def hexagonal(
    rng: np.random.Generator, size_um: tuple[float, float], spacing_um: float, jitter: float
) -> Floats:
    """(n, 2) points of a hexagonal lattice, each moved by up to ``jitter`` spacings."""
    height, width = size_um
    rows = np.arange(-0.5, height / spacing_um / 0.866 + 0.5)
    columns = np.arange(-0.5, width / spacing_um + 0.5)
    x, y = np.meshgrid(columns, rows)
    x = x + 0.5 * (np.arange(len(rows)) % 2)[:, None]
    points = np.stack([x.ravel(), 0.866 * y.ravel()], axis=1)
    return (points + rng.uniform(-jitter, jitter, points.shape)) * spacing_um


def scattered(rng: np.random.Generator, size_um: tuple[float, float], per_mm2: float) -> Floats:
    """(n, 2) points at random, ``per_mm2`` on average."""
    height, width = size_um
    count = int(rng.poisson(per_mm2 * height * width * 1e-6))
    return rng.random((count, 2)) * (width, height)


def ellipses(centre: Floats, a: Floats, b: Floats, angle: Floats, corners: int = 12) -> Floats:
    """Ellipses with half-axes ``a`` and ``b``; ``angle`` of ``a`` in radians."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    u, v = a[:, None] * np.cos(turn), b[:, None] * np.sin(turn)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    return np.asarray(centre[:, None] + np.stack([u * cos - v * sin, u * sin + v * cos], axis=2))


def wobbly(
    rng: np.random.Generator, centre: Floats, radius: Floats, rough: float, corners: int = 40
) -> Floats:
    """Smooth closed outlines whose radius varies by about ``rough``."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    waves = np.arange(2, 6)
    phase = rng.uniform(0, 2 * np.pi, (len(centre), len(waves), 1))
    size = rng.uniform(0.4, 1.6, (len(centre), len(waves), 1)) * (rough / (waves - 1))[None, :, None]
    radii = radius[:, None] * (1 + (size * np.cos(waves[None, :, None] * turn + phase)).sum(axis=1))
    return np.asarray(centre[:, None] + np.stack([radii * np.cos(turn), radii * np.sin(turn)], axis=2))


def shrink(polygons: Floats, by_um: float | Floats) -> Floats:
    """Every corner moved ``by_um`` towards the polygon's centre (never past it)."""
    centre = polygons.mean(axis=1, keepdims=True)
    arm = polygons - centre
    length = np.linalg.norm(arm, axis=2, keepdims=True)
    move = np.asarray(by_um, dtype=np.float64).reshape(-1, 1, 1)
    return np.asarray(centre + arm * np.clip(1 - move / np.maximum(length, 1e-9), 0, 1))


def packed(rng: np.random.Generator, outline: Floats, spacing_um: float, reach: float = 0.95) -> Floats:
    """(n, 2) points about ``spacing_um`` apart inside a star-shaped outline (k, 2)."""
    centre = outline.mean(axis=0)
    arm = outline - centre
    radii = np.hypot(arm[:, 0], arm[:, 1])
    index = np.arange(int(np.pi * (radii**2).mean() / (0.87 * spacing_um**2))) + 0.5
    angle = index * 2.399963 + rng.uniform(0, 2 * np.pi)
    turn = np.unwrap(np.arctan2(arm[:, 1], arm[:, 0]))
    limit = np.interp(angle, turn, radii, period=2 * np.pi) * np.sqrt(index / max(len(index), 1)) * reach
    points = centre + limit[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(points + rng.normal(0, 0.13 * spacing_um, points.shape))


def around(polygon: Floats, spacing_um: float, offset: float = 0.0) -> tuple[Floats, Floats]:
    """Points every ``spacing_um`` along a closed outline (k, 2), and its direction there in radians."""
    closed = np.concatenate([polygon, polygon[:1]])
    return along(closed, spacing_um, offset)


def along(path: Floats, spacing_um: float, offset: float = 0.0) -> tuple[Floats, Floats]:
    """Points every ``spacing_um`` along an open path (k, 2), and its direction there in radians."""
    step = np.diff(path, axis=0)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(step[:, 0], step[:, 1]))])
    at = np.arange(offset % 1.0, max(length[-1] / spacing_um, 1e-9), 1.0) * spacing_um
    points = np.stack([np.interp(at, length, path[:, 0]), np.interp(at, length, path[:, 1])], axis=1)
    edge = np.clip(np.searchsorted(length, at, side="right") - 1, 0, len(step) - 1)
    return points, np.arctan2(step[edge, 1], step[edge, 0])


def curves(rng: np.random.Generator, start: Floats, angle: Floats, length_um: float, bend: float) -> Floats:
    """Wavy open paths (n, 9, 2) from ``start`` at ``angle``, turning by about ``bend`` radians a step."""
    turns = np.cumsum(rng.normal(0, bend, (len(start), 8)), axis=1) + angle[:, None]
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=2) * length_um / 8
    return np.concatenate([start[:, None], start[:, None] + np.cumsum(steps, axis=1)], axis=1)


def voronoi(points: Floats) -> tuple[list[Floats], Floats]:
    """Cells of the Voronoi diagram, (k, 2) each, and their (n, 2) centres."""
    if len(points) < 3:
        return [], np.zeros((0, 2))
    low, high = np.floor(points.min(axis=0)) - 50, np.ceil(points.max(axis=0)) + 50
    diagram = cv2.Subdiv2D((int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])))
    diagram.insert(points.astype(np.float32))  # type: ignore[call-overload]
    cells, centres = diagram.getVoronoiFacetList([])
    return [np.asarray(cell, dtype=np.float64) for cell in cells], np.asarray(centres, dtype=np.float64)
