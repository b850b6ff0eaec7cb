"""What is measured of a head on slides that it never saw, with intervals."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmag.manifest import Frozen


class BootstrapSpec(Frozen):
    """Percentile bootstrap over slides, resampled within each class so that every AUC stays defined."""

    repeats: int = 1000
    level: float = 0.95
    seed: int = 0


Statistic = Callable[[NDArray[np.int64], NDArray[np.float64]], float]


def accuracy(targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Share of slides (n,) whose most probable class of (n, c) is the target."""
    return float(np.mean(probabilities.argmax(1) == targets))


def macro_auc(targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean over classes of the one-against-rest AUC, ties counted half; every class must occur."""
    return float(np.mean([_auc(probabilities[:, c], targets == c) for c in range(probabilities.shape[1])]))


def _auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    gap = scores[positive][:, None] - scores[~positive][None, :]
    return float(np.mean((gap > 0) + 0.5 * (gap == 0)))


def interval(
    statistic: Statistic,
    targets: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    spec: BootstrapSpec,
) -> tuple[float, float]:
    """Percentile interval of a statistic over resampled slides."""
    rng = np.random.default_rng(spec.seed)
    groups = [np.flatnonzero(targets == c) for c in np.unique(targets)]
    values = []
    for _ in range(spec.repeats):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        values.append(statistic(targets[rows], probabilities[rows]))
    tail = 50 * (1 - spec.level)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def measure(
    targets: NDArray[np.int64], probabilities: NDArray[np.float64], spec: BootstrapSpec
) -> dict[str, Any]:
    """Accuracy and macro AUC with their intervals, as a manifest holds them."""
    report: dict[str, Any] = {"n": len(targets), "bootstrap": spec.model_dump()}
    named: dict[str, Statistic] = {"accuracy": accuracy, "macro_auc": macro_auc}
    for name, statistic in named.items():
        low, high = interval(statistic, targets, probabilities, spec)
        value = statistic(targets, probabilities)
        report[name] = {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4)}
    return report
