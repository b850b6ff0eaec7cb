"""A slide read the way people write it today: OpenSlide tile by tile, timm in fp32, an ABMIL head.

The tiles are given, so that both sides read the same ones; finding them costs this script nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from benchmarks.networks import batched, from_release, plain
from benchmarks.routes import Target, plain_openslide
from xmag.manifest import EncoderManifest, HeadManifest
from xmag.nn.mil import ABMIL
from xmag.registry import WEIGHTS, read_manifest

BATCH = 32


@dataclass(frozen=True)
class Script:
    """The networks, loaded once; ``predict`` reads one slide."""

    embed: Any
    head: Any
    device: str
    batch: int = BATCH

    def predict(self, target: Target) -> NDArray[np.float64]:
        """Probabilities (c,) of one slide."""
        bag = batched(self.embed, plain_openslide(target), self.batch)
        with torch.inference_mode():
            logits = self.head(torch.from_numpy(bag).unsqueeze(0).to(self.device))
            found: NDArray[np.float64] = logits[0].double().softmax(0).cpu().numpy()
        return found


def load(releases: Path, digest: str, device: str) -> Script:
    """The same weights as the service's, by the head's digest."""
    head = read_manifest(releases, digest)
    assert isinstance(head, HeadManifest)
    encoder = read_manifest(releases, head.encoder)
    assert isinstance(encoder, EncoderManifest)
    network = from_release(releases, head.encoder, encoder.architecture, device)
    mil = ABMIL(head.architecture)
    mil.load_state_dict(load_file(releases / digest / WEIGHTS))
    embed = plain(network, device, "fp32", encoder.preprocess)
    return Script(embed, mil.eval().requires_grad_(False).to(device), device)
