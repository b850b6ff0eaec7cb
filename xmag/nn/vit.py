"""The tile encoder: a timm VisionTransformer from a manifest (paper, "Teacher-Student Architecture").

Shapes: B tiles, P = (img_size / patch_size)^2 patches, R register tokens, D = embed_dim.
"""

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from xmag.manifest import VitSpec


def build_vit(spec: VitSpec) -> Any:
    """A VisionTransformer with ``forward_features(images) -> (B, 1 + R + P, D)``, normed; no classifier.

    The default spec is DINOv2's ViT-B/14 at 224 px: 1 class token and 256 patch tokens of 768 numbers.
    """
    return VisionTransformer(
        img_size=spec.img_size,
        patch_size=spec.patch_size,
        embed_dim=spec.embed_dim,
        depth=spec.depth,
        num_heads=spec.num_heads,
        mlp_ratio=spec.mlp_ratio,
        init_values=spec.init_values,
        num_classes=0,
        class_token=True,
        reg_tokens=spec.reg_tokens,
        dynamic_img_size=False,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )


def embed(vit: nn.Module, images: Tensor) -> Tensor:
    """The class token c^S of each normalised image: (B, 3, H, W) -> (B, D)."""
    tokens: Tensor = vit.forward_features(images)  # type: ignore[operator]
    return tokens[:, 0]


def parameters(spec: VitSpec) -> int:
    """How many weights the encoder has, without allocating them."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_vit(spec).parameters())
