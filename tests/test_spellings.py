"""One layer written in many ways is one layer: the same channels, the same axis, the same sound."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles import random
from torch import Tensor, nn
from torch.testing import assert_close

from deconv1d import Sonifier

INPUTS, OUTPUTS, FRAMES, KERNEL = 4, 7, 11, 3
WEIGHT, BIAS = random(OUTPUTS, INPUTS, seed=1), random(OUTPUTS, seed=2).abs()
STEM, FRAME = random(INPUTS, 1, 5, seed=3), random(OUTPUTS, KERNEL, seed=4)

Spelling = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of the map, the weight and the bias."""


def flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


# --- maps (batch, time, channels): the last axis counts channels ---------------------------------

LAST: dict[str, Spelling] = {
    "linear": F.linear,
    "linear of a gain": lambda x, w, b: F.linear(x, (w / 2) * 2, b),
    "linear of a transpose": lambda x, w, b: F.linear(x, w.t().contiguous().T, b),
    "matmul": lambda x, w, b: x @ w.T + b,
    "matmul on the left": lambda x, w, b: (w @ x.mT).mT + b,
    "mm": lambda x, w, b: torch.mm(flat(x), w.T).reshape(*x.shape[:2], -1) + b,
    "bmm": lambda x, w, b: torch.bmm(x, w.T.expand(len(x), -1, -1)) + b,
    "baddbmm": lambda x, w, b: torch.baddbmm(b, x, w.T.expand(len(x), -1, -1)),
    "addmm": lambda x, w, b: torch.addmm(b, flat(x), w.T).reshape(*x.shape[:2], -1),
    "einsum": lambda x, w, b: torch.einsum("btc,dc->btd", x, w) + b,
    "einsum on the left": lambda x, w, b: torch.einsum("dc,btc->btd", w, x) + b,
    "convolution": lambda x, w, b: F.conv1d(x.mT, w[..., None], b).mT,
}
"""A linear layer from INPUTS to OUTPUTS channels."""

SECOND: dict[str, Spelling] = {
    "convolution": lambda x, w, b: F.conv1d(x, w[..., None], b),
    "convolution of a gain": lambda x, w, b: F.conv1d(x, (w / 2)[..., None] * 2, b),
    "convolution in a plane": lambda x, w, b: F.conv2d(x[..., None], w[..., None, None], b)[..., 0],
    "linear": lambda x, w, b: F.linear(x.mT, w, b).mT,
    "matmul": lambda x, w, b: w @ x + b[:, None],
    "matmul on the right": lambda x, w, b: (x.mT @ w.T + b).mT,
    "bmm": lambda x, w, b: torch.bmm(w.expand(len(x), -1, -1), x) + b[:, None],
    "baddbmm": lambda x, w, b: torch.baddbmm(b[:, None], w.expand(len(x), -1, -1), x),
    "einsum": lambda x, w, b: torch.einsum("dc,bct->bdt", w, x) + b[:, None],
    "einsum on the right": lambda x, w, b: torch.einsum("bct,dc->bdt", x, w) + b[:, None],
}
"""The same on maps (batch, channels, time): the axis behind the batch counts channels."""

FRAMED: dict[str, Spelling] = {
    "convolution": lambda x, w, b: F.conv1d(x, w[:, None], b),
    "convolution down a plane": lambda x, w, b: F.conv2d(x[..., None], w[:, None, :, None], b)[
        ..., 0
    ],
    "unfold, matmul": lambda x, w, b: (x[:, 0].unfold(-1, KERNEL, 1) @ w.T + b).mT,
    "unfold, linear": lambda x, w, b: F.linear(x[:, 0].unfold(-1, KERNEL, 1), w, b).mT,
    "unfold, einsum": lambda x, w, b: (
        torch.einsum("btk,dk->bdt", x[:, 0].unfold(-1, KERNEL, 1), w) + b[:, None]
    ),
    "im2col, matmul": lambda x, w, b: w @ F.unfold(x[..., None], (KERNEL, 1)) + b[:, None],
}
"""A convolution of one channel."""


class Network(nn.Module):
    """A stem, the layer to test in a module of its own, and a rectifier that ends its block."""

    def __init__(self, spelling: Spelling, weight: Tensor, *, last: bool, stem: bool) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, INPUTS, 5) if stem else nn.Identity()
        if stem:
            self.stem.weight.data, self.stem.bias.data = STEM.clone(), random(INPUTS, seed=5)
        self.layer, self.last = _Layer(spelling, weight), last
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stem(x)
        return F.relu(self.layer(maps.mT if self.last else maps))


class _Layer(nn.Module):
    def __init__(self, spelling: Spelling, weight: Tensor) -> None:
        super().__init__()
        self.spelling = spelling
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(BIAS.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.spelling(x, self.weight, self.bias)


def network(family: str, spelling: str) -> Network:
    if family == "framed":
        return Network(FRAMED[spelling], FRAME, last=False, stem=False)
    spellings = LAST if family == "last" else SECOND
    return Network(spellings[spelling], WEIGHT, last=family == "last", stem=True)


FAMILIES = {"last": LAST, "second": SECOND, "framed": FRAMED}
EACH = pytest.mark.parametrize(
    ("family", "spelling"), [(f, name) for f, spellings in FAMILIES.items() for name in spellings]
)


def waveforms() -> Tensor:
    return random(2, 1, FRAMES + 4, seed=6)


@EACH
def test_spellings_of_a_layer_are_one(family, spelling):
    """Channels, axis, maps and every channel's sonification are those of the first spelling."""
    x, first = waveforms(), next(iter(FAMILIES[family]))
    row, maps, raw = heard(network(family, spelling), x)
    expected_row, expected_maps, expected = heard(network(family, first), x)
    axis = 2 if family == "last" else 1
    assert row == expected_row == ("layer", OUTPUTS, axis, "relu#1")
    assert_close(maps, expected_maps)
    assert expected.flatten(1).any(1).all()  # every channel sounds
    assert_close(raw, expected)


def heard(model: Network, x: Tensor) -> tuple[tuple[str, int, int, str], Tensor, Tensor]:
    sonifier = Sonifier(model)
    (row,) = (row for row in sonifier.layers(x) if row.name == "layer")
    found = sonifier.sonify(x, layer="layer", channel="all")
    assert found.layout.channel == row.channel_axis
    facts = (row.name, row.channels, row.channel_axis, row.block_ends_in)
    return facts, sonifier.maps(x, layer="layer"), found.raw


@EACH
def test_a_layer_without_a_module_is_listed(family, spelling):
    """The op with the weight has a row, also where the weight is computed from a parameter."""
    model = network(family, spelling)
    layer, model.layer = model.layer, nn.Identity()
    model.weight, model.bias = layer.weight, layer.bias
    model.forward = lambda x: layer.spelling(
        model.stem(x).mT if model.last else model.stem(x), model.weight, model.bias
    )
    names = [row.name for row in Sonifier(model).layers(waveforms()) if "#" in row.name]
    products = ["linear", "convolution", "matmul", "mm", "bmm", "baddbmm", "addmm"]
    assert sum(name.split("#")[0] in products for name in names) == 1, names


# --- channels that an op leaves where they are ---------------------------------------------------


@pytest.mark.parametrize("shape", [[6, 96], [96]], ids=str)
@pytest.mark.parametrize("after", [nn.ReLU(), nn.Identity()], ids=str)
def test_layer_norm_leaves_the_channels_where_they_are(shape, after):
    model = nn.Sequential(nn.Conv1d(1, 6, 5), nn.LayerNorm(shape), after).double()
    x = random(2, 1, 100)
    table = Sonifier(model).layers(x)
    assert [(row.channels, row.channel_axis) for row in table] == [(6, 1)] * 3
    for layer in "012":
        found = Sonifier(model).sonify(x, layer=layer, channel="all")
        assert found.raw.shape == (6, 2, 1, 100)
        assert Sonifier(model).maps(x, layer=layer).shape == (2, 6, 96)


def test_attention_by_hand_keeps_the_channels_of_its_values():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.mixed, self.turned = nn.Conv1d(1, 5, 3), nn.Identity(), nn.Identity()
            self.double()

        def forward(self, x):
            v = self.conv(x)  # (batch, channels, time)
            weights = torch.softmax(v.mT @ v, -1)
            return self.mixed(v @ weights.mT).sum() + self.turned(weights @ v.mT).sum()

    found = {row.name: row for row in Sonifier(Attention()).layers(random(2, 1, 9))}
    assert (found["mixed"].channels, found["mixed"].channel_axis) == (5, 1)
    assert (found["turned"].channels, found["turned"].channel_axis) == (5, 2)


def test_one_clip_of_one_channel_has_channels_beside_its_batch():
    """Where batch and channels are both 1, an axis of length 1 is not taken for the other."""
    model = nn.Sequential(nn.Flatten(1, 2), nn.ReLU(), nn.Linear(20, 3)).double()
    table = Sonifier(model).layers(random(1, 1, 20))
    assert [row.channel_axis for row in table] == [1, 1, 1]
    assert Sonifier(model).sonify(random(20), layer="1", channel=4).raw.shape == (20,)
