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


def _data_replaced(s: Any, h: Tensor) -> Tensor:
    s.b.data = h * 2
    return s.b * h.cos()


def _set(s: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        s.b.set_((h * 2).detach())
    return s.b * h.cos()


def _rebound(s: Any, h: Tensor) -> Tensor:
    s.b = torch.roll(s.b, 1, -1)
    s.b[..., 0] = h[..., -1]
    return s.b.sin() + h


def _ring(s: Any, h: Tensor) -> Tensor:
    for moment in h.split(3, -1):
        place = int(s.place) * 3
        s.b[..., place : place + 3] = moment
        s.place.add_(1).remainder_(3)
    return s.b.cos()


def _masked_write(s: Any, h: Tensor) -> Tensor:
    s.b[h > 0] = h[h > 0].sin()
    s.b.masked_fill_(h < -1, 3.0)
    return s.b * 2


def _indexed_writes(s: Any, h: Tensor) -> Tensor:
    places = torch.tensor([3, 0, 3])
    s.b.index_add_(2, places, h[..., :3])
    s.b.index_copy_(2, torch.tensor([5, 6]), h[..., 5:7].exp())
    s.b.scatter_(2, torch.zeros(2, 4, 1, dtype=torch.long), h[..., :1] * 2)
    return s.b.sin()


def _accumulated(s: Any, h: Tensor) -> Tensor:
    s.b.index_put_((torch.tensor([0, 1, 1]),), h[[0, 1, 0]], accumulate=True)
    return s.b.cos()


def _given_as_out(s: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        torch.mul(h, 3, out=s.b)
    return F.relu(s.b) * h


def _many_at_once(s: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        torch._foreach_copy_([s.b, s.c], [h, h.cos()])
        torch._foreach_mul_([s.b, s.c], 2.0)
    return s.b * s.c * h


def _single_precision(s: Any, h: Tensor) -> Tensor:
    s.b.copy_(h)
    return s.b.relu() * 2


def _logical(s: Any, h: Tensor) -> Tensor:
    s.b.logical_or_(h > 0.3)
    return h.masked_fill(s.b, 0.0)


def _counted(s: Any, h: Tensor) -> Tensor:
    s.b.add_((h > 0).sum(-1))
    return h * s.b[..., None]


def _through_a_view(s: Any, h: Tensor) -> Tensor:
    s.b.mT[:, 1:].view(2, 8, 4).copy_(h.mT[:, 1:])
    return s.b.sin()


def _expanded(s: Any, h: Tensor) -> Tensor:
    s.b.copy_(h.mean((0, 2)))
    return s.b[:, None].expand(2, 4, 9) * h


def _swapped(s: Any, h: Tensor) -> Tensor:
    s.b.copy_(h)
    s.b, s.c = s.c, s.b
    return s.c * 2 + s.b


def _put_back_by_itself(s: Any, h: Tensor) -> Tensor:
    before = s.b.clone()
    s.b.copy_(h)
    y = s.b.relu()
    s.b.copy_(before)
    return y * 3


def _transposed_in_place(s: Any, h: Tensor) -> Tensor:
    s.b.copy_(h)
    y = s.b.transpose_(1, 2)
    return y.relu().mT


def _code_book(s: Any, h: Tensor) -> Tensor:
    nearest = torch.cdist(h.mT, s.b).argmin(-1)
    hot = F.one_hot(nearest, len(s.b)).double()
    with torch.no_grad():
        s.b.mul_(0.9).add_(0.1 * (hot.flatten(0, 1).T @ h.mT.flatten(0, 1)))
    return s.b[nearest].mT * h


def _filled(s: Any, h: Tensor) -> Tensor:
    s.b.fill_(h.abs().max())
    return h / s.b


def _learnt_by_hand(s: Any, h: Tensor) -> Tensor:
    s.b.data.add_(0.1 * (h.mean(0) @ h.mean(0).T)[..., None])
    return F.conv1d(h, s.b, padding=1)


def _resized_and_back(s: Any, h: Tensor) -> Tensor:
    with torch.no_grad():
        s.b.resize_(2, 4, 12).zero_()
        s.b[..., :9] = h
        y = s.b[..., :9] * 1
        s.b.resize_(2, 4, 9)
    return y * h


class Attributes(nn.Module):
    """Memory in a list, a dict and a view that is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("b", _zeros(2, 4, 12))
        self.view = self.b[..., 3:]
        self.past: list[Tensor] = [_zeros(2, 4, 9)]
        self.named = {"last": _zeros(2, 4, 9)}

    def forward(self, h: Tensor) -> Tensor:
        """Reads from there what it has just written."""
        self.view.copy_(h * 3)
        self.past[-1].copy_(h.sin())
        self.past.append(h.cos())
        self.named["last"].add_(h)
        return self.b[..., 3:].relu() + self.past[0] * self.past[1] + self.named["last"]


class Writer(nn.Module):
    """Writes into the memory that it is given."""

    def __init__(self, memory: Tensor) -> None:
        super().__init__()
        self.register_buffer("memory", memory)

    def forward(self, h: Tensor) -> None:
        """Returns nothing."""
        self.memory.copy_(h * 2)


class Nested(nn.Module):
    """One module writes, another, which shares the buffer, reads; one writes a parameter."""

    def __init__(self) -> None:
        super().__init__()
        memory = _zeros(2, 4, 9)
        self.writer, self.register = Writer(memory), nn.ModuleDict({"writer": Writer(memory)})
        self.gain = nn.Parameter(torch.ones(4, 1, dtype=torch.float64))

    def forward(self, h: Tensor) -> Tensor:
        """The map lies in a buffer of another module."""
        self.writer(h)
        with torch.no_grad():
            self.gain.copy_(h.abs().mean((0, 2))[:, None])
        return F.relu(self.register["writer"].memory) * self.gain


class Statistics(nn.Module):
    """Normalisation that adapts to what it hears, also in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4).double()

    def forward(self, h: Tensor) -> Tensor:
        """Adapts, then uses what it knows."""
        self.norm.train()
        first = self.norm(h)
        self.norm.eval()
        return first + self.norm(h.sin())  # type: ignore[no-any-return]  # untyped


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
        "data replaced": (_data_replaced, _zeros(2, 4, 9), None),
        "set to other memory": (_set, _zeros(2, 4, 9), None),
        "rebound": (_rebound, noise(2, 4, 9), None),
        "written by a mask": (_masked_write, noise(2, 4, 9), None),
        "written by indices": (_indexed_writes, noise(2, 4, 9), None),
        "accumulated": (_accumulated, noise(2, 4, 9), None),
        "given as out=": (_given_as_out, _zeros(2, 4, 9), lambda h: (X * 3).relu() * h),
        "in single precision": (
            _single_precision,
            _zeros(2, 4, 9, dtype=torch.float32),
            lambda h: h.float().relu() * 2,
        ),
        "a logical buffer": (
            _logical,
            _zeros(2, 4, 9, dtype=torch.bool),
            lambda h: h.masked_fill(X > 0.3, 0.0),
        ),
        "a counter": (
            _counted,
            _zeros(2, 4, dtype=torch.int64),
            lambda h: h * (X > 0).sum(-1)[..., None],
        ),
        "through a view of a view": (_through_a_view, noise(2, 4, 9), None),
        "expanded": (_expanded, _zeros(4), None),
        "put back by itself": (_put_back_by_itself, noise(2, 4, 9), lambda h: h.relu() * 3),
        "transposed in place": (_transposed_in_place, _zeros(2, 4, 9), lambda h: h.relu()),
        "a code book": (_code_book, noise(5, 4), None),
        "filled": (_filled, _zeros(1), None),
        "weights learnt by hand": (_learnt_by_hand, noise(4, 4, 3), None),
        "resized and back": (_resized_and_back, _zeros(2, 4, 9), None),
    }
    pairs = {"many at once": _many_at_once, "swapped": _swapped}
    modules = {"attributes": Attributes, "modules that share": Nested, "statistics": Statistics}
    return [
        Attack(WRITTEN, name, lambda f=function, b=buffer: Body(f, b=b.clone()), X, twin)
        for name, (function, buffer, twin) in buffers.items()
    ] + [
        Attack(WRITTEN, "an attribute", Plain, X, lambda h: F.relu(h * 3)),
        Attack(WRITTEN, "a ring", lambda: Body(_ring, b=_zeros(2, 4, 9), place=torch.tensor(1)), X),
        *(
            Attack(WRITTEN, n, lambda f=f: Body(f, b=_zeros(2, 4, 9), c=_zeros(2, 4, 9)), X)
            for n, f in pairs.items()
        ),
        *(Attack(WRITTEN, name, module, X) for name, module in modules.items()),
    ]


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
    "stft of a slice in time": (lambda h: _stft(h[:, 2, 3:37]), LONG),
    "stft of a reversed recording": (lambda h: _stft(h.flip(-1)[:, 0]), LONG),
    "stft of a narrowed turned one": (lambda h: _stft(h.permute(1, 0, 2)[1:3, 1]), LONG),
    "stft in single precision": (
        lambda h: torch.stft(
            h[:, 1], 8, 3, window=WINDOW.float(), center=False, return_complex=True
        ),
        LONG.float(),
    ),
    "stft of a waveform of one rank": (lambda h: _stft(h[1, 2])[None], LONG),
    "frames of a view": (lambda h: h[:, 1:3].unfold(-1, 8, 3) * WINDOW, LONG),
    "frames in two axes": (lambda h: h.unfold(1, 2, 1).unfold(2, 6, 5).sin(), LONG),
    "frames of frames": (lambda h: h[:, ::2].unfold(-1, 9, 4).unfold(-2, 3, 2).cos(), LONG),
    "a strided view of a strided view": (
        lambda h: (
            h[1:].as_strided((4, 20), (41, 2), 165).as_strided((2, 4), (82, 4), 167)[None] * 2
        ),
        LONG,
    ),
    "a strided view of complex values": (
        lambda h: torch.fft.fft(h)[:, 1].as_strided((2, 5), (164, 3)).abs(),
        LONG,
    ),
    "a diagonal, strided": (lambda h: h[0].as_strided((4,), (42,), 1).sin()[None], LONG),
    "windows in pixels": (
        lambda h: h.as_strided((2, 2, 3, 2, 5), (164, 41, 7, 41, 1)).tanh(),
        LONG,
    ),
    "turned, made contiguous, strided": (
        lambda h: h.mT.contiguous().as_strided((2, 5, 4), (164, 8, 1), 2) ** 2,
        LONG,
    ),
    "a strided view of memory": (
        lambda h: (
            m := torch.zeros_like(h).mT,
            m.copy_(h.mT),
            m.as_strided((2, 4, 9), (164, 41, 2)),
        )[2].sin(),
        LONG,
    ),
    "channels last": (
        lambda h: F.conv2d(
            h[:, :, None].contiguous(memory_format=torch.channels_last), noise(3, 4, 1, 3)
        ).as_strided((2, 3, 5), (117, 1, 6)),
        LONG,
    ),
    "half overlapping writes": (
        lambda h: (
            g := h * 1,
            [g.as_strided((2, 4, 3), (164, 41, 1), n).mul_(n + 1) for n in range(0, 8, 2)],
            g.sin(),
        )[2],
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
