"""Routes on OpenVINO (the extra `openvino`): bf16, and int8 quantised with NNCF, on CPUs.

The model is converted from the verified network at every load and lives in memory alone.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xmag.manifest import PreprocessSpec
from xmag.nn.bundle import Encoder
from xmag.nn.preprocess import normalise
from xmag.nn.probes import calibration_tiles
from xmag.nn.route import RefusedError, Route
from xmag.nn.vit import embed

EXTRA = "install the extra `openvino`: pip install 'xmag-service[openvino]'"

CHATTY = ("nncf", "torch.utils.cpp_extension")
"""Loggers that NNCF makes speak: of its steps, and of a missing CUDA toolkit."""


def openvino() -> Any:
    """The library, its telemetry kept out; raises RefusedError when it is not installed.

    OpenVINO and NNCF report their use over the network unless the package that does it cannot be imported.
    """
    if find_spec("openvino") is None:
        raise RefusedError(f"OpenVINO is not installed: {EXTRA}")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as library

    return library


def converted(encoder: Encoder) -> Any:
    """The encoder as an OpenVINO model: uint8 (?, h, w, 3) -> float32 (?, d); raises RefusedError."""
    side = encoder.manifest.preprocess.input_px
    pixels = _Pixels(encoder.module, encoder.manifest.preprocess).eval()
    return _convert(pixels, torch.zeros((1, side, side, 3), dtype=torch.uint8), [-1, side, side, 3])


def bf16(model: Callable[[], Any]) -> Route:
    """Raises RefusedError when the CPU lacks it, before the costly conversion."""
    _require_bf16()
    run = _compiled(model())
    return Route("bf16", _version(), lambda tiles: partial(run, tiles))


def int8(model: Callable[[], Any], encoder: Encoder) -> Route:
    """Weights and activations of the matrix products in int8, calibrated on `calibration_tiles`."""
    nncf = _nncf()
    run = _compiled(_quantised(model(), list(calibration_tiles(encoder.manifest.tiling)[:, None])))
    return Route("int8", f"{_version()}, nncf {nncf.__version__}", lambda tiles: partial(run, tiles))


def head_bf16(head: nn.Module, dim: int) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A head from a bag (n, d) to logits (c,); raises RefusedError as `bf16` does."""
    _require_bf16()
    run = _compiled(_convert(head, torch.zeros((1, 2, dim)), [1, -1, dim]))
    return lambda bag: np.asarray(run(bag[None])[0])


def _quantised(model: Any, inputs: Sequence[NDArray[Any]]) -> Any:
    """Activations keep their extremes, evened out into the weights: what is unlike most is not clipped."""
    nncf = _nncf()
    advanced = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=0.5),
    )
    with _quietly():
        return nncf.quantize(
            model,
            nncf.Dataset(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(inputs),
            advanced_parameters=advanced,
        )


def _nncf() -> Any:
    """The quantiser; raises RefusedError when it is not installed."""
    openvino()
    if find_spec("nncf") is None:
        raise RefusedError(f"NNCF, which quantises, is not installed: {EXTRA}")
    with _quietly():
        import nncf

    return nncf


class _Pixels(nn.Module):
    """The encoder from pixels to embeddings, as one graph."""

    def __init__(self, vit: nn.Module, preprocess: PreprocessSpec) -> None:
        super().__init__()
        self.vit = vit
        self.preprocess = preprocess

    def forward(self, tiles: Tensor) -> Tensor:
        return embed(self.vit, normalise(tiles, self.preprocess))


def _convert(module: nn.Module, example: Tensor, shape: list[int]) -> Any:
    library = openvino()
    with _quietly(), torch.no_grad():
        model = library.convert_model(module, example_input=example)
    model.reshape(shape)
    return model


def _compiled(model: Any) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
    """For this CPU, on as many threads as torch has; for one caller at a time, whose turn it is."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if "BF16" in _capabilities() else "f32",
        # pinned threads of two workers would meet on the same cores
        "ENABLE_CPU_PINNING": False,
    }
    request = openvino().Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda array: np.array(request.infer({0: np.ascontiguousarray(array)})[0], np.float32)


def _require_bf16() -> None:
    if "BF16" not in _capabilities():
        raise RefusedError("this CPU has no bf16 arithmetic (AVX512-BF16 or AMX)")


def _capabilities() -> list[str]:
    return list(openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _version() -> str:
    return f"openvino {openvino().__version__.split('-')[0]}"


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars, no remarks of the tracer on Python code or on its own age, no news of NNCF."""
    from rich import get_console

    console, loggers = get_console(), [logging.getLogger(name) for name in CHATTY]
    before = console.quiet, [logger.level for logger in loggers]
    console.quiet = True
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for remark in (torch.jit.TracerWarning, FutureWarning):  # type: ignore[attr-defined]
                warnings.simplefilter("ignore", remark)
            yield
    finally:
        console.quiet = before[0]
        for logger, level in zip(loggers, before[1], strict=True):
            logger.setLevel(level)
