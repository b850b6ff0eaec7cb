"""From a release's verified bytes to a network ready to run, and back for publishers.

Loading is strict and ends with the self-test: the stored input must give the stored output on this machine.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from xmag.config import Precision
from xmag.errors import Code, ReleaseError
from xmag.manifest import EncoderManifest, HeadManifest, PreprocessSpec
from xmag.nn.mil import ABMIL
from xmag.nn.preprocess import normalise
from xmag.nn.route import Checked
from xmag.nn.vit import build_vit, embed
from xmag.registry import ReleaseBytes

MIN_COSINE = 0.9999
MAX_ERROR = 1e-3
"""Largest difference of the self-test, relative to the largest expected number (at least 1)."""

SELF_TEST_TILES = 2
SELF_TEST_BAG = 7


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder release.

    Attributes:
        tiles: (n, h, w, 3) uint8, of its self-test.
        routes: those that agree with fp32, fastest first; the last is fp32 itself.
        refused: why a precision that was asked for is not among them.
    """

    digest: str
    manifest: EncoderManifest
    module: nn.Module
    device: str
    tiles: NDArray[np.uint8]
    routes: tuple[Checked, ...] = ()
    refused: Mapping[Precision, str] = field(default_factory=dict)

    def at(self, precision: Precision) -> Checked:
        """The route of a precision; raises ValueError when it was refused or not asked for."""
        for checked in self.routes:
            if checked.route.precision == precision:
                return checked
        raise ValueError(f"the encoder is not served at {precision}")

    def __call__(self, tiles: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) on the device -> float32 embeddings (B, D)."""
        return embed(self.module, normalise(tiles, self.manifest.preprocess))


@dataclass(frozen=True)
class Head:
    """A loaded head release; ``bag`` is its self-test's, (n, d) float32."""

    digest: str
    manifest: HeadManifest
    module: ABMIL
    device: str
    bag: NDArray[np.float32]


def encoder_payload(module: nn.Module, preprocess: PreprocessSpec | None = None) -> tuple[bytes, bytes]:
    """Weights and self-test bytes of an encoder; ``preprocess`` must be the one in its manifest."""
    spec = preprocess or PreprocessSpec()
    tiles = torch.from_numpy(self_test_tiles(spec.input_px))
    run = _on(module, lambda x: embed(module, normalise(x, spec)))
    return _weights(module), save({"input": tiles, "output": run(tiles).contiguous()})


def head_payload(module: ABMIL) -> tuple[bytes, bytes]:
    """Weights and self-test bytes of a head."""
    dim = module.norm.normalized_shape[0]
    bag = np.random.default_rng(7).standard_normal((1, SELF_TEST_BAG, dim)).astype(np.float32)
    inputs = torch.from_numpy(bag)
    return _weights(module), save({"input": inputs, "output": _on(module, module)(inputs).contiguous()})


def load_encoder(release: ReleaseBytes, device: str) -> Encoder:
    """Build, load and self-test; raises ReleaseError MODEL_INTEGRITY."""
    manifest = release.manifest
    if not isinstance(manifest, EncoderManifest):
        raise _integrity("an encoder was asked for, but the release is a head")
    sides = {manifest.architecture.img_size, manifest.preprocess.input_px, manifest.tiling.tile_px}
    if len(sides) > 1:
        raise _integrity("the manifest's network, preprocessing and tiling differ in tile size")
    module = _load(lambda: build_vit(manifest.architecture), release.weights, device)
    tiles = _self_test_input(release.self_test)
    encoder = Encoder(release.digest, manifest, module, device, tiles)
    _self_test(encoder, release.self_test, device)
    return encoder


def load_head(release: ReleaseBytes, device: str) -> Head:
    """Build, load and self-test; raises ReleaseError MODEL_INTEGRITY."""
    manifest = release.manifest
    if not isinstance(manifest, HeadManifest):
        raise _integrity("a head was asked for, but the release is an encoder")
    module = _load(lambda: ABMIL(manifest.architecture), release.weights, device)
    _self_test(module, release.self_test, device)
    return Head(release.digest, manifest, module, device, _self_test_input(release.self_test)[0])


def self_test_tiles(side: int) -> NDArray[np.uint8]:
    """Tissue-like tiles (`SELF_TEST_TILES`, side, side, 3): stained blobs, the same on every call."""
    rng = np.random.default_rng(20)
    coarse = rng.random((SELF_TEST_TILES, 8, 8, 1))
    where = np.arange(side) * 8 // side
    stain = coarse[:, where][:, :, where] + 0.3 * rng.random((SELF_TEST_TILES, side, side, 1))
    absorb = np.array([0.55, 0.95, 0.45])
    return np.asarray(np.clip(245 * np.exp(-absorb * stain), 0, 255), dtype=np.uint8)


def _on(module: nn.Module, call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``call`` in eval mode and without gradients on the module's own device; its mode is put back."""

    def run(inputs: Tensor) -> Tensor:
        device, was_training = next(module.parameters()).device, module.training
        module.eval()
        try:
            with torch.no_grad():
                return call(inputs.to(device)).float().cpu()
        finally:
            module.train(was_training)

    return run


def _weights(module: nn.Module) -> bytes:
    state = module.state_dict()
    return save({name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()})


def _tensors(data: bytes, what: str) -> dict[str, Tensor]:
    try:
        return load(data)
    except (SafetensorError, ValueError):
        raise _integrity(f"the {what} is not a readable safetensors file") from None


def _load(build: Callable[[], Any], weights: bytes, device: str) -> Any:
    """Build without memory, then assign the file's tensors: nothing can stay at its random start."""
    state = _tensors(weights, "weights")
    with torch.device("meta"):
        module = build()
    _require_fit(module.state_dict(), state)
    module.load_state_dict(state, strict=True, assign=True)
    return module.to(device).eval().requires_grad_(False)


def _require_fit(expected: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    for name in sorted(expected.keys() ^ given.keys()):
        side = "lacks" if name in expected else "has an unknown"
        raise _integrity(f"the weights file {side} tensor {name}")
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape or given[name].dtype != torch.float32:
            found, wanted = tuple(given[name].shape), tuple(tensor.shape)
            raise _integrity(
                f"tensor {name} is {given[name].dtype} {found}, the manifest says float32 {wanted}"
            )


def _self_test_input(data: bytes) -> NDArray[Any]:
    return np.asarray(_stored_test(data)["input"].numpy())


def _stored_test(data: bytes) -> dict[str, Tensor]:
    stored = _tensors(data, "self-test")
    if stored.keys() != {"input", "output"}:
        raise _integrity("the self-test must hold the tensors input and output")
    return stored


def _self_test(run: Callable[[Tensor], Tensor], data: bytes, device: str) -> None:
    stored = _stored_test(data)
    try:
        with torch.inference_mode():
            found = run(stored["input"].to(device)).float().cpu()
    except (ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise _integrity("the self-test's input does not fit the network") from None
    if found.shape != stored["output"].shape or not _close(found, stored["output"]):
        raise _integrity("the network does not give the release's expected output on this machine")


def _close(found: Tensor, expected: Tensor) -> bool:
    cosine = nn.functional.cosine_similarity(found, expected, dim=1).min().item()
    error = (found - expected).abs().max().item()
    scale = max(1.0, expected.abs().max().item())
    return cosine >= MIN_COSINE and error <= MAX_ERROR * scale


def _integrity(detail: str) -> ReleaseError:
    return ReleaseError(Code.MODEL_INTEGRITY, detail)
