"""What several ops compute together decides, not how it is spelled."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracles import Function, mirrored, random
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils import _pytree as pytree

from deconv1d.mirror import Deconvnet
from deconv1d.record import composite
from deconv1d.rules.table import METHODS

GAIN, ALPHA, EPS = random(9, seed=1), random(4, 1, seed=3).abs() + 0.5, 1e-5
RMS, LAYER = nn.RMSNorm(9, eps=EPS).double(), nn.LayerNorm(9, eps=EPS).double()
RMS.weight.data.copy_(GAIN)


def mean(x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def softmax(scores: Tensor) -> Tensor:
    shifted = torch.exp(scores - scores.amax(-1, keepdim=True))
    return shifted / shifted.sum(-1, keepdim=True)


def attend(weights: Callable[[Tensor], Tensor]) -> Function:
    return lambda x: weights(x @ (2 * x).mT / 3) @ x.flip(-1)


def einsum_attention(x: Tensor) -> Tensor:
    scores = torch.einsum("bid,bjd->bij", x, 2 * x)
    return torch.einsum("bij,bjd->bid", (scores / 3).softmax(-1), x.flip(-1))


def seeded(layer: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for weight in layer.double().requires_grad_(False).parameters():
        weight.normal_(0, 0.6)
    return layer


LSTM, GRU = seeded(nn.LSTM(4, 3, batch_first=True)), seeded(nn.GRU(4, 3, batch_first=True))
RNN = seeded(nn.RNN(4, 3, batch_first=True))
LSTM_CELL, GRU_CELL, RNN_CELL = nn.LSTMCell(4, 3), nn.GRUCell(4, 3), nn.RNNCell(4, 3)
for cell, layer in ((LSTM_CELL, LSTM), (GRU_CELL, GRU), (RNN_CELL, RNN)):
    cell.double().requires_grad_(False)
    cell.load_state_dict({name.removesuffix("_l0"): w for name, w in layer.state_dict().items()})


def first_state(x: Tensor) -> Tensor:
    """Computed from the waveform: of a constant one a GRU's r * (W h + b) carries to r alone."""
    return x[:, :3, 0] / 2


def layer_over_time(layer: nn.Module) -> Function:
    return lambda x: layer(x.mT, None if layer is LSTM else first_state(x)[None])[0].mT


def cells_over_time(cell: nn.Module) -> Function:
    """torch's own cells, called step by step; of an LSTM's two states the first is the output."""

    def run(x: Tensor) -> Tensor:
        states, outputs = None if cell is LSTM_CELL else first_state(x), []
        for value in x.unbind(-1):
            states = cell(value, states)
            outputs.append(states if isinstance(states, Tensor) else states[0])
        return torch.stack(outputs, -1)

    return run


def lstm_by_hand(x: Tensor) -> Tensor:
    h = c = x.new_zeros(len(x), 3)
    outputs = []
    for value in x.unbind(-1):
        gates = F.linear(value, LSTM.weight_ih_l0, LSTM.bias_ih_l0)
        gates = gates + F.linear(h, LSTM.weight_hh_l0, LSTM.bias_hh_l0)
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs, 2)


def gru_by_hand(x: Tensor) -> Tensor:
    """The last state is mixed in by n + z * (h - n), as torch's kernels do."""
    h, outputs = first_state(x), []
    for value in x.unbind(-1):
        a = F.linear(value, GRU.weight_ih_l0, GRU.bias_ih_l0).chunk(3, 1)
        b = F.linear(h, GRU.weight_hh_l0, GRU.bias_hh_l0).chunk(3, 1)
        r, z = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
        n = torch.tanh(a[2] + r * b[2])
        h = n + z * (h - n)
        outputs.append(h)
    return torch.stack(outputs, 2)


def analytic(x: Tensor) -> Tensor:
    return torch.complex(x, x.flip(-1))


def halves(product: Callable[[Tensor, Tensor], Tensor]) -> Function:
    return lambda x: product(*x.chunk(2, 1))


FAMILIES: dict[str, tuple[Function, ...]] = {
    "RMS norm": (
        RMS,
        lambda x: F.rms_norm(x, (9,), GAIN, EPS),
        lambda x: GAIN * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS),
        lambda x: x * (mean(x * x) + EPS) ** -0.5 * GAIN,
        lambda x: GAIN * (x / torch.sqrt(mean(x.square()) + EPS)),
        lambda x: GAIN * (x * (1 / (mean(x**2) + EPS).sqrt())),
    ),
    "layer norm": (
        LAYER,
        lambda x: (x - mean(x)) / torch.sqrt(x.var(-1, keepdim=True, correction=0) + EPS),
        lambda x: (x - mean(x)) * torch.rsqrt(mean((x - mean(x)) ** 2) + EPS),
        lambda x: (x - mean(x)).div((mean(x * x) - mean(x) ** 2 + EPS).sqrt()),
    ),
    "unit length": (
        lambda x: F.normalize(x, dim=1),
        lambda x: x / x.norm(dim=1, keepdim=True),
        lambda x: x / x.pow(2).sum(1, keepdim=True).sqrt(),
        lambda x: x * (1 / torch.linalg.vector_norm(x, dim=1, keepdim=True)),
    ),
    "unit deviation": (
        lambda x: x / x.std(),
        lambda x: x / x.var().sqrt(),
        lambda x: x * x.std().reciprocal(),
        lambda x: x / (((x - x.mean()) ** 2).sum() / (x.numel() - 1)).sqrt(),
    ),
    "softmax": (
        lambda x: torch.softmax(x, -1),
        softmax,
        lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
    ),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x, 2 * x, x.flip(-1)),
        attend(lambda scores: scores.softmax(-1)),
        attend(softmax),
        einsum_attention,
    ),
    "one minus a gate": (
        lambda x: torch.sigmoid(-x.flip(-1)) * x,
        lambda x: (1 - torch.sigmoid(x.flip(-1))) * x,
        lambda x: x * (-torch.sigmoid(x.flip(-1)) + 1),
    ),
    "twice a gate": (
        lambda x: 2 * (torch.sigmoid(x.flip(-1)) * x),
        lambda x: x * (2 * torch.sigmoid(x.flip(-1))),
    ),
    "GLU": (
        lambda x: F.glu(x, 1),
        halves(lambda a, b: a * torch.sigmoid(b)),
        lambda x: x[:, :2] * torch.sigmoid(x).chunk(2, 1)[1],
        lambda x: x.unflatten(1, (2, 2))[:, 0] * torch.sigmoid(x.unflatten(1, (2, 2))).unbind(1)[1],
    ),
    "SwiGLU": (
        halves(lambda a, b: F.silu(a) * b),
        halves(lambda a, b: b * F.silu(a)),
        halves(lambda a, b: a * torch.sigmoid(a) * b),
    ),
    "GEGLU": (
        halves(lambda a, b: F.gelu(a) * b),
        halves(lambda a, b: 0.5 * a * (1 + torch.erf(a / math.sqrt(2))) * b),
    ),
    "GELU": (
        F.gelu,
        lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        lambda x: x * (0.5 * (1 + torch.erf(x * 0.5**0.5))),
        lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    ),
    "GELU by tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3)))),
    ),
    "Mish": (F.mish, lambda x: x * torch.tanh(F.softplus(x))),
    "hard swish": (
        F.hardswish,
        lambda x: x * F.relu6(x + 3) / 6,
        lambda x: x * (torch.clamp(x + 3, 0, 6) / 6),
    ),
    "SiLU": (F.silu, lambda x: x / (1 + torch.exp(-x)), lambda x: x * (1 / (1 + torch.exp(-x)))),
    "magnitude": (
        lambda x: analytic(x).abs(),
        lambda x: (x.pow(2) + x.flip(-1) ** 2).sqrt(),
        lambda x: (x * x + x.flip(-1).square()) ** 0.5,
        lambda x: torch.sqrt(analytic(x).abs() ** 2),
        lambda x: torch.view_as_real(analytic(x)).norm(dim=-1),
    ),
    "power": (
        lambda x: analytic(x).abs() ** 2,
        lambda x: x * x + x.flip(-1) ** 2,
        lambda x: (analytic(x) * analytic(x).conj()).real,
    ),
    "logarithm": (
        lambda x: torch.log1p(x.abs()),
        lambda x: torch.log(1 + x.abs()),
        lambda x: torch.log2(1 + x.abs()) * math.log(2),
        lambda x: math.log(10) * torch.log10(1 + x.abs()),
    ),
    "sigmoid": (torch.sigmoid, lambda x: 0.5 + torch.tanh(x / 2) / 2),
    "LSTM": (layer_over_time(LSTM), lstm_by_hand, cells_over_time(LSTM_CELL)),
    "GRU": (layer_over_time(GRU), gru_by_hand, cells_over_time(GRU_CELL)),
    "RNN": (layer_over_time(RNN), cells_over_time(RNN_CELL)),
    "Snake": (
        lambda x: x + (1 / ALPHA) * torch.sin(ALPHA * x) ** 2,
        lambda x: x + torch.sin(x * ALPHA).pow(2) / ALPHA,
        lambda x: ALPHA.reciprocal() * torch.sin(ALPHA * x).square() + x,
        lambda x: x + (ALPHA + 0).reciprocal() * (torch.sin(ALPHA * x) * torch.sin(ALPHA * x)),
    ),
}
FLAGGED = {"softmax": "a map, not a gate: it has its gradient"}


def carried(function: Function, method: str) -> tuple[Deconvnet, Tensor]:
    """The deconvnet of a function, and what it carries back of three random signals."""
    deconvnet = mirrored(lambda x: function(x * 1), random(2, 4, 9, seed=2), method)
    return deconvnet, deconvnet(random(3, *deconvnet.map_shape, seed=4))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_spellings_sound_the_same(family, method):
    first, *others = FAMILIES[family]
    _, expected = carried(first, method)
    assert expected.any()
    for other in others:
        assert_close(carried(other, method)[1], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_has_a_rule_is_not_flagged(family):
    for function in FAMILIES[family]:
        deconvnet, _ = carried(function, "deconvnet")
        names = [step.op.node.meta["name"] for step in deconvnet.steps if step.rule.flagged]
        assert bool(names) == (family in FLAGGED), names


STATISTICS: dict[str, tuple[Function, Function]] = {
    "a learned gain is no statistic": (
        lambda x: x * (x.mean(-1) @ GAIN[:4, None]).unsqueeze(-1),
        lambda x: half(x, (x.mean(-1) @ GAIN[:4, None]).unsqueeze(-1)),
    ),
    "a statistic of another value is none": (
        lambda x: x * F.conv1d(x, GAIN[:4].reshape(1, 4, 1)).mean(-1, keepdim=True),
        lambda x: half(x, F.conv1d(x, GAIN[:4].reshape(1, 4, 1)).mean(-1, keepdim=True)),
    ),
    "an even product is no rectifier": (
        lambda x: x * torch.tanh(x),
        lambda x: x * torch.tanh(x).detach(),
    ),
}


def half(left: Tensor, right: Tensor) -> Tensor:
    return (left * right.detach() + left.detach() * right) / 2


@pytest.mark.parametrize("case", STATISTICS)
def test_what_only_looks_alike(case):
    function, twin = STATISTICS[case]
    _, found = carried(function, "deconvnet")
    x = random(2, 4, 9, seed=2).requires_grad_()
    y = twin(x)
    for signal, raw in zip(random(3, *y.shape, seed=4), found, strict=True):
        (expected,) = torch.autograd.grad(y, x, signal, retain_graph=True)
        assert_close(raw, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell])
def test_the_parts_of_a_cell_are_torch_s_own_to_the_last_bit(kind, biased):
    cell, x, h, c = kind(4, 3, bias=biased).double(), *(random(2, n) for n in (4, 3, 3))
    op = torch.ops.aten.gru_cell.default if kind is nn.GRUCell else torch.ops.aten.lstm_cell.default
    states = h if kind is nn.GRUCell else [h, c]
    biases = (cell.bias_ih, cell.bias_hh) if biased else ()
    arguments = (x, states, cell.weight_ih, cell.weight_hh, *biases)
    ours, theirs = composite.CELLS[op](*arguments), op(*arguments)
    for one, other in zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True):
        assert torch.equal(one, other)
