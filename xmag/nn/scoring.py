"""Logits of many bags by one head, at bf16 where the CPU has it and the head agrees with fp32."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from xmag.nn import openvino_routes
from xmag.nn.agreement import MAX_SHIFT
from xmag.nn.bundle import Head
from xmag.nn.route import RefusedError
from xmag.nn.torch_routes import cpu_has_bf16

Bag = NDArray[np.float32]
Score = Callable[[Bag], NDArray[np.float32]]
"""A bag (n, d) -> logits (c,)."""


def scorer(head: Head, wish: str, checks: Sequence[Bag]) -> Score:
    """The fastest that agrees with fp32 on every one of ``checks``; ``wish`` is `Worker.precision`."""
    exact = _on_torch(head)
    if wish == "fp32" or head.device != "cpu":
        return exact
    for build in (_openvino_bf16, _torch_bf16):
        try:
            found = build(head)
        except RefusedError:
            continue
        if all(shift(found(bag), exact(bag)) <= MAX_SHIFT for bag in checks):
            return found
    return exact


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities (c,) in double precision."""
    powers = np.exp(logits.astype(np.float64) - float(logits.max()))
    return np.asarray(powers / powers.sum())


def shift(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest difference of a probability between logits (c,)."""
    return float(np.abs(softmax(found) - softmax(expected)).max())


def _openvino_bf16(head: Head) -> Score:
    return openvino_routes.head_bf16(head.module, head.manifest.architecture.in_dim)


def _torch_bf16(head: Head) -> Score:
    if not cpu_has_bf16():
        raise RefusedError("this CPU has no bf16 arithmetic")
    return _on_torch(replace(head, module=deepcopy(head.module).bfloat16()))


def _on_torch(head: Head) -> Score:
    """At the precision of the head's own weights."""
    dtype = head.module.classifier.weight.dtype

    def score(bag: Bag) -> NDArray[np.float32]:
        with torch.inference_mode():
            rows = torch.from_numpy(bag).to(head.device, dtype).unsqueeze(0)
            return np.asarray(head.module(rows)[0].float().cpu().numpy())

    return score
