"""Comparison d, first half: file to prediction by `xmag.analyze` and by a plain script, slide by slide."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import script
from benchmarks.measure import Json, Runs, Say, paired, ratio, spread
from benchmarks.routes import Target, located
from benchmarks.subject import Subject, whole_grid
from xmag.analyze import Analysis, Request, analyze
from xmag.manifest import HeadManifest
from xmag.nn.runtime import Engine
from xmag.registry import read_manifest
from xmag.slide.decoders import Decoders

OURS = "ours"
OURS_INT8 = "ours at int8"
PLAIN = "plain script"


def compare(
    slides: Sequence[tuple[str, Path]], subject: Subject, repeats: int, say: Say, *, int8: bool = False
) -> list[Json]:
    """One entry for each (name, path), with ours at int8 too where asked; raises SlideError, ReleaseError."""
    say("loading the releases on both sides")
    engines = {OURS: subject.engine()}
    if int8:
        engines[OURS_INT8] = subject.engine(precision="int8")
    encoder, *_ = (subject.loaded(engine)[0] for engine in engines.values())
    plain = script.load(subject.settings.releases_dir, subject.head_digest, engines[OURS].device)
    with Decoders(subject.settings.decode) as decoders:
        found = []
        for name, path in slides:
            target = Target(path, whole_grid(path, encoder.manifest.tiling))
            ours = {
                route: partial(_ours, path, subject, engine, decoders) for route, engine in engines.items()
            }
            found.append(_compare_one(name, target, ours, plain, repeats, say) | {"weights": subject.weights})
        return found


def _compare_one(
    name: str,
    target: Target,
    ours: dict[str, partial[Analysis]],
    plain: script.Script,
    repeats: int,
    say: Say,
) -> Json:
    plain.embed(np.zeros((1, target.grid.tile_px, target.grid.tile_px, 3), np.uint8))
    results: dict[str, NDArray[np.float64]] = {}
    analyses: dict[str, list[Analysis]] = {route: [] for route in ours}

    def run(route: str) -> None:
        analyses[route].append(ours[route]())

    def run_plain() -> None:
        results[PLAIN] = plain.predict(target)

    for one in ours.values():
        one()
    routes: dict[str, Callable[[], None]] = {route: partial(run, route) for route in ours}
    routes[PLAIN] = run_plain
    runs = paired(routes, repeats, lambda message: say(f"{name}: {message}"))
    tiles = len(target.grid)
    return {
        "slide": name,
        "tiles": tiles,
        "reference": PLAIN,
        "routes": {
            **{route: _route(runs[route], analyses[route], tiles, results[PLAIN]) for route in ours},
            PLAIN: {**_speed(runs[PLAIN], tiles), "agreement": {"max_probability_difference": 0.0}},
        },
        "ratios": {
            "slides_per_minute_vs_plain": {
                route: ratio(runs[PLAIN].wall, runs[route].wall) for route in ours
            },
            "cpu_seconds_vs_plain": {route: ratio(runs[PLAIN].cpu, runs[route].cpu) for route in ours},
        },
    }


def _route(
    runs: Runs[None], analyses: Sequence[Analysis], tiles: int, reference: NDArray[np.float64]
) -> Json:
    """Speed, agreement and provenance of one of ours."""
    (said,) = analyses[-1].predictions
    probabilities = np.array(list(said.probabilities.values()))
    (encoder,) = analyses[-1].provenance["encoders"]
    return {
        **_speed(runs, analyses[-1].tiles),
        "agreement": {
            "same_number_of_tiles": analyses[-1].tiles == tiles,
            "max_probability_difference": round(float(np.abs(probabilities - reference).max()), 6),
            "same_label": int(probabilities.argmax()) == int(reference.argmax()),
        },
        "numerics": encoder["numerics"],
        "reading": encoder["reading"],
        "stages": _stages(analyses),
    }


def _ours(path: Path, subject: Subject, engine: Engine, decoders: Decoders) -> Analysis:
    """One analysis with an empty store, by the releases as they are loaded and a warm decoder."""
    manifest = read_manifest(subject.settings.releases_dir, subject.head_digest)
    assert isinstance(manifest, HeadManifest)
    with tempfile.TemporaryDirectory(prefix="xmag-bench-") as folder:
        settings = subject.settings.model_copy(update={"data": Path(folder)})
        request = Request(located(path), {manifest.task: subject.head_digest})
        return analyze(request, engine, settings, lambda _: None, decoders=decoders)


def _speed(runs: Runs[None], tiles: int) -> Json:
    return {**runs.json(), "tiles": tiles, "slides_per_minute": spread(60 / cost.wall for cost in runs.costs)}


def _stages(analyses: Sequence[Analysis]) -> dict[str, dict[str, float]]:
    """Seconds of each stage over the runs."""
    seconds = [analysis.provenance["seconds"] for analysis in analyses]
    return {stage: spread(one[stage] for one in seconds) for stage in seconds[0]}
