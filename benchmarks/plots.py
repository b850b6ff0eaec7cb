"""The report's pictures: small, one idea each, in colours that colour-blind readers tell apart."""

from pathlib import Path
from typing import Any

from benchmarks.measure import Json
from benchmarks.targets import dig

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"
SIZE = (6.4, 3.2)
DPI = 100


def draw(run: Json, folder: Path, prefix: str = "") -> list[str]:
    """Every picture that the run has figures for, as PNG in ``folder``; their names."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, picture in PICTURES.items():
        figure, axes = pyplot.subplots(figsize=SIZE, dpi=DPI, layout="constrained")
        if picture(axes, run["parts"]):
            axes.spines[["top", "right"]].set_visible(False)
            figure.savefig(folder / f"{prefix}{name}.png", metadata={"Software": None})
            drawn.append(f"{prefix}{name}.png")
        pyplot.close(figure)
    return drawn


def reading(axes: Any, parts: Json) -> bool:
    """CPU-seconds of a slide by route, both bases."""
    slides = dig(parts, "a", "slides") or []
    if not slides:
        return False
    names = [name for name, route in slides[0]["routes"].items() if "cpu_seconds" in route]
    for index, (slide, colour) in enumerate(zip(slides, (BLUE, ORANGE), strict=False)):
        cost = [dig(slide, "routes", name, "cpu_seconds", "median") or 0.0 for name in names]
        places = [place + 0.4 * index for place in range(len(names))]
        bars = axes.barh(places, cost, 0.38, color=colour, label=f"{slide['slide']} base")
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axes.set_yticks([place + 0.2 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlabel("CPU-seconds for all tissue tiles of a slide")
    axes.legend(frameon=False)
    return True


def encoding(axes: Any, parts: Json) -> bool:
    """Tiles/s by route, batch 1 and saturated."""
    routes = dig(parts, "b", "slides", 0, "routes")
    if not routes:
        return False
    for name, route in routes.items():
        colour = BLUE if name.startswith("ours") else GREY
        bars = axes.barh(name, route["tiles_per_second"]["median"], color=colour)
        axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("tiles/s (ViT-B/14 at 224 px)")
    return True


def figure3(axes: Any, parts: Json) -> bool:
    """WSI/min of the three systems by regime, with the paper's figures."""
    systems = dig(parts, "c", "systems")
    if not systems:
        return False
    names = list(systems)
    regimes = list(next(iter(systems.values()))["regimes"])
    colours = (GREY, BLUE, ORANGE, GREEN)
    for index, (regime, colour) in enumerate(zip(regimes, colours, strict=False)):
        speed = [systems[name]["regimes"][regime]["wsi_per_minute"]["median"] for name in names]
        axes.bar(
            [place + 0.2 * index for place in range(len(names))], speed, 0.19, color=colour, label=regime
        )
    paper = [systems[name]["paper_wsi_per_minute"] for name in names]
    axes.plot([place + 0.3 for place in range(len(names))], paper, "k_", markersize=30, label="the paper")
    axes.set_xticks([place + 0.3 for place in range(len(names))], names)
    axes.set_yscale("log")
    axes.set_ylabel("slides/min, encoding alone")
    axes.legend(frameon=False, fontsize=8)
    return True


def submitters(axes: Any, parts: Json) -> bool:
    """Slides/min through the service by submitters."""
    found = dig(parts, "d", "service", "submitters")
    if not found:
        return False
    speed = [one["slides_per_minute"] for one in found.values()]
    bars = axes.bar(list(found), speed, 0.5, color=BLUE)
    axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xlabel("submitters, each with one slide under way")
    axes.set_ylabel(f"slides/min ({dig(parts, 'd', 'service', 'tiles')} tiles each)")
    return True


def tissue(axes: Any, parts: Json) -> bool:
    """Reading cost and the decoder's memory over tissue."""
    points = dig(parts, "e", "tissue", "points")
    if not points:
        return False
    tiles = [point["tiles"] for point in points]
    line = axes.plot(tiles, [point["cpu_seconds"]["median"] for point in points], "o-", color=BLUE)
    axes.set_xlabel("tissue tiles of a 40x slide")
    axes.set_ylabel("CPU-seconds of reading")
    axes.set_ylim(bottom=0)
    handles, labels = [*line], ["CPU-seconds"]
    if all(point["decoder_peak_bytes"] for point in points):
        other = axes.twinx()
        peaks = [point["decoder_peak_bytes"] / 2**20 for point in points]
        handles += other.plot(tiles, peaks, "s--", color=ORANGE)
        labels.append("decoder's peak memory")
        other.set_ylim(0, 2 * max(peaks))
        other.set_ylabel("MiB")
    axes.legend(handles, labels, frameon=False, loc="upper left")
    return True


def queue(axes: Any, parts: Json) -> bool:
    """Claim and submit over queue depth."""
    points = dig(parts, "e", "queue", "points")
    if not points:
        return False
    depth = [point["queued"] for point in points]
    for what, colour, mark in (("claim_ms", BLUE, "o-"), ("submit_ms", ORANGE, "s--")):
        axes.plot(depth, [point[what]["median"] for point in points], mark, color=colour, label=what[:-3])
    axes.set_xscale("log")
    axes.set_ylim(
        0, 1.2 * max(point[what]["median"] for point in points for what in ("claim_ms", "submit_ms"))
    )
    axes.set_xlabel("jobs in the queue")
    axes.set_ylabel("ms, median")
    axes.legend(frameon=False)
    return True


PICTURES = {
    "reading": reading,
    "encoding": encoding,
    "figure3": figure3,
    "submitters": submitters,
    "tissue": tissue,
    "queue": queue,
}
"""File name -> what draws it; a picture without figures is left out."""
