"""What travels with a set of weights: frozen, closed models of a release's manifest.

The digest of a release is the SHA-256 of its canonical manifest; the manifest holds the SHA-256 of every
other file, so the digest pins the bytes of the whole release.
"""

import hashlib
import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Task = Literal["nsclc", "rcc", "isup", "odx"]
TASK_LABELS: dict[str, tuple[str, ...]] = {
    "nsclc": ("LUAD", "LUSC"),
    "rcc": ("ccRCC", "PRCC", "ChRCC"),
    "isup": ("0", "1", "2", "3", "4", "5"),
    "odx": ("low", "high"),
}
"""The paper's four slide-level tasks; `odx` is high above a recurrence score of 25."""


class Frozen(BaseModel):
    """A closed, immutable model: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class TissueSpec(Frozen):
    """How tissue is told from glass, pen and border, on one low level."""

    mpp: float = Field(16.0, gt=0, description="µm for each pixel of the mask")
    saturation: int = Field(20, ge=0, le=255, description="least colourfulness (max - min channel), 0-255")
    min_area_um2: float = Field(40_000.0, ge=0, description="smaller pieces are dust")
    max_hole_um2: float = Field(40_000.0, ge=0, description="smaller holes are closed")


class TilingSpec(Frozen):
    """The grid of tiles; the paper uses 224 px at 5x (2.0 mpp), non-overlapping."""

    tile_px: int = Field(224, gt=0)
    target_mpp: float = Field(2.0, gt=0)
    min_tissue: float = Field(0.1, gt=0, le=1, description="least share of a tile that is tissue")
    edge: Literal["pad"] = Field("pad", description="tiles over the border are kept, filled white")
    resampling: Literal["lanczos", "bicubic", "bilinear", "box"] = "lanczos"
    tissue: TissueSpec = TissueSpec()


class PreprocessSpec(Frozen):
    """From uint8 tiles to the network's input."""

    input_px: int = Field(224, gt=0)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class VitSpec(Frozen):
    """A timm VisionTransformer; the defaults are XMAG's ViT-B/14."""

    kind: Literal["vit"] = "vit"
    img_size: int = 224
    patch_size: int = 14
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    init_values: float = 1e-5
    reg_tokens: int = 0
    pos_embed_rule: Literal["native"] = Field(
        "native", description="position embeddings fit img_size as stored"
    )


class AbmilSpec(Frozen):
    """Gated attention MIL: LayerNorm, Linear + ReLU, gated attention, Linear."""

    kind: Literal["abmil"] = "abmil"
    in_dim: int
    hidden_dim: int = 512
    attention_dim: int = 384
    dropout: float = 0.25
    classes: int


class Licence(Frozen):
    """Under which terms the weights may be used; carried to every result."""

    name: str
    permitted_use: Literal["clinical", "research", "demo"]
    notice: str = Field("", description="shown with every output of the release")
    derived_from: tuple[str, ...] = ()


class ReleaseBase(Frozen):
    """What both kinds of release hold."""

    schema_version: Literal[1] = 1
    name: str = Field(min_length=1, max_length=80, pattern=r"^[a-z0-9][a-z0-9._-]*$")
    created: datetime
    code_version: str
    licence: Licence
    weights_sha256: Sha256
    self_test_sha256: Sha256 = Field(description="safetensors with the stored input and expected output")
    parent: Sha256 | None = None
    training: dict[str, Any] = Field(default_factory=dict, description="configuration and data digests")
    metrics: dict[str, Any] = Field(default_factory=dict, description="measured, with intervals")


class EncoderManifest(ReleaseBase):
    """A tile encoder with all that must be the same at training and serving."""

    kind: Literal["encoder"] = "encoder"
    architecture: VitSpec
    preprocess: PreprocessSpec = PreprocessSpec()
    tiling: TilingSpec = TilingSpec()


class HeadManifest(ReleaseBase):
    """A task head, bound to the encoder it was trained on."""

    kind: Literal["head"] = "head"
    task: Task
    labels: tuple[str, ...]
    encoder: Sha256 = Field(description="digest of the encoder release whose embeddings it reads")
    architecture: AbmilSpec

    @model_validator(mode="after")
    def _labels_fit(self) -> "HeadManifest":
        if self.labels != TASK_LABELS[self.task]:
            raise ValueError(f"labels of {self.task} must be {TASK_LABELS[self.task]}, in this order")
        if self.architecture.classes != len(self.labels):
            raise ValueError("the head's classes and labels differ in number")
        return self


Manifest = Annotated[EncoderManifest | HeadManifest, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[EncoderManifest | HeadManifest] = TypeAdapter(Manifest)


def parse_manifest(data: bytes) -> EncoderManifest | HeadManifest:
    """Read a manifest; raises pydantic's ValidationError."""
    return _ADAPTER.validate_json(data)


def canonical(value: BaseModel) -> bytes:
    """The one byte form that digests are taken of: sorted keys, no spaces, UTF-8."""
    return json.dumps(
        value.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def digest(value: BaseModel) -> str:
    """SHA-256 of the canonical form, 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()
