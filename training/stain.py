"""Light augmentation of uint8 tiles: flips, another stain, another scanner's blur."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

STAIN = 0.08
STRENGTH = 0.2
BLUR_SHARE = 0.3


def augment(tiles: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Flip uint8 tiles (B, S, S, 3) with their patch labels (B, G, G) and change the tiles' look."""
    for axis in (1, 2):
        if torch.rand(()) < 0.5:
            tiles, patches = tiles.flip(axis), patches.flip(axis)
    return restain(tiles), patches


def restain(tiles: Tensor) -> Tensor:
    """Mix and scale the optical densities of each tile's channels; some batches are blurred a little."""
    density = -torch.log((tiles.float() + 1.0) / 256.0).flatten(1, 2)  # (B, S * S, 3)
    mixing = torch.eye(3) + STAIN * torch.randn(len(tiles), 3, 3)
    gain = torch.exp(STRENGTH * torch.randn(len(tiles), 1, 1))
    light = torch.exp(-(density @ (gain * mixing)).clamp(min=0.0)) * 256.0 - 1.0
    if torch.rand(()) < BLUR_SHARE:
        light = _blurred(light.view(tiles.shape), float(torch.rand(())))
    return light.view(tiles.shape).clamp(0, 255).round().to(torch.uint8)


def _blurred(light: Tensor, amount: float) -> Tensor:
    """Towards the mean of 3 x 3 pixels, by ``amount`` of the way."""
    mean = avg_pool2d(light.movedim(-1, 1), 3, 1, 1, count_include_pad=False).movedim(1, -1)
    return light + amount * (mean - light)
