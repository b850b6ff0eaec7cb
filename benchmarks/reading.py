"""Comparison a: reading all tissue tiles of a slide, by our two routes and by three others."""

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.measure import Json, Runs, Say, named, paired, pixels_agree, ratio, timed
from benchmarks.routes import COMPETITORS, Read, Target, Tiles, located, ours
from xmag.config import Decode
from xmag.manifest import TilingSpec
from xmag.slide.decoder import Decoder, TilePlan

OURS = "ours"
REFERENCE = "ours by openslide"
PLAIN = "openslide per tile"
UNAVAILABLE = "install the bench extra"


def compare(
    slides: Sequence[tuple[str, Path]], repeats: int, limit: int, say: Say, base: Decode | None = None
) -> list[Json]:
    """One entry for each (name, path); at most ``limit`` tiles of each (0: all). Raises SlideError."""
    found = []
    for name, path in slides:
        with named(name):
            found.append(compare_one(name, path, repeats, limit, say, base or Decode()))
    return found


def compare_one(name: str, path: Path, repeats: int, limit: int, say: Say, base: Decode) -> Json:
    """Routes with their cost and their agreement with the reference, and ratios."""
    spec = TilingSpec()
    with ExitStack() as stack:
        fast = stack.enter_context(Decoder(base))
        reference = stack.enter_context(Decoder(base.model_copy(update={"route": "openslide"})))
        plans = {OURS: _planned(fast, path, spec, limit), REFERENCE: _planned(reference, path, spec, limit)}
        mask = timed(lambda: _planned(fast, path, spec, limit))[1]
        routes: dict[str, Read] = {
            OURS: partial(ours, fast, path, plans[OURS], spec),
            REFERENCE: partial(ours, reference, path, plans[REFERENCE], spec),
        }
        target = Target(path, plans[REFERENCE].grid)
        others, missing = _competitors(target)
        runs = _measure({**routes, **others}, missing, repeats, partial(_speak, say, name))
        reread = fast.reread
    found = _described(runs, missing)
    found[OURS] |= {"reading": _reading(plans[OURS]), "reread": reread}
    found[REFERENCE] |= {"reading": _reading(plans[REFERENCE])}
    return {
        "slide": name,
        "bytes": path.stat().st_size,
        "tiles": len(target.grid),
        "same_grid": np.array_equal(plans[OURS].grid.cells, plans[REFERENCE].grid.cells),
        "mask_difference": round(float((plans[OURS].mask != plans[REFERENCE].mask).mean()), 6),
        "open_and_mask": {"cpu_seconds": round(mask.cpu, 6), "wall_seconds": round(mask.wall, 6)},
        "reference": REFERENCE,
        "routes": found,
        "ratios": _ratios(runs),
    }


def _speak(say: Say, name: str, message: str) -> None:
    say(f"{name}: {message}")


def _planned(decoder: Decoder, path: Path, spec: TilingSpec, limit: int) -> TilePlan:
    """At most ``limit`` tiles; none over the border, where scripts differ, if there are others."""
    info = decoder.open(located(path), digest=False)
    plan = decoder.plan(spec)
    inside = (plan.grid.corners()[:, 2:] <= (info.width, info.height)).all(axis=1)
    chosen = np.flatnonzero(inside if inside.any() else ~inside)[: limit or None]
    grid = replace(plan.grid, cells=plan.grid.cells[chosen], tissue=plan.grid.tissue[chosen])
    return replace(plan, grid=grid)


def _competitors(target: Target) -> tuple[dict[str, Read], dict[str, str]]:
    """Routes that can run here, and why others cannot."""
    routes: dict[str, Read] = {}
    missing: dict[str, str] = {}
    for name, (package, route) in COMPETITORS.items():
        if importlib.util.find_spec(package) is None:
            missing[name] = UNAVAILABLE
        else:
            routes[name] = partial(route, target)
    return routes, missing


def _measure(
    routes: dict[str, Read], missing: dict[str, str], repeats: int, say: Say
) -> dict[str, Runs[Tiles]]:
    """One run of each to warm the page cache, which also shows who cannot read the slide; then the pairs."""
    able = {}
    for name, read in routes.items():
        say(f"{name} warms up")
        if name in (OURS, REFERENCE) or _can(read, name, missing):
            able[name] = read
    for name in (OURS, REFERENCE):
        routes[name]()
    return paired(able, repeats, say)


def _can(read: Callable[[], Tiles], name: str, missing: dict[str, str]) -> bool:
    """Whether another's route reads this slide; what it raises is a finding, not our failure."""
    try:
        read()
    except Exception as error:  # noqa: BLE001
        missing[name] = f"does not read this slide ({type(error).__name__})"
        return False
    return True


def _described(runs: dict[str, Runs[Tiles]], missing: dict[str, str]) -> dict[str, Json]:
    reference = runs[REFERENCE].output
    assert reference is not None
    found: dict[str, Json] = {}
    for name, run in runs.items():
        assert run.output is not None
        found[name] = {
            **run.json(),
            "tiles": len(run.output),
            "agreement": pixels_agree(run.output, reference),
        }
    return found | {name: {"unavailable": reason} for name, reason in missing.items()}


def _ratios(runs: dict[str, Runs[Tiles]]) -> Json:
    """CPU-seconds and wall of every other route for one of ours."""
    others = [name for name in runs if name != OURS]
    return {
        "cpu_seconds_vs_ours": {name: ratio(runs[name].cpu, runs[OURS].cpu) for name in others},
        "wall_seconds_vs_ours": {name: ratio(runs[name].wall, runs[OURS].wall) for name in others},
    }


def _reading(plan: TilePlan) -> Json:
    return {"route": plan.reading.route, "level": plan.reading.level, "scale": plan.reading.scale}
