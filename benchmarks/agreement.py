"""Whether what was measured was right: a route that is fast and wrong reaches nothing."""

from collections.abc import Callable
from typing import Any

HOLDS: dict[str, Callable[[Any], bool]] = {
    "same_tiles": bool,
    "same_number_of_tiles": bool,
    "mean_abs_difference": lambda of_255: of_255 < 6,
    "least_cosine": lambda cosine: cosine >= 0.999,
    "max_probability_difference": lambda change: change <= 0.02,
    "max_probability_difference_to_predict": lambda change: change <= 0.01,
}
"""What a measurement says of its outputs, and when they agree with the reference's."""


def agrees(results: Any) -> bool:
    """Whether everything that is said under the name ``agreement``, however deep, holds."""
    if isinstance(results, list):
        return all(map(agrees, results))
    if not isinstance(results, dict):
        return True
    said = results.get("agreement", {})
    own = all(HOLDS[name](value) for name, value in said.items() if name in HOLDS and value is not None)
    return own and all(map(agrees, results.values()))
