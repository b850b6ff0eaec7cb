"""The bf16 route on CUDA: fused attention, compiled blocks where a compiler is there, replayed CUDA graphs.

Pixels go through pinned memory on a stream of their own, so that the next batch is copied while one runs;
they are normalised on the device. A batch is filled up to the next size that has a graph.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xmag.nn.bundle import Encoder
from xmag.nn.preprocess import normalise
from xmag.nn.route import RefusedError, Route, Work, out_of_memory
from xmag.nn.torch_routes import TORCH
from xmag.nn.vit import embed

SHARES = (1, 2, 4)
"""Graphs are made for the batch, its half and its quarter: a slide's last tiles seldom fill a batch."""

WARM_UP = 3


def bf16(encoder: Encoder, batch: int) -> Route:
    """Raises RefusedError when the device lacks bf16 or no graph fits into its memory."""
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise RefusedError("this CUDA device has no bf16 arithmetic")
    eager = _Network(encoder).to("cuda")
    try:
        with _no_leftovers():
            graphs, how = _graphs(_compiled(eager), batch), "compiled"
    except RefusedError:
        raise
    except Exception as error:  # noqa: BLE001
        # whatever a missing or unfit compiler raises: eager needs none
        graphs, how = _graphs(eager, batch), f"eager, as compiling failed ({type(error).__name__})"
    return Route("bf16", f"{TORCH} {how}", _Stager(graphs), tuple(graph.size for graph in graphs))


class _Network(nn.Module):
    """uint8 pixels (B, S, S, 3) -> float32 embeddings (B, D), computed in bf16.

    ``scale`` and ``shift`` (1, 3, 1, 1) are `normalise` in numbers that stay on the device: a graph must not
    copy from the host.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        spec = encoder.manifest.preprocess
        ends = torch.zeros((2, spec.input_px, spec.input_px, 3), dtype=torch.uint8)
        ends[1] = 255
        black, white = normalise(ends, spec)[:, :, :1, :1].split(1)  # type: ignore[no-untyped-call]
        self.vit = deepcopy(encoder.module).bfloat16()
        self.register_buffer("scale", (white - black) / 255)
        self.register_buffer("shift", black)
        self.side = spec.input_px

    def forward(self, tiles: Tensor) -> Tensor:
        pixels = tiles.permute(0, 3, 1, 2).float() * self.scale + self.shift
        return embed(self.vit, pixels.bfloat16()).float()


@dataclass(frozen=True)
class _Graph:
    """A captured pass: copy to ``tiles``, replay, read ``embeddings``.

    ``network`` is kept as it owns the weights: a graph holds their addresses, not them.
    """

    network: nn.Module
    size: int
    tiles: Tensor
    embeddings: Tensor
    graph: Any


@dataclass(frozen=True)
class _Slot:
    """A batch on its way: pinned host memory, device memory, and the sign that the copy is done."""

    pinned: Tensor
    tiles: Tensor
    ready: Any


class _Stager:
    """Brings tiles to the device; slots are made as callers come and are used again."""

    def __init__(self, graphs: Sequence[_Graph]) -> None:
        self._graphs = sorted(graphs, key=lambda graph: graph.size)
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._free: list[_Slot] = []

    def __call__(self, tiles: NDArray[np.uint8]) -> Work:
        """Start the copy; raises torch.OutOfMemoryError when no graph holds as many tiles."""
        fitting = [graph for graph in self._graphs if graph.size >= len(tiles)]
        if not fitting:
            raise torch.OutOfMemoryError("no captured graph holds as many tiles")
        slot = self._slot()
        slot.pinned[: len(tiles)].copy_(torch.from_numpy(tiles))
        with torch.cuda.stream(self._stream):
            slot.tiles[: len(tiles)].copy_(slot.pinned[: len(tiles)], non_blocking=True)
            slot.ready.record()
        return partial(self._run, fitting[0], slot, len(tiles))

    def _slot(self) -> _Slot:
        try:
            return self._free.pop()
        except IndexError:
            like = self._graphs[-1].tiles
            pinned = torch.empty(like.shape, dtype=torch.uint8, pin_memory=True)
            with torch.cuda.stream(self._stream):
                ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
                return _Slot(pinned, torch.empty_like(like), ready)

    def _run(self, graph: _Graph, slot: _Slot, count: int) -> NDArray[np.float32]:
        """Reading the embeddings waits for the pass, so the slot is free afterwards."""
        slot.ready.wait()
        graph.tiles.copy_(slot.tiles[: graph.size])
        graph.graph.replay()
        found = graph.embeddings[:count].cpu().numpy()
        self._free.append(slot)
        return np.asarray(found)


def _graphs(network: _Network, batch: int) -> list[_Graph]:
    """Graphs of all sizes that fit into memory; shared, since one runs at a time. Raises RefusedError."""
    pool, found = torch.cuda.graph_pool_handle(), []
    for size in sorted({max(1, batch // share) for share in SHARES}, reverse=True):
        try:
            with torch.no_grad():
                found.append(_capture(network, size, pool))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            torch.cuda.empty_cache()
    if not found:
        raise RefusedError("the device's memory is too small for a batch")
    return found


def _capture(network: _Network, size: int, pool: Any) -> _Graph:
    """Warm up beside the default stream, as capturing demands; other threads may go on with theirs."""
    tiles = torch.zeros((size, network.side, network.side, 3), dtype=torch.uint8, device="cuda")
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            network(tiles)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        embeddings = network(tiles)
    return _Graph(network, size, tiles, embeddings, graph)


def _compiled(network: _Network) -> _Network:
    """A copy whose blocks are compiled on first use; being alike, they share one compilation."""
    copied = deepcopy(network)
    for block in copied.vit.blocks:  # type: ignore[union-attr]
        block.compile(fullgraph=True, dynamic=False)
    return copied


@contextmanager
def _no_leftovers() -> Iterator[None]:
    """Compile in this process and in a folder that is gone afterwards: no code is ever loaded from a disk."""
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    with warnings.catch_warnings(), config.patch(compile_threads=1), fresh_cache():
        warnings.simplefilter("ignore")
        yield
