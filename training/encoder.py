"""Train the demo encoder: a small ViT taught by the region maps of synthetic slides.

This is brief supervised training, not the paper's distillation. Two losses: each patch token names the tissue
of its own 14 px square, and the class token gives the tile's mixture of tissues.

Shapes: B tiles, S pixels of a side, G patches of a side, K kinds of tissue.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from training.mil import warm_cosine
from training.stain import augment
from xmag.manifest import Frozen, PreprocessSpec, VitSpec
from xmag.nn.preprocess import normalise
from xmag.nn.vit import build_vit

SMALL_VIT = VitSpec(embed_dim=96, depth=3, num_heads=3, mlp_ratio=2.0, init_values=1.0)

WHITEN_TILES = 128
DAMPING = 0.1
"""Of weak components, relative to the strongest."""

Report = Callable[[int, int], None]


class EncoderSpec(Frozen):
    """Fixed seed, fixed number of epochs."""

    architecture: VitSpec = SMALL_VIT
    preprocess: PreprocessSpec = PreprocessSpec()
    epochs: int = 4
    batch: int = 16
    rate: float = 1.5e-3
    weight_decay: float = 0.05
    seed: int = 0


class Taught(nn.Module):
    """The ViT with the two linear read-outs that are thrown away after training."""

    def __init__(self, spec: VitSpec, kinds: int) -> None:
        super().__init__()
        self.vit = build_vit(spec)
        self.of_patch = nn.Linear(spec.embed_dim, kinds)
        self.of_tile = nn.Linear(spec.embed_dim, kinds)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) -> logits of each patch (B, G * G, K) and of the tile's mixture (B, K)."""
        tokens = self.vit.forward_features(images)
        return self.of_patch(tokens[:, self.vit.num_prefix_tokens :]), self.of_tile(tokens[:, 0])


def train_encoder(
    tiles: NDArray[np.uint8], patches: NDArray[np.uint8], kinds: int, spec: EncoderSpec, report: Report
) -> Any:
    """A trained ViT in eval mode, from tiles (n, S, S, 3) and the kind of tissue of each patch (n, G, G)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        taught = Taught(spec.architecture, kinds)
        see_tissue(taught.vit, torch.from_numpy(tiles), spec.preprocess)
        _fit(taught, torch.from_numpy(tiles), torch.from_numpy(patches), spec, report)
    return taught.vit.eval()


def see_tissue(vit: Any, tiles: Tensor, preprocess: PreprocessSpec) -> None:
    """Start the patch embedding from the whitened principal components of patches of ``tiles`` (n, S, S, 3).

    A ViT learns these filters itself, from far more tiles than a demo can wait for.
    """
    projection = vit.patch_embed.proj
    width, channels, side, _ = projection.weight.shape
    images = normalise(tiles[torch.randperm(len(tiles))[:WHITEN_TILES]], preprocess)
    patches = images.unfold(2, side, side).unfold(3, side, side)  # (n, 3, G, G, side, side)
    rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * side * side)
    mean = rows.mean(0)
    variance, axes = torch.linalg.eigh(torch.cov(rows.T))
    deviation = variance.clamp(min=0).sqrt().flip(0)[:width, None]
    filters = axes.T.flip(0)[:width] / (deviation + DAMPING * deviation[0])
    with torch.no_grad():
        projection.weight[: len(filters)] = filters.view(-1, channels, side, side)
        projection.bias[: len(filters)] = -(filters @ mean)


def _fit(taught: Taught, tiles: Tensor, patches: Tensor, spec: EncoderSpec, report: Report) -> None:
    steps = len(tiles) // spec.batch
    total = steps * spec.epochs
    optimiser = torch.optim.AdamW(_groups(taught, spec.weight_decay), spec.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: warm_cosine(step, max(1, total // 10), total)
    )
    taught.train()
    for epoch in range(spec.epochs):
        order = torch.randperm(len(tiles))[: steps * spec.batch].view(steps, spec.batch)
        for step, rows in enumerate(order):
            loss = _loss(taught, *augment(tiles[rows], patches[rows]), spec)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(taught.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            report(epoch * steps + step + 1, total)


def _loss(taught: Taught, tiles: Tensor, patches: Tensor, spec: EncoderSpec) -> Tensor:
    of_patch, of_tile = taught(normalise(tiles, spec.preprocess))
    kinds = patches.flatten(1).long()  # (B, G * G)
    mixture = one_hot(kinds, of_tile.shape[1]).float().mean(1)
    return cross_entropy(of_patch.flatten(0, 1), kinds.flatten()) + cross_entropy(of_tile, mixture)


def _groups(taught: Taught, decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms, biases, tokens and positions do not."""
    matrices = [p for name, p in taught.named_parameters() if p.ndim > 1 and "embed" not in name]
    rest = [p for name, p in taught.named_parameters() if p.ndim <= 1 or "embed" in name]
    return [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
