"""From trained networks to signed releases with a manifest and a model card."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import xmag
from xmag.manifest import (
    TASK_LABELS,
    AbmilSpec,
    EncoderManifest,
    HeadManifest,
    Licence,
    PreprocessSpec,
    Task,
    TilingSpec,
    VitSpec,
)
from xmag.nn.bundle import encoder_payload, head_payload
from xmag.nn.mil import ABMIL
from xmag.registry import publish

NOTICE = "demo weights: not for diagnosis"
DEMO_LICENCE = Licence(name="Apache-2.0", permitted_use="demo", notice=NOTICE)

ENCODER_CARD = """# {name}

{notice}

A small Vision Transformer ({parameters:,} weights), trained for a few passes on the tissue maps of synthetic
slides. It has the interface of the XMAG encoder (224 px tiles at 2.0 mpp, class token) and none of its
knowledge: it never saw a real slide and was not distilled from any teacher.

Trained on {slides} synthetic slides ({tiles} tiles) of site 0 with random stain, blur and flips.
"""

HEAD_CARD = """# {name}

{notice}

Attention MIL for `{task}` ({labels}) on the demo encoder, trained on {train} synthetic slides.

Synthetic held-out slides of other seeds (n = {n}, 95 % bootstrap interval over slides):
macro AUC {auc}, accuracy {accuracy}.

Limits: the slides are drawn by a program, so these numbers say that the software works and nothing about
patients. On a real slide the output has no meaning.
"""


@dataclass(frozen=True)
class Publisher:
    """Signs and writes demo releases."""

    releases_dir: Path
    key: Ed25519PrivateKey

    def encoder(
        self,
        vit: Any,
        architecture: VitSpec,
        preprocess: PreprocessSpec,
        tiling: TilingSpec,
        training: dict[str, Any],
    ) -> str:
        """Publish the encoder; returns its digest. ``training`` names its slides and tiles."""
        weights, self_test = encoder_payload(vit, preprocess)
        manifest = EncoderManifest(
            **_base("demo-encoder", weights, self_test),
            training=training,
            architecture=architecture,
            preprocess=preprocess,
            tiling=tiling,
        )
        count = sum(weight.numel() for weight in vit.parameters())
        card = ENCODER_CARD.format(name=manifest.name, notice=NOTICE, parameters=count, **training)
        return publish(self.releases_dir, manifest, weights, self_test, card, self.key)

    def head(
        self,
        head: ABMIL,
        task: Task,
        encoder: str,
        architecture: AbmilSpec,
        training: dict[str, Any],
        measured: dict[str, Any],
    ) -> str:
        """Publish a head that reads ``encoder`` (digest); returns its digest."""
        weights, self_test = head_payload(head)
        manifest = HeadManifest(
            **_base(f"demo-{task}", weights, self_test),
            training=training,
            metrics={"synthetic held-out": measured},
            task=task,
            labels=TASK_LABELS[task],
            encoder=encoder,
            architecture=architecture,
        )
        return publish(
            self.releases_dir, manifest, weights, self_test, _head_card(manifest, measured), self.key
        )


def _base(name: str, weights: bytes, self_test: bytes) -> dict[str, Any]:
    return {
        "name": name,
        "created": datetime.now(UTC),
        "code_version": xmag.__version__,
        "licence": DEMO_LICENCE,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "self_test_sha256": hashlib.sha256(self_test).hexdigest(),
    }


def _head_card(manifest: HeadManifest, measured: dict[str, Any]) -> str:
    return HEAD_CARD.format(
        name=manifest.name,
        notice=NOTICE,
        task=manifest.task,
        labels=", ".join(manifest.labels),
        train=manifest.training["slides"],
        n=measured["n"],
        auc=_figure(measured["macro_auc"]),
        accuracy=_figure(measured["accuracy"]),
    )


def _figure(measured: dict[str, float]) -> str:
    return f"{measured['value']:.3f} ({measured['low']:.3f} to {measured['high']:.3f})"
