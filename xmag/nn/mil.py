"""Gated attention MIL (ABMIL; Ilse et al. 2018), the paper's slide-level head (Methods, WSI classification).

Shapes: B bags, N tiles (padded), D embedding, M hidden, C classes. A mask is (B, N), True where a tile is
real; padding may hold any finite numbers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xmag.manifest import AbmilSpec


@dataclass(frozen=True)
class Explained:
    """Logits with what each tile gave: ``evidence.sum(1) + bias == logits``.

    Attributes:
        logits: (B, C).
        attention: (B, N), sums to 1 over the real tiles, 0 on padding.
        evidence: (B, N, C), attention times the tile's own class score without bias.
    """

    logits: Tensor
    attention: Tensor
    evidence: Tensor


class ABMIL(nn.Module):
    """LayerNorm, Linear + ReLU + Dropout, gated attention, softmax over tiles, weighted mean, Linear."""

    def __init__(self, spec: AbmilSpec) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(spec.in_dim)
        self.project = nn.Sequential(
            nn.Linear(spec.in_dim, spec.hidden_dim), nn.ReLU(), nn.Dropout(spec.dropout)
        )
        self.attention_tanh = nn.Linear(spec.hidden_dim, spec.attention_dim)
        self.attention_gate = nn.Linear(spec.hidden_dim, spec.attention_dim)
        self.attention_score = nn.Linear(spec.attention_dim, 1)
        self.classifier = nn.Linear(spec.hidden_dim, spec.classes)

    def forward_tiles(self, bag: Tensor) -> Tensor:
        """Hidden vector of each tile: (B, N, D) -> (B, N, M)."""
        hidden: Tensor = self.project(self.norm(bag))
        return hidden

    def forward_attention(self, bag: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention logits (B, N) before the softmax, -inf on padding."""
        return self._score(self.forward_tiles(bag), mask)

    def forward_features(self, bag: Tensor, mask: Tensor | None = None) -> Tensor:
        """The slide's vector: (B, N, D) -> (B, M)."""
        hidden = self.forward_tiles(bag)
        return _pool(hidden, self._score(hidden, mask).softmax(1))

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits of slide vectors: (B, M) -> (B, C)."""
        logits: Tensor = self.classifier(features)
        return logits

    def forward(self, bag: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits: (B, N, D) -> (B, C)."""
        return self.forward_head(self.forward_features(bag, mask))

    def explain(self, bag: Tensor, mask: Tensor | None = None) -> Explained:
        """Logits, attention and evidence of one pass."""
        hidden = self.forward_tiles(bag)
        attention = self._score(hidden, mask).softmax(1)
        evidence = attention.unsqueeze(-1) * (hidden @ self.classifier.weight.T)  # (B, N, C)
        return Explained(self.forward_head(_pool(hidden, attention)), attention, evidence)

    def _score(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        gated = torch.tanh(self.attention_tanh(hidden)) * torch.sigmoid(self.attention_gate(hidden))
        score: Tensor = self.attention_score(gated).squeeze(-1)  # (B, N)
        return score if mask is None else score.masked_fill(~mask, float("-inf"))


def _pool(hidden: Tensor, attention: Tensor) -> Tensor:
    """(B, N, M), (B, N) -> (B, M)."""
    return torch.bmm(attention.unsqueeze(1), hidden).squeeze(1)
