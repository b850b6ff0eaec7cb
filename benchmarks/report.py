"""`docs/performance.md` and its pictures, from the results of one or more runs."""

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import sections
from benchmarks.measure import Json
from benchmarks.plots import draw
from benchmarks.sections import NONE, Lines, number, table
from benchmarks.targets import Verdict, verdicts
from xmag.files import write_atomic

INTRODUCTION = """# Performance

Written by `make bench`, which measures everything below on the machine it runs on; `python -m benchmarks
report FILE…` renders results that were measured before. What is compared was measured in one run, in turn, on
the same slides. Figures are medians with the least and the most in brackets; CPU-seconds count every process
that takes part. Every route's output was checked against a reference route, and the tables say how far they
agree.

The slides are made by the benchmark: synthetic H&E, rendered once and laid out as a scanner does, JPEG tiles
of 256 px (4:2:0, quality 75), read from a warm page cache. Absolute times do not carry over to another
machine; `xmag bench read|encode|slide SLIDE…` makes the same comparisons on yours, with your slides.
"""

PARTS: tuple[tuple[str, str, str | None, Callable[[Json], Lines]], ...] = (
    ("a. Reading", "All tissue tiles of a slide at 2.0 mpp.", "reading", sections.reading),
    ("b. Encoding", "The same tiles and weights on both sides.", "encoding", sections.encoding),
    (
        "c. The paper's Figure 3",
        "Encoding alone, as in the paper: XMAG needs 554 tiles of a slide, 20x systems 6,260.",
        "figure3",
        sections.figure3,
    ),
    (
        "d. File to prediction",
        "`xmag.analyze` with an empty store, against a script that reads with OpenSlide tile by tile, "
        "encodes with timm in fp32 and runs the same head. The script is given its tiles; ours finds them "
        "and hashes the file.",
        None,
        sections.prediction,
    ),
    ("d. Through the running service", "", "submitters", sections.service),
    ("e. How cost grows", "", "tissue", sections.growth),
)


def write(runs: Sequence[Json], page: Path) -> None:
    """Render ``runs`` to ``page`` and ``plots/`` beside it."""
    lines = [INTRODUCTION, "## Machine", "", *_machines(runs), "## Targets", "", *_targets(runs)]
    for index, run in enumerate(runs):
        prefix = "" if index == 0 else f"{run['device']}-"
        lines += _run(run, draw(run, page.parent / "plots", prefix), prefix, alone=len(runs) == 1)
    write_atomic(page, ("\n".join(lines).rstrip() + "\n").encode())


def text_table(runs: Sequence[Json]) -> str:
    """The targets for a terminal."""
    rows = [(each.what, each.asked, each.measured or NONE, _word(each)) for each in verdicts(runs)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def _machines(runs: Sequence[Json]) -> Lines:
    rows = [
        ("processor", [run["machine"]["cpu"] for run in runs]),
        ("cores, memory", [_size(run["machine"]) for run in runs]),
        ("GPU", [run["machine"]["gpu"] or "none: cells that need one are empty" for run in runs]),
        ("matmul on the CPU, GFLOP/s", [_rates(run, "cpu") for run in runs]),
        ("matmul on the GPU, GFLOP/s", [_rates(run, "cuda") for run in runs]),
        ("libraries", [_libraries(run["machine"]) for run in runs]),
        ("measured", [_dates(run) for run in runs]),
    ]
    heading = ["", *("measured on" if len(runs) == 1 else f"run on the {_device(run)}" for run in runs)]
    return table(heading, [[name, *cells] for name, cells in rows])


def _size(machine: Json) -> str:
    return f"{machine['cores']} cores, {number(machine['memory_gib'])} GiB"


def _rates(run: Json, device: str) -> str:
    rates = run["machine"]["matmul_gflops"][device]
    return ", ".join(f"{name} {number(rate)}" for name, rate in rates.items())


def _libraries(machine: Json) -> str:
    return ", ".join(f"{name} {version or 'absent'}" for name, version in machine["libraries"].items())


def _dates(run: Json) -> str:
    days = sorted({part["measured"][:10] for part in run["parts"].values() if "measured" in part})
    return days[0] if len(days) == 1 else " to ".join((days[0], days[-1])) if days else NONE


def _targets(runs: Sequence[Json]) -> Lines:
    found = verdicts(runs)
    rows = [[each.what, each.asked, each.measured or NONE, _word(each), each.bound or ""] for each in found]
    lines = table(["what", "at least", "measured", "reached", "what bounds it"], rows)
    if any(each.measured is None for each in found):
        lines += [
            "A dash: not measured, as no run here had such a device or part. No figure is estimated.",
            "",
        ]
    return lines


def _word(verdict: Verdict) -> str:
    return {None: NONE, True: "yes", False: "no"}[verdict.reached]


def _run(run: Json, pictures: Sequence[str], prefix: str, *, alone: bool) -> Lines:
    mark = "##" if alone else "###"
    lines = [] if alone else [f"## Run on the {_device(run)}", ""]
    for title, words, picture, section in PARTS:
        found = section(run["parts"])
        if not found:
            continue
        lines += [f"{mark} {title}", "", *([words, ""] if words else []), *found]
        shown = [f"{prefix}{name}.png" for name in ((picture,) if picture else ())]
        shown += [f"{prefix}queue.png"] if picture == "tissue" else []
        lines += [f"![{title}](plots/{name})\n" for name in shown if name in pictures]
    return lines


def _device(run: Json) -> str:
    return "GPU" if run["device"] == "cuda" else "CPU"
