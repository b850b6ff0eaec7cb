"""What a route is: one way to run an encoder on a device, at one precision."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from xmag.config import Precision
from xmag.errors import Code, InferenceError

Work = Callable[[], NDArray[np.float32]]
"""Runs the network on tiles that are at hand; float32 embeddings (b, d). Needs the device's turn."""


@dataclass(frozen=True)
class Route:
    """One way to run an encoder.

    Attributes:
        precision: of the matrix products.
        runtime: name and version of the library that runs it, for provenance.
        stage: brings uint8 tiles (b, h, w, 3) to the device, while others may be running on it.
        sizes: of batches that programs of their own compute; each of them is checked.
    """

    precision: Precision
    runtime: str
    stage: Callable[[NDArray[np.uint8]], Work]
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Checked:
    """A route that agrees with fp32.

    Attributes:
        cosine: the smallest over the check tiles, to fp32.
        bag: (n, d) embeddings of the check tiles, for the heads' own check.
        shifts: head digest -> largest difference of its probabilities on the bag to fp32.
    """

    route: Route
    cosine: float
    bag: NDArray[np.float32]
    shifts: dict[str, float] = field(default_factory=dict)


class RefusedError(Exception):
    """Why a route cannot be used, in words for the operator."""


OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "bad_alloc")


def out_of_memory(error: BaseException) -> bool:
    """Whether a runtime or Python ran out of device or main memory."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(sign in str(error) for sign in OUT_OF_MEMORY)


def require_finite(*arrays: NDArray[np.float32]) -> None:
    """Raises InferenceError INFER_NAN."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise InferenceError(Code.INFER_NAN, "the network gave a number that is not finite")
