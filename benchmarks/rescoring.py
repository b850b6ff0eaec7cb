"""Re-scoring stored bags with a head, on one core: `python -m benchmarks.rescoring DATA HEAD` prints JSON.

The process pins itself to one core before it loads anything that starts threads.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.measure import Json, Say, spread, timed

BAGS = 256
TILES = 554
REPEATS = 3


def compare(say: Say, bags: int = BAGS) -> Json:
    """Slides/s of one core over a store of ``bags`` bags of 554 tiles."""
    from benchmarks.subject import random_subject

    with random_subject() as subject, tempfile.TemporaryDirectory(prefix="xmag-bench-") as folder:
        say(f"storing {bags} bags")
        _store(subject, Path(folder), bags)
        say("re-scoring them on one core")
        key = subject.settings.trusted_keys[0]
        command = [sys.executable, "-m", "benchmarks.rescoring", str(subject.settings.data), folder]
        done = subprocess.run(  # noqa: S603
            [*command, subject.head_digest, key], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return dict(json.loads(done.stdout))


def _store(subject: Any, data: Path, bags: int) -> None:
    """Bags as an encode would leave them; the numbers are random."""
    from xmag.slide.grid import TileGrid
    from xmag.store import StoredBag, embedding_key, put_embeddings
    from xmag.units import Mpp, MppXY

    engine = subject.engine(precision="fp32")
    encoder, _ = subject.loaded(engine)
    settings = subject.settings.model_copy(update={"data": data})
    mpp, rng = MppXY(Mpp(0.25), Mpp(0.25)), np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(TILES)))
    cells = np.stack(np.divmod(np.arange(TILES), side), axis=1).astype(np.int32)
    for index in range(bags):
        slide = f"{index:064x}"
        origin = {
            "slide": slide,
            "encoder": encoder.digest,
            "mpp": [mpp.x, mpp.y],
            "reading": {"route": "openslide", "level": 0, "scale": 1, "left_to_openslide": 0},
            "numerics": engine.numerics(encoder, "fp32"),
        }
        grid = TileGrid(cells, np.ones(TILES, np.float32), (1792.0, 1792.0), 224, side, side)
        embeddings = rng.standard_normal((TILES, 768), np.float32)
        key = embedding_key(slide, encoder.digest, encoder.manifest.tiling, mpp, "fp32")
        put_embeddings(settings.store_dir, key, StoredBag(embeddings, grid, origin))


def one_core(releases: Path, data: Path, head: str, key: str) -> Json:
    """Measure in this process, which is on one core already."""
    from benchmarks.machine import rates
    from xmag.config import Settings, Worker
    from xmag.nn.runtime import Engine
    from xmag.rescore import rescore

    settings = Settings(data=data, trusted_keys=(key,))
    engine = Engine(releases / "releases", (key,), Worker(threads=1))
    first = list(rescore(head, engine, settings))
    costs = [timed(lambda: sum(1 for _ in rescore(head, engine, settings)))[1] for _ in range(REPEATS)]
    loaded = engine.head(head)
    return {
        "bags": len(first),
        "tiles": TILES,
        "cores": 1,
        "slides_per_second": spread(len(first) / cost.wall for cost in costs),
        "cpu_ms_per_slide": spread(1000 * cost.cpu / len(first) for cost in costs),
        "gflop_per_bag": round(_gflop(loaded.manifest.architecture), 3),
        "matmul_gflops": rates("cpu"),
        "agreement": {
            "max_probability_difference_to_predict": max(
                _shift(one, engine, loaded, settings.store_dir) for one in first[:8]
            )
        },
    }


def _gflop(spec: Any) -> float:
    """Of the head's matrix products on one bag."""
    tile = spec.in_dim * spec.hidden_dim + 2 * spec.hidden_dim * spec.attention_dim
    return float(2 * TILES * tile / 1e9)


def _shift(one: Any, engine: Any, head: Any, store: Path) -> float:
    """How far a bag's probabilities are from those of the path that a single slide takes."""
    from xmag.store import get_embeddings

    bag = get_embeddings(store, one.embeddings)
    assert bag is not None
    exact = engine.predict(head, bag.embeddings).probabilities
    return round(float(np.abs(exact - np.array(list(one.probabilities.values()))).max()), 6)


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    click.echo(json.dumps(one_core(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])))
