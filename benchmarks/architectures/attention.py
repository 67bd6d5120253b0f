"""Convolutions under attention: fused, multi-head, written by hand, as a pooling over time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, trained_like

CLASSES = 10


class ConvTransformer(nn.Module):
    """nn.TransformerEncoder in eval, whose layers torch runs as one fused op where it may."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.features = _features(width)
        self.position = nn.Conv1d(width, width, 9, padding=4, groups=4)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2)
        self.post = nn.Conv1d(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        h = self.features(x)
        h = self.encoder((h + F.gelu(self.position(h))).transpose(1, 2))
        return self.post(h.transpose(1, 2)).mean(-1)


class ConvMultihead(nn.Module):
    """nn.MultiheadAttention that also returns its weights."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.features = _features(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.post = nn.Conv1d(width, CLASSES, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 1, time) to logits (batch, classes) and weights (batch, frames, frames)."""
        h = self.features(x).transpose(1, 2)
        attended, weights = self.attention(h, h, h)
        h = self.norm(h + attended)
        return self.post(h.transpose(1, 2)).mean(-1), weights


class Conformer(nn.Module):
    """A conformer block: feed-forwards, attention, gated convolution (Gulati et al., 2020)."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.features = _features(width)
        self.before, self.after = _feed_forward(width), _feed_forward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width)
        self.pointwise1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.bn = nn.BatchNorm1d(width)
        self.pointwise2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, frames, width)."""
        h = self.features(x).transpose(1, 2)
        h = h + 0.5 * self.before(h)
        h = h + self._attend(self.norm1(h))
        gated = F.glu(self.pointwise1(self.norm2(h).transpose(1, 2)), dim=1)
        h = h + self.pointwise2(F.silu(self.bn(self.depthwise(gated)))).transpose(1, 2)
        return self.norm3(h + 0.5 * self.after(h))

    def _attend(self, h: Tensor) -> Tensor:
        query, key, value = self.qkv(h).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, dim=-1)
        return (weights @ value).transpose(1, 2).flatten(2)


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
    )


class AttentiveStatistics(nn.Module):
    """Res2 blocks, mean and deviation weighed by attention (Desplanques et al., ECAPA, 2020)."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.features = _features(width)
        self.res2 = nn.ModuleList(nn.Conv1d(width // 4, width // 4, 3, padding=1) for _ in range(3))
        self.attention = nn.Sequential(nn.Conv1d(width, 8, 1), nn.Tanh(), nn.Conv1d(8, width, 1))
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        h = self.features(x)
        first, *rest = h.chunk(4, dim=1)
        parts = [first]
        for conv, part in zip(self.res2, rest, strict=True):
            parts.append(F.relu(conv(part + parts[-1])))
        h = h + torch.cat(parts, dim=1)
        weights = torch.softmax(self.attention(h), dim=-1)
        mean = (weights * h).sum(-1)
        variance = (weights * h**2).sum(-1) - mean**2
        return self.head(torch.cat([mean, variance.clamp(min=1e-6).sqrt()], dim=1))


def _features(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(1, width, 25, stride=10),
        nn.BatchNorm1d(width),
        nn.GELU(),
        nn.Conv1d(width, width, 8, stride=4),
        nn.BatchNorm1d(width),
        nn.GELU(),
    )


ARCHITECTURES = (
    Architecture(
        "transformer_encoder",
        lambda: trained_like(ConvTransformer()),
        (2, 1, 4000),
        16000,
        ("features.0", "features.3", "post"),
    ),
    Architecture(
        "multihead_attention",
        lambda: trained_like(ConvMultihead()),
        (2, 1, 4000),
        16000,
        ("features.0", "features.3", "post"),
    ),
    Architecture(
        "conformer",
        lambda: trained_like(Conformer()),
        (2, 1, 4000),
        16000,
        ("features.0", "pointwise1", "pointwise2"),
    ),
    Architecture(
        "attentive_statistics",
        lambda: trained_like(AttentiveStatistics()),
        (2, 1, 4000),
        16000,
        ("features.0", "res2.0", "attention.2"),
    ),
)
