"""Models whose forward pass writes into their own memory, or reads memory in ways of its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attack import Attack, Body, Function, noise

WRITTEN = "memory that forward writes"
GEOMETRY = "memory geometry"

KERNEL = noise(4, 4, 3, seed=6)
X = noise(2, 4, 9, seed=2)


def _kept_map(s: Any, h: Tensor) -> Tensor:
    s.b.copy_(h * 2)
    return F.relu(s.b)


def _voice_activity(s: Any, h: Tensor) -> Tensor:
    s.b.copy_(h.abs() > 0.3)
    return h * s.b


def _weights(s: Any, h: Tensor) -> Tensor:
    s.b.mul_(0).add_(KERNEL * 3)
    return F.conv1d(h, s.b, padding=1).sin()


def _weights_of_the_input(s: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        s.b.copy_((h.abs().mean() * KERNEL).detach())
    return F.conv1d(h, s.b, padding=1)


def _gate(s: Any, h: Tensor) -> Tensor:
    s.b.copy_(h)
    s.b.sigmoid_()
    return h * s.b


def _places(s: Any, h: Tensor) -> Tensor:
    s.b.copy_(h.detach().abs().mean((0, 1)).argsort())
    return h[..., s.b].sin()


def _grown(s: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        s.b.resize_(h.shape)
        s.b.copy_(h > 0.1)
    return h * s.b


def _grown_map(s: Any, h: Tensor) -> Tensor:
    s.b.resize_(h.shape).copy_(h.sin())
    return F.relu(s.b) * 2


def _history(s: Any, h: Tensor) -> Tensor:
    s.b[..., :3] = h[..., -3:]
    return torch.cat([s.b, h.sin()], -1)


def _statistic(s: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        s.b.mul_(0.9).add_(0.1 * h.mean((0, 2)))
    return (h - s.b[:, None]).tanh()


def _written_twice(s: Any, h: Tensor) -> Tensor:
    s.b.copy_(h)
    first = s.b * 2
    s.b.copy_(h * h)
    return first * s.b.cos()


def _data_of_a_buffer(s: Any, h: Tensor) -> Tensor:
    s.b.data.copy_(h.abs())
    return h * s.b


class Plain(nn.Module):
    """Memory that is an attribute, not a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = torch.zeros(2, 4, 9, dtype=torch.float64)

    def forward(self, h: Tensor) -> Tensor:
        """Reads the map from there."""
        self.memory.copy_(h * 3)
        return F.relu(self.memory)


def _zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def _written() -> list[Attack]:
    buffers: dict[str, tuple[Any, Tensor, Function | None]] = {
        "the map": (_kept_map, _zeros(2, 4, 9), lambda h: F.relu(h * 2)),
        "voice activity": (
            _voice_activity,
            _zeros(2, 4, 9, dtype=torch.bool),
            lambda h: h * (X.abs() > 0.3),
        ),
        "weights": (_weights, noise(4, 4, 3), lambda h: F.conv1d(h, KERNEL * 3, padding=1).sin()),
        "weights of the input": (
            _weights_of_the_input,
            noise(4, 4, 3),
            lambda h: F.conv1d(h, X.abs().mean() * KERNEL, padding=1),
        ),
        "a gate": (_gate, _zeros(2, 4, 9), lambda h: h * X.sigmoid()),
        "places": (
            _places,
            _zeros(9, dtype=torch.int64),
            lambda h: h[..., X.abs().mean((0, 1)).argsort()].sin(),
        ),
        "grown": (_grown, _zeros(1, dtype=torch.bool), lambda h: h * (X > 0.1)),
        "grown to the map": (_grown_map, _zeros(1), lambda h: F.relu(h.sin()) * 2),
        "a history": (_history, _zeros(2, 4, 3), None),
        "a running statistic": (_statistic, _zeros(4), None),
        "written twice": (_written_twice, _zeros(2, 4, 9), None),
        "data of a buffer": (_data_of_a_buffer, _zeros(2, 4, 9), None),
    }
    return [
        Attack(WRITTEN, name, lambda f=function, b=buffer: Body(f, b=b.clone()), X, twin)
        for name, (function, buffer, twin) in buffers.items()
    ] + [Attack(WRITTEN, "an attribute", Plain, X, lambda h: F.relu(h * 3))]


# --- geometry -----------------------------------------------------------------------------------

WINDOW = torch.hann_window(8, dtype=torch.float64)
LONG = noise(2, 4, 41, seed=3)


def _stft(x: Tensor) -> Tensor:
    return torch.stft(x, 8, 3, window=WINDOW, center=False, return_complex=True).abs()


GEOMETRIES: dict[str, tuple[Function, Tensor]] = {
    "stft of one of several channels": (lambda h: _stft(h[:, 1]), LONG),
    "stft of a transposed recording": (lambda h: _stft(h.mT[:, 2]), noise(2, 41, 4, seed=3)),
    "stft of the last example": (lambda h: _stft(h[1]), LONG),
    "stft of every second sample": (lambda h: _stft(h[:, 0, ::2]), LONG),
    "strided view of a view": (
        lambda h: h[:, 1:].as_strided((2, 3, 5, 4), (164, 41, 8, 1), 41).sin(),
        LONG,
    ),
    "strided view of a turned one": (
        lambda h: h.sin().mT.as_strided((2, 3, 5), (164, 41, 2)).cos(),
        LONG,
    ),
    "overlapping frames, written between": (
        lambda h: (g := h * 2, f := g.as_strided((2, 4, 9, 8), (164, 41, 4, 1)), g.sin_(), f)[
            3
        ].sum(-1),
        LONG,
    ),
    "a strided view of one channel, written": (
        lambda h: (g := h * 1, g[:, 0].as_strided((2, 5), (164, 3)).mul_(3), g.sin())[2],
        LONG,
    ),
    "unfold of a view": (lambda h: h.mT[:, 3:, 1].unfold(-1, 5, 2).sin(), LONG),
    "a view that only strides allow": (
        lambda h: h.permute(2, 0, 1).contiguous().permute(1, 2, 0).flatten(0, 1)[::2].view(4, 41),
        LONG,
    ),
    "expanded and strided": (
        lambda h: h[:, :1].expand(2, 3, 41).as_strided((2, 3, 20), (164, 0, 2)).sin(),
        LONG,
    ),
}

ATTACKS = _written() + [
    Attack(GEOMETRY, name, lambda f=function: f, x) for name, (function, x) in GEOMETRIES.items()
]
