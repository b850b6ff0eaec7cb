"""From slide files to tiles and bags, by the decoder and the engine that serve."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from numpy.typing import NDArray

from training.cohort import Member, cores
from xmag.config import Decode
from xmag.manifest import TilingSpec
from xmag.nn.bundle import Encoder
from xmag.nn.runtime import Engine
from xmag.slide.decoder import Decoder
from xmag.slide.grid import TileGrid
from xmag.slide.info import SlideInfo
from xmag.slide.location import SlideLocation
from xmag.store import StoredBag, embedding_key, get_embeddings, put_embeddings

Report = Callable[[int, int], None]
PATCHES = 16
"""Patches along a tile's side: 224 px / 14 px."""


@dataclass(frozen=True)
class Cut:
    """A slide's tiles (n, s, s, 3) uint8 in the grid's order."""

    slide: SlideInfo
    grid: TileGrid
    tiles: NDArray[np.uint8]


def cut_all(members: Sequence[Member], tiling: TilingSpec, report: Report) -> list[Cut]:
    """Tiles of every slide, in order; as many decoders at work as there are processors."""
    shares = [members[start :: cores()] for start in range(cores())]
    found: dict[Path, Cut] = {}

    def work(share: Sequence[Member]) -> None:
        with Decoder(Decode()) as decoder:
            for member in share:
                found[member.path] = cut_one(decoder, member.path, tiling)
                report(len(found), len(members))

    with ThreadPoolExecutor(len(shares)) as pool:
        for _ in pool.map(work, filter(None, shares)):
            pass
    return [found[member.path] for member in members]


def cut_one(decoder: Decoder, path: Path, tiling: TilingSpec) -> Cut:
    """Tiles of one slide; raises as the decoder does."""
    slide = decoder.open(SlideLocation(path.parent, PurePosixPath(path.name)))
    plan = decoder.plan(tiling)
    tiles = np.concatenate(list(decoder.tiles(plan, tiling, 64)))
    return Cut(slide, plan.grid, tiles)


def patch_kinds(member: Member, grid: TileGrid) -> NDArray[np.uint8]:
    """Kinds of tissue of the patches of each tile, (n, PATCHES, PATCHES); outside the slide is glass."""
    image = cv2.imread(str(member.kinds_path), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    whole = np.zeros((grid.rows * PATCHES, grid.columns * PATCHES), np.uint8)
    whole[: image.shape[0], : image.shape[1]] = image[: whole.shape[0], : whole.shape[1]]
    tiles = whole.reshape(grid.rows, PATCHES, grid.columns, PATCHES).transpose(0, 2, 1, 3)
    return tiles[grid.cells[:, 1], grid.cells[:, 0]]


def embed(cut: Cut, engine: Engine, encoder: Encoder, store_dir: Path) -> NDArray[np.float32]:
    """A slide's bag (n, d), from the store or encoded and put there."""
    assert cut.slide.mpp is not None  # the decoder plans no slide without
    key = embedding_key(cut.slide.sha256, encoder.digest, encoder.manifest.tiling, cut.slide.mpp, "fp32")
    stored = get_embeddings(store_dir, key)
    if stored is None:
        origin = {"slide": cut.slide.sha256, "encoder": encoder.digest}
        stored = StoredBag(engine.encode(encoder, cut.tiles), cut.grid, origin)
        put_embeddings(store_dir, key, stored)
    return stored.embeddings
