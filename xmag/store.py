"""Embeddings and overlays as files, written whole, checked when read.

<store>/embeddings/<k[:2]>/<k>.safetensors    k = what the numbers depend on: slide, encoder, tiling, mpp
<store>/overlays/<s[:2]>/<s>.safetensors      s = SHA-256 of the file
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from xmag.config import Precision
from xmag.errors import Code, RequestError
from xmag.files import write_atomic
from xmag.heatmap import Overlay
from xmag.manifest import TilingSpec
from xmag.slide.grid import TileGrid
from xmag.units import MppXY

Arrays = dict[str, NDArray[Any]]
Origin = dict[str, Any]

MAX_HEADER = 1 << 24

FORMAT = 2
"""Part of every embedding's key: raise it when the code that plans or cuts tiles changes its output."""


@dataclass(frozen=True)
class StoredBag:
    """A slide's bag: (n, d) float32 embeddings in the grid's order; ``origin`` says of what and by what."""

    embeddings: NDArray[np.float32]
    grid: TileGrid
    origin: Origin = field(default_factory=dict)


def embedding_key(
    slide_sha256: str, encoder_digest: str, tiling: TilingSpec, mpp: MppXY, precision: Precision
) -> str:
    """64 hex digits over everything that the embeddings depend on, up to rounding."""
    return hashlib.sha256(
        _json(
            {
                "format": FORMAT,
                "slide": slide_sha256,
                "encoder": encoder_digest,
                "tiling": tiling.model_dump(mode="json"),
                "mpp": [mpp.x, mpp.y],
                "precision": precision,
            }
        )
    ).hexdigest()


def put_embeddings(store_dir: Path, key: str, bag: StoredBag) -> None:
    """Write a bag, replacing a damaged one; its origin is JSON. Raises DISK_FULL."""
    arrays = {"embeddings": np.ascontiguousarray(bag.embeddings, np.float32), **_grid_arrays(bag.grid)}
    facts = {"key": key, "origin": bag.origin, "grid": _grid_facts(bag.grid)}
    facts["checksum"] = _checksum(facts, arrays)
    write_atomic(_path(store_dir, "embeddings", key), save(arrays, {"xmag": _json(facts).decode()}))


def get_embeddings(store_dir: Path, key: str) -> StoredBag | None:
    """The bag, or None when there is none or the file is damaged in any byte."""
    try:
        data = _path(store_dir, "embeddings", key).read_bytes()
        arrays, facts = load(data), _facts(BytesIO(data))
        checksum = facts.pop("checksum")
        if facts["key"] != key or checksum != _checksum(facts, arrays):
            return None
        return StoredBag(arrays["embeddings"], _grid(arrays, facts["grid"]), facts["origin"])
    except (FileNotFoundError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def stored_origins(store_dir: Path) -> Iterator[tuple[str, Origin]]:
    """Key and origin of every stored bag, in the order of keys; reads headers alone, passes over damage."""
    for path in sorted((store_dir / "embeddings").glob("??/*.safetensors")):
        try:
            with path.open("rb") as file:
                facts = _facts(file)
            yield str(facts["key"]), dict(facts["origin"])
        except (OSError, ValueError, KeyError, TypeError):
            continue


def put_overlay(store_dir: Path, overlay: Overlay) -> str:
    """Write an overlay; returns the SHA-256 of its bytes. The same overlay gives the same bytes."""
    arrays = _grid_arrays(overlay.grid)
    arrays |= {f"attention.{task}": np.ascontiguousarray(row) for task, row in overlay.attention.items()}
    arrays |= {f"evidence.{task}": np.ascontiguousarray(rows) for task, rows in overlay.evidence.items()}
    facts = {"width": overlay.width, "height": overlay.height, "grid": _grid_facts(overlay.grid)}
    data = save(arrays, {"xmag": _json(facts).decode()})
    sha = hashlib.sha256(data).hexdigest()
    write_atomic(_path(store_dir, "overlays", sha), data)
    return sha


def get_overlay(store_dir: Path, sha: str) -> Overlay:
    """Read an overlay by its SHA-256; raises RequestError GONE when it is absent or damaged."""
    try:
        data = _path(store_dir, "overlays", sha).read_bytes()
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != sha:
        raise RequestError(Code.GONE, "the stored heatmap is missing or damaged: run the slide again")
    arrays, facts = load(data), _facts(BytesIO(data))
    return Overlay(
        _grid(arrays, facts["grid"]),
        facts["width"],
        facts["height"],
        {name[10:]: array for name, array in arrays.items() if name.startswith("attention.")},
        {name[9:]: array for name, array in arrays.items() if name.startswith("evidence.")},
    )


def _path(store_dir: Path, kind: str, name: str) -> Path:
    if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
        raise RequestError(Code.NOT_FOUND, "no such object in the store")
    return store_dir / kind / name[:2] / f"{name}.safetensors"


def _grid_arrays(grid: TileGrid) -> Arrays:
    return {
        "cells": np.ascontiguousarray(grid.cells, np.int32),
        "tissue": np.ascontiguousarray(grid.tissue, np.float32),
    }


def _grid_facts(grid: TileGrid) -> dict[str, Any]:
    span = [float(side) for side in grid.span]
    return {"span": span, "tile_px": grid.tile_px, "columns": grid.columns, "rows": grid.rows}


def _grid(arrays: Arrays, facts: dict[str, Any]) -> TileGrid:
    x, y = facts["span"]
    return TileGrid(
        arrays["cells"], arrays["tissue"], (x, y), facts["tile_px"], facts["columns"], facts["rows"]
    )


def _facts(file: BinaryIO) -> dict[str, Any]:
    """The JSON under the key ``xmag`` of a safetensors header."""
    size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER:
        raise ValueError("no safetensors header is so long")
    facts: dict[str, Any] = json.loads(json.loads(file.read(size))["__metadata__"]["xmag"])
    return facts


def _checksum(facts: dict[str, Any], arrays: Arrays) -> str:
    state = hashlib.sha256(_json(facts))
    for name in sorted(arrays):
        array = arrays[name]
        state.update(_json([name, str(array.dtype), list(array.shape)]))
        state.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return state.hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
