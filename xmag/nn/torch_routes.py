"""Routes on torch that every device can have: fp32, the reference, and bf16 on a CPU that has it."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmag.nn.bundle import Encoder
from xmag.nn.preprocess import normalise
from xmag.nn.route import RefusedError, Route
from xmag.nn.vit import embed

TORCH = f"torch {torch.__version__}"


def fp32(encoder: Encoder) -> Route:
    """The reference: the published network as it is."""
    return Route("fp32", TORCH, lambda tiles: partial(_run, encoder, tiles, encoder.device))


def cpu_bf16(encoder: Encoder) -> Route:
    """Weights and activations in bf16, pixels normalised in fp32; raises RefusedError."""
    if not cpu_has_bf16():
        raise RefusedError("this CPU has no bf16 arithmetic (AVX512-BF16 or AMX)")
    module = deepcopy(encoder.module).bfloat16()

    def forward(tiles: Tensor) -> Tensor:
        return embed(module, normalise(tiles, encoder.manifest.preprocess).bfloat16())

    return Route("bf16", TORCH, lambda tiles: partial(_run, forward, tiles, "cpu"))


def cpu_has_bf16() -> bool:
    """Whether bf16 products run on this CPU's own instructions; emulated they are slower than fp32."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def _run(forward: Callable[[Tensor], Tensor], tiles: NDArray[np.uint8], device: str) -> NDArray[np.float32]:
    with torch.inference_mode():
        found = forward(torch.from_numpy(tiles).to(device))
        return np.asarray(found.float().cpu().numpy())
