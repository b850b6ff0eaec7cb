"""What was to be reached (the table "It must reach"), beside what a run measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.agreement import agrees
from benchmarks.measure import Json

PAPER_WSI_PER_MINUTE = 8.8


@dataclass(frozen=True)
class Target:
    """One line: what, the least (or most) asked for, where it is in the results, and what bounds it."""

    what: str
    asked: str
    device: str
    find: Callable[[Json], float | None]
    reached: Callable[[float], bool]
    unit: str = "x"
    bound: Callable[[Json], str] = lambda _: ""
    part: str = "d"


@dataclass(frozen=True)
class Verdict:
    """A target's line for the report; ``measured`` is None where no such machine was measured."""

    what: str
    asked: str
    measured: str | None
    reached: bool | None
    bound: str


def dig(results: Any, *path: str | int) -> Any:
    """A value deep in the results, None when any step is missing."""
    for step in path:
        try:
            results = results[step]
        except (KeyError, IndexError, TypeError):
            return None
    return results


def verdicts(runs: Sequence[Json]) -> list[Verdict]:
    """Every target, by the first run on its kind of device that measured it."""
    return [_verdict(target, runs) for target in TARGETS]


def _verdict(target: Target, runs: Sequence[Json]) -> Verdict:
    for run in runs:
        if target.device in ("any", run["device"]):
            value = target.find(run["parts"])
            if value is not None:
                measured = f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
                shown = f"{measured}{target.unit}"
                right = agrees(run["parts"][target.part])
                bound = target.bound(run) if right else "its outputs disagree with the reference's"
                return Verdict(target.what, target.asked, shown, right and target.reached(value), bound)
    return Verdict(target.what, target.asked, None, None, "")


def at_least(number: float) -> Callable[[float], bool]:
    """Whether a value reaches ``number``."""
    return lambda value: value >= number


def below(number: float) -> Callable[[float], bool]:
    """Whether a value stays under ``number``."""
    return lambda value: value < number


def _slide(parts: Json, part: str, name: str) -> Json | None:
    found = dig(parts, part, "slides") or []
    return next((one for one in found if one["slide"] == name), None)


def _reading(name: str) -> Callable[[Json], float | None]:
    return lambda parts: dig(_slide(parts, "a", name), "ratios", "cpu_seconds_vs_ours", "openslide per tile")


def _encode(precision: str) -> Callable[[Json], float | None]:
    def find(parts: Json) -> float | None:
        ratios = dig(parts, "b", "slides", 0, "ratios", "tiles_per_second_vs_timm_fp32") or {}
        found = [
            value for name, value in ratios.items() if f"ours {precision} " in name and name[-7:] != "batch 1"
        ]
        return max(found) if found else None

    return find


def _saturated(parts: Json, precision: str, what: tuple[str, ...]) -> float | None:
    routes = dig(parts, "b", "slides", 0, "routes") or {}
    for name, route in routes.items():
        if name.startswith(f"ours {precision}") and route["regime"] == "saturated":
            value = dig(route, *what)
            return None if value is None else float(value)
    return None


def _matmul_bound(run: Json) -> str:
    """How near the engine is to this machine's own matrix rate, and how far apart the two rates are."""
    parts = run["parts"]
    share = _saturated(parts, "bf16", ("share_of_matmul_rate",))
    rates = dig(parts, "b", "slides", 0, "matmul_gflops") or {}
    routes = dig(parts, "b", "slides", 0, "routes") or {}
    plain = max((one["gflops"] for name, one in routes.items() if name.startswith("timm")), default=0)
    if share is None or not plain:
        return ""
    return (
        f"ours runs at {share:.0%} of this machine's bf16 matmul rate, timm at {plain / rates['fp32']:.0%} "
        f"of its fp32 rate: an encoder at the whole bf16 rate would be {rates['bf16'] / plain:.1f}x"
    )


def _int8_bound(run: Json) -> str:
    refused = dig(run["parts"], "b", "slides", 0, "refused") or {}
    return f"refused: {refused['int8']}" if "int8" in refused else "no int8 matmul rate is measured"


def _rescoring_bound(run: Json) -> str:
    store = dig(run["parts"], "e", "rescoring") or {}
    rate = dig(store, "matmul_gflops", "bf16")
    if not rate:
        return ""
    least = 1000 * store["gflop_per_bag"] / rate
    return (
        f"the head's products alone are {least:.1f} ms a bag at this core's bf16 matmul rate, of "
        f"{store['cpu_ms_per_slide']['median']:.1f} ms measured"
    )


def _script(route: str) -> Callable[[Json], float | None]:
    def find(parts: Json) -> float | None:
        slides = dig(parts, "d", "slides") or []
        values = [dig(one, "ratios", "slides_per_minute_vs_plain", route) for one in slides]
        return min((value for value in values if value is not None), default=None)

    return find


def _encode_share(run: Json) -> str:
    stages = dig(run["parts"], "d", "slides", 0, "routes", "ours", "stages") or {}
    whole = sum(stage["median"] for stage in stages.values())
    if not whole or "encode" not in stages:
        return ""
    return f"{stages['encode']['median'] / whole:.0%} of a slide's time is decoding with encoding"


def _service(submitters: str, *path: str) -> Callable[[Json], float | None]:
    return lambda parts: dig(parts, "d", "service", "submitters", submitters, *path)


def _idle(parts: Json) -> float | None:
    busy = _service("16", "engine_busy_share")(parts)
    return None if busy is None else 100 * (1 - min(1.0, busy))


def _percent(find: Callable[[Json], float | None]) -> Callable[[Json], float | None]:
    def times_100(parts: Json) -> float | None:
        value = find(parts)
        return None if value is None else 100 * value

    return times_100


def _milliseconds(find: Callable[[Json], float | None]) -> Callable[[Json], float | None]:
    def times_1000(parts: Json) -> float | None:
        value = find(parts)
        return None if value is None else 1000 * value

    return times_1000


def _gpu_bound(run: Json) -> str:
    busy = _service("16", "engine_busy_share")(run["parts"])
    if busy is None:
        return ""
    return f"the GPU is busy {busy:.0%} of the time: " + (
        "the encoder bounds it" if busy > 0.85 else "the host bounds it"
    )


TARGETS = (
    Target("reading a 40x-base slide, CPU-seconds of OpenSlide per tile for one of ours", "6x", "any",
           _reading("40x"), at_least(6), part="a"),
    Target("reading a 20x-base slide, the same", "3x", "any", _reading("20x"), at_least(3), part="a"),
    Target("CPU encode at bf16, tiles/s for one of timm fp32 eager", "4x", "cpu", _encode("bf16"),
           at_least(4), bound=_matmul_bound, part="b"),
    Target("CPU encode at int8, the same", "6x", "cpu", _encode("int8"), at_least(6), bound=_int8_bound,
           part="b"),
    Target("file to prediction on CPU at bf16, for one of the plain script", "5x", "cpu", _script("ours"),
           at_least(5), bound=_encode_share),
    Target("the same at int8", "5x", "cpu", _script("ours at int8"), at_least(5), bound=_encode_share),
    Target("GPU: encoder's share of the measured bf16 matmul rate", "60 %", "cuda",
           _percent(lambda parts: _saturated(parts, "bf16", ("share_of_matmul_rate",))), at_least(60), " %",
           part="b"),
    Target("GPU: encoder alone", "9,000 tiles/s", "cuda",
           lambda parts: _saturated(parts, "bf16", ("tiles_per_second", "median")), at_least(9000),
           " tiles/s", part="b"),
    Target("GPU: file to prediction through the service, WSI of about 554 tiles", "600 WSI/min", "cuda",
           _service("16", "slides_per_minute"), at_least(600), " WSI/min", _gpu_bound),
    Target("GPU idle while jobs wait", "< 10 %", "cuda", _idle, below(10), " %"),
    Target("service overhead of a slide beyond opening, mask, decoding, encoding and heads", "< 30 ms", "any",
           _milliseconds(_service("1", "overhead_seconds", "median")), below(30), " ms"),
    Target("the same, as a share of the attempt on a CPU", "< 5 %", "cpu",
           _percent(_service("1", "overhead_share", "median")), below(5), " %"),
    Target("re-scoring stored bags of 554 tiles on one core", "200 slides/s", "any",
           lambda parts: dig(parts, "e", "rescoring", "slides_per_second", "median"), at_least(200),
           " slides/s", _rescoring_bound, part="e"),
)  # fmt: skip
"""In the order of the table."""
