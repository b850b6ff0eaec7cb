"""Train one ABMIL head on the bags of one task: fixed epochs, no look at the held-out slides.

Shapes: B bags, N tiles (padded), D embedding, C classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from xmag.manifest import AbmilSpec, Frozen
from xmag.nn.mil import ABMIL

Bags = Sequence[NDArray[np.float32]]


class MilSpec(Frozen):
    """AdamW with a cosine from ``rate`` to 0 after one epoch of warm-up; classes weigh the same."""

    hidden_dim: int = 128
    attention_dim: int = 64
    dropout: float = 0.25
    epochs: int = 60
    batch: int = 16
    rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0


def pad(bags: Bags) -> tuple[Tensor, Tensor]:
    """Bags (n_i, D) of any lengths -> (B, N, D), zero-padded, and the mask (B, N), True where real."""
    longest = max(len(bag) for bag in bags)
    batch = torch.zeros(len(bags), longest, bags[0].shape[1])
    mask = torch.zeros(len(bags), longest, dtype=torch.bool)
    for row, bag in enumerate(bags):
        batch[row, : len(bag)] = torch.from_numpy(bag)
        mask[row, : len(bag)] = True
    return batch, mask


def train(bags: Bags, targets: NDArray[np.int64], classes: int, spec: MilSpec) -> ABMIL:
    """A trained head in eval mode; the same bags and spec give the same weights on one machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        head = ABMIL(architecture(bags[0].shape[1], classes, spec))
        _fit(head, bags, targets, spec)
    return head.eval()


def architecture(dim: int, classes: int, spec: MilSpec) -> AbmilSpec:
    """The head for embeddings of ``dim`` numbers."""
    return AbmilSpec(
        in_dim=dim,
        hidden_dim=spec.hidden_dim,
        attention_dim=spec.attention_dim,
        dropout=spec.dropout,
        classes=classes,
    )


def probabilities(head: ABMIL, bags: Bags) -> NDArray[np.float64]:
    """(B, C), each bag on its own."""
    with torch.inference_mode():
        rows = [head(torch.from_numpy(bag).unsqueeze(0)).softmax(1) for bag in bags]
    return torch.cat(rows).double().numpy()


def class_weights(targets: NDArray[np.int64], classes: int) -> Tensor:
    """(C,) weights under which every class that occurs counts the same; their mean over slides is 1."""
    counts = np.bincount(targets, minlength=classes)
    return torch.tensor(
        len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1)), dtype=torch.float32
    )


def _fit(head: ABMIL, bags: Bags, targets: NDArray[np.int64], spec: MilSpec) -> None:
    weights = class_weights(targets, head.classifier.out_features)
    steps = -(-len(bags) // spec.batch)
    optimiser = torch.optim.AdamW(head.parameters(), spec.rate, weight_decay=spec.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: warm_cosine(step, steps, steps * spec.epochs)
    )
    head.train()
    for _ in range(spec.epochs):
        order = torch.randperm(len(bags))
        for start in range(0, len(bags), spec.batch):
            rows = order[start : start + spec.batch]
            batch, mask = pad([bags[int(row)] for row in rows])
            wanted = torch.from_numpy(targets)[rows]
            loss = cross_entropy(head(batch, mask), wanted, weights)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def warm_cosine(step: int, warm: int, total: int) -> float:
    """Share of the learning rate: a line up over ``warm`` steps, then half a cosine down to 0."""
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * min(1.0, (step - warm) / max(1, total - warm)))))
