"""A slide's bag: from the store, or decoded, encoded and stored; one encode serves all who ask for it."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import xmag
from xmag.config import Precision, Settings
from xmag.errors import Code, SlideError
from xmag.flights import Flight, Flights
from xmag.nn.bundle import Encoder, Head
from xmag.nn.runtime import Engine
from xmag.slide.ahead import read_ahead
from xmag.slide.decoder import Decoder, TilePlan
from xmag.slide.info import SlideInfo
from xmag.store import StoredBag, embedding_key, get_embeddings, put_embeddings
from xmag.watch import Watch


@dataclass(frozen=True)
class Group:
    """An encoder, the heads that read it by task, and the precisions that all of them accept.

    ``precisions`` run from the fastest to fp32; the first is what a new bag is encoded at.
    """

    encoder: Encoder
    heads: dict[str, Head] = field(default_factory=dict)
    precisions: tuple[Precision, ...] = ("fp32",)


@dataclass(frozen=True)
class Bag:
    """A bag, its key in the store, and whether it had been there before."""

    stored: StoredBag
    key: str
    reused: bool


@dataclass(frozen=True)
class Work:
    """What bags are made with; an urgent work's batches go before those of others."""

    engine: Engine
    settings: Settings
    flights: Flights
    watch: Watch
    urgent: bool


def find_bag(slide: SlideInfo, group: Group, work: Work) -> Bag | None:
    """The most exact acceptable bag in the store, None when there is none."""
    for precision in reversed(group.precisions):
        key = _key(slide, group, precision)
        found = get_embeddings(work.settings.store_dir, key)
        if found is not None and _read_as_asked(found, work.settings):
            work.watch.tell("encode", len(found.grid), len(found.grid))
            return Bag(found, key, reused=True)
    return None


def get_bag(decoder: Decoder, slide: SlideInfo, group: Group, work: Work) -> Bag:
    """The bag from the store, or encoded and stored; waits for another job that is encoding it.

    Raises SlideError, InferenceError and PlaceError DISK_FULL.
    """
    found = find_bag(slide, group, work)
    if found is not None:
        return found
    key = _key(slide, group, group.precisions[0])
    with work.flights.alone(key, work.urgent, lambda: work.watch.tell("mask", 0, 100)) as flight:
        return find_bag(slide, group, work) or _make(decoder, slide, group, work, flight)


def _read_as_asked(bag: StoredBag, settings: Settings) -> bool:
    """Where the reference route alone is asked for, a bag of the other one is made again."""
    return settings.decode.route == "auto" or bag.origin["reading"]["route"] == settings.decode.route


def _key(slide: SlideInfo, group: Group, precision: Precision) -> str:
    if slide.mpp is None:
        raise SlideError(Code.MPP_MISSING, "the file gives no resolution: give mpp with a reason")
    tiling = group.encoder.manifest.tiling
    return embedding_key(slide.sha256, group.encoder.digest, tiling, slide.mpp, precision)


def _make(decoder: Decoder, slide: SlideInfo, group: Group, work: Work, flight: Flight) -> Bag:
    """Plan, decode, encode and store; the slide must be the same file at the end as it was at the start."""
    plan = _plan(decoder, group, work.watch)
    precision = group.precisions[0]
    with work.watch.stage("encode"):
        embeddings = _encode(decoder, plan, group, work, flight)
        decoder.check_unchanged()
    bag = StoredBag(embeddings, plan.grid, _origin(slide, group, plan, decoder.reread, work.engine))
    key = _key(slide, group, precision)
    with work.watch.stage("write"):
        put_embeddings(work.settings.store_dir, key, bag)
    return Bag(bag, key, reused=False)


def _plan(decoder: Decoder, group: Group, watch: Watch) -> TilePlan:
    with watch.stage("mask"):
        watch.tell("mask", 0, 100)
        plan = decoder.plan(
            group.encoder.manifest.tiling, lambda share: watch.tell("mask", round(share * 100), 100)
        )
        watch.tell("mask", 100, 100)
    return plan


def _encode(
    decoder: Decoder, plan: TilePlan, group: Group, work: Work, flight: Flight
) -> NDArray[np.float32]:
    """(n, d) embeddings of the planned tiles, which the decoder reads ahead."""
    encoder = group.encoder
    total, done = len(plan.grid), 0
    embeddings = np.empty((total, encoder.manifest.architecture.embed_dim), np.float32)

    def tell() -> None:
        work.watch.tell("encode", done, total)

    tell()
    with closing(_ahead(decoder, plan, group, work, tell)) as ahead:
        for tiles in ahead:
            embeddings[done : done + len(tiles)] = work.engine.encode(
                encoder, tiles, group.precisions[0], urgent=flight.urgent, on_wait=tell
            )
            done += len(tiles)
            tell()
    if done != total:
        raise SlideError(Code.DECODE_CRASH, "the decoder gave fewer tiles than planned: run the slide again")
    return embeddings


def _ahead(
    decoder: Decoder, plan: TilePlan, group: Group, work: Work, tell: Callable[[], None]
) -> Generator[NDArray[np.uint8], None, None]:
    tiling, batch = group.encoder.manifest.tiling, work.engine.batch
    return read_ahead(
        lambda sign: decoder.tiles(plan, tiling, batch, sign),
        work.settings.worker.ahead_bytes,
        decoder.stop,
        tell,
    )


def _origin(slide: SlideInfo, group: Group, plan: TilePlan, reread: int, engine: Engine) -> dict[str, Any]:
    """What the embeddings were made of and by; no more than digests and numbers."""
    assert slide.mpp is not None
    reading = plan.reading
    return {
        "slide": slide.sha256,
        "encoder": group.encoder.digest,
        "code_version": xmag.__version__,
        "mpp": [slide.mpp.x, slide.mpp.y],
        "reading": {
            "route": reading.route,
            "level": reading.level,
            "scale": reading.scale,
            "left_to_openslide": reread,
        },
        "numerics": engine.numerics(group.encoder, group.precisions[0]),
    }
