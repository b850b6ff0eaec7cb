"""Where one slide's time goes: every stage of `xmag.analyze`, with a full-size ViT-B/14 of random weights.

Wall and CPU seconds, the median of three runs on a synthetic slide, each run with an empty store. Writes
``benchmarks/results/latest.json``.
"""

import json
import platform
import statistics
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import Any

import click
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from training.publish import Publisher
from xmag.analyze import Request, analyze
from xmag.config import Settings
from xmag.manifest import TASK_LABELS, AbmilSpec, PreprocessSpec, TilingSpec, VitSpec
from xmag.nn.mil import ABMIL
from xmag.nn.runtime import Engine
from xmag.nn.vit import build_vit
from xmag.registry import public_key_text
from xmag.slide.location import SlideLocation
from xmag.slide.synthetic.recipe import Recipe
from xmag.slide.synthetic.write import write_slide

RUNS = 3
RESULTS = Path(__file__).parent / "results" / "latest.json"
UNMEASURED = {
    "n": 0,
    "macro_auc": dict.fromkeys(("value", "low", "high"), float("nan")),
    "accuracy": dict.fromkeys(("value", "low", "high"), float("nan")),
}


def main() -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = write_slide(
            folder / "slide.svs", Recipe("nsclc", "LUAD", seed=1, width_um=2688, height_um=2688)
        )
        key = Ed25519PrivateKey.generate()
        head = publish_random(folder / "releases", key)
        runs = [measure(folder / f"run{run}", folder / "releases", key, slide, head) for run in range(RUNS)]
    report = {"machine": machine(), "tiles": runs[0]["tiles"], "seconds": medians(runs)}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    for stage, seconds in report["seconds"].items():
        click.echo(f"{stage:8} {seconds:8.3f} s")
    click.echo(f"{report['tiles']} tiles; written to {RESULTS.relative_to(Path.cwd())}")


def publish_random(releases: Path, key: Ed25519PrivateKey) -> str:
    """A ViT-B/14 and an nsclc head of random weights, published like any other; the head's digest."""
    torch.manual_seed(0)
    vit = VitSpec(init_values=1.0)
    abmil = AbmilSpec(in_dim=vit.embed_dim, classes=len(TASK_LABELS["nsclc"]))
    publisher = Publisher(releases, key)
    facts = {"slides": 0, "tiles": 0}
    encoder = publisher.encoder(build_vit(vit), vit, PreprocessSpec(), TilingSpec(), facts)
    return publisher.head(ABMIL(abmil), "nsclc", encoder, abmil, facts, UNMEASURED)


def measure(data: Path, releases: Path, key: Ed25519PrivateKey, slide: Path, head: str) -> dict[str, Any]:
    """One run with an empty store; seconds by stage, of the whole, and of this process's CPU."""
    settings = Settings(data=data)
    engine = Engine(releases, [public_key_text(key)], settings.worker)
    engine.ensure(head)
    request = Request(SlideLocation(slide.parent, PurePosixPath(slide.name)), {"nsclc": head})
    wall, cpu = time.perf_counter(), time.process_time()
    found = analyze(request, engine, settings, lambda _: None)
    whole = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {"tiles": found.tiles, **found.provenance["seconds"], **whole}


def medians(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The median of each stage over the runs."""
    return {stage: statistics.median(run[stage] for run in runs) for stage in runs[0] if stage != "tiles"}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
