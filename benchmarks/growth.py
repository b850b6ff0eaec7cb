"""Comparison e: how cost grows with tissue and with workers."""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import slides
from benchmarks.measure import Json, Say, paired, peak_bytes, ratio, timed
from benchmarks.routes import located, ours
from benchmarks.service import serving
from xmag.config import Decode
from xmag.manifest import TilingSpec
from xmag.slide.decoder import Decoder, TilePlan

TIMES = (1, 2, 4, 8, 16)
BASE_TILES = 134
"""Tissue x1; x4 is the slide of the reading comparison."""

WORKERS = (1, 2)
WORKER_TILES = 12
WORKER_JOBS = {"cpu": 8, "cuda": 48}


def tissue(folder: Path, repeats: int, say: Say) -> Json:
    """Reading CPU-seconds and the decoder's peak memory on slides of growing area, all at 40x."""
    points = []
    for times in TIMES:
        say(f"a slide of x{times} tissue")
        path = slides.made(slides.base_40x(BASE_TILES, times), folder)
        points.append({"times": times, "bytes": path.stat().st_size, **_reading(path, repeats, say)})
        if times > 4:
            path.unlink()
    return {"points": points, **_fit(points)}


def _reading(path: Path, repeats: int, say: Say) -> Json:
    """A decoder of its own, so that its peak is this slide's."""
    spec = TilingSpec()
    with Decoder(Decode()) as decoder:
        decoder.open(located(path), digest=False)
        plan = decoder.plan(spec)
        ours(decoder, path, plan, spec)
        runs = paired({"ours": partial(_read, decoder, path, plan, spec)}, repeats, say)["ours"]
        _, mask = timed(lambda: decoder.plan(spec))
        peak = peak_bytes(decoder.pid)
    return {
        "tiles": len(plan.grid),
        **runs.json(),
        "mask_cpu_seconds": round(mask.cpu, 6),
        "cpu_ms_per_tile": round(1000 * runs.cpu / len(plan.grid), 4),
        "decoder_peak_bytes": peak,
        "reading": {"route": plan.reading.route, "level": plan.reading.level, "scale": plan.reading.scale},
    }


def _read(decoder: Decoder, path: Path, plan: TilePlan, spec: TilingSpec) -> int:
    """Tiles are let go of batch by batch, as an analysis does."""
    decoder.open(located(path), digest=False)
    return sum(len(batch) for batch in decoder.tiles(plan, spec, 32))


def _fit(points: list[Json]) -> Json:
    """A straight line through CPU-seconds over tiles, and how well it fits."""
    tiles = np.array([point["tiles"] for point in points], np.float64)
    cpu = np.array([point["cpu_seconds"]["median"] for point in points])
    slope, start = np.polyfit(tiles, cpu, 1)
    rest = float(((cpu - (slope * tiles + start)) ** 2).sum())
    total = float(((cpu - cpu.mean()) ** 2).sum())
    peaks = [point["decoder_peak_bytes"] for point in points if point["decoder_peak_bytes"]]
    return {
        "cpu_ms_per_tile": round(1000 * float(slope), 4),
        "cpu_seconds_at_no_tissue": round(float(start), 4),
        "r_squared": round(1 - rest / total, 5) if total else None,
        "peak_memory_x16_vs_x1": ratio(peaks[-1], peaks[0]) if peaks else None,
    }


def workers(device: str, folder: Path, say: Say) -> Json:
    """Slides/min by one worker process and by two; on a CPU each has one thread, on a GPU they share it."""
    master = slides.made(slides.small(WORKER_TILES), folder)
    environment = {"XMAG_WORKER__THREADS": "1"} if device == "cpu" else {}
    points = []
    for count in WORKERS:
        say(f"{count} worker processes")
        points.append({"workers": count, **_throughput(master, count, environment, WORKER_JOBS[device])})
    speeds = [point["slides_per_minute"] for point in points]
    return {
        "device": device,
        "tiles": WORKER_TILES,
        "points": points,
        "speed_up": ratio(speeds[1], speeds[0]),
    }


def _throughput(master: Path, count: int, environment: dict[str, str], jobs: int) -> Json:
    with tempfile.TemporaryDirectory(prefix="xmag-bench-") as name:
        data = Path(name)
        masters = slides.copies(master, data / "masters", jobs)
        with serving(data, masters, workers=count, environment=environment) as service:
            ids, cost = timed(lambda: service.run(4 * count, jobs))
            ended = service.ended(ids)
    wall = max(one.finished for one in ended) - min(one.created for one in ended)
    return {
        "slides": jobs,
        "slides_per_minute": round(60 * jobs / wall, 3),
        "cpu_seconds_per_slide": round(cost.cpu / jobs, 3),
    }
