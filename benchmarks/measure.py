"""What a comparison is made of: seconds of wall and CPU, repeats that take turns, medians and spread."""

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from xmag.errors import XmagError

T = TypeVar("T")
Say = Callable[[str], None]
Json = dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """Seconds of one run; ``cpu`` counts this process and every process below it."""

    wall: float
    cpu: float


@dataclass
class Runs(Generic[T]):
    """All runs of one route, and what the last one gave."""

    costs: list[Cost] = field(default_factory=list)
    output: T | None = None

    def json(self) -> Json:
        """``cpu_seconds`` and ``wall_seconds`` with their spread."""
        return {
            "cpu_seconds": spread(cost.cpu for cost in self.costs),
            "wall_seconds": spread(cost.wall for cost in self.costs),
        }

    @property
    def wall(self) -> float:
        """Median."""
        return statistics.median(cost.wall for cost in self.costs)

    @property
    def cpu(self) -> float:
        """Median."""
        return statistics.median(cost.cpu for cost in self.costs)


def paired(routes: Mapping[str, Callable[[], T]], repeats: int, say: Say) -> dict[str, Runs[T]]:
    """Run every route ``repeats`` times, taking turns, each round starting with another route.

    What disturbs the machine for a while then disturbs all routes alike.
    """
    found: dict[str, Runs[T]] = {name: Runs() for name in routes}
    names = list(routes)
    for turn in range(repeats):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            say(f"{name} {turn + 1}/{repeats}")
            output, cost = timed(routes[name])
            found[name].costs.append(cost)
            found[name].output = output
    return found


def timed(work: Callable[[], T]) -> tuple[T, Cost]:
    """What ``work`` gives, and what it cost."""
    wall, cpu = time.perf_counter(), tree_seconds()
    output = work()
    return output, Cost(time.perf_counter() - wall, tree_seconds() - cpu)


@contextmanager
def named(slide: str) -> Iterator[None]:
    """Say of which slide an error is."""
    try:
        yield
    except XmagError as error:
        raise type(error)(error.code, f"slide {slide}: {error.detail}") from None


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most."""
    numbers = sorted(values)
    return {
        "median": round(statistics.median(numbers), 6),
        "min": round(numbers[0], 6),
        "max": round(numbers[-1], 6),
    }


def ratio(more: float, less: float) -> float | None:
    """How many times ``less`` goes into ``more``; None where nothing was measured."""
    return round(more / less, 3) if less else None


def tree_seconds() -> float:
    """CPU-seconds of this process, of its ended children and, on Linux, of the living ones below it."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(process_seconds, below()))


def process_seconds(pid: int) -> float:
    """CPU-seconds of another process by its clock; 0 when it is gone or the system has no such clock."""
    with suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)
    return 0.0


def below(root: int | None = None) -> list[int]:
    """Process ids of all descendants of ``root`` (of this process); none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found, left = [], [root or os.getpid()]
    while left:
        new = children.get(left.pop(), [])
        found += new
        left += new
    return found


def peak_bytes(pid: int) -> int | None:
    """Most memory a process ever held; None where the system does not say."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def pixels_agree(tiles: NDArray[np.uint8], reference: NDArray[np.uint8]) -> Json:
    """How far the pixels of two routes differ: mean absolute difference and PSNR (None: not at all)."""
    if tiles.shape != reference.shape:
        return {"same_tiles": False, "mean_abs_difference": None, "psnr_db": None}
    absolute = squares = 0.0
    for one, other in zip(tiles, reference, strict=True):
        difference = one.astype(np.int16) - other
        absolute += float(np.abs(difference).mean())
        squares += float((difference.astype(np.float32) ** 2).mean())
    mean, square = absolute / len(tiles), squares / len(tiles)
    psnr = round(float(10 * np.log10(255**2 / square)), 2) if square else None
    return {"same_tiles": True, "mean_abs_difference": round(mean, 4), "psnr_db": psnr}


def least_cosine(found: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The smallest cosine between two sets of embeddings (n, d), row by row."""
    one, other = found.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return round(float(((one * other).sum(1) / lengths).min()), 6)


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile, by linear interpolation."""
    return round(float(np.quantile(np.asarray(values), share)), 6)
