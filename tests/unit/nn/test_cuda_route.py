"""What of the CUDA route can be tested without the device; the rest is in tests/gpu."""

import gc
import weakref
from contextlib import nullcontext
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from tests.unit.nn.test_routes import WIDER
from tests.unit.nn.test_runtime import engine
from xmag.nn import cuda_route
from xmag.nn.agreement import min_cosine
from xmag.nn.route import RefusedError


def test_the_network_agrees_with_fp32(releases) -> None:
    subject = engine(releases)
    encoder = subject.encoder(releases.encoder(architecture=WIDER))
    with torch.no_grad():
        found = cuda_route._Network(encoder)(torch.from_numpy(encoder.tiles)).numpy()
    assert found.dtype == np.float32
    assert min_cosine(found, subject.encode(encoder, encoder.tiles)) >= 0.9995


@pytest.mark.parametrize(("fits", "sizes"), [(128, [128, 64, 32]), (64, [64, 32]), (32, [32])])
def test_graphs_that_do_not_fit_are_left_out(monkeypatch, fits, sizes) -> None:
    captured_with_memory_for(monkeypatch, fits)
    assert cuda_route._graphs(None, 128) == sizes


def test_no_graph_at_all(monkeypatch) -> None:
    captured_with_memory_for(monkeypatch, 31)
    with pytest.raises(RefusedError, match="memory"):
        cuda_route._graphs(None, 128)
    captured_with_memory_for(monkeypatch, 1)
    assert cuda_route._graphs(None, 1) == [1]


def test_a_graph_keeps_the_weights_whose_addresses_it_holds(releases, monkeypatch) -> None:
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *given, device=None, **named: zeros(*given, **named))
    for name in ("Stream", "CUDAGraph", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: nullcontext())
    subject = engine(releases)
    network = cuda_route._Network(subject.encoder(releases.encoder(architecture=WIDER)))
    owner = weakref.ref(network)
    graph = cuda_route._capture(network, 2, None)
    del network
    gc.collect()
    assert owner() is not None
    assert graph.embeddings.shape == (2, 64)


def captured_with_memory_for(monkeypatch, fits) -> None:
    def capture(network, size, pool):
        if size > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return size

    monkeypatch.setattr(cuda_route, "_capture", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
