"""Which routes serve an encoder, which precisions a head accepts: agreement with fp32, measured at load."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmag.config import Precision
from xmag.errors import InferenceError
from xmag.nn import cuda_route, openvino_routes, torch_routes
from xmag.nn.bundle import Encoder, Head
from xmag.nn.probes import check_tiles
from xmag.nn.route import Checked, RefusedError, Route

MIN_COSINE: dict[Precision, float] = {"bf16": 0.9995, "int8": 0.999}
MAX_SHIFT = 0.01
"""Of any probability of a head, against fp32."""

WANTED: dict[str, tuple[Precision, ...]] = {
    "auto": ("bf16",),
    "fp32": (),
    "bf16": ("bf16",),
    "int8": ("int8", "bf16"),
}
"""By the setting `Worker.precision`: what to try, fastest first; fp32 is always there."""

Tiles = NDArray[np.uint8]
Bag = NDArray[np.float32]
Run = Callable[[Route, Tiles], Bag]
Predict = Callable[[Head, Bag], NDArray[np.float64]]
Build = Callable[[], Route]


def with_routes(encoder: Encoder, wish: str, batch: int, run: Run) -> Encoder:
    """The encoder with every wanted route that agrees with fp32; refusals are kept as reasons.

    ``run`` encodes tiles by a route; ``batch`` is the most tiles of a pass.
    """
    reference = torch_routes.fp32(encoder)
    tiles = cache(lambda: np.concatenate([check_tiles(encoder.manifest.tiling), encoder.tiles]))
    expected = cache(lambda: run(reference, tiles()))
    builds, routes, refused = _builds(encoder, batch), [], {}
    for precision in WANTED[wish]:
        try:
            routes.append(_first(builds[precision], tiles, expected, run))
        except RefusedError as reason:
            refused[precision] = str(reason)
    nothing = np.empty((0, encoder.manifest.architecture.embed_dim), np.float32)
    last = Checked(reference, 1.0, expected() if routes else nothing)
    return replace(encoder, routes=(*routes, last), refused=refused)


def accepts(head: Head, encoder: Encoder, checked: Checked, predict: Predict) -> bool:
    """Whether the head says of this route's embeddings what it says of fp32's, within `MAX_SHIFT`."""
    reference = encoder.routes[-1]
    if checked is reference:
        return True
    if head.digest not in checked.shifts:
        found, expected = predict(head, checked.bag), predict(head, reference.bag)
        checked.shifts[head.digest] = float(np.abs(found - expected).max())
    return checked.shifts[head.digest] <= MAX_SHIFT


def _builds(encoder: Encoder, batch: int) -> dict[Precision, tuple[Build, ...]]:
    """How to make a route of each precision; of several the first that passes is taken."""
    if encoder.device == "cuda":
        return {"int8": (_no_int8,), "bf16": (lambda: cuda_route.bf16(encoder, batch),)}
    model = cache(lambda: openvino_routes.converted(encoder))
    return {
        "int8": (lambda: openvino_routes.int8(model, encoder),),
        "bf16": (lambda: openvino_routes.bf16(model), lambda: torch_routes.cpu_bf16(encoder)),
    }


def _no_int8() -> Route:
    raise RefusedError("int8 is made for CPUs alone")


def _first(
    builds: Sequence[Build], tiles: Callable[[], Tiles], expected: Callable[[], Bag], run: Run
) -> Checked:
    """The first that agrees; raises RefusedError with every one's reason."""
    reasons = []
    for build in builds:
        try:
            route, bag, others = _tried(build, tiles, run)
            for other in others:
                _agreeing(route, other, _repeated(expected(), len(other)))
            return _agreeing(route, bag, expected())
        except RefusedError as reason:
            reasons.append(str(reason))
    raise RefusedError("; ".join(dict.fromkeys(reasons)))


def _tried(build: Build, tiles: Callable[[], Tiles], run: Run) -> tuple[Route, Bag, list[Bag]]:
    """A route and its embeddings of the check tiles, by each of its programs too; raises RefusedError.

    A fault of a compiler, converter or runtime costs the route, never the encoder: fp32 needs none of them.
    """
    try:
        route = build()
        others = [run(route, _repeated(tiles(), size)) for size in route.sizes]
        return route, run(route, tiles()), others
    except RefusedError:
        raise
    except InferenceError as error:
        raise RefusedError(error.detail) from error
    except Exception as error:
        raise RefusedError(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}") from error


def _agreeing(route: Route, bag: Bag, expected: Bag) -> Checked:
    """Raises RefusedError with the cosine that is too small."""
    cosine = min_cosine(bag, expected)
    if not cosine >= MIN_COSINE[route.precision]:
        raise RefusedError(f"cosine {cosine:.5f} < {MIN_COSINE[route.precision]} to fp32")
    return Checked(route, cosine, bag)


def _repeated(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """(size, ...), the rows over and over."""
    return np.resize(rows, (size, *rows.shape[1:]))


def min_cosine(found: Bag, expected: Bag) -> float:
    """The smallest over rows (n, d), in double precision."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny)).min())
