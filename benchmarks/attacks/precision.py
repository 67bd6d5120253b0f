"""Quiet channels beside loud ones, in half precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deconv1d import Sonifier

from .attack import Check, noise

HALF = "half precision"

X = noise(1, 1, 300, dtype=torch.float32)


def _network(loudness: list[float], *behind: nn.Module) -> nn.Module:
    """A convolution with a map of each loudness, and more layers of the same width."""
    torch.manual_seed(0)
    conv = nn.Conv1d(1, len(loudness), 9)
    with torch.no_grad():
        conv.weight.mul_(torch.tensor(loudness)[:, None, None])
        conv.bias.zero_()  # type: ignore[union-attr]  # it has one
    return nn.Sequential(conv, nn.ReLU(), *behind).eval()


STEEP = [1e-4, 1.0, 50.0]
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "one to half a million": lambda: _network(STEEP),
    "pooled": lambda: _network(STEEP, nn.MaxPool1d(3)),
    "averaged": lambda: _network(STEEP, nn.AvgPool1d(3)),
    "two convolutions": lambda: _network(STEEP, nn.Conv1d(3, 3, 5, groups=3, bias=False)),
    "many channels": lambda: _network([1e-4, *[50.0] * 20]),
    "the loud one first": lambda: _network(STEEP[::-1]),
}
WAYS = {
    "all": lambda s, x: s.sonify(x, layer="0", channel="all").waveform,
    "by number": lambda s, x: s.sonify(x, layer="0", channel=[0, 1, 2]).waveform,
    "one by one": lambda s, x: torch.stack(
        [s.sonify(x, layer="0", channel=n).waveform for n in range(3)]
    ),
    "prepared": lambda s, x: s.prepare(x, layer="0")(x, channel=[0, 1, 2]).waveform,
    "guided": lambda s, x: s.sonify(x, layer="0", channel=[0, 1, 2], method="guided").waveform,
}


def _shapes_agree(dtype: torch.dtype, found: Tensor, expected: Tensor) -> None:
    assert found.dtype == dtype
    for one, other in zip(found.double(), expected.double(), strict=True):
        assert bool(other.any()) == bool(one.any()), "a quiet channel is silent"
        # Its shape counts: its level may be beyond what half precision holds.
        cosine = torch.cosine_similarity(one.flatten() / one.abs().max(), other.flatten(), 0)
        assert cosine > 0.98, float(cosine)


def _check(build: Callable[[], nn.Module], dtype: torch.dtype, scale: float) -> None:
    """Each channel's sound has the shape that it has in double precision."""
    x = X * scale
    found = Sonifier(build().to(dtype)).sonify(x.to(dtype), layer="0", channel="all")
    exact = Sonifier(build().double()).sonify(x.double(), layer="0", channel="all")
    assert torch.isfinite(found.waveform).all()
    _shapes_agree(dtype, found.waveform, exact.waveform)


def _check_way(way: Callable[[Sonifier, Tensor], Tensor], dtype: torch.dtype) -> None:
    build = NETWORKS["one to half a million"]
    exact = Sonifier(build().double()).sonify(X.double(), layer="0", channel=[0, 1, 2]).waveform
    _shapes_agree(dtype, way(Sonifier(build().to(dtype)), X.to(dtype)), exact)


ATTACKS = [
    *(
        Check(
            HALF,
            f"{name}, {str(dtype)[6:]}, waveform times {scale:g}",
            lambda b=build, d=dtype, s=scale: _check(b, d, s),
        )
        for name, build in NETWORKS.items()
        for dtype in (torch.float16, torch.bfloat16)
        for scale in (1.0, 1e-2)
    ),
    *(
        Check(HALF, f"heard {name}, {str(dtype)[6:]}", lambda w=way, d=dtype: _check_way(w, d))
        for name, way in WAYS.items()
        for dtype in (torch.float16, torch.bfloat16)
    ),
]
