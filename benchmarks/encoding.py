"""Comparison b: tiles to embeddings by our engine at each accepted precision, and by plain timm in fp32."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import rates
from benchmarks.measure import Json, Runs, Say, least_cosine, paired, ratio, spread
from benchmarks.networks import batched, from_release, plain, vit_size
from benchmarks.subject import Subject, some_tiles
from xmag.config import Precision
from xmag.nn.bundle import Encoder, Head
from xmag.nn.runtime import Engine

PLAIN = "timm fp32 eager"
Pixels = NDArray[np.uint8]
Bag = NDArray[np.float32]


@dataclass(frozen=True)
class Effort:
    """Tiles at batch 1, tiles when saturated, batches of the plain script, threads that feed our engine."""

    single: int
    saturated: int
    plain_batches: tuple[int, ...]
    feeders: int


EFFORT = {"cpu": Effort(4, 32, (8, 32), 1), "cuda": Effort(256, 8192, (64, 256), 3)}


@dataclass(frozen=True)
class Route:
    """One way to embed: name, regime, batch, precision, tiles to embed, and the call that does it."""

    name: str
    regime: str
    batch: int
    precision: str
    count: int
    run: Callable[[], Bag]


@dataclass(frozen=True)
class Rig:
    """Our engine and the plain network, with the same weights."""

    engine: Engine
    encoder: Encoder
    head: Head
    plain: Any
    precisions: tuple[Precision, ...]
    refused: dict[str, str]


def compare(
    slides: Sequence[tuple[str, Path]], subject: Subject, repeats: int, limit: int, say: Say
) -> list[Json]:
    """One entry for each (name, path), with at most ``limit`` tiles (0: as many as the device asks for)."""
    say("loading the encoder and checking its precisions")
    rig = prepared(subject)
    effort = _limited(EFFORT[rig.engine.device], limit)
    return [
        compare_one(
            name, some_tiles(path, rig.encoder.manifest.tiling, effort.saturated), rig, effort, repeats, say
        )
        | {"weights": subject.weights}
        for name, path in slides
    ]


def prepared(subject: Subject) -> Rig:
    """Load both sides; int8 is asked for, so that it is there where its check passes."""
    engine = subject.engine(precision="int8")
    encoder, head = subject.loaded(engine)
    manifest = encoder.manifest
    network = from_release(
        subject.settings.releases_dir, encoder.digest, manifest.architecture, engine.device
    )
    embed = plain(network, engine.device, "fp32", manifest.preprocess)
    precisions = engine.accepted(encoder, [head])
    refused = {str(name): reason for name, reason in encoder.refused.items()}
    return Rig(engine, encoder, head, embed, precisions, refused)


def _limited(effort: Effort, limit: int) -> Effort:
    if not limit:
        return effort
    plain_batches = tuple(sorted({min(batch, limit) for batch in effort.plain_batches}))
    return Effort(min(effort.single, limit), limit, plain_batches, effort.feeders)


def compare_one(name: str, pixels: Pixels, rig: Rig, effort: Effort, repeats: int, say: Say) -> Json:
    """Every route on the same tiles; the reference is the plain network's fp32."""
    before = rates(rig.engine.device)
    routes = {f"{route.name} batch {route.batch}": route for route in _routes(pixels, rig, effort)}
    if rig.engine.device == "cuda":
        for route in routes.values():
            route.run()
    runs = paired(
        {key: route.run for key, route in routes.items()}, repeats, lambda message: say(f"{name}: {message}")
    )
    after = rates(rig.engine.device)
    ceiling = {kind: max(before[kind] or 0, after[kind] or 0) for kind in before}
    reference = runs[f"{PLAIN} batch {effort.plain_batches[0]}"].output
    assert reference is not None
    found = {key: _found(route, runs[key], reference, rig, ceiling) for key, route in routes.items()}
    return {
        "slide": name,
        "device": rig.engine.device,
        "tiles": len(pixels),
        "matmul_gflops": ceiling,
        "precisions": {each: dict(rig.engine.numerics(rig.encoder, each)) for each in rig.precisions},
        "refused": rig.refused,
        "reference": PLAIN,
        "routes": found,
        "ratios": _ratios(found),
    }


def _routes(pixels: Pixels, rig: Rig, effort: Effort) -> list[Route]:
    few, many = _repeated(pixels, effort.single), _repeated(pixels, effort.saturated)
    routes = [Route(PLAIN, "batch 1", 1, "fp32", len(few), partial(batched, rig.plain, few, 1))]
    for batch in effort.plain_batches:
        routes.append(
            Route(PLAIN, "saturated", batch, "fp32", len(many), partial(batched, rig.plain, many, batch))
        )
    for precision in rig.precisions:
        ours = f"ours {precision}"
        routes.append(
            Route(ours, "batch 1", 1, precision, len(few), partial(_ours, rig, few, 1, precision, 1))
        )
        run = partial(_ours, rig, many, rig.engine.batch, precision, effort.feeders)
        routes.append(Route(ours, "saturated", rig.engine.batch, precision, len(many), run))
    return routes


def _repeated(pixels: Pixels, count: int) -> Pixels:
    return np.ascontiguousarray(pixels[np.arange(count) % len(pixels)])


def _ours(rig: Rig, tiles: Pixels, batch: int, precision: Precision, feeders: int) -> Bag:
    """Batches through the engine from as many threads as keep it busy."""
    parts = [tiles[at : at + batch] for at in range(0, len(tiles), batch)]

    def encode(part: Pixels) -> Bag:
        return rig.engine.encode(rig.encoder, part, precision)

    if feeders == 1:
        return np.concatenate([encode(part) for part in parts])
    with ThreadPoolExecutor(feeders) as pool:
        return np.concatenate(list(pool.map(encode, parts)))


def _found(route: Route, runs: Runs[Bag], reference: Bag, rig: Rig, ceiling: dict[str, float]) -> Json:
    assert runs.output is not None
    speed = spread(route.count / cost.wall for cost in runs.costs)
    gflops = vit_size(rig.encoder.manifest.architecture).gflop * speed["median"]
    peak = ceiling.get(route.precision)
    same = reference[: len(runs.output)]
    return {
        **runs.json(),
        "regime": route.regime,
        "batch": route.batch,
        "precision": route.precision,
        "tiles": route.count,
        "tiles_per_second": speed,
        "gflops": round(gflops, 1),
        "share_of_matmul_rate": round(gflops / peak, 4) if peak else None,
        "agreement": {
            "least_cosine": least_cosine(runs.output, same),
            "max_probability_difference": _shift(rig, runs.output, same),
        },
    }


def _shift(rig: Rig, bag: Bag, reference: Bag) -> float:
    one, other = (rig.engine.predict(rig.head, each).probabilities for each in (bag, reference))
    return round(float(np.abs(one - other).max()), 6)


def _ratios(found: dict[str, Json]) -> Json:
    """Tiles/s of each of our precisions for one of the plain script at its best batch, in both regimes."""
    best = {
        regime: max(
            route["tiles_per_second"]["median"]
            for name, route in found.items()
            if name.startswith(PLAIN) and route["regime"] == regime
        )
        for regime in ("batch 1", "saturated")
    }
    return {
        "tiles_per_second_vs_timm_fp32": {
            name: ratio(route["tiles_per_second"]["median"], best[route["regime"]])
            for name, route in found.items()
            if not name.startswith(PLAIN)
        }
    }
