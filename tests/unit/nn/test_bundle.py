import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from xmag.errors import Code, ReleaseError
from xmag.manifest import AbmilSpec, EncoderManifest, HeadManifest, PreprocessSpec, TilingSpec, VitSpec
from xmag.nn.bundle import encoder_payload, head_payload, load_encoder, load_head, self_test_tiles
from xmag.nn.mil import ABMIL
from xmag.nn.preprocess import normalise
from xmag.nn.vit import build_vit, embed

SPEC = VitSpec(img_size=28, patch_size=14, embed_dim=24, depth=2, num_heads=2, init_values=1.0)
PREPROCESS = PreprocessSpec(input_px=28)


def payload(seed=0):
    torch.manual_seed(seed)
    module = build_vit(SPEC)
    return module, *encoder_payload(module, PREPROCESS)


def refused(releases, weights, self_test, **manifest) -> str:
    values = {"architecture": SPEC, "preprocess": PREPROCESS, "tiling": TilingSpec(tile_px=28)} | manifest
    digest = releases.put(EncoderManifest, weights, self_test, **values)
    with pytest.raises(ReleaseError) as caught:
        load_encoder(releases.read(digest), "cpu")
    assert caught.value.code == Code.MODEL_INTEGRITY
    return caught.value.detail


def test_a_loaded_encoder_gives_the_published_networks_numbers(releases):
    encoder = load_encoder(releases.read(releases.encoder(seed=5)), "cpu")
    module, *_ = payload(seed=5)
    tiles = torch.from_numpy(self_test_tiles(28))
    with torch.no_grad():
        assert torch.equal(encoder(tiles), embed(module.eval(), normalise(tiles, PREPROCESS)))
    assert not encoder.module.training
    assert not any(weight.requires_grad for weight in encoder.module.parameters())
    assert not any(weight.is_meta for weight in encoder.module.parameters())


def test_a_loaded_head_is_ready(releases):
    digest = releases.head(releases.encoder())
    head = load_head(releases.read(digest), "cpu")
    assert head.digest == digest
    assert head.manifest.labels == ("ccRCC", "PRCC", "ChRCC")
    bag = torch.randn(1, 30, 24)
    assert torch.equal(head.module(bag), head.module(bag))


def test_payloads_are_the_same_bytes_each_time_and_leave_the_network_as_it_was(releases):
    module, weights, self_test = payload()
    module.train()
    assert encoder_payload(module, PREPROCESS) == (weights, self_test)
    assert module.training
    assert set(load(weights)) == set(module.state_dict())


def test_the_self_test_is_small_and_looks_like_tissue():
    tiles = self_test_tiles(224)
    assert tiles.shape == (2, 224, 224, 3)
    assert np.array_equal(tiles, self_test_tiles(224))
    red, green, blue = tiles.reshape(-1, 3).mean(0)
    assert green < min(red, blue)
    assert tiles.std() > 10


def test_a_lacking_an_extra_and_a_misshapen_tensor_are_named(releases):
    _, weights, self_test = payload()
    state = load(weights)
    lacking = {name: tensor for name, tensor in state.items() if name != "norm.bias"}
    assert "norm.bias" in refused(releases, save(lacking), self_test)
    assert "mask_token" in refused(releases, save(state | {"mask_token": torch.zeros(1, 24)}), self_test)
    assert "cls_token" in refused(releases, save(state | {"cls_token": torch.zeros(1, 1, 25)}), self_test)
    half = state | {"cls_token": state["cls_token"].half()}
    assert "float16" in refused(releases, save(half), self_test)


def test_weights_that_do_not_give_the_expected_output_are_refused(releases):
    _, weights, self_test = payload(seed=0)
    _, other, _ = payload(seed=1)
    refused(releases, other, self_test)
    stored = load(self_test)
    refused(releases, weights, save(stored | {"output": stored["output"] + 0.01}))
    refused(releases, weights, save(stored | {"output": torch.full_like(stored["output"], torch.nan)}))


def test_other_preprocessing_than_at_publishing_is_refused(releases):
    _, weights, self_test = payload()
    swapped = PreprocessSpec(input_px=28, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert "expected output" in refused(releases, weights, self_test, preprocess=swapped)


def test_files_that_are_no_tensors_are_refused(releases):
    _, weights, self_test = payload()
    refused(releases, b"no safetensors", self_test)
    refused(releases, weights, b"\xff" * 64)
    refused(releases, weights, save({"input": torch.zeros(1)}))
    stored = load(self_test)
    refused(releases, weights, save(stored | {"input": torch.zeros(2, 14, 14, 3, dtype=torch.uint8)}))


def test_sizes_within_a_manifest_must_agree(releases):
    _, weights, self_test = payload()
    assert "tile size" in refused(releases, weights, self_test, tiling=TilingSpec())


def test_an_encoder_is_no_head(releases):
    encoder = releases.encoder()
    head = releases.head(encoder)
    for call, digest in ((load_head, encoder), (load_encoder, head)):
        with pytest.raises(ReleaseError) as caught:
            call(releases.read(digest), "cpu")
        assert caught.value.code == Code.MODEL_INTEGRITY


def test_a_heads_self_test_is_run(releases):
    torch.manual_seed(9)
    spec = AbmilSpec(in_dim=24, hidden_dim=16, attention_dim=8, classes=2)
    _, self_test = head_payload(ABMIL(spec))
    weights, _ = head_payload(ABMIL(spec))
    digest = releases.put(
        HeadManifest,
        weights,
        self_test,
        architecture=spec,
        task="odx",
        labels=("low", "high"),
        encoder="0" * 64,
    )
    with pytest.raises(ReleaseError):
        load_head(releases.read(digest), "cpu")
