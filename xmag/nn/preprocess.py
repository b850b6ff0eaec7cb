"""The one way from tiles to the network's input, for training and serving; its numbers are the manifest's."""

import torch
from torch import Tensor

from xmag.manifest import PreprocessSpec


def normalise(tiles: Tensor, spec: PreprocessSpec) -> Tensor:
    """uint8 RGB (B, H, W, 3) -> float32 (B, 3, H, W), scaled to 0-1 and standardised per channel.

    Stays on the tiles' device. Raises ValueError unless H = W = ``spec.input_px``: there is no hidden resize.
    """
    side = spec.input_px
    if tiles.dtype != torch.uint8 or tiles.ndim != 4 or tuple(tiles.shape[1:]) != (side, side, 3):
        raise ValueError(
            f"tiles must be uint8 (B, {side}, {side}, 3), not {tiles.dtype} {tuple(tiles.shape)}"
        )
    mean = torch.tensor(spec.mean, device=tiles.device).view(1, 3, 1, 1)
    std = torch.tensor(spec.std, device=tiles.device).view(1, 3, 1, 1)
    return (tiles.permute(0, 3, 1, 2).float() / 255.0 - mean) / std
