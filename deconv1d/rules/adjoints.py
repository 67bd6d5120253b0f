"""Tensor functions that the mirror is made of: each carries a signal one op back.

They are what a printed deconvnet calls. All take the signal first, work under `torch.func.vmap`
(which is how many channels run at once) and leave their arguments as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from deconv1d.errors import PathError


def conv_transpose(
    signal: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    dropped: Sequence[int],
) -> Tensor:
    """The transpose of a convolution, with its own weight.

    A stride drops samples at the end: with as many as were `dropped`, the input's size comes back.
    """
    if weight.shape[1] == groups == 1 and len(stride) == 1 and stride[0] == 1:
        return _conv_transpose_to_mono(signal, weight, padding[0], dilation[0])
    return torch.convolution(signal, weight, None, stride, padding, dilation, True, dropped, groups)


def _conv_transpose_to_mono(signal: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
    """One product for all taps, then each tap's row added at its delay: faster than torch's."""
    rows = weight[:, 0].mT @ signal
    taps, length = rows.shape[-2:]
    full = signal.new_zeros(*signal.shape[:-2], 1, length + (taps - 1) * dilation)
    for tap in range(taps):
        start = tap * dilation
        full[..., 0, start : start + length] += rows[..., tap, :]
    return full[..., padding : full.shape[-1] - padding]


def conv_of_transpose(
    signal: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    size: Sequence[int],
) -> Tensor:
    """The transpose of a transposed convolution: the convolution with the same weight."""
    none = [0] * len(stride)
    full = torch.ops.aten.convolution(
        signal, weight, None, stride, padding, dilation, False, none, groups
    )
    return full[(..., *(slice(n) for n in size))]  # type: ignore[no-any-return]  # ops are untyped


def pool_switches(
    x: Tensor, pooled: Tensor, kernel: int, stride: int, padding: int, dilation: int
) -> Tensor:
    """The place in its window that each pooled value came from (uint8; the first, if tied)."""
    reach = (pooled.shape[-1] - 1) * stride + (kernel - 1) * dilation + 1
    if padding or reach > x.shape[-1]:
        x = F.pad(x, (padding, reach - padding - x.shape[-1]), value=float("-inf"))
    # The switch counts the places up to which everything has been below the maximum.
    length = (pooled.shape[-1] - 1) * stride + 1
    below = x[..., :length:stride] < pooled
    switches = below.view(torch.uint8)
    for start in range(dilation, (kernel - 1) * dilation, dilation):
        below = below & (x[..., start : start + length : stride] < pooled)
        switches = switches + below
    return switches


def unpool(
    signal: Tensor,
    switches: Tensor,
    stride: int,
    padding: int,
    dilation: int,
    size: int,
) -> Tensor:
    """Max-unpooling: each value back to the place its maximum came from; meeting values add up.

    Source: paper, section 3.2 (3 i). `torch.nn.functional.max_unpool1d` keeps only one of the
    values that meet where windows overlap; the adjoint of pooling is their sum.
    """
    windows = switches.shape[-1]
    starts = torch.arange(-padding, windows * stride - padding, stride, device=switches.device)
    # Switches count taps; with dilation, taps lie that many samples apart.
    places = starts + (switches if dilation == 1 else switches.long() * dilation)
    if padding:  # a window that lies in the padding alone
        places.clamp_(0, size - 1)
    full = signal.new_zeros(*signal.shape[:-1], size)
    return full.scatter_add_(-1, places.expand_as(signal), signal)


def unpool_pairs(signal: Tensor, switches: Tensor, size: int) -> Tensor:
    """`unpool` where windows of two follow each other, as in most networks.

    It makes no array of places, which are larger than the signal and, for a long waveform, cost
    more than the convolution.
    """
    if signal.dtype not in (torch.float32, torch.float64):
        return unpool(signal, switches, 2, 0, 1, size)
    # Each value and a zero, in the order that its switch says, written as one complex number.
    second = signal * switches
    pairs = torch.view_as_real(torch.complex(signal - second, second)).flatten(-2)
    rest = size - pairs.shape[-1]
    return F.pad(pairs, (0, rest)) if rest else pairs


def unpool_at(signal: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Max-unpooling at flat positions in an array of shape `size`; meeting values add up."""
    axes = len(size)
    values, places = signal.flatten(-axes), indices.flatten(-axes).long()
    full = signal.new_zeros(*signal.shape[:-axes], prod(size))
    return full.scatter_add_(-1, places.expand_as(values), values).reshape(
        *signal.shape[:-axes], *size
    )


def unpool_along(signal: Tensor, indices: Tensor, axis: int, size: int) -> Tensor:
    """Each value back to its index on one axis of length `size`, zero elsewhere."""
    shape = list(signal.shape)
    shape[axis] = size
    return signal.new_zeros(shape).scatter(axis, indices.long(), signal)


def unbroadcast(signal: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The transpose of broadcasting and type promotion: summed to `shape`, cast to `dtype`."""
    # A real input to a complex op: <A x, y> is real for real x, so only the real part returns.
    if signal.is_complex() and not dtype.is_complex:
        signal = signal.real
    return signal.sum_to_size(shape).to(dtype)


def normalization_transpose(
    signal: Tensor, scale: Tensor, weight: Tensor | None, axes: list[int]
) -> Tensor:
    """The transpose of (x - mean(x)) * scale * weight, with the statistic `scale` held."""
    weighted = signal if weight is None else signal * weight
    return (weighted - weighted.mean(axes, keepdim=True)) * scale


def group_normalization_transpose(
    signal: Tensor, scale: Tensor, weight: Tensor | None, groups: int
) -> Tensor:
    """The same for channels in `groups`, on (batch, channels, ...)."""
    weighted = signal if weight is None else signal * per_channel(weight, signal.dim())
    grouped = weighted.reshape(signal.shape[0], groups, -1)
    return normalization_transpose(grouped, scale, None, [-1]).reshape(signal.shape)


def held_normalization(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: Tensor,
    *,
    axes: list[int],
    per_channel: bool,
) -> Tensor:
    """Layer, instance or batch norm as it was run, with the statistic `scale` held."""
    normal = (x - x.mean(axes, keepdim=True)) * scale
    return _affine(normal, weight, bias, channels=per_channel)


def held_group_normalization(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor, *, groups: int
) -> Tensor:
    """Group norm as it was run, with the statistic `scale` held."""
    grouped = x.reshape(x.shape[0], groups, -1)
    normal = ((grouped - grouped.mean(-1, keepdim=True)) * scale).reshape(x.shape)
    return _affine(normal, weight, bias, channels=True)


def held_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    *,
    eps: float,
) -> Tensor:
    """Eval batch norm as it was run: the statistics are given."""
    factor = per_channel(torch.rsqrt(variance + eps), x.dim())
    normal = (x - per_channel(mean, x.dim())) * factor
    return _affine(normal.to(x.dtype), weight, bias, channels=True)


def _affine(
    normal: Tensor, weight: Tensor | None, bias: Tensor | None, *, channels: bool
) -> Tensor:
    """Times a weight and plus a bias: one number a channel, or of the last axes' shape."""
    dtype, rank = normal.dtype, normal.dim()
    if weight is not None:
        normal = normal * (per_channel(weight, rank) if channels else weight)
    if bias is not None:
        normal = normal + (per_channel(bias, rank) if channels else bias)
    return normal.to(dtype)


def per_channel(values: Tensor, rank: int) -> Tensor:
    """(channels,) values shaped to multiply (batch, channels, ...) of this rank."""
    return values.reshape(-1, *[1] * (rank - 2))


def inverse_deviation(x: Tensor, axes: list[int], eps: float) -> Tensor:
    """1 / sqrt(var + eps) over `axes`, in float32 or better, in x's dtype, axes kept."""
    # Half precision has too few bits for a sum of squares over a whole clip.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.rsqrt(wide.var(axes, correction=0, keepdim=True) + eps).to(x.dtype)


def batch_norm_scale(signal: Tensor, weight: Tensor | None, variance: Tensor, eps: float) -> Tensor:
    """Eval batch norm without its shift: one factor a channel."""
    factor = torch.rsqrt(variance + eps)
    factor = factor if weight is None else factor * weight
    return signal * per_channel(factor, signal.dim()).to(signal.dtype)


def attention_transpose(
    signal: Tensor,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """The signal of attention's values: its weights, recomputed from query and key, are held."""
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        )
    # Of a query that may attend to nothing torch's attention returns zeros, not NaN.
    nothing = torch.isneginf(scores).all(-1, keepdim=True)
    return torch.where(nothing, 0, scores.softmax(-1)).mT @ signal


def glu_transpose(signal: Tensor, x: Tensor, axis: int) -> Tensor:
    """The transpose of value * sigmoid(gate), both halves of x, with the gate held."""
    gate_half = x.chunk(2, axis)[1]
    return torch.cat([signal * gate_half.sigmoid(), torch.zeros_like(signal)], axis)


def quotient(signal: Tensor, divisor: Tensor) -> Tensor:
    """Signal / divisor, and 0 where the divisor is 0: no value passed there."""
    zero = divisor == 0
    return torch.where(zero, 0, signal / torch.where(zero, 1, divisor))


def gain_of_log(value: Tensor, distance: Tensor, slope: float) -> Tensor:
    """Logarithms divided by the distance from their own zero; 0 at minus infinity."""
    # Close to the zero a logarithm is its slope times the distance; the quotient would be noise.
    near = distance.abs() < torch.finfo(distance.dtype).eps ** 0.5
    gain = torch.where(near, slope, value / torch.where(near, 1, distance))
    return torch.where(torch.isfinite(gain), gain, 0).to(value.dtype)


def gate(signal: Tensor, forward_input: Tensor) -> Tensor:
    """Guided backpropagation's second gate: nothing passes where the input was not positive."""
    return torch.where(forward_input > 0, signal, 0)


def blank(signal: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros on the signal's device: where a linear op is differentiated, any point will do."""
    return torch.zeros(shape, dtype=dtype, device=signal.device)


def pull_back(
    function: Callable[..., Any], places: Sequence[int], singular: bool = False
) -> Callable[..., Any]:
    """The vector-Jacobian product of an op, as a function of the signal and the op's arguments.

    Args:
        function: The op.
        places: The tensors to differentiate by, counted over the flattened arguments.
        singular: Whether the derivative may be infinite; there it is taken for 0.

    Returns:
        `carry_back(signal, args, kwargs)` -> a tuple with a signal for each place. `signal` is
        a list
        for an op with several outputs, None where an output has no signal.
    """
    if (own := getattr(function, "pull_back", None)) is not None:
        return own(places)  # type: ignore[no-any-return]  # a function's attribute

    def carry_back(signal: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return pulled_back(signal, args, kwargs)
        except (RuntimeError, NotImplementedError) as error:
            raise PathError(
                f"The signal cannot be carried back through the op {function}: expected a "
                f"derivative, but torch says: {error}. Choose a layer before it, register a "
                f"derivative (torch.library.register_autograd), or give the op a rule: "
                f"Sonifier(model, rules={{**RULES, op: rule}})."
            ) from error

    def pulled_back(signal: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        flat, structure = pytree.tree_flatten((args, kwargs))
        # vjp differentiates by position, so arguments are flattened and filled in again.
        flat = [_savable(value) if isinstance(value, Tensor) else value for value in flat]
        several = isinstance(signal, list | tuple)
        present = [i for i, part in enumerate(signal) if part is not None] if several else []

        def forward(*inputs: Tensor) -> Any:
            filled = list(flat)
            for place, value in zip(places, inputs, strict=True):
                filled[place] = value
            filled_args, filled_kwargs = pytree.tree_unflatten(filled, structure)
            with _differentiable(function):
                out = function(*filled_args, **filled_kwargs)
            return tuple(out[i] for i in present) if several else out

        inputs = [flat[place] for place in places]
        signals = tuple(signal[i] for i in present) if several else signal
        if not torch._C._are_functorch_transforms_active():
            return _derivative(forward, inputs, signals, singular)
        with torch.enable_grad():
            out, pull = torch.func.vjp(forward, *inputs)[:2]
        pulled = pull(signals)
        if not singular:
            return pulled
        slopes = pull(pytree.tree_map(torch.ones_like, out))
        return tuple(map(_where_finite, slopes, pulled))

    carry_back.__name__ = f"pull_back_{getattr(function, '__name__', 'op').split('.')[0]}"
    return carry_back


def _differentiable(function: Callable[..., Any]) -> AbstractContextManager[object]:
    """Where a recurrent layer has a derivative: cuDNN's have none in eval mode, torch's own do."""
    recurrent = getattr(function, "__name__", "").startswith(("lstm", "gru", "rnn_"))
    return torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()


def _derivative(
    forward: Callable[..., Any], inputs: Sequence[Tensor], signals: Any, singular: bool
) -> tuple[Tensor, ...]:
    """As `torch.func.vjp`, for one signal; that would import torch's compiler, which takes 2 s."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        output = forward(*leaves)
    outputs, signals = (output, signals) if isinstance(output, tuple) else ((output,), (signals,))
    pairs = [(y, s) for y, s in zip(outputs, signals, strict=True) if y.requires_grad]
    if not pairs:
        return tuple(map(torch.zeros_like, inputs))
    outputs, signals = zip(*pairs, strict=True)
    pulled = _gradients(outputs, leaves, signals, again=singular)
    if not singular:
        return pulled
    slopes = _gradients(outputs, leaves, [torch.ones_like(y) for y in outputs], again=False)
    return tuple(map(_where_finite, slopes, pulled))


def _gradients(
    outputs: Sequence[Tensor], leaves: Sequence[Tensor], signals: Sequence[Tensor], *, again: bool
) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(outputs, leaves, signals, retain_graph=again, allow_unused=True)
    return tuple(
        torch.zeros_like(x) if part is None else part for part, x in zip(found, leaves, strict=True)
    )


def _where_finite(slope: Tensor, signal: Tensor) -> Tensor:
    """A signal with 0 where an op's slope is infinite."""
    # Not where the signal is not finite: an overflow of its own has to be noticed.
    return torch.where(torch.isfinite(slope), signal, 0)


def _savable(x: Tensor) -> Tensor:
    """Autograd cannot save inference tensors for its backward pass; a clone it can."""
    return x.clone() if x.is_inference() else x
