"""The networks of Figure 3 have the published sizes; the plain script's network is the service's."""

import numpy as np
import pytest
import torch

from benchmarks.figure3 import Effort, compare
from benchmarks.networks import SYSTEMS, Size, System, batched, parameters, plain, random_network, vit_size
from xmag.manifest import VitSpec
from xmag.nn.vit import build_vit

SMALL = VitSpec(embed_dim=48, depth=1, num_heads=2)


def test_published_sizes():
    with torch.device("meta"):
        found = {system.name: parameters(system.build()) / 1e6 for system in SYSTEMS}
    assert {name: round(count) for name, count in found.items()} == {
        "XMAG ViT-B/14": 86,
        "Phikon ViT-B/16": 86,
        "UNI2-h": 681,
    }
    assert [round(system.size.gflop, 1) for system in SYSTEMS] == [46.3, 35.1, 370.9]


def test_batches_do_not_change_the_embeddings():
    network = random_network(lambda: build_vit(SMALL), "cpu")
    tiles = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    embed = plain(network, "cpu", "fp32")
    np.testing.assert_allclose(batched(embed, tiles, 2), batched(embed, tiles, 1), atol=1e-5)


def test_figure3_computes_what_it_does_not_measure(monkeypatch: pytest.MonkeyPatch):
    def system(name: str, tiles: int) -> System:
        size: Size = vit_size(SMALL)
        return System(name, lambda: build_vit(SMALL), size, tiles, 1.0)

    monkeypatch.setattr("benchmarks.figure3.SYSTEMS", (system("ours", 8), system("theirs", 80)))
    tiles = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    found = compare("cpu", tiles, lambda _: None, Effort({1: 2, 4: 0}, 1))
    ours, theirs = found["systems"]["ours"]["regimes"], found["systems"]["theirs"]["regimes"]
    assert set(ours) == {"fp32 batch 1", "fp32 batch 4", "bf16 batch 1", "bf16 batch 4"}
    assert ours["fp32 batch 1"]["computed"]
    assert not ours["fp32 batch 4"]["computed"]
    assert theirs["fp32 batch 4"]["tiles_measured"] == 80
    seconds = theirs["fp32 batch 1"]["seconds_per_tile"]["median"]
    assert theirs["fp32 batch 1"]["wsi_per_minute"]["median"] == pytest.approx(60 / (80 * seconds), rel=1e-2)
    assert ours["bf16 batch 1"]["agreement"]["least_cosine_to_fp32"] > 0.99
