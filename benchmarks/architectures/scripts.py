"""TorchScript: whole networks that are scripted, traced or frozen, and a scripted part of one.

TorchScript's modules take no hooks, so their convolutions are named by the order in which they run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, trained_like
from .convolutional import M5


class ScriptedEncoder(nn.Module):
    """A scripted encoder under a head of ordinary modules."""

    def __init__(self, width: int = 16):
        super().__init__()
        encoder = nn.Sequential(
            nn.Conv1d(1, width, 80, stride=16), nn.ReLU(), nn.Conv1d(width, width, 3), nn.ReLU()
        )
        self.encoder = torch.jit.script(trained_like(encoder))
        self.last = nn.Conv1d(width, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        return F.relu(self.last(self.encoder(x))).amax(-1)


def scripted() -> nn.Module:
    """M5, compiled from its source."""
    return torch.jit.script(trained_like(M5()))


def traced() -> nn.Module:
    """M5, recorded on one input; its convolutions are the op `aten._convolution`."""
    return torch.jit.trace(trained_like(M5()), torch.zeros(2, 1, 8000))


def frozen() -> nn.Module:
    """M5 with its weights as constants. `.double()` cannot reach them: build under that default."""
    return torch.jit.freeze(scripted())


def _row(name: str, build: Callable[[], nn.Module]) -> Architecture:
    layers = ("convolution#1", "convolution#2", "convolution#4")
    return Architecture(name, build, (2, 1, 8000), 8000, layers)


ARCHITECTURES = (
    _row("scripted", scripted),
    _row("traced", traced),
    _row("frozen", frozen),
    Architecture(
        "scripted_encoder",
        lambda: trained_like(ScriptedEncoder()),
        (2, 1, 8000),
        8000,
        ("encoder.convolution#1", "encoder.convolution#2", "last"),
    ),
)
