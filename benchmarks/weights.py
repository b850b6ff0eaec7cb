"""The release that is measured: random weights of the full-size ViT-B/14, published like any other."""

from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from training.publish import Publisher
from xmag.manifest import TASK_LABELS, AbmilSpec, PreprocessSpec, Task, TilingSpec, VitSpec
from xmag.nn.mil import ABMIL
from xmag.nn.vit import build_vit

TASK: Task = "nsclc"
NAN = dict.fromkeys(("value", "low", "high"), float("nan"))
UNMEASURED = {"n": 0, "macro_auc": NAN, "accuracy": NAN}


def publish_random(releases: Path, key: Ed25519PrivateKey, vit: VitSpec | None = None) -> str:
    """An encoder and an nsclc head of random weights; the head's digest.

    Layer scale is 1, so that every layer counts and two routes of calculation can differ.
    """
    torch.manual_seed(0)
    spec = vit or VitSpec(init_values=1.0)
    abmil = AbmilSpec(in_dim=spec.embed_dim, classes=len(TASK_LABELS[TASK]))
    publisher = Publisher(releases, key)
    facts = {"slides": 0, "tiles": 0}
    encoder = publisher.encoder(build_vit(spec), spec, PreprocessSpec(), TilingSpec(), facts)
    return publisher.head(ABMIL(abmil), TASK, encoder, abmil, facts, UNMEASURED)
