"""Comparison c: the paper's Figure 3, XMAG against Phikon and UNI2-h, by encoding time alone.

Real architectures with random weights on the same hardware, all held at once and measured in turn. Where a
regime would take too long, a sample of the tiles is encoded and WSI/min is computed from the seconds of a
tile; ``computed`` says so.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Json, Runs, Say, least_cosine, paired, ratio, spread
from benchmarks.networks import SYSTEMS, Embed, System, batched, parameters, plain, random_network

PRECISIONS = ("fp32", "bf16")
PROBES = 2
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Effort:
    """Batch -> most tiles to encode of a slide (0: all), and repeats."""

    tiles: dict[int, int]
    repeats: int


EFFORT = {"cpu": Effort({1: 2, 4: 4}, 3), "cuda": Effort({1: 256, 128: 0}, 2)}
"""Batch 1 is the paper's regime, the other one is saturated."""


@dataclass
class _Entrant:
    """A system with its network, its embeddings of the probes in fp32, and what was found."""

    system: System
    network: Any
    reference: NDArray[np.float32]
    regimes: dict[str, Json]


def compare(device: str, pixels: Pixels, say: Say, effort: Effort | None = None) -> Json:
    """Every system in every regime; ``pixels`` (n, 224, 224, 3) are real tiles, repeated as needed."""
    effort = effort or EFFORT[device]
    entrants = [_enter(system, device, pixels, say) for system in SYSTEMS]
    for precision in PRECISIONS:
        for batch in effort.tiles:
            _regime(entrants, device, precision, batch, pixels, effort, say)
    found = {entrant.system.name: _facts(entrant) for entrant in entrants}
    ours, *others = found
    return {
        "device": device,
        "systems": found,
        "ratios": {name: _ratios(found[ours], found[name]) for name in others},
    }


def _enter(system: System, device: str, pixels: Pixels, say: Say) -> _Entrant:
    say(f"building {system.name}")
    network = random_network(system.build, device)
    return _Entrant(system, network, plain(network, device, "fp32")(pixels[:PROBES]), {})


def _regime(
    entrants: list[_Entrant],
    device: str,
    precision: str,
    batch: int,
    pixels: Pixels,
    effort: Effort,
    say: Say,
) -> None:
    """Measure all systems at one precision and batch, in turn."""
    embeds = {each.system.name: plain(each.network, device, precision) for each in entrants}
    counts = {each.system.name: _count(each.system, batch, effort) for each in entrants}
    for name, embed in embeds.items():
        if device == "cuda":
            batched(embed, _repeated(pixels, batch), batch)
        say(f"{name} {precision} batch {batch}: {counts[name]} tiles")
    runs = paired(
        {
            name: partial(_encode, embed, _repeated(pixels, batch), counts[name] // batch)
            for name, embed in embeds.items()
        },
        effort.repeats,
        lambda message: say(f"{precision} batch {batch}: {message}"),
    )
    for each in entrants:
        name = each.system.name
        agreement = least_cosine(embeds[name](pixels[:PROBES]), each.reference)
        each.regimes[f"{precision} batch {batch}"] = {
            "precision": precision,
            "batch": batch,
            **_speed(each.system, runs[name], counts[name]),
            "agreement": {"least_cosine_to_fp32": agreement},
        }


def _count(system: System, batch: int, effort: Effort) -> int:
    """Tiles to encode: whole batches."""
    most = min(effort.tiles[batch] or system.tiles, system.tiles)
    return max(1, most // batch) * batch


def _repeated(pixels: Pixels, count: int) -> Pixels:
    return np.ascontiguousarray(pixels[np.arange(count) % len(pixels)])


def _encode(embed: Embed, tiles: Pixels, rounds: int) -> None:
    for _ in range(rounds):
        embed(tiles)


def _speed(system: System, runs: Runs[None], count: int) -> Json:
    seconds = spread(cost.wall / count for cost in runs.costs)
    wsi = spread(60 / (system.tiles * cost.wall / count) for cost in runs.costs)
    return {
        "tiles_measured": count,
        "computed": count < system.tiles // 2,
        "seconds_per_tile": seconds,
        "wsi_per_minute": wsi,
        "gflops": round(system.size.gflop / seconds["median"], 1),
    }


def _facts(entrant: _Entrant) -> Json:
    system = entrant.system
    return {
        "parameters": parameters(entrant.network),
        "gflop_per_tile": round(system.size.gflop, 1),
        "tiles_per_slide": system.tiles,
        "paper_wsi_per_minute": system.paper_wsi_per_minute,
        "regimes": entrant.regimes,
    }


def _ratios(ours: Json, theirs: Json) -> dict[str, float | None]:
    """How many times as many slides XMAG encodes, by regime."""
    return {
        name: ratio(regime["wsi_per_minute"]["median"], theirs["regimes"][name]["wsi_per_minute"]["median"])
        for name, regime in ours["regimes"].items()
    }
