"""The report's tables, one function for each part of a run; a part that was not measured gives no lines."""

import math
from collections.abc import Iterable, Sequence

from benchmarks.agreement import agrees
from benchmarks.measure import Json
from benchmarks.targets import dig

Lines = list[str]
NONE = "-"
WORDS = ("measured on", "run on the CPU", "run on the GPU", "what bounds it")


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Lines:
    """A Markdown table; numbers stand on the right, words of the first column and of `WORDS` on the left."""
    line = ["---", *("---" if name in WORDS else "--:" for name in heading[1:])]
    return ["| " + " | ".join(cells) + " |" for cells in (heading, line, *rows)] + [""]


def number(value: float | None, digits: int = 3, unit: str = "") -> str:
    """Three significant digits, without an exponent; a dash for what was not measured."""
    if value is None:
        return NONE
    if value and abs(value) >= 10**digits:
        return f"{value:,.0f}{unit}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else digits
    return f"{value:.{places}f}{unit}"


def ranged(spread: Json | None) -> str:
    """Median, and least to most in brackets."""
    if not spread:
        return NONE
    return f"{number(spread['median'])} ({number(spread['min'])} to {number(spread['max'])})"


def reading(parts: Json) -> Lines:
    """Part a."""
    lines: Lines = []
    for slide in dig(parts, "a", "slides") or []:
        lines += [
            f"**{slide['slide']} base**, {slide['tiles']} tissue tiles at 5x, {slide['bytes'] / 1e6:.0f} MB; "
            f"opening and finding the tissue (not in the table): "
            f"{number(slide['open_and_mask']['cpu_seconds'])} CPU-s.",
            "",
        ]
        heading = ["route", "CPU-s", "wall s", "CPU-s for one of ours", "mean difference", "PSNR dB"]
        lines += table(heading, [_route(name, route, slide) for name, route in slide["routes"].items()])
    if lines:
        lines += [
            "Differences are of pixels (0 to 255) to our own OpenSlide route, which shrinks with the "
            "release's filter; the other routes shrink with PIL's bicubic, as scripts do. A dash at PSNR: no "
            "pixel differs.",
            "",
        ]
    return lines


def _route(name: str, route: Json, slide: Json) -> Lines:
    if "unavailable" in route:
        return [name, route["unavailable"], *[NONE] * 4]
    times = slide["ratios"]["cpu_seconds_vs_ours"].get(name)
    agreement = route["agreement"]
    return [
        name,
        ranged(route["cpu_seconds"]),
        ranged(route["wall_seconds"]),
        number(times, 3, "x"),
        number(agreement["mean_abs_difference"]),
        number(agreement["psnr_db"]),
    ]


def encoding(parts: Json) -> Lines:
    """Part b."""
    slide = dig(parts, "b", "slides", 0)
    if not slide:
        return []
    ratios = slide["ratios"]["tiles_per_second_vs_timm_fp32"]
    rows = [
        [
            name,
            ranged(route["tiles_per_second"]),
            number(ratios.get(name), 3, "x"),
            number(route["gflops"]),
            NONE if route["share_of_matmul_rate"] is None else f"{route['share_of_matmul_rate']:.0%}",
            f"{route['agreement']['least_cosine']:.5f}",
            f"{route['agreement']['max_probability_difference']:.5f}",
        ]
        for name, route in slide["routes"].items()
    ]
    heading = ["route", "tiles/s", "vs timm fp32", "GFLOP/s", "of matmul rate", "least cosine", "probability"]
    rates = ", ".join(f"{name} {number(rate)}" for name, rate in slide["matmul_gflops"].items())
    lines = table(heading, rows)
    lines += [
        f"ViT-B/14 at 224 px, {slide['weights']} weights, on the {slide['device']}. Matrix rates measured "
        f"just before and after, GFLOP/s: {rates}; int8 products are not measured. The ratio is to the plain "
        "script's better batch. Cosine (the smallest of all tiles) and the change of a head's probabilities "
        "are against timm in fp32.",
        "",
    ]
    lines += [f"Not served at {name}: {reason}.\n" for name, reason in slide["refused"].items()]
    return lines


def figure3(parts: Json) -> Lines:
    """Part c."""
    found = dig(parts, "c")
    if not found:
        return []
    rows = []
    for name, system in found["systems"].items():
        for regime, one in system["regimes"].items():
            times = dig(found, "ratios", name, regime)
            rows.append(
                [
                    f"{name}, {regime}",
                    f"{system['parameters'] / 1e6:,.1f} M",
                    f"{system['tiles_per_slide']:,}",
                    ranged(_thousand(one["seconds_per_tile"])),
                    ranged(one["wsi_per_minute"]) + ("*" if one["computed"] else ""),
                    number(times, 3, "x"),
                    number(system["paper_wsi_per_minute"], 3),
                ]
            )
    heading = ["system", "weights", "tiles", "ms/tile", "WSI/min", "XMAG is faster by", "paper's WSI/min"]
    return [
        *table(heading, rows),
        "All in plain timm, eager, of random weights, on the same device. * computed from a sample of tiles: "
        "60 / (tiles x seconds of a tile). The paper's figures are of other hardware.",
        "",
    ]


def _thousand(spread: Json) -> Json:
    return {name: 1000 * value for name, value in spread.items()}


def prediction(parts: Json) -> Lines:
    """Part d, one slide at a time."""
    rows = []
    for slide in dig(parts, "d", "slides") or []:
        for name, route in slide["routes"].items():
            rows.append(
                [
                    f"{slide['slide']} base, {slide['tiles']} tiles: {name}",
                    ranged(route["wall_seconds"]),
                    ranged(route["cpu_seconds"]),
                    ranged(route["slides_per_minute"]),
                    number(slide["ratios"]["slides_per_minute_vs_plain"].get(name, 1.0), 3, "x"),
                    f"{route['agreement']['max_probability_difference']:.5f}",
                ]
            )
    heading = ["slide and route", "wall s", "CPU-s", "slides/min", "vs plain", "probability"]
    return table(heading, rows) if rows else []


def service(parts: Json) -> Lines:
    """Part d, through the running service."""
    found = dig(parts, "d", "service")
    if not found:
        return []
    rows = [
        [
            count,
            str(one["slides"]),
            number(one["slides_per_minute"]),
            ranged(one["latency_seconds"]),
            number(1000 * one["claimed_after_seconds"]["min"]),
            number(1000 * one["overhead_seconds"]["median"]),
            f"{one['overhead_share']['median']:.1%}",
            NONE if one["engine_busy_share"] is None else f"{one['engine_busy_share']:.0%}",
            f"{one['agreement']['max_probability_difference']:.5f}",
        ]
        for count, one in found["submitters"].items()
    ]
    heading = [
        "submitters", "slides", "slides/min", "latency s", "ms to the claim", "overhead ms", "of the attempt",
        "engine busy", "probability",
    ]  # fmt: skip
    urgent = found["stat"]
    lines = table(heading, rows)
    lines += table(
        ["latency of a slide, s", "median", "90 %"],
        [
            [what, ranged(urgent[name]), number(urgent[name]["p90"])]
            for what, name in (
                ("STAT, nothing else", "alone_seconds"),
                ("STAT while 16 routine jobs are kept under way", "loaded_seconds"),
                ("those routine jobs", "routine_seconds"),
            )
        ],
    )
    return [
        f"Slides of {found['tiles']} tiles with bytes that the service has not seen, one worker; latency is "
        "from the accepted request to the committed result. The claim is the shortest "
        "of them, as it waits for a free slot. Overhead is the attempt's time beyond opening, "
        "mask, decoding with encoding, and heads. The last column is the largest difference to the plain "
        "script.",
        "",
        *lines,
    ]


def growth(parts: Json) -> Lines:
    """Part e."""
    found = dig(parts, "e")
    return [] if not found else [*_tissue(found), *_workers(found), *_queue(found), *_rescoring(found)]


def _tissue(found: Json) -> Lines:
    tissue = found["tissue"]
    rows = [
        [
            f"x{point['times']}",
            f"{point['tiles']:,}",
            ranged(point["cpu_seconds"]),
            number(point["cpu_ms_per_tile"]),
            NONE if not point["decoder_peak_bytes"] else f"{point['decoder_peak_bytes'] / 2**20:,.0f} MiB",
        ]
        for point in tissue["points"]
    ]
    fit = (
        f"A straight line through the five fits with R² = {tissue['r_squared']}: "
        f"{number(tissue['cpu_ms_per_tile'])} ms a tile."
    )
    return [*table(["tissue (40x base)", "tiles", "CPU-s", "ms a tile", "decoder's peak"], rows), fit, ""]


def _workers(found: Json) -> Lines:
    workers = found["workers"]
    rows = [
        [str(point["workers"]), number(point["slides_per_minute"]), number(point["cpu_seconds_per_slide"])]
        for point in workers["points"]
    ]
    each = ", one thread each" if workers["device"] == "cpu" else ", sharing one GPU"
    heading = [f"workers{each}", f"slides/min ({workers['tiles']} tiles)", "CPU-s a slide"]
    words = f"Two workers do {number(workers['speed_up'])} times the work of one."
    return [*table(heading, rows), words, ""]


def _queue(found: Json) -> Lines:
    rows = [
        [f"{point['queued']:,}", ranged(point["claim_ms"]), ranged(point["submit_ms"])]
        for point in found["queue"]["points"]
    ]
    return table(["jobs in the queue", "claim, ms", "submit, ms"], rows)


def _rescoring(found: Json) -> Lines:
    store = found["rescoring"]
    return [
        f"Re-scoring {store['bags']} stored bags of {store['tiles']} tiles with a head, on one core: "
        f"{ranged(store['slides_per_second'])} slides/s; the largest difference of a probability to the "
        f"head's own path is {store['agreement']['max_probability_difference_to_predict']:.6f}.",
        "",
    ]


def routes_text(slide: Json) -> str:
    """The routes of one slide of any comparison, in columns for a terminal."""
    heading = ["route", "wall s", "CPU-s", "tiles", "agreement with the reference"]
    rows = [heading, *(_columns(name, route) for name, route in slide["routes"].items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    ratios = [f"{what}: {_pairs(found)}" for what, found in slide["ratios"].items()]
    weights = f", {slide['weights'][:16]} weights" if "weights" in slide else ""
    title = f"slide {slide['slide']}, {slide['tiles']} tiles{weights}; reference: {slide['reference']}"
    wrong = [name for name, route in slide["routes"].items() if not agrees(route)]
    remarks = [f"disagrees with the reference, so its ratio says nothing: {name}" for name in wrong]
    return "\n".join([title, *lines, *(line.replace("_", " ") for line in ratios), *remarks])


SAID = {"True": "yes", "False": "no", "None": "exact"}


def _columns(name: str, route: Json) -> Lines:
    if "unavailable" in route:
        return [name, NONE, NONE, NONE, route["unavailable"]]
    said = ", ".join(
        f"{what.replace('_', ' ')} {SAID.get(str(value), value)}"
        for what, value in route["agreement"].items()
    )
    return [name, ranged(route["wall_seconds"]), ranged(route["cpu_seconds"]), str(route["tiles"]), said]


def _pairs(found: Json | float | None) -> str:
    if isinstance(found, dict):
        return ", ".join(f"{name} {number(value, 3, 'x')}" for name, value in found.items())
    return number(found, 3, "x")
