"""The same few layers, written in the ways that break graph capture and hook-based attribution."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, trained_like

WIDTH = 16

RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "module_in_place": nn.ReLU(inplace=True),
    "functional": F.relu,
    "method_in_place": Tensor.relu_,
    "clamp": lambda x: x.clamp(min=0),
    "clamp_in_place": lambda x: x.clamp_(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "mask": lambda x: x * (x > 0),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
}
"""Spellings of ReLU: with the same seed, the networks "relu_<spelling>" are one network."""


class _Convolutions(nn.Module):
    """Three convolutions of one length and a head, for the networks below to call as they like."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(1, WIDTH, 16, stride=8)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 5, padding=2)
        self.conv3 = nn.Conv1d(WIDTH, WIDTH, 5, padding=2)
        self.head = nn.Linear(WIDTH, 10)


class Rectified(_Convolutions):
    """The network of `RECTIFIERS`, with max-pools between."""

    def __init__(self, rectify: Callable[[Tensor], Tensor]):
        super().__init__()
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        h = F.max_pool1d(self.rectify(self.conv1(x)), 2)
        h = F.max_pool1d(self.rectify(self.conv2(h)), 2)
        return self.head(self.rectify(self.conv3(h)).mean(-1))


class InPlaceResidual(_Convolutions):
    """`out += identity` where `identity` is what an in-place ReLU, called three times, left."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        identity = self.relu(self.conv1(x))
        out = self.conv3(self.relu(self.conv2(identity)))
        out += identity
        return self.head(self.relu(out).mean(-1))


class SliceAssignment(_Convolutions):
    """Silence, mirrors and masks written into slices of a copy and of the maps."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        x = x.clone()
        x[..., :100] = 0
        x[:, :, -50:] = x[:, :, 200:250].flip(-1)
        h = self.conv1(x)
        h[:, :8] += h[:, 8:]
        h = self.conv2(F.relu(h))
        h[h < -1] = 0
        h[:, ::2].mul_(0.5)
        return self.head(self.conv3(F.relu_(h)).masked_fill(h > 3, 3).mean(-1))


class InPlaceGates(_Convolutions):
    """WaveNet's gates, computed inside one map and summed into half of a buffer."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        h = self.conv1(x)
        total = torch.zeros_like(h)
        for conv in (self.conv2, self.conv3):
            maps = conv(h)
            signal, gate = maps[:, : WIDTH // 2], maps[:, WIDTH // 2 :]
            gate.sigmoid_()
            total[:, : WIDTH // 2] += torch.tanh(signal) * gate
            h = h.clone()
            h.narrow(1, WIDTH // 2, WIDTH // 2).copy_(signal)
        return self.head(total.add_(h).mean(-1))


class Branching(_Convolutions):
    """Python that reads values: which layers run, and how often, depends on the waveform."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        h = self.conv1(x)
        if h.max() > 0:
            h = h / h.abs().max().item()
        for _ in range(int(h.std() > 0.1) + 1):
            h = h + F.relu(self.conv2(h))
        h = self.conv3(h) if bool((x[..., 0] >= 0).all()) else self.conv3(-h)
        return self.head(F.relu(h).mean(-1))


class SharedConvolution(_Convolutions):
    """One convolution called three times."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        h = F.relu(self.conv1(x))
        for _ in range(3):
            h = h + F.relu(self.conv2(h))
        return self.head(self.conv3(h).mean(-1))


class FunctionalConvolutions(nn.Module):
    """Parameters without modules: F.conv1d, unfold and einsum, a matrix of frames."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(1, WIDTH, 16, stride=8)
        self.kernel = nn.Parameter(torch.randn(WIDTH, WIDTH, 5) * 0.15)
        self.matrix = nn.Parameter(torch.randn(WIDTH, WIDTH) * 0.3)
        self.mix = nn.Conv1d(WIDTH, WIDTH, 1)
        self.last = nn.Conv1d(WIDTH, 10, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        h = F.relu(self.stem(x))
        h = F.relu(F.conv1d(h, self.kernel, padding=2))
        h = F.relu(self.mix(h))
        h = F.relu(torch.einsum("bctk,ock->bot", h.unfold(-1, 5, 1), self.kernel))
        return self.last(F.relu(self.matrix @ h)).mean(-1)


class SpectralNorm(nn.Module):
    """Weights divided by their largest singular value at every call (Miyato et al., 2018)."""

    def __init__(self):
        super().__init__()
        normed = nn.utils.parametrizations.spectral_norm
        self.conv1 = normed(nn.Conv1d(1, WIDTH, 16, stride=8))
        self.conv2 = normed(nn.Conv1d(WIDTH, WIDTH, 5))
        self.conv3 = nn.utils.spectral_norm(nn.Conv1d(WIDTH, 1, 5))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to scores (batch, 1, frames)."""
        h = F.leaky_relu(self.conv1(x), 0.2)
        return self.conv3(F.leaky_relu(self.conv2(h), 0.2))


def _row(
    name: str, build: Callable[[], nn.Module], layers: tuple[str, str, str] | None = None
) -> Architecture:
    layers = layers or ("conv1", "conv2", "conv3")
    return Architecture(name, lambda: trained_like(build()), (2, 1, 2000), 16000, layers)


def _rectified(spelling: str) -> Architecture:
    return _row(f"relu_{spelling}", lambda: Rectified(RECTIFIERS[spelling]))


ARCHITECTURES = (
    *map(_rectified, RECTIFIERS),
    _row("in_place_residual", InPlaceResidual),
    _row("slice_assignment", SliceAssignment),
    _row("in_place_gates", InPlaceGates),
    _row("branching", Branching, ("conv1", "conv2#1", "conv3")),
    _row("shared_convolution", SharedConvolution, ("conv1", "conv2#2", "conv3")),
    _row("functional_convolutions", FunctionalConvolutions, ("stem", "mix", "last")),
    _row("spectral_norm", SpectralNorm),
)
