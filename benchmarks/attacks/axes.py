"""Maps whose channels are not on the axis that one would guess, or not of the number."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deconv1d import Sonifier

from .attack import Body, Check, noise

AXES = "which axis is the channel"

TIME = 100
X = noise(1, 1, TIME)
MATRIX = noise(5, 6, seed=3)

Build = Callable[[], list[nn.Module]]


def _conv() -> nn.Module:
    return nn.Conv1d(1, 6, 5)


def _last(*layers: nn.Module) -> Build:
    """Layers behind a convolution to six maps of 96 moments."""
    return lambda: [_conv(), *layers]


def _then(function: Callable[[Tensor], Tensor]) -> Build:
    return _last(Body(function))


class Turned(nn.Module):
    """A layer that wants its channels last, between two transpositions."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, h: Tensor) -> Tensor:
        """Channels second, before and after."""
        y = self.layer(h.mT)
        return (y[0] if isinstance(y, tuple) else y).mT


class Attention(nn.Module):
    """Attention over time; its map is (batch, time, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, h: Tensor) -> Tensor:
        """Channels last."""
        return self.attention(h.mT, h.mT, h.mT)[0]  # type: ignore[no-any-return]  # untyped


class TimeFirst(nn.Module):
    """A recurrent layer that wants (time, batch, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(6, 5)

    def forward(self, h: Tensor) -> Tensor:
        """As its own layer gives it, turned back."""
        return self.rnn(h.permute(2, 0, 1))[0].permute(1, 2, 0)  # type: ignore[no-any-return]  # any


# A product with a matrix on the right counts as a linear layer, whose features are its maps.
# Name, layers behind one another, channels of the last one, and the axis that counts them.
MODELS: dict[str, tuple[Build, int, int]] = {
    "layer norm over channels and time": (_last(nn.LayerNorm([6, 96]), nn.ReLU()), 6, 1),
    "layer norm over time": (_last(nn.LayerNorm(96), nn.ReLU()), 6, 1),
    "layer norm over channels, turned": (_last(Turned(nn.LayerNorm(6)), nn.ReLU()), 6, 1),
    "a matrix times the map": (_then(lambda z: MATRIX @ z), 5, 1),
    "the map times a matrix over time": (_then(lambda z: z @ noise(96, 7)), 7, 2),
    "turned, times a matrix": (_then(lambda z: z.mT @ MATRIX.T), 5, 2),
    "turned, times a matrix, turned": (_then(lambda z: (z.mT @ MATRIX.T).mT), 5, 1),
    "einsum dc,bct->bdt": (_then(lambda z: torch.einsum("dc,bct->bdt", MATRIX, z)), 5, 1),
    "einsum bct,dc->bdt": (_then(lambda z: torch.einsum("bct,dc->bdt", z, MATRIX)), 5, 1),
    "einsum bct,dc->btd": (_then(lambda z: torch.einsum("bct,dc->btd", z, MATRIX)), 5, 2),
    "einsum bct,ts->bcs": (_then(lambda z: torch.einsum("bct,ts->bcs", z, noise(96, 7))), 7, 2),
    "einsum over groups": (
        _then(
            lambda z: torch.einsum(
                "gdc,bgct->bgdt", noise(2, 4, 3), z.unflatten(1, (2, 3))
            ).flatten(1, 2)
        ),
        8,
        1,
    ),
    "tensordot": (_then(lambda z: torch.tensordot(MATRIX, z, ([1], [1])).movedim(0, 1)), 5, 1),
    "matmul with a batch of matrices": (_then(lambda z: torch.bmm(MATRIX[None], z)), 5, 1),
    "addmm of one clip": (_then(lambda z: torch.addmm(noise(5, 1), MATRIX, z[0])[None]), 5, 1),
    "baddbmm": (_then(lambda z: torch.baddbmm(noise(1, 5, 1), MATRIX[None], z)), 5, 1),
    "a linear layer over time": (_last(nn.Linear(96, 7)), 7, 2),
    "a linear layer over channels, turned": (_last(Turned(nn.Linear(6, 5))), 5, 1),
    "F.linear of a turned map": (_then(lambda z: F.linear(z.mT, MATRIX)), 5, 2),
    "attention, channels last": (_last(Attention()), 6, 2),
    "a recurrent layer, turned": (_last(Turned(nn.LSTM(6, 5, batch_first=True))), 5, 1),
    "a recurrent layer, time first": (_last(TimeFirst()), 5, 1),
    "group norm": (_last(nn.GroupNorm(3, 6), nn.SiLU()), 6, 1),
    "instance norm": (_last(nn.InstanceNorm1d(6)), 6, 1),
    "a two-dimensional convolution over one row": (
        _last(nn.Unflatten(1, (1, 6)), nn.Conv2d(1, 5, (6, 1))),
        5,
        1,
    ),
    "a spectrogram's convolution": (
        lambda: [
            Body(lambda x: torch.stft(x[:, 0], 16, 4, return_complex=True).abs()[:, None]),
            nn.Conv2d(1, 5, 3),
        ],
        5,
        1,
    ),
    "a spectrogram's bands": (
        lambda: [
            Body(lambda x: torch.stft(x[:, 0], 16, 4, return_complex=True).abs()),
            nn.Conv1d(9, 5, 3),
        ],
        5,
        1,
    ),
    "a softmax over channels": (_last(nn.Softmax(1)), 6, 1),
    "a glu": (_last(nn.GLU(1)), 3, 1),
    "gates by hand": (_then(lambda z: z[:, :3] * z[:, 3:].sigmoid()), 3, 1),
    "two halves, joined in channels": (_then(lambda z: torch.cat([z, z.cos()], 1)), 12, 1),
    "two halves, joined in time": (_then(lambda z: torch.cat([z, z.cos()], -1)), 6, 1),
    "pixels to time": (
        _then(lambda z: z.unflatten(1, (3, 2)).permute(0, 1, 3, 2).flatten(2)),
        3,
        1,
    ),
    "frames": (_then(lambda z: z.unfold(-1, 8, 8).permute(0, 1, 3, 2).flatten(1, 2)), 48, 1),
    "an average over time": (_last(nn.AdaptiveAvgPool1d(1), nn.Flatten()), 6, 1),
    "a classifier": (_last(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 5)), 5, 1),
    "a flat classifier": (_last(nn.Flatten(), nn.Linear(576, 5)), 5, 1),
    "a transposed convolution": (_last(nn.ConvTranspose1d(6, 5, 4, 2)), 5, 1),
    "shuffled channels": (_then(lambda z: z[:, [5, 0, 3, 1, 4, 2]]), 6, 1),
    "weight-normed convolution of doubles": (
        _last(nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 5, 3))),
        5,
        1,
    ),
}


def _check(build: Build, channels: int, axis: int) -> None:
    """`layers`, `maps`, `sonify` and the plain model agree on what a channel is."""
    torch.manual_seed(0)
    model = nn.Sequential(*build()).double().eval()
    layer = str(len(model) - 1)
    sonifier = Sonifier(model)
    plain = model(X).detach()
    rows = {row.name: row for row in sonifier.layers(X)}
    own = [row for name, row in rows.items() if name.split(".")[0] == layer]
    row = next((row for row in own if row.name == layer), own[-1])
    assert (row.channels, row.channel_axis) == (channels, axis), (row, plain.shape)
    maps = sonifier.maps(X, layer=row.name)
    torch.testing.assert_close(maps, plain.movedim(axis, 1), rtol=1e-9, atol=1e-9)
    heard = sonifier.sonify(X, layer=row.name, channel="all", seed="ones", method="gradient")
    assert len(heard.raw) == channels
    leaf = X.clone().requires_grad_()
    for number in {0, channels // 2, channels - 1}:
        (one,) = torch.autograd.grad(model(leaf).select(axis, number).sum(), leaf)
        torch.testing.assert_close(heard.raw[number], one, rtol=1e-9, atol=1e-9)


ATTACKS = [
    Check(AXES, name, lambda b=build, c=channels, a=axis: _check(b, c, a))
    for name, (build, channels, axis) in MODELS.items()
]
