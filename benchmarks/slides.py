"""Slides to measure on: large, Aperio-like, of real JPEG tiles, made in seconds.

One patch of synthetic H&E is rendered at level 0, mirrored to a canvas without seams and laid out in cells
over the slide. Each distinct JPEG tile is encoded once; its bytes are written wherever it occurs, so that a
reader meets a file of real size. All levels are averages of the same canvas.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray

from xmag.manifest import TilingSpec
from xmag.slide.grid import plan_grid
from xmag.slide.synthetic.recipe import Recipe
from xmag.slide.synthetic.render import render
from xmag.units import Mpp, MppXY

Rgb = NDArray[np.uint8]
CELL = 1024
"""Level-0 pixels of one cell of the layout: four tiles wide at level 0, one at downsample 4."""

TILE = 256
REPEATED = (1, 4)
"""Downsamples whose tiles are repeated; smaller levels are written as pictures."""

THUMBNAIL_PX = 768
SEED = 5
FORMAT = 4
"""Part of a slide's name in the cache: raise it when other bytes are made from the same plan."""


@dataclass(frozen=True)
class Plan:
    """A slide to make: level-0 size and mpp, downsamples, and about how many 5x tiles hold tissue."""

    width: int
    height: int
    mpp: float
    levels: tuple[int, ...]
    tiles: int
    patch_px: int = 4096
    quality: int = 75

    @property
    def name(self) -> str:
        """File name; another plan has another."""
        text = json.dumps([FORMAT, SEED, asdict(self)], sort_keys=True)
        return f"{self.tiles}-tiles-{self.mpp:g}-{sha256(text.encode()).hexdigest()[:12]}.svs"


def base_40x(tiles: int = 537, grow: float = 1.0) -> Plan:
    """0.25 mpp with levels 1, 4, 16 and 64; ``grow`` multiplies tissue and area."""
    side = math.sqrt(grow)
    size = round(60_000 * side), round(50_000 * side)
    return Plan(*size, 0.25, (1, 4, 16, 64), round(tiles * grow))


def base_20x(tiles: int = 530) -> Plan:
    """0.5 mpp with levels 1, 4 and 16."""
    return Plan(30_000, 25_000, 0.5, (1, 4, 16), tiles, patch_px=2048)


def small(tiles: int = 36, mpp: float = 0.25) -> Plan:
    """A biopsy: little tissue on a small scan, with the levels of a 40x or 20x base."""
    cells = math.ceil(math.sqrt(tiles) * 448 / mpp / CELL) + 4
    levels = (1, 4, 16, 64) if mpp < 0.4 else (1, 4, 16)
    return Plan(cells * CELL, cells * CELL, mpp, levels, tiles, patch_px=2048)


def made(plan: Plan, folder: Path) -> Path:
    """The slide of a plan, made when ``folder`` does not hold it yet."""
    path = folder / plan.name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        write(plan, unfinished)
        unfinished.replace(path)
    return path


def copies(slide: Path, folder: Path, count: int) -> list[Path]:
    """``count`` files of the same pixels and other bytes, so that nothing known of one serves another."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{slide.stem}-{index}{slide.suffix}" for index in range(count)]
    for path in paths:
        if not path.exists():
            path.write_bytes(slide.read_bytes() + path.name.encode())
    return paths


def write(plan: Plan, path: Path) -> None:
    """Write the slide; raises ValueError for a patch that is no multiple of `CELL`."""
    if plan.patch_px % CELL:
        raise ValueError(f"the patch must be a multiple of {CELL} px")
    canvas, glass = textures(plan)
    where = layout(plan)
    with tifffile.TiffWriter(path, bigtiff=True, byteorder="<") as file:
        for down in plan.levels:
            canvas_here, glass_here = reduced(canvas, down), reduced(glass, down)
            if down in REPEATED:
                _write_repeated(file, plan, down, where, canvas_here, glass_here)
            else:
                _write_picture(file, plan, down, picture(plan, down, where, canvas_here, glass_here))
            if down == 1:
                _write_thumbnail(file, plan, where)


def textures(plan: Plan) -> tuple[Rgb, Rgb]:
    """Tissue (2 p, 2 p, 3), a patch and its mirror images, and a cell of glass, at level 0."""
    side_um = plan.patch_px * plan.mpp
    drawn = render(Recipe("nsclc", "LUAD", SEED, width_um=1400, height_um=1400, mpp=plan.mpp)).rgb
    side = round(side_um / plan.mpp)
    start = (drawn.shape[0] - side) // 2
    if start < 0:
        raise ValueError("the patch is larger than a field of tissue")
    patch = drawn[start : start + side, start : start + side]
    top = np.concatenate([patch, patch[:, ::-1]], axis=1)
    noise = np.random.default_rng(SEED).normal((243, 243, 245), 2, (CELL, CELL, 3))
    return np.concatenate([top, top[::-1]]), np.clip(np.rint(noise), 0, 255).astype(np.uint8)


def layout(plan: Plan) -> NDArray[np.bool_]:
    """(rows, columns), which cells are tissue: one uneven piece, as large as the plan's tiles ask for."""
    rows, columns = math.ceil(plan.height / CELL), math.ceil(plan.width / CELL)
    y = (np.arange(rows)[:, None] + 0.5) / rows * 2 - 1
    x = (np.arange(columns)[None, :] + 0.5) / columns * 2 - 1
    angle = np.arctan2(y, x)
    reach = np.hypot(x, y) / (1 + 0.12 * np.sin(3 * angle + 1) + 0.06 * np.sin(7 * angle))
    reach[[0, 1, -2, -1]] = reach[:, [0, 1, -2, -1]] = np.inf
    order = np.argsort(reach, axis=None)
    low, high = 1, order.size
    while low < high:
        middle = (low + high) // 2
        if _tiles(plan, _first(order, middle, reach.shape)) < plan.tiles:
            low = middle + 1
        else:
            high = middle
    return _first(order, low, reach.shape)


def _first(order: NDArray[np.intp], count: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    where = np.zeros(order.size, np.bool_)
    where[order[:count]] = True
    return where.reshape(shape)


def _tiles(plan: Plan, where: NDArray[np.bool_]) -> int:
    """How many 5x tiles such a layout gives."""
    size = where.shape[1] * CELL, where.shape[0] * CELL
    return len(plan_grid(where, *size, MppXY(Mpp(plan.mpp), Mpp(plan.mpp)), TilingSpec()))


def reduced(rgb: Rgb, down: int) -> Rgb:
    """Averaged over blocks of ``down`` x ``down``."""
    size = rgb.shape[1] // down, rgb.shape[0] // down
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8) if down > 1 else rgb


def picture(plan: Plan, down: int, where: NDArray[np.bool_], canvas: Rgb, glass: Rgb) -> Rgb:
    """A whole level of the slide."""
    side, period = CELL // down, canvas.shape[0] * down // CELL
    rows, columns = where.shape
    whole = np.tile(canvas, (math.ceil(rows / period), math.ceil(columns / period), 1))
    level = whole[: rows * side, : columns * side].copy()
    for row, column in np.argwhere(~where):
        level[row * side : (row + 1) * side, column * side : (column + 1) * side] = glass
    return level[: plan.height // down, : plan.width // down]


def _write_repeated(
    file: tifffile.TiffWriter, plan: Plan, down: int, where: NDArray[np.bool_], canvas: Rgb, glass: Rgb
) -> None:
    tissue, blank = _encoded(canvas, plan.quality), _encoded(glass, plan.quality)
    tables = _tables(simplejpeg_bytes(glass[:TILE, :TILE], plan.quality))
    shape = plan.height // down, plan.width // down
    across = CELL // down // TILE
    _write(file, plan, down, shape, _bytes(shape, across, where, tissue, blank), jpegtables=tables)


def _bytes(
    shape: tuple[int, int],
    across: int,
    where: NDArray[np.bool_],
    tissue: list[list[bytes]],
    blank: list[list[bytes]],
) -> Iterator[bytes]:
    """JPEG tiles of a level in row-major order; ``across`` tiles make a cell."""
    for row in range(math.ceil(shape[0] / TILE)):
        for column in range(math.ceil(shape[1] / TILE)):
            source = tissue if where[row // across, column // across] else blank
            yield source[row % len(source)][column % len(source)]


def _encoded(rgb: Rgb, quality: int) -> list[list[bytes]]:
    """Each tile of a texture as an abbreviated JPEG stream, by row and column."""
    count = rgb.shape[0] // TILE
    return [
        [
            _abbreviated(
                simplejpeg_bytes(
                    rgb[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE], quality
                )
            )
            for column in range(count)
        ]
        for row in range(count)
    ]


def simplejpeg_bytes(rgb: Rgb, quality: int) -> bytes:
    """A whole JPEG stream, YCbCr 4:2:0, with the standard's own Huffman tables."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, "RGB", "420", fastdct=False))


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and bytes of each segment before the entropy-coded data, which comes last with marker 0."""
    at = 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4])
        yield stream[at + 1], stream[at:end]
        at = end
    yield 0, stream[at:]


def _tables(stream: bytes) -> bytes:
    """The tables of a JPEG stream alone, as the TIFF tag JPEGTables holds them."""
    kept = b"".join(part for marker, part in _segments(stream) if marker in (0xDB, 0xC4))
    return b"\xff\xd8" + kept + b"\xff\xd9"


def _abbreviated(stream: bytes) -> bytes:
    """A JPEG stream without its tables and application markers, as scanners write tiles."""
    kept = b"".join(
        part for marker, part in _segments(stream) if marker not in (0xDB, 0xC4, *range(0xE0, 0xF0))
    )
    return b"\xff\xd8" + kept


def _write_picture(file: tifffile.TiffWriter, plan: Plan, down: int, rgb: Rgb) -> None:
    side = math.ceil(rgb.shape[0] / TILE) * TILE, math.ceil(rgb.shape[1] / TILE) * TILE
    padded = np.pad(rgb, ((0, side[0] - rgb.shape[0]), (0, side[1] - rgb.shape[1]), (0, 0)), mode="edge")
    tiles = (
        _abbreviated(simplejpeg_bytes(padded[top : top + TILE, left : left + TILE], plan.quality))
        for top in range(0, side[0], TILE)
        for left in range(0, side[1], TILE)
    )
    tables = _tables(simplejpeg_bytes(padded[:TILE, :TILE], plan.quality))
    _write(file, plan, down, rgb.shape[:2], tiles, jpegtables=tables)


def _write_thumbnail(file: tifffile.TiffWriter, plan: Plan, where: NDArray[np.bool_]) -> None:
    """Aperio's second page, in strips: without it some readers take the next level for it."""
    shape = round(THUMBNAIL_PX * plan.height / plan.width), THUMBNAIL_PX
    cells = np.where(where[..., None], (200, 140, 180), (243, 243, 245)).astype(np.uint8)
    size = f"{plan.width}x{plan.height}"
    file.write(
        np.asarray(cv2.resize(cells, shape[::-1], interpolation=cv2.INTER_NEAREST), np.uint8),
        photometric="rgb",
        compression="jpeg",
        rowsperstrip=16,
        description=f"Aperio Image Library v12.0.0\r\n{size} -> {shape[1]}x{shape[0]} - |",
        software=False,
        metadata=None,
        contiguous=False,
    )


def _write(
    file: tifffile.TiffWriter,
    plan: Plan,
    down: int,
    shape: tuple[int, ...],
    tiles: Iterator[bytes],
    **options: Any,
) -> None:
    size = f"{plan.width}x{plan.height}"
    name = f"Aperio Image Library v12.0.0\r\n{size} [0,0 {size}]"
    level = "" if down == 1 else f" -> {shape[1]}x{shape[0]}"
    scale = f"|AppMag = {round(10 / plan.mpp)}|MPP = {plan.mpp!r}" if down == 1 else ""
    file.write(
        tiles,
        shape=(*shape, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="ycbcr",
        subsampling=(2, 2),
        compression="jpeg",
        description=f"{name}{level} ({TILE}x{TILE}) JPEG/YCC Q={plan.quality}{scale}",
        software=False,
        metadata=None,
        contiguous=False,
        subfiletype=0,  # as Aperio writes it: tifffile takes a reduced page for a label
        **options,
    )
