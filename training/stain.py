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
    """Mix and scale the optical densities of each tile's channels; some tiles are blurred a little."""
    count = len(tiles)
    density = -torch.log((tiles.float() + 1.0) / 256.0)  # (B, S, S, 3)
    mixing = torch.eye(3) + STAIN * torch.randn(count, 3, 3)
    gain = torch.exp(STRENGTH * torch.randn(count, 1, 1, 1))
    mixed = gain * torch.einsum("bhwc,bcd->bhwd", density, mixing)
    light = torch.exp(-mixed.clamp(min=0.0)) * 256.0 - 1.0
    blurred = avg_pool2d(light.movedim(-1, 1), 3, 1, 1, count_include_pad=False).movedim(1, -1)
    chosen = (torch.rand(count, 1, 1, 1) < BLUR_SHARE).float() * torch.rand(count, 1, 1, 1)
    return (light + chosen * (blurred - light)).clamp(0, 255).round().to(torch.uint8)
