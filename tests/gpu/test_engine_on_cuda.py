import gc
import threading

import numpy as np
import pytest
import torch

from tests.unit.nn.conftest import Releases
from xmag.config import Worker
from xmag.manifest import VitSpec
from xmag.nn import cuda_route
from xmag.nn.agreement import min_cosine
from xmag.nn.runtime import Engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

WIDER = VitSpec(img_size=28, patch_size=14, embed_dim=128, depth=3, num_heads=2, init_values=1.0)


def engine(releases, device, **worker) -> Engine:
    return Engine(releases.folder, releases.trusted, Worker(device=device, **worker))


def tiles(count: int, seed: int = 0):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)


def test_embeddings_and_logits_on_cuda_are_those_of_the_cpu(releases) -> None:
    encoder = releases.encoder()
    head = releases.head(encoder)
    bags, logits, scores = [], [], []
    for device in ("cpu", "cuda"):
        subject = engine(releases, device, precision="fp32")
        bags.append(subject.encode(subject.encoder(encoder), tiles(9)))
        logits.append(subject.predict(subject.head(head), bags[0]).logits)
        scores.append(subject.score(subject.head(head), [bags[0]])[0])
    assert np.allclose(bags[0], bags[1], atol=1e-4)
    assert np.allclose(logits[0], logits[1], atol=1e-4)
    assert np.allclose(scores[0], scores[1], atol=1e-4)


@pytest.mark.parametrize("compiler", [True, False])
def test_bf16_agrees_with_fp32_on_the_cpu(releases, monkeypatch, compiler) -> None:
    if not compiler:
        monkeypatch.setattr(cuda_route, "_compiled", no_compiler)
    digest = releases.encoder(architecture=WIDER)
    subject = engine(releases, "cuda", batch=16)
    encoder = subject.encoder(digest)
    assert subject.accepted(encoder, [])[0] == "bf16", encoder.refused
    assert compiler or "eager" in str(subject.numerics(encoder, "bf16")["runtime"])
    reference = engine(releases, "cpu", precision="fp32")
    for count in (1, 4, 5, 16, 43):  # whole and partial batches, of every graph
        expected = reference.encode(reference.encoder(digest), tiles(count))
        found = subject.encode(encoder, tiles(count), "bf16")
        assert found.shape == expected.shape
        assert min_cosine(found, expected) >= 0.9995


@pytest.mark.parametrize("compiler", [True, False])
def test_the_weights_of_a_graph_are_not_given_away(releases, monkeypatch, compiler) -> None:
    if not compiler:
        monkeypatch.setattr(cuda_route, "_compiled", no_compiler)
    subject = engine(releases, "cuda", batch=16)
    encoder = subject.encoder(releases.encoder(architecture=WIDER))
    before = subject.encode(encoder, tiles(43), "bf16")
    gc.collect()
    junk = [torch.full((size,), torch.nan, device="cuda") for size in (64, 4096, 65536) for _ in range(200)]
    assert np.array_equal(subject.encode(encoder, tiles(43), "bf16"), before)
    del junk


def test_threads_that_stage_at_once_get_their_own_embeddings(releases) -> None:
    subject = engine(releases, "cuda", batch=8)
    encoder = subject.encoder(releases.encoder(architecture=WIDER))
    alone = [subject.encode(encoder, tiles(21, seed), "bf16") for seed in range(6)]
    found: dict[int, list] = {seed: [] for seed in range(6)}

    def work(seed: int) -> None:
        for _ in range(20):
            found[seed].append(subject.encode(encoder, tiles(21, seed), "bf16", urgent=seed == 0))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(each, alone[seed]) for seed in range(6) for each in found[seed])


def test_int8_falls_back_to_bf16(releases) -> None:
    subject = engine(releases, "cuda", precision="int8")
    encoder = subject.encoder(releases.encoder(architecture=WIDER))
    assert subject.accepted(encoder, [])[0] == "bf16"
    assert "CPU" in encoder.refused["int8"]


@pytest.fixture
def releases(tmp_path) -> Releases:
    return Releases(tmp_path / "releases")


def no_compiler(network):
    raise RuntimeError("Failed to find C compiler")
