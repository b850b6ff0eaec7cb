"""Comparison d, first half: file to prediction by `xmag.analyze` and by a plain script, slide by slide."""

import tempfile
from collections.abc import Sequence
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
PLAIN = "plain script"


def compare(slides: Sequence[tuple[str, Path]], subject: Subject, repeats: int, say: Say) -> list[Json]:
    """One entry for each (name, path); raises SlideError and ReleaseError."""
    say("loading the releases on both sides")
    engine = subject.engine()
    encoder, _ = subject.loaded(engine)
    plain = script.load(subject.settings.releases_dir, subject.head_digest, engine.device)
    with Decoders(subject.settings.decode) as decoders:
        found = []
        for name, path in slides:
            target = Target(path, whole_grid(path, encoder.manifest.tiling))
            ours = partial(_ours, path, subject, engine, decoders)
            found.append(_compare_one(name, target, ours, plain, repeats, say) | {"weights": subject.weights})
        return found


def _compare_one(
    name: str, target: Target, ours: partial[Analysis], plain: script.Script, repeats: int, say: Say
) -> Json:
    ours()
    plain.embed(np.zeros((1, target.grid.tile_px, target.grid.tile_px, 3), np.uint8))
    results: dict[str, NDArray[np.float64]] = {}
    analyses: list[Analysis] = []

    def run_ours() -> None:
        analyses.append(ours())

    def run_plain() -> None:
        results[PLAIN] = plain.predict(target)

    runs = paired({OURS: run_ours, PLAIN: run_plain}, repeats, lambda message: say(f"{name}: {message}"))
    (said,) = analyses[-1].predictions
    reference = results[PLAIN]
    difference = float(np.abs(np.array(list(said.probabilities.values())) - reference).max())
    tiles = len(target.grid)
    return {
        "slide": name,
        "tiles": tiles,
        "reference": PLAIN,
        "routes": {
            OURS: {
                **_speed(runs[OURS], analyses[-1].tiles),
                "agreement": {
                    "same_number_of_tiles": analyses[-1].tiles == tiles,
                    "max_probability_difference": round(difference, 6),
                    "same_label": list(said.probabilities.values()).index(max(said.probabilities.values()))
                    == int(reference.argmax()),
                },
                "numerics": analyses[-1].provenance["encoders"][0].get("numerics"),
                "reading": analyses[-1].provenance["encoders"][0].get("reading"),
                "stages": _stages(analyses),
            },
            PLAIN: {**_speed(runs[PLAIN], tiles), "agreement": {"max_probability_difference": 0.0}},
        },
        "ratios": {
            "slides_per_minute_vs_plain": ratio(runs[PLAIN].wall, runs[OURS].wall),
            "cpu_seconds_vs_ours": ratio(runs[PLAIN].cpu, runs[OURS].cpu),
        },
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
