"""One list of cases: every entry of `deconv1d.rules.table.RULES`, and what its rule must be.

A case is a function small enough to differentiate densely. It may use several ops; the law is then
that of the named one, and what else it uses only cuts, shapes or scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from oracles import Function, attend, normalized, random
from torch import Tensor, nn

aten = torch.ops.aten


@dataclass(frozen=True)
class Case:
    """A function with one op to test.

    Attributes:
        op: Name of the op in torch.ops.aten that the function must record.
        kind: What the op's rule must be.
        note: Which case of the op; with "ties" its input is rounded, so that equals meet.
        run: The function, of one floating tensor.
        held: For "hold": the function written out slowly, with the held value detached.
        shape: Of its input; the last axis is time.
    """

    op: str
    kind: str
    note: str
    run: Function
    held: Function | None = None
    shape: tuple[int, ...] = (2, 3, 7)

    @property
    def x(self) -> Tensor:
        x = random(*self.shape, seed=5)
        return torch.round(2 * x) / 2 if "ties" in self.note else x

    def __str__(self) -> str:
        return f"{self.kind} {self.op} {self.note}".strip()


def cases(kind: str, **functions: Any) -> Iterator[Case]:
    """Cases by name, "op" or "op__note": a function, or a tuple with `held` or `shape` too."""
    for name, given in functions.items():
        op, _, note = name.partition("__")
        run, *rest = given if isinstance(given, tuple) else (given,)
        more = {"held" if callable(part) else "shape": part for part in rest}
        yield Case(op, kind, note.replace("_", " "), run, **more)


W, MATRIX, ROW = random(4, 3, 3, seed=1), random(7, 5, seed=2), random(3, 1, seed=3)
CUBE, VECTOR, GAIN = random(2, 3, 7, seed=4), random(4, seed=6), random(3, seed=7)
POSITIVE = CUBE.abs() + 0.5
MEAN, VARIANCE = random(3, seed=8), random(3, seed=9).abs() + 0.5
STACK, Z = random(5, 1, 4, 3, seed=10), torch.complex(ROW, -2 * ROW)
PLACES = torch.tensor([4, 0, 4])
ORDER = torch.tensor([4, 0, 2, 6, 1, 5, 3]).expand(2, 3, 7)
SOME = torch.tensor([[True, False, True], [True, True, True], [False, True, False]])
ALMOST = torch.zeros(3, 3).masked_fill(~SOME, float("-inf"))
LATER = torch.full((3, 3), float("-inf"), dtype=torch.float64).triu(1)


def analytic(x: Tensor) -> Tensor:
    """A complex value whose both parts depend on the waveform."""
    return torch.complex(x, ROW * x)


def parts(z: Tensor) -> Tensor:
    """A complex value as a real one."""
    return torch.view_as_real(z)


def level(x: Tensor, *gains: float) -> Tensor:
    """A few numbers of the whole recording, as a conditioning network computes them."""
    return x.mean() * torch.tensor(gains or (1.0, -2.0, 0.5)).to(x) + 1


def write(x: Tensor, place: Any, value: Any) -> Tensor:
    """A copy of x with a value written in place."""
    y = x.clone()
    y[place] = value
    return y


def attention(**options: Any) -> Function:
    return lambda x: F.scaled_dot_product_attention(x.flip(-1), 2 * x, x.roll(1, -1), **options)


def half(left: Tensor, right: Tensor, product: Any = torch.mul) -> Tensor:
    """A product that carries half of the signal to each factor, the other held."""
    return (product(left, right.detach()) + product(left.detach(), right)) / 2


def rescaled(x: Tensor, log: Function) -> Tensor:
    """A logarithm as its distance from 1 times what that was multiplied by."""
    return (x - 1) * (log(x) / (x - 1)).detach()


def passing_tanh(x: Tensor) -> Tensor:
    """tanh as the table carries it: the signal passes."""
    return x + (torch.tanh(x) - x).detach()


def held_sigmoid(x: Tensor) -> Tensor:
    """A sigmoid that is no gate: 1/2 + tanh(x/2) / 2."""
    return 0.5 + passing_tanh(x / 2) / 2


def recurrent(layer: nn.Module) -> Function:
    torch.manual_seed(3)
    layer = layer.double().requires_grad_(False)
    return lambda x: layer(x.mT)[0].mT


Step = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def lstm_step(a: Tensor, b: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    i, f, g, o = (a + b).chunk(4, -1)
    c = f.sigmoid().detach() * states[1] + i.sigmoid().detach() * passing_tanh(g)
    return o.sigmoid().detach() * passing_tanh(c), c


def gru_step(a: Tensor, b: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (a_r, a_z, a_n), (b_r, b_z, b_n) = a.chunk(3, -1), b.chunk(3, -1)
    z = (a_z + b_z).sigmoid().detach()
    n = passing_tanh(a_n + (a_r + b_r).sigmoid().detach() * b_n)
    return ((1 - z) * n + z * states[0],)


def tanh_step(a: Tensor, b: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (passing_tanh(a + b),)


def by_hand(layer: nn.RNNBase, step: Step) -> Function:
    """The layer of `recurrent` as a loop of cells, (batch, values, time)."""
    recurrent(layer)
    size, sides = layer.hidden_size, ("", "_reverse")[: 1 + layer.bidirectional]

    def run(x: Tensor) -> Tensor:
        for number in range(layer.num_layers):
            outputs = [side(x, f"l{number}{name}", bool(name)) for name in sides]
            x = torch.cat(outputs, 1)
        return x

    def side(x: Tensor, name: str, backwards: bool) -> Tensor:
        w_in, w_hidden, b_in, b_hidden = (
            getattr(layer, f"{kind}_{name}")
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        states, steps = (x.new_zeros(len(x), size),) * 2, list(x.unbind(-1))
        outputs = []
        for value in reversed(steps) if backwards else steps:
            states = step(value @ w_in.T + b_in, states[0] @ w_hidden.T + b_hidden, states)
            outputs.append(states[0])
        return torch.stack(outputs[::-1] if backwards else outputs, -1)

    return run


LONG = nn.LSTM(3, 2, num_layers=2, bidirectional=True, batch_first=True)
GATED = nn.GRU(3, 2, num_layers=2, bidirectional=True, batch_first=True)
PLAIN_RNN = nn.RNN(3, 2, batch_first=True)


ADJOINT = cases(
    "adjoint",
    convolution__strided=(lambda x: F.conv1d(x, W, VECTOR, 2, 2, 2), (2, 3, 11)),
    convolution__grouped=(lambda x: F.conv1d(x, W[:, :2], None, 1, 1, groups=2), (2, 4, 6)),
    convolution__from_mono=(lambda x: F.conv1d(x, W[:, :1], None, 1, 3, 2), (2, 1, 9)),
    convolution__of_one_sample=(lambda x: F.conv1d(x, W, None, 1, 2), (2, 3, 1)),
    convolution__transposed=lambda x: F.conv_transpose1d(x, W.transpose(0, 1), None, 3, 1, 2),
    convolution__transposed_grouped=(
        lambda x: F.conv_transpose1d(x, W[:, :2], VECTOR, 2, 1, 1, 2),
        (2, 4, 7),
    ),
    convolution__in_a_plane=(lambda x: F.conv2d(x, W[:, :, None], None, (1, 2)), (1, 3, 2, 9)),
    convolution__down_a_plane=(lambda x: F.conv2d(x.mT, W[..., None], None, (2, 1)), (2, 3, 2, 9)),
    _convolution=lambda x: aten._convolution(
        x, W, VECTOR, [2], [1], [1], False, [0], 1, False, False, False, False
    ),
    convolution__of_complex_values=(
        lambda x: parts(F.conv1d(analytic(x), torch.complex(W, W.flip(0)))),
        (1, 3, 5),
    ),
    convolution__with_a_live_bias=lambda x: F.conv1d(x, W, level(x, 1, 2, 3, 4)),
    convolution__of_a_constant=lambda x: F.conv1d(CUBE, W, level(x, 1, 2, 3, 4)),
    convolution__transposed_with_a_live_bias=lambda x: F.conv_transpose1d(
        x, W.transpose(0, 1), level(x, 1, 2, 3, 4), 2
    ),
    linear__with_a_live_bias=lambda x: F.linear(x, MATRIX.T, level(x, 1, 2, 3, 4, 5)),
    linear__of_a_constant=lambda x: F.linear(CUBE, MATRIX.T, x[0, 0, :5]),
    linear__of_complex_values=lambda x: parts(
        F.linear(analytic(x), torch.complex(MATRIX.T, -2 * MATRIX.T))
    ),
    linear__over_time=lambda x: F.linear(x, MATRIX.T, MATRIX[0]),
    linear__over_channels=lambda x: F.linear(x.mT, W[0].T).mT,
    matmul__by_a_matrix=lambda x: x @ MATRIX,
    matmul__of_a_matrix=lambda x: W[..., 0] @ x,
    matmul__by_a_vector=lambda x: x @ MATRIX[:, 0],
    matmul__of_a_vector=lambda x: GAIN @ x,
    matmul__of_a_waveform=(lambda x: MATRIX.T @ x, (7,)),
    matmul__of_broadcast_matrices=lambda x: STACK @ x,
    mm=(lambda x: torch.mm(x, MATRIX), (3, 7)),
    bmm=lambda x: torch.bmm(W[:2].mT, x),
    addmm=(lambda x: torch.addmm(MATRIX[0], x, MATRIX, beta=3, alpha=2), (3, 7)),
    baddbmm=lambda x: torch.baddbmm(ROW, x, MATRIX.expand(2, 7, 5), alpha=0.5),
    mv=(lambda x: torch.mv(x, MATRIX[:, 0]), (3, 7)),
    dot=(lambda x: torch.dot(MATRIX[:, 0], x), (7,)),
    add__scaled=lambda x: torch.add(CUBE, x, alpha=3),
    add__broadcast=lambda x: x.mean(-1, keepdim=True) + x[:, :1],
    add__to_itself=lambda x: x + x,
    add__a_number=lambda x: 1.5 + x,
    add__scaled_by_a_complex_number=lambda x: parts(
        torch.add(analytic(x), analytic(x).flip(-1), alpha=2j - 1)
    ),
    sub__scaled_by_a_complex_number=lambda x: parts(
        torch.sub(analytic(x), analytic(x).flip(-1), alpha=2j)
    ),
    rsub__scaled_by_a_complex_number=lambda x: parts(
        torch.rsub(analytic(x), analytic(x).flip(-1), alpha=1 - 2j)
    ),
    addmm__with_a_live_term=(lambda x: torch.addmm(x[:, :5], x, MATRIX, beta=2), (3, 7)),
    addmm__with_a_gate_for_a_term=(
        lambda x: torch.addmm((x > 0).to(x) + 0 * x, x, MATRIX.T @ MATRIX, beta=2)[:, :5],
        (3, 5),
    ),
    baddbmm__with_a_live_term=lambda x: torch.baddbmm(x[..., :5], x, MATRIX.expand(2, 7, 5)),
    native_dropout=lambda x: aten.native_dropout(x, 0.0, True)[0],
    add__of_complex_values=lambda x: parts(x + analytic(x)),
    sub__scaled=lambda x: torch.sub(x, CUBE, alpha=3),
    sub__from_a_constant=lambda x: torch.sub(ROW, x, alpha=2),
    sub__the_mean=lambda x: x - x.mean(-1, keepdim=True),
    rsub__from_a_number=lambda x: 1 - x,
    rsub__both=lambda x: torch.rsub(x, x.flip(-1), alpha=2),
    lerp=lambda x: torch.lerp(x, x.flip(-1), 0.3),
    cat__with_an_empty_vector=lambda x: torch.cat([torch.tensor([]).to(x), x, 2 * x], 2),
    _embedding_bag_forward_only=(
        lambda x: F.embedding_bag(torch.tensor([[0, 2], [1, 1]]), x, mode="sum"),
        (4, 3),
    ),
    copy__over_zeros=lambda x: torch.zeros_like(x).copy_(x),
    copy__of_one_moment=lambda x: torch.zeros(2, 3, 7).to(x).copy_(x[..., 2:3]),
    copy__circular=lambda x: F.pad(x, (2, 3), mode="circular"),
    diagonal_scatter=lambda x: torch.diagonal_scatter(x, 2 * x[:, :, 0], 0, 1, 2),
    neg=torch.neg,
    mul__by_a_number=lambda x: x * -0.5,
    mul__by_a_row=lambda x: ROW * x,
    mul__broadcast=lambda x: x[:, :1] * CUBE,
    mul__by_a_complex_constant=lambda x: parts(analytic(x) * Z),
    mul__by_a_complex_number=lambda x: parts(analytic(x) * (1 - 2j)),
    mul__of_a_real_value=lambda x: parts(x * Z),
    div__by_a_number=lambda x: x / 4,
    div__by_a_row=lambda x: x / ROW,
    div__by_a_complex_constant=lambda x: parts(analytic(x) / Z),
    batch_norm=lambda x: F.batch_norm(x, MEAN, VARIANCE, GAIN, MEAN),
    batch_norm__of_vectors=(lambda x: F.batch_norm(x, MEAN, VARIANCE), (4, 3)),
    instance_norm__recorded=lambda x: F.instance_norm(x, MEAN, VARIANCE, GAIN, MEAN, False),
    view=lambda x: x.view(2, 21),
    reshape=lambda x: x.mT.reshape(2, 21),
    reshape__that_folds_time=(lambda x: x.reshape(2, 3, 4, 2), (2, 3, 8)),
    reshape__of_one_sample=(lambda x: x.reshape(2, -1), (2, 3, 1)),
    _unsafe_view=lambda x: aten._unsafe_view(x, [6, 7]),
    unsqueeze=lambda x: x.unsqueeze(1),
    squeeze=(lambda x: x.squeeze(1), (2, 1, 7)),
    squeeze__all=(torch.squeeze, (1, 3, 1, 7)),
    permute=lambda x: x.permute(2, 0, 1),
    transpose=lambda x: x.transpose(0, -1),
    t=(torch.t, (3, 7)),
    cat__of_channels=lambda x: torch.cat([x, CUBE, x.flip(-1)], 1),
    cat__in_time=lambda x: torch.cat([x, x[..., :2]], -1),
    cat__of_real_and_complex_values=lambda x: parts(torch.cat([x, analytic(x)], 1)),
    cat__of_nothing=lambda x: torch.cat([x, torch.empty(0).to(x)], -1),
    stack=lambda x: torch.stack([x, CUBE, x.flip(-1)], 1),
    stack__behind_time=lambda x: torch.stack([x, 2 * x], -1),
    slice__stepped=lambda x: x[..., 1::3],
    slice__from_the_end=lambda x: x[..., -3:-1],
    slice__past_the_end=lambda x: x[..., 2:99],
    slice__of_channels=lambda x: x[:, 1:],
    select__a_channel=lambda x: x[:, -1],
    select__a_moment=lambda x: x[..., 3],
    split__in_time=lambda x: x.split(3, -1)[2],
    split__of_channels=lambda x: x.split(1, 1)[2] * 2 + x.split(1, 1)[0],
    split_with_sizes__in_time=lambda x: x.split([2, 5], -1)[1],
    split_with_sizes__of_channels=lambda x: x.split([1, 2], 1)[1],
    unsafe_split=lambda x: torch.unsafe_split(x, 3, -1)[2],
    unsafe_split_with_sizes=lambda x: torch.unsafe_split_with_sizes(x, [2, 5], -1)[1],
    unbind=lambda x: x.unbind(1)[2] - 2 * x.unbind(1)[0],
    unfold__of_time=lambda x: x.unfold(-1, 3, 2),
    unfold__of_channels=lambda x: x.unfold(1, 2, 1),
    sum__all=torch.sum,
    sum__of_channels=lambda x: x.sum(1),
    sum__of_time=lambda x: x.sum(-1, keepdim=True),
    mean__all=torch.mean,
    mean__of_two_axes=lambda x: x.mean((0, 1), keepdim=True),
    mean__of_time=lambda x: x.mean(-1),
    cumsum=lambda x: x.cumsum(-1),
    _fft_r2c=lambda x: parts(torch.fft.rfft(x)),
    _fft_c2c=lambda x: parts(torch.fft.fft(analytic(x), 5)),
    _fft_c2r=lambda x: torch.fft.irfft(analytic(x)),
    _fft_c2r__hermitian=lambda x: torch.fft.hfft(analytic(x), 9, norm="ortho"),
    _fft_c2r__hermitian_of_two_axes=lambda x: torch.fft.hfft2(analytic(x)),
    _fft_r2c__inverse_hermitian=lambda x: parts(torch.fft.ihfft(x, 5).resolve_conj()),
    avg_pool1d=lambda x: F.avg_pool1d(x, 3, 2, 1),
    avg_pool1d__rounded_up=(lambda x: F.avg_pool1d(x, 3, 2, 1, True, False), (2, 3, 8)),
    avg_pool2d=(lambda x: F.avg_pool2d(x, (1, 3)), (2, 1, 2, 10)),
    avg_pool3d=(lambda x: F.avg_pool3d(x, (1, 1, 2)), (1, 2, 1, 2, 7)),
    adaptive_avg_pool1d=lambda x: F.adaptive_avg_pool1d(x, 3),
    adaptive_avg_pool1d__that_divides=(lambda x: F.adaptive_avg_pool1d(x, 3), (2, 3, 9)),
    _adaptive_avg_pool2d=(lambda x: F.adaptive_avg_pool2d(x, (2, 3)), (1, 2, 3, 9)),
    _adaptive_avg_pool3d=(lambda x: F.adaptive_avg_pool3d(x, (1, 2, 3)), (1, 2, 1, 3, 7)),
    constant_pad_nd=lambda x: F.pad(x, (2, 3), value=0.7),
    constant_pad_nd__that_crops=lambda x: F.pad(x, (-2, 1)),
    constant_pad_nd__of_channels=lambda x: F.pad(x, (0, 0, 1, 1)),
    reflection_pad1d=lambda x: F.pad(x, (2, 6), mode="reflect"),
    replication_pad1d=lambda x: F.pad(x, (9, 1), mode="replicate"),
    reflection_pad2d=lambda x: F.pad(x[:, None], (2, 1, 1, 1), mode="reflect"),
    replication_pad2d=lambda x: F.pad(x[:, None], (1, 2, 0, 1), mode="replicate"),
    upsample_nearest1d__by_a_factor=lambda x: F.interpolate(x, scale_factor=3),
    upsample_nearest1d__to_a_size=lambda x: F.interpolate(x, 10),
    upsample_nearest1d__down=lambda x: F.interpolate(x, scale_factor=0.4),
    _upsample_nearest_exact1d=lambda x: F.interpolate(x, 3, mode="nearest-exact"),
    upsample_linear1d__up=lambda x: F.interpolate(x, 17, mode="linear"),
    upsample_linear1d__down=lambda x: F.interpolate(x, 3, mode="linear"),
    upsample_linear1d__corners=lambda x: F.interpolate(x, 13, mode="linear", align_corners=True),
    upsample_nearest2d=lambda x: F.interpolate(x[:, None], (3, 14)),
    _upsample_nearest_exact2d=lambda x: F.interpolate(x[:, None], (5, 9), mode="nearest-exact"),
    upsample_bilinear2d=lambda x: F.interpolate(x[:, None], (3, 12), mode="bilinear"),
    expand=(lambda x: x.expand(2, 3, 7), (2, 1, 7)),
    expand__of_one_sample=(lambda x: x.expand(2, 3, 7), (2, 3, 1)),
    slice_scatter__of_a_part=lambda x: write(x, (..., slice(4, 7)), 2 * x[..., :3]),
    slice_scatter__of_silence=lambda x: write(x, (..., slice(2, None, 2)), 0),
    slice_scatter__of_a_channel=lambda x: write(x, (slice(None), slice(1, 2)), x[:, 2:]),
    slice_scatter__over_zeros=lambda x: torch.zeros(2, 3, 12).to(x).slice_scatter(x, -1, 4, 11),
    select_scatter__of_a_channel=lambda x: write(x, (slice(None), 1), 3 * x[:, 0]),
    select_scatter__of_a_moment=lambda x: write(x, (..., 2), x[..., 5]),
    index_put__of_places=lambda x: write(x, (..., PLACES[:2]), x[..., :2]),
    index_put__of_a_mask=lambda x: torch.index_put(x, (POSITIVE > 1,), x.mean()),
    index_put__summed=lambda x: CUBE.index_put((PLACES[1:2],), x[:1], accumulate=True),
    masked_fill=lambda x: x.masked_fill(POSITIVE > 1, 3),
    fill=lambda x: torch.zeros(2, 3).to(x).fill_(x.sum()),
    zero=lambda x: x + (x * 2).zero_(),
    tril=lambda x: x.tril(1),
    triu=torch.triu,
    complex=lambda x: parts(torch.complex(x, CUBE)),
    view_as_complex=(lambda x: parts(torch.view_as_complex(x.reshape(2, 3, 4, 2))), (2, 3, 8)),
    view_as_real=lambda x: torch.view_as_real(analytic(x)),
    real=lambda x: (analytic(x) * 1j).real,
    imag=lambda x: analytic(x).imag,
    _conj=lambda x: parts(torch.conj(analytic(x)) * 2j),
    _conj_physical=lambda x: parts(torch.conj_physical(analytic(x))),
    flip=lambda x: x.flip(1, 2),
    roll=lambda x: x.roll(2, -1),
    repeat=lambda x: x.repeat(1, 2, 3),
    index=lambda x: x[:, [0, 2, 0]],
    index_select=lambda x: x.index_select(-1, PLACES),
    gather=lambda x: x.gather(-1, PLACES.expand(2, 3, 3)),
    scatter__of_values=lambda x: torch.ones(2, 3, 9).to(x).scatter(-1, ORDER, x),
    scatter__of_a_number=lambda x: x.scatter(-1, ORDER[..., :2], 4.0),
    scatter_add=lambda x: CUBE.scatter_add(
        -1, PLACES[:2].repeat(2, 3, 1), x[..., :2] + x[..., 1:3]
    ),
    strided=lambda x: x.mT.as_strided((3, 4), (7, 2), 1),
    with_real=lambda x: (z := analytic(x), z.real.mul_(2), z.abs())[2],
    with_imag=lambda x: (z := analytic(x), z[:, 1:].imag.mul_(2), z.abs())[2],
    strided_scatter=lambda x: (y := x * 1, y.as_strided((3, 4), (4, 1), 1).mul_(3), y)[2],
    revalued=lambda x: (y := x * 2, y.data.mul_(1), y)[2],
    diagonal=lambda x: x.diagonal(1, 1, 2),
    im2col=(lambda x: F.unfold(x, (3, 1), 1, (1, 0), 2), (1, 2, 7, 1)),
    col2im=(lambda x: F.fold(x, (9, 1), (3, 1)), (2, 6, 7)),
    pixel_shuffle=(lambda x: F.pixel_shuffle(x, 2), (1, 8, 1, 3)),
    pixel_unshuffle=(lambda x: F.pixel_unshuffle(x, 2), (1, 1, 2, 6)),
    mul__by_a_mask_of_another=lambda x: x * (x.flip(-1) > 0),
    where__of_a_mask_of_another=lambda x: torch.where(x.flip(-1) > 0, x, 0),
    where__of_a_constant_choice=lambda x: torch.where(POSITIVE > 1, x, 0),
    where__of_two=lambda x: torch.where(x > 0, x, 0.1 * x.flip(-1)),
    where__above_a_half=lambda x: torch.where(x > 0.5, x, 0),
)

SWITCH = cases(
    "switch",
    hardsigmoid=F.hardsigmoid,
    max_pool1d=lambda x: F.max_pool1d(x, 2),
    max_pool1d__overlapping=lambda x: F.max_pool1d(x, 3, 1, 1),
    max_pool1d__with_gaps=(lambda x: F.max_pool1d(x, 2, 3), (2, 3, 9)),
    max_pool1d__dilated=(lambda x: F.max_pool1d(x, 3, 2, 1, 2, ceil_mode=True), (2, 3, 10)),
    max_pool1d__long=(lambda x: F.max_pool1d(x, 17, 3, 8), (2, 2, 30)),
    max_pool1d__of_one_sample=(lambda x: F.max_pool1d(x, 4, 1, 2), (2, 3, 1)),
    max_pool1d__ties=lambda x: F.max_pool1d(x, 5, 2, 2),
    max_pool1d__ties_dilated=lambda x: F.max_pool1d(x, 2, 1, dilation=3),
    max_pool1d__ties_long=lambda x: F.max_pool1d(x, 20, 1, 10),
    max_pool2d_with_indices=(lambda x: F.max_pool2d(x, (1, 3), (1, 2), (0, 1)), (2, 3, 2, 7)),
    max_pool2d_with_indices__1d=lambda x: F.max_pool1d(x, 3, 2, return_indices=True)[0],
    max_pool2d_with_indices__ties=(lambda x: F.max_pool2d(x.mT, (3, 1), 1, (1, 0)), (2, 3, 2, 7)),
    max_pool3d_with_indices=(lambda x: F.max_pool3d(x, (1, 1, 2), (1, 1, 1)), (1, 2, 1, 2, 5)),
    adaptive_max_pool1d__ties=lambda x: F.adaptive_max_pool1d(x, 3),
    adaptive_max_pool1d__that_divides=(lambda x: F.adaptive_max_pool1d(x, 4), (2, 3, 8)),
    adaptive_max_pool2d=lambda x: F.adaptive_max_pool2d(x[:, None], (2, 3)),
    adaptive_max_pool3d=lambda x: F.adaptive_max_pool3d(x[:, None, None], (1, 2, 3)),
    max__of_time_with_ties=lambda x: x.max(-1).values,
    max__of_channels_with_ties=lambda x: x.max(1, keepdim=True).values,
    max__of_a_middle_axis=lambda x: x.max(1).values,
    max__of_all_with_ties=torch.max,
    amax__of_time_with_ties=lambda x: x.amax(-1),
    amax__of_two_axes=lambda x: x.amax((1, 2), keepdim=True),
    max__of_two=lambda x: torch.max(x, x.flip(-1)),
    max__of_a_number=(lambda x: x.flatten()[0].max(0).values + x, (1, 1, 3)),
    maximum__of_two=lambda x: torch.maximum(x, x.flip(-1)),
    maximum__of_a_constant=lambda x: torch.maximum(x, CUBE),
    min__of_time=lambda x: x.min(-1).values,
    min__of_two=lambda x: torch.min(x, x.flip(-1)),
    amin=lambda x: x.amin(1),
    minimum=lambda x: torch.minimum(x, x.flip(-1)),
    fmax=lambda x: torch.fmax(x, x.flip(-1)),
    fmin=lambda x: torch.fmin(x, x.flip(-1)),
    clamp__on_both_sides=lambda x: x.clamp(-0.5, 0.5),
    clamp__from_above=lambda x: x.clamp(max=0),
    clamp__by_tensors=lambda x: x.clamp(-POSITIVE, POSITIVE),
    clamp__from_zero_to_a_live_bound=lambda x: x.clamp(torch.zeros(()).to(x), x.flip(-1)),
    clamp_min=lambda x: x.clamp_min(-0.5),
    clamp_max=lambda x: x.clamp_max(0.5),
    hardtanh=F.hardtanh,
    hardshrink=F.hardshrink,
    softshrink=F.softshrink,
    threshold=lambda x: F.threshold(x, 0.3, 0.1),
    abs=torch.abs,
    linalg_vector_norm__of_order_1=lambda x: x.norm(1, dim=1),
    linalg_vector_norm__of_order_infinity=lambda x: x.norm(math.inf, dim=1),
    sort=lambda x: x.sort(-1).values,
    topk=lambda x: x.topk(3).values,
    cummax=lambda x: x.cummax(-1).values,
    cummin=lambda x: x.cummin(1).values,
    nansum=lambda x: x.nansum(-1),
)

RECTIFY = cases(
    "rectify",
    relu=F.relu,
    leaky_relu=F.leaky_relu,
    prelu=lambda x: F.prelu(x, GAIN),
    _prelu_kernel=lambda x: aten._prelu_kernel(x, ROW),
    rrelu=F.rrelu,
    elu=F.elu,
    elu__selu=F.selu,
    celu=F.celu,
    gelu=F.gelu,
    gelu__by_tanh=lambda x: F.gelu(x, approximate="tanh"),
    silu=F.silu,
    mish=F.mish,
    softplus=F.softplus,
    hardswish=F.hardswish,
    hardtanh__relu6=F.relu6,
    hardtanh__above_zero=lambda x: F.hardtanh(x, 0.2, 1.0),
    clamp__from_zero=lambda x: x.clamp(min=0),
    clamp__between=lambda x: x.clamp(0.0, 0.5),
    clamp_min=lambda x: x.clamp_min(0.0),
    threshold=lambda x: F.threshold(x, 0.3, 0.0),
    mul__gelu_by_hand=lambda x: 0.5 * x * (1 + torch.erf(x * 0.5**0.5)),
    mul__quick_gelu=lambda x: x * torch.sigmoid(1.702 * x),
    mul__mish_by_hand=lambda x: x * torch.tanh(F.softplus(x)),
    mul__hardswish_by_hand=lambda x: x * (F.relu6(x + 3) / 6),
    div__silu_by_hand=lambda x: x / (1 + torch.exp(-x)),
    add__snake=lambda x: x + torch.sin(ROW.abs() * x) ** 2 / ROW.abs(),
    add__snake_swapped=lambda x: ROW.abs().reciprocal() * torch.sin(x * ROW.abs()).square() + x,
    prelu__with_a_live_slope=lambda x: F.prelu(x, level(x)),
    _prelu_kernel__with_a_live_slope=lambda x: aten._prelu_kernel(x, level(x)[:, None]),
    rrelu__in_training=lambda x: F.rrelu(x, training=True),
    rrelu__in_place_in_training=lambda x: F.rrelu(x * 1, training=True, inplace=True),
    rrelu__in_place=lambda x: F.rrelu(x * 1, inplace=True),
    maximum__of_zeros=lambda x: torch.maximum(x, torch.zeros_like(x)),
    maximum__of_one_zero=lambda x: torch.maximum(torch.tensor(0.0).to(x), x),
    max__of_zeros=lambda x: torch.max(x, torch.zeros(7, dtype=x.dtype)),
    where__of_zero=lambda x: torch.where(x > 0, x, 0),
    where__of_zeros=lambda x: torch.where(x >= 0.0, x, torch.zeros_like(x)),
    mul__silu=lambda x: x * torch.sigmoid(x),
    mul__silu_swapped=lambda x: torch.sigmoid(x) * x,
    mul__mask=lambda x: x * (x > 0),
    mul__mask_swapped=lambda x: (x >= 0) * x,
    mul__mask_cast=lambda x: x * (x > 0).to(x.dtype),
)

HOLD = cases(
    "hold",
    sigmoid=(torch.sigmoid, held_sigmoid),
    lstm=(recurrent(LONG), by_hand(LONG, lstm_step)),
    gru=(recurrent(GATED), by_hand(GATED, gru_step)),
    rnn_tanh=(recurrent(PLAIN_RNN), by_hand(PLAIN_RNN, tanh_step)),
    mul__by_a_sigmoid=(
        lambda x: (x + 1) * torch.sigmoid(x.flip(-1)),
        lambda x: (x + 1) * torch.sigmoid(x.flip(-1)).detach(),
    ),
    mul__by_a_sigmoid_from_one=(
        lambda x: (1 - 0.5 * torch.sigmoid(x.flip(-1))) * x,
        lambda x: (1 - 0.5 * torch.sigmoid(x.flip(-1))).detach() * x,
    ),
    mul__by_a_bounded_value=(
        lambda x: torch.cos(x.flip(-1)) * x,
        lambda x: torch.cos(x.flip(-1)).detach() * x,
    ),
    mul__by_a_statistic=(
        lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 0.1),
        lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 0.1).detach(),
    ),
    mul__of_two=(
        lambda x: x * x.flip(-1),
        lambda x: (x.detach() * x.flip(-1) + x * x.flip(-1).detach()) / 2,
    ),
    mul__by_itself=(lambda x: x * x, lambda x: x * x.detach()),
    mul__of_two_gates=(
        lambda x: torch.sigmoid(x) * torch.sigmoid(x.flip(-1)),
        lambda x: half(held_sigmoid(x), held_sigmoid(x.flip(-1))),
    ),
    mul__of_complex_values=(
        lambda x: parts(analytic(x) * analytic(x.flip(-1))),
        lambda x: parts(half(analytic(x), analytic(x.flip(-1)))),
    ),
    div__of_two=(
        lambda x: x / (x.flip(-1).abs() + 1),
        lambda x: x / (x.flip(-1).abs() + 1).detach(),
    ),
    div__of_complex_values=(
        lambda x: parts(analytic(x) / (analytic(x.flip(-1)) + 4)),
        lambda x: parts(analytic(x) / (analytic(x.flip(-1)) + 4).detach()),
    ),
    convolution__with_a_live_weight=(
        lambda x: F.conv1d(x, x[:, :, :2], padding=1),
        lambda x: half(x, x[:, :, :2], lambda a, b: F.conv1d(a, b, padding=1)),
    ),
    linear__with_itself=(lambda x: F.linear(x, x[0]), lambda x: half(x, x[0], F.linear)),
    matmul__with_itself=(lambda x: x @ x.mT, lambda x: half(x, x.mT, torch.matmul)),
    pow=(lambda x: x**3, lambda x: x * (x**2).detach()),
    pow__of_complex_values=(
        lambda x: parts(analytic(x) ** 2),
        lambda x: parts(analytic(x) * analytic(x).detach()),
    ),
    sqrt=(
        lambda x: (x.abs() + 1).sqrt(),
        lambda x: (x.abs() + 1) * (x.abs() + 1).rsqrt().detach(),
    ),
    log=(lambda x: (x.abs() + 0.5).log(), lambda x: rescaled(x.abs() + 0.5, torch.log)),
    log2=(lambda x: (x.abs() + 0.5).log2(), lambda x: rescaled(x.abs() + 0.5, torch.log2)),
    log10=(lambda x: (x.abs() + 0.5).log10(), lambda x: rescaled(x.abs() + 0.5, torch.log10)),
    log1p=(lambda x: torch.log1p(x.abs()), lambda x: rescaled(x.abs() + 1, torch.log)),
    linalg_vector_norm=(
        lambda x: x.norm(dim=-1),
        lambda x: (x * (x / x.norm(dim=-1, keepdim=True)).detach()).sum(-1),
    ),
    abs__of_complex_values=(
        lambda x: analytic(x).abs(),
        lambda x: (analytic(x) * torch.sgn(analytic(x)).conj().detach()).real,
    ),
    mul__by_a_reshaped_gate=(
        lambda x: F.hardsigmoid(x.mean(-1)).unsqueeze(-1) * x,
        lambda x: F.hardsigmoid(x.mean(-1)).unsqueeze(-1).detach() * x,
    ),
    matmul__of_attention=(
        lambda x: torch.softmax(x @ x.mT, -1) @ x,
        lambda x: torch.softmax(x @ x.mT, -1).detach() @ x,
    ),
    bmm__by_a_gate=(
        lambda x: torch.bmm(x, torch.sigmoid(x).mT),
        lambda x: torch.bmm(x, torch.sigmoid(x).mT.detach()),
    ),
    layer_norm__of_channels=(
        lambda x: F.layer_norm(x.mT, (3,), GAIN, MEAN),
        lambda x: normalized(x.mT, -1, GAIN, MEAN),
    ),
    layer_norm__of_two_axes=(lambda x: F.layer_norm(x, (3, 7)), lambda x: normalized(x, (1, 2))),
    layer_norm__with_live_weight_and_bias=(
        lambda x: F.layer_norm(x.mT, (3,), level(x), level(x, 2, 3, 4)),
        lambda x: normalized(x.mT, -1, level(x), level(x, 2, 3, 4)),
    ),
    layer_norm__with_a_live_bias=(
        lambda x: F.layer_norm(x, (3, 7), CUBE[0], x[0]),
        lambda x: normalized(x, (1, 2), CUBE[0], x[0]),
    ),
    layer_norm__of_a_constant=(
        lambda x: F.layer_norm(CUBE, (7,), x[0, 0]),
        lambda x: normalized(CUBE, -1, x[0, 0]),
    ),
    instance_norm__with_live_weight_and_bias=(
        lambda x: F.instance_norm(x, weight=level(x), bias=level(x, 2, 3, 4)),
        lambda x: normalized(x, -1, level(x)[:, None], level(x, 2, 3, 4)[:, None]),
    ),
    group_norm__with_live_weight_and_bias=(
        lambda x: F.group_norm(x, 2, level(x, 1, 2, 3, 4), level(x, 5, 6, 7, 8)),
        lambda x: (
            level(x, 1, 2, 3, 4)[:, None] * normalized(x.reshape(2, 2, -1), -1).reshape(x.shape)
            + level(x, 5, 6, 7, 8)[:, None]
        ),
        (2, 4, 5),
    ),
    batch_norm__by_the_batch_with_a_live_weight=(
        lambda x: F.batch_norm(x, None, None, level(x), MEAN, training=True),
        lambda x: normalized(x, (0, 2), level(x)[:, None], MEAN[:, None]),
    ),
    instance_norm=(
        lambda x: F.instance_norm(x, weight=GAIN, bias=MEAN),
        lambda x: normalized(x, -1, GAIN[:, None], MEAN[:, None]),
    ),
    group_norm=(
        lambda x: F.group_norm(x, 2, VECTOR, 2 * VECTOR),
        lambda x: VECTOR[:, None] * (2 + normalized(x.reshape(2, 2, -1), -1).reshape(x.shape)),
        (2, 4, 5),
    ),
    batch_norm__by_the_batch=(
        lambda x: F.batch_norm(x, None, None, GAIN, MEAN, training=True),
        lambda x: normalized(x, (0, 2), GAIN[:, None], MEAN[:, None]),
    ),
    scaled_dot_product_attention=(attention(), lambda x: attend(x, 7**-0.5)),
    scaled_dot_product_attention__causal=(
        attention(is_causal=True, scale=0.3),
        lambda x: attend(x, 0.3, LATER),
    ),
    scaled_dot_product_attention__masked=(
        attention(attn_mask=SOME),
        lambda x: attend(x, 7**-0.5, ALMOST),
    ),
    scaled_dot_product_attention__biased=(
        attention(attn_mask=W[0]),
        lambda x: attend(x, 7**-0.5, W[0]),
    ),
    glu__of_channels=(
        lambda x: F.glu(x, 1),
        lambda x: x[:, :2] * torch.sigmoid(x[:, 2:]).detach(),
        (2, 4, 5),
    ),
    glu__of_time=(F.glu, lambda x: x[..., :3] * torch.sigmoid(x[..., 3:]).detach(), (2, 3, 6)),
)

PASS = cases(
    "pass",
    clone=torch.clone,
    clone__contiguous=lambda x: x.mT.contiguous().mT,
    alias=aten.alias.default,
    detach=torch.detach,
    tanh=torch.tanh,
    atan=torch.atan,
    asinh=torch.asinh,
    erf=torch.erf,
    lift_fresh=aten.lift_fresh.default,
    _to_copy=lambda x: x.float(),
)

GRADIENT = cases(
    "gradient",
    softmax=lambda x: torch.softmax(x, -1),
    _softmax=lambda x: aten._softmax(x, 1, False),
    lstm__with_a_projection=recurrent(nn.LSTM(3, 4, proj_size=2, batch_first=True)),
    rnn_relu=recurrent(nn.RNN(3, 2, nonlinearity="relu", batch_first=True)),
    div__softmax_by_hand=lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
    batch_norm__with_live_weight_and_bias=lambda x: F.batch_norm(
        x, MEAN, VARIANCE, level(x), level(x, 2, 3, 4)
    ),
    batch_norm__with_a_live_bias=lambda x: F.batch_norm(x, MEAN, VARIANCE, GAIN, level(x)),
    div__of_a_constant=lambda x: torch.div(CUBE, x.abs() + 1),
    div__rounded=lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    lerp__by_a_live_weight=lambda x: torch.lerp(x, x.flip(-1), x.roll(1, -1)),
    addmm__of_two_live_factors=(lambda x: torch.addmm(x, x, x), (4, 4)),
    scaled_dot_product_attention__of_constants=lambda x: F.scaled_dot_product_attention(x, x, CUBE),
    linalg_vector_norm__of_order_3=lambda x: x.norm(3, dim=-1),
    pow__of_a_constant=lambda x: 2**x,
    pow__to_a_negative_power=lambda x: (x.abs() + 1) ** -0.5,
    sin=torch.sin,
    cos=torch.cos,
    _log_softmax=lambda x: torch.log_softmax(x, 1),
    sgn=lambda x: parts(torch.sgn(analytic(x))),
    std=lambda x: x.std(-1),
    _cdist_forward=lambda x: torch.cdist(x, 2 * x),
)

CASES = [*ADJOINT, *SWITCH, *RECTIFY, *HOLD, *PASS, *GRADIENT]
