import numpy as np
import pytest
import torch

from tests.unit.nn.conftest import Releases
from xmag.config import Worker
from xmag.nn.runtime import Engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


def test_embeddings_and_logits_on_cuda_are_those_of_the_cpu(tmp_path) -> None:
    releases = Releases(tmp_path)
    encoder = releases.encoder()
    head = releases.head(encoder)
    tiles = np.random.default_rng(0).integers(0, 256, (9, 28, 28, 3), dtype=np.uint8)
    bags, logits = [], []
    for device in ("cpu", "cuda"):
        engine = Engine(releases.folder, releases.trusted, Worker(device=device))
        bags.append(engine.encode(engine.encoder(encoder), tiles))
        logits.append(engine.predict(engine.head(head), bags[0]).logits)
    assert np.allclose(bags[0], bags[1], atol=1e-4)
    assert np.allclose(logits[0], logits[1], atol=1e-4)
