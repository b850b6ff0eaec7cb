"""Small released networks: random weights from a fixed seed, published and signed like any other."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from xmag.manifest import (
    TASK_LABELS,
    AbmilSpec,
    EncoderManifest,
    HeadManifest,
    Licence,
    PreprocessSpec,
    TilingSpec,
    VitSpec,
)
from xmag.nn.bundle import encoder_payload, head_payload
from xmag.nn.mil import ABMIL
from xmag.nn.vit import build_vit
from xmag.registry import public_key_text, publish, read_verified

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TRUSTED = (public_key_text(KEY),)
SPEC = VitSpec(img_size=28, patch_size=14, embed_dim=24, depth=2, num_heads=2, init_values=1.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only get into each other's way on networks as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Releases:
    """A folder of releases and ways to fill it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trusted = TRUSTED

    def read(self, digest: str) -> Any:
        return read_verified(self.folder, digest, TRUSTED)

    def encoder(self, seed: int = 0, change: Callable[[Any], None] | None = None, **manifest: Any) -> str:
        torch.manual_seed(seed)
        module = build_vit(manifest.get("architecture", SPEC))
        if change:
            change(module)
        preprocess = PreprocessSpec(input_px=28)
        weights, self_test = encoder_payload(module, preprocess)
        values = {"architecture": SPEC, "preprocess": preprocess, "tiling": TilingSpec(tile_px=28)}
        return self.put(EncoderManifest, weights, self_test, **(values | manifest))

    def head(self, encoder: str, seed: int = 1, task: str = "rcc", **manifest: Any) -> str:
        torch.manual_seed(seed)
        spec = AbmilSpec(in_dim=24, hidden_dim=16, attention_dim=8, classes=len(TASK_LABELS[task]))
        weights, self_test = head_payload(ABMIL(spec))
        values = {"architecture": spec, "task": task, "labels": TASK_LABELS[task], "encoder": encoder}
        return self.put(HeadManifest, weights, self_test, **(values | manifest))

    def put(self, kind: Any, weights: bytes, self_test: bytes, **manifest: Any) -> str:
        base = {
            "name": "small",
            "created": datetime(2026, 1, 1, tzinfo=UTC),
            "code_version": "0.1.0",
            "licence": Licence(name="demo", permitted_use="demo", notice="demo weights: not for diagnosis"),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "self_test_sha256": hashlib.sha256(self_test).hexdigest(),
        }
        return publish(self.folder, kind(**(base | manifest)), weights, self_test, "card", KEY)


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path / "releases")
