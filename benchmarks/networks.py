"""Networks as people run them: plain timm, fp32 or bf16, eager; and those of the paper's Figure 3."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from timm.layers.mlp import GluMlp
from timm.models.vision_transformer import VisionTransformer

from xmag.manifest import PreprocessSpec, VitSpec
from xmag.nn.vit import build_vit
from xmag.registry import WEIGHTS

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Size:
    """A transformer's size, as far as the cost of one tile goes."""

    tokens: int
    patches: int
    patch_px: int
    dim: int
    depth: int
    mlp_in: int
    mlp_out: int

    @property
    def gflop(self) -> float:
        """Of one tile: two for each multiply-add of the matrix products."""
        attention = 2 * self.tokens * 4 * self.dim**2 + 4 * self.tokens**2 * self.dim
        mlp = 2 * self.tokens * self.dim * (self.mlp_in + self.mlp_out)
        stem = 2 * self.patches * 3 * self.patch_px**2 * self.dim
        return (self.depth * (attention + mlp) + stem) / 1e9


@dataclass(frozen=True)
class System:
    """One system of Figure 3: its encoder, the tiles of a slide, and the paper's own WSI/min."""

    name: str
    build: Callable[[], Any]
    size: Size
    tiles: int
    paper_wsi_per_minute: float


def vit_size(spec: VitSpec) -> Size:
    """The size of our encoders."""
    patches = (spec.img_size // spec.patch_size) ** 2
    hidden = round(spec.embed_dim * spec.mlp_ratio)
    return Size(
        patches + 1 + spec.reg_tokens, patches, spec.patch_size, spec.embed_dim, spec.depth, hidden, hidden
    )


def xmag_vit() -> Any:
    """ViT-B/14 at 224 px, the paper's student."""
    return build_vit(VitSpec(init_values=1.0))


def phikon() -> Any:
    """ViT-B/16 at 224 px, the architecture of Phikon."""
    return VisionTransformer(img_size=224, patch_size=16, num_classes=0)


def uni2() -> Any:
    """The architecture of UNI2-h: 681 M weights, SwiGLU, eight registers."""
    swiglu: Any = partial(GluMlp, gate_last=False)
    return VisionTransformer(
        img_size=224,
        patch_size=14,
        embed_dim=1536,
        depth=24,
        num_heads=24,
        mlp_ratio=2.66667 * 2,
        init_values=1e-5,
        num_classes=0,
        no_embed_class=True,
        reg_tokens=8,
        mlp_layer=swiglu,
        act_layer=torch.nn.SiLU,
        dynamic_img_size=True,
    )


SYSTEMS = (
    System("XMAG ViT-B/14", xmag_vit, vit_size(VitSpec()), 554, 8.80),
    System("Phikon ViT-B/16", phikon, Size(197, 196, 16, 768, 12, 3072, 3072), 6_260, 1.11),
    System("UNI2-h", uni2, Size(265, 256, 14, 1536, 24, 8192, 4096), 6_260, 0.30),
)


def parameters(network: Any) -> int:
    """How many weights it has."""
    return sum(weight.numel() for weight in network.parameters())


def random_network(build: Callable[[], Any], device: str) -> Any:
    """Ready to run, with weights from a fixed seed; quickly, as no care is taken of how they are spread."""
    with torch.device("meta"):
        network = build()
    network.to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                weight.uniform_(-0.035, 0.035)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return network.eval().requires_grad_(False)


def from_release(releases_dir: Path, digest: str, spec: VitSpec, device: str) -> Any:
    """A release's own weights in a plain timm network; the caller has had them verified."""
    network = build_vit(spec)
    network.load_state_dict(load_file(releases_dir / digest / WEIGHTS))
    return network.eval().requires_grad_(False).to(device)


def plain(network: Any, device: str, precision: str, preprocess: PreprocessSpec | None = None) -> Embed:
    """Tiles (b, h, w, 3) uint8 to embeddings (b, d), the way a script does it; waits for the device."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    spec = preprocess or PreprocessSpec()
    return partial(_embed, network.to(kind), device, kind, spec)


def _embed(
    network: Any, device: str, kind: torch.dtype, spec: PreprocessSpec, tiles: NDArray[np.uint8]
) -> NDArray[np.float32]:
    with torch.inference_mode():
        images = torch.from_numpy(np.ascontiguousarray(tiles)).to(device).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(each, device=device).view(1, 3, 1, 1) for each in (spec.mean, spec.std))
        features = network.forward_features(((images - mean) / std).to(kind))
        found: NDArray[np.float32] = features[:, 0].float().cpu().numpy()
    return found


def batched(embed: Embed, tiles: NDArray[np.uint8], batch: int) -> NDArray[np.float32]:
    """All tiles, ``batch`` at a time."""
    return np.concatenate([embed(tiles[at : at + batch]) for at in range(0, len(tiles), batch)])
