"""What a head looked at, and its picture: one flat colour for each tile, exact in geometry."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xmag.errors import Code, RequestError
from xmag.slide.grid import TileGrid

BLEND = 0.5
"""Share of the heatmap's colour over a thumbnail."""


@dataclass(frozen=True)
class Overlay:
    """Numbers for each tile of a slide, by task.

    Attributes:
        grid: the tiles; row i of every array below is tile i.
        width: of the slide, level-0 px.
        height: of the slide, level-0 px.
        attention: task -> (n,) float32, sums to 1.
        evidence: task -> (n, classes) float32; summed over tiles plus the bias it gives the logits.
    """

    grid: TileGrid
    width: int
    height: int
    attention: dict[str, NDArray[np.float32]]
    evidence: dict[str, NDArray[np.float32]]


def render_png(
    overlay: Overlay,
    task: str,
    class_index: int | None,
    *,
    max_px: int = 1024,
    thumbnail: bytes | None = None,
) -> bytes:
    """PNG of the whole slide, longer side ``max_px``.

    Without a class: attention, as a share of the slide's greatest (cividis, dark to yellow). With one: its
    evidence, symmetric about 0 and scaled by the task's greatest absolute value (blue against, white none,
    red for). RGBA with clear glass, or RGB over ``thumbnail`` (an encoded image of the whole slide). Raises
    RequestError NOT_FOUND for a task or class that the overlay does not hold.
    """
    colours = tile_colours(overlay, task, class_index)
    index = tile_index(overlay, picture_size(overlay, max_px))
    picture = np.zeros((*index.shape, 4), np.uint8)
    shown = index >= 0
    picture[shown, :3] = colours[index[shown]]
    picture[shown, 3] = 255
    return _png(picture if thumbnail is None else _blend(picture, thumbnail))


def picture_size(overlay: Overlay, max_px: int) -> tuple[int, int]:
    """Width and height in px, the longer side ``max_px``."""
    scale = max_px / max(overlay.width, overlay.height)
    return max(1, round(overlay.width * scale)), max(1, round(overlay.height * scale))


def tile_index(overlay: Overlay, size: tuple[int, int]) -> NDArray[np.int64]:
    """(h, w) number of the tile under the centre of each pixel, -1 where there is none."""
    grid = overlay.grid
    lookup = np.full((grid.rows, grid.columns), -1, np.int64)
    lookup[grid.cells[:, 1], grid.cells[:, 0]] = np.arange(len(grid))
    columns = _cells(size[0], overlay.width, grid.span[0], grid.columns)
    rows = _cells(size[1], overlay.height, grid.span[1], grid.rows)
    return lookup[rows[:, None], columns[None, :]]


def tile_colours(overlay: Overlay, task: str, class_index: int | None) -> NDArray[np.uint8]:
    """(n, 3) RGB of each tile."""
    if task not in overlay.attention:
        raise RequestError(Code.NOT_FOUND, "this result has no heatmap of that task")
    if class_index is None:
        return _look_up(sequential(), relative_attention(overlay, task) * 255)
    evidence = overlay.evidence[task]
    if not 0 <= class_index < evidence.shape[1]:
        raise RequestError(Code.NOT_FOUND, "the task has no such class")
    greatest = float(np.abs(evidence).max(initial=0)) or 1.0
    return _look_up(diverging(), evidence[:, class_index] / greatest * 127 + 127)


def relative_attention(overlay: Overlay, task: str) -> NDArray[np.float32]:
    """(n,) attention as a share of the slide's greatest, 0-1."""
    attention = overlay.attention[task]
    return attention / (float(attention.max(initial=0)) or 1.0)


def sequential() -> NDArray[np.uint8]:
    """(256, 3) cividis: even in lightness, read alike with every colour vision."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return np.asarray(cv2.applyColorMap(ramp, cv2.COLORMAP_CIVIDIS)[:, 0, ::-1], dtype=np.uint8)


def diverging() -> NDArray[np.uint8]:
    """(255, 3) blue, white, red (ColorBrewer RdBu); the middle, 127, is 0."""
    stops = np.array([[33, 102, 172], [247, 247, 247], [178, 24, 43]], float)
    at = np.linspace(0, 2, 255)
    return np.stack([np.interp(at, range(3), stops[:, c]) for c in range(3)], axis=1).round().astype(np.uint8)


def _look_up(colours: NDArray[np.uint8], at: NDArray[np.float32]) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = colours[np.rint(at).astype(np.int64)]
    return found


def _cells(pixels: int, extent: int, span: float, count: int) -> NDArray[np.int64]:
    """Column (or row) of the grid under the centre of each pixel."""
    centres = (np.arange(pixels) + 0.5) * extent / pixels
    return np.minimum(centres // span, count - 1).astype(np.int64)


def _blend(picture: NDArray[np.uint8], thumbnail: bytes) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    with Image.open(io.BytesIO(thumbnail)) as image:
        ground = np.asarray(image.convert("RGB").resize((width, height)), np.float32)
    weight = picture[..., 3:] / 255 * BLEND
    return (ground * (1 - weight) + picture[..., :3] * weight).round().astype(np.uint8)


def _png(picture: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()
