"""What the tests hold the library to, written without it: derivatives, dependencies, a twin."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deconv1d.mirror import Deconvnet, mirror
from deconv1d.record.capture import Capture, capture
from deconv1d.record.request import TapRequest
from deconv1d.rules.op import first_tensor

Function = Callable[[Tensor], Tensor]


# --- a function as the only layer of a model ---------------------------------------------------


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def only_layer(function: Function) -> nn.Sequential:
    """A model whose one layer, "body", is this function or module."""
    body = function if isinstance(function, nn.Module) else Called(function)
    return nn.Sequential(OrderedDict(body=body))


def captured(function: Function, x: Tensor, method: str = "deconvnet") -> Capture:
    """One pass through a function, up to what it returns."""
    return capture(only_layer(function), x, target=TapRequest("body#1", "output"), method=method)


def mirrored(function: Function, x: Tensor, method: str = "deconvnet") -> Deconvnet:
    """The deconvnet of a function at x."""
    return mirror(captured(function, x, method), method=method)


# --- what autograd says ------------------------------------------------------------------------


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """The same normal numbers every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def basis(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Every unit signal of this shape, (values, *shape)."""
    return torch.eye(prod(shape), dtype=dtype).reshape(-1, *shape)


def jacobian(function: Function, x: Tensor) -> Tensor:
    """A function's dense derivative at x by autograd, (values of its output, *x.shape)."""
    x = x.clone().requires_grad_()
    y = function(x * 1)  # the function may write into what it gets
    return torch.stack([derivative(y, x, unit) for unit in basis(tuple(y.shape), y.dtype)])


def derivative(y: Tensor, x: Tensor, signal: Tensor) -> Tensor:
    """What autograd carries back from y to x; zero where it has no path."""
    if not y.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(y, x, signal, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


def extents(function: Function, x: Tensor, axis: int) -> list[tuple[int, int] | None]:
    """First and last sample that each moment of a function's output reads; None: no sample.

    Measured: a sample is read by what changes when it does.
    """
    before = function(x.clone()).movedim(axis, -1)
    read = torch.zeros(before.shape[-1], x.shape[-1], dtype=torch.bool)
    for sample in range(x.shape[-1]):
        for step in (10.0, -10.0):
            moved = x.clone()
            moved[..., sample] += step
            changed = function(moved).movedim(axis, -1) != before
            read[:, sample] |= changed.reshape(-1, before.shape[-1]).any(0)
    samples = [moment.nonzero().flatten().tolist() for moment in read]
    return [(found[0], found[-1]) if found else None for found in samples]


# --- what a "hold" rule keeps constant, detached -------------------------------------------------


def normalized(
    x: Tensor, axes: int | tuple[int, ...], weight: Tensor | float = 1, bias: Tensor | float = 0
) -> Tensor:
    """What a normalisation layer computes, with the deviation a constant."""
    deviation = (x.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()
    return (x - x.mean(axes, keepdim=True)) / deviation.detach() * weight + bias


def attend(x: Tensor, scale: float, mask: Tensor | float = 0) -> Tensor:
    """Attention from channels of the reversed to those of the waveform, its weights constants."""
    weights = torch.softmax((x.flip(-1) @ (2 * x).mT) * scale + mask, -1)
    return weights.detach() @ x.roll(1, -1)


# --- deconvnet without this library: autograd, where ReLU's kin have another backward -----------


class _Pass(torch.autograd.Function):
    """Any value, with the derivative 1 by x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        return signal, None


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        return signal.relu(), None


class RectifyingBackward(TorchFunctionMode):
    """While active, autograd's derivative of ReLU and its kin is relu(signal), of tanh 1.

    Some of the kin are two calls: `where(x > 0, x, 0)`, `x * (x > 0)`, `x * sigmoid(x)`. So what
    `x > 0` and `sigmoid(x)` returned is remembered, with the x that it was computed from. Snake,
    `x + sin(a * x) ** 2 / a`, is found in the same way, from the product to the sum.
    """

    KIN = (
        *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu"),
        *("mish", "softplus", "hardswish"),
    )
    CASTS = ("to", "type", "type_as", "float", "double")

    def __init__(self) -> None:
        super().__init__()
        self._of: dict[int, tuple[Tensor, Tensor]] = {}
        self._scaled: dict[int, tuple[Tensor, Tensor]] = {}
        self._sines: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.strip("_")
        if name in ("tanh", "atan", "asinh", "erf"):
            return _Pass.apply(args[0], func(*args, **kwargs).detach())
        place = self._rectified(name, args, kwargs)
        if place is None:
            out = func(*args, **kwargs)
            if isinstance(out, Tensor):
                self._remember(name, args, out)
            return out
        x, own = args[place], args[place].detach().clone()
        version, given = own._version, (*args[:place], own, *args[place + 1 :])
        out = _Rectify.apply(x, func(*given, **kwargs).detach())
        return x.copy_(out) if own._version > version else out

    def _remember(self, name: str, args: Any, out: Tensor) -> None:
        positive = name in ("gt", "ge") and not torch.as_tensor(args[1]).any()
        if positive or name == "sigmoid":
            self._of[id(out)] = (out, args[0])  # kept, so that its id stays its own
        elif name in self.CASTS and id(args[0]) in self._of:
            self._of[id(out)] = (out, self._of[id(args[0])][1])
        tensors = [x for x in args if isinstance(x, Tensor)]
        sines = [self._sines[id(x)][1] for x in tensors if id(x) in self._sines]
        if name == "sin" and id(args[0]) in self._scaled:
            self._sines[id(out)] = (out, self._scaled[id(args[0])][1])
        elif name in ("pow", "square", "mul", "div") and sines:
            self._sines[id(out)] = (out, sines[0])
        elif name == "mul":
            self._scaled[id(out)] = (out, max(tensors, key=Tensor.numel))

    def _rectified(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> int | None:
        """Which argument is rectified, if the call is one of the kin."""
        if name in ("clamp", "clamp_min", "hardtanh", "threshold", "maximum"):
            bound = next(iter((*args[1:], *kwargs.values())), None)
            return 0 if bound is not None and not torch.as_tensor(bound).any() else None
        if name == "where" and len(args) == 3 and not torch.as_tensor(args[2]).any():
            return 1 if self._is_of(args[0], args[1]) else None
        if name == "add" and id(args[1]) in self._sines:
            return 0 if self._sines[id(args[1])][1] is args[0] else None
        if name == "mul":
            pairs = ((0, 1), (1, 0))
            return next((a for a, b in pairs if self._is_of(args[b], args[a])), None)
        return 0 if name in self.KIN else None

    def _is_of(self, factor: Any, x: Any) -> bool:
        """Whether a factor is x > 0, or the sigmoid of x."""
        return id(factor) in self._of and self._of[id(factor)][1] is x


# --- whole models -------------------------------------------------------------------------------


def heard(model: nn.Module, layers: Sequence[str], run: Callable[[], Any]) -> list[Tensor]:
    """What each layer returned ("path#n": the n-th time) while `run` ran the model."""
    calls: dict[str, list[Tensor]] = {layer.partition("#")[0]: [] for layer in layers}
    with ExitStack() as stack:
        for path, outputs in calls.items():
            module = model.get_submodule(path)
            stack.enter_context(module.register_forward_hook(_appending_to(outputs)))
        run()
    named = [layer.partition("#") for layer in layers]
    return [calls[path][int(number or 1) - 1] for path, _, number in named]


def _appending_to(outputs: list[Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.append(first_tensor(output) * 1)  # a copy: what comes after may write into it

    return hook


def eager(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, with TorchScript left out."""
    with ExitStack() as stack:
        for compiler in ("script", "trace", "freeze"):
            stack.enter_context(patch(f"torch.jit.{compiler}", lambda module, *rest: module))
        return build()


# --- random networks, and the same without writes -----------------------------------------------

CHANNELS, LONGEST = 4, 64


@dataclass(frozen=True)
class Step:
    """One operation of a random network, on two of the values that there are by then."""

    op: str
    first: int
    second: int
    kernel_size: int
    stride: int
    padding: int
    dilation: int
    groups: int

    def weight(self, inputs: int = CHANNELS) -> Tensor:
        weights = random(CHANNELS, inputs // self.groups, self.kernel_size, seed=self.first)
        return weights / (CHANNELS * self.kernel_size) ** 0.5

    def reads(self, x: Tensor) -> bool:
        """Whether a kernel fits into x."""
        return self.dilation * (self.kernel_size - 1) < x.shape[-1] + 2 * self.padding


def _convolve(a: Tensor, b: Tensor, step: Step) -> Tensor:
    geometry = (step.stride, step.padding, step.dilation, step.groups)
    return F.conv1d(a, step.weight(), random(CHANNELS), *geometry) if step.reads(a) else a * 1


def _transpose(a: Tensor, b: Tensor, step: Step) -> Tensor:
    out = F.conv_transpose1d(a, step.weight(), None, step.stride, 0, 0, step.groups, step.dilation)
    return out[..., :LONGEST]


def _max_pool(a: Tensor, b: Tensor, step: Step) -> Tensor:
    padding, ceil_mode = min(step.padding, step.kernel_size // 2), step.groups > 1
    window = (step.kernel_size, step.stride, padding, step.dilation, ceil_mode)
    return F.max_pool1d(_apart(a), *window) if replace(step, padding=padding).reads(a) else a * 1


def _apart(a: Tensor) -> Tensor:
    """No two values equal but for rounding: which of them is the larger would be chance."""
    return a + random(CHANNELS, a.shape[-1], seed=2)


def _average(a: Tensor, b: Tensor, step: Step) -> Tensor:
    fits = step.kernel_size <= a.shape[-1]
    return F.avg_pool1d(a, step.kernel_size, step.stride) if fits else a * 1


def _fit(b: Tensor, a: Tensor) -> Tensor:
    """b in the length of a, in memory of its own."""
    return F.pad(b, (0, a.shape[-1] - b.shape[-1]))


FRESH: dict[str, Callable[[Tensor, Tensor, Step], Tensor]] = {
    "convolution": _convolve,
    "transposed convolution": _transpose,
    "max pool": _max_pool,
    "average": _average,
    "relu": lambda a, b, step: F.relu(a),
    "clamp": lambda a, b, step: a.clamp(min=0),
    "gelu": lambda a, b, step: F.gelu(a),
    "scale": lambda a, b, step: a * -0.7,
    "pad": lambda a, b, step: F.pad(a, (step.padding, step.stride))[..., :LONGEST],
    "add": lambda a, b, step: a + _fit(b, a),
    "cat": lambda a, b, step: F.conv1d(
        torch.cat([a, _fit(b, a)], 1), step.weight(2 * CHANNELS)[..., :1], groups=step.groups
    ),
    "cat in time": lambda a, b, step: torch.cat([a, b], -1)[..., :LONGEST],
}
SMOOTH: dict[str, Callable[[Tensor, Tensor, Step], Tensor]] = {
    "tanh": lambda a, b, step: torch.tanh(a),
    "product": lambda a, b, step: a * _fit(b, a),
    "gate": lambda a, b, step: a * torch.sigmoid(_fit(b, a)),
    "layer norm": lambda a, b, step: F.layer_norm(a.mT, (CHANNELS,)).mT,
    "softmax": lambda a, b, step: torch.softmax(a, 1),
    "attention": lambda a, b, step: F.scaled_dot_product_attention(a.mT, b.mT, b.mT).mT,
    "larger": lambda a, b, step: torch.maximum(a, _apart(_fit(b, a))),
    "sine": lambda a, b, step: torch.sin(a),
}
WRITES: dict[str, tuple[Callable[..., Any], Callable[..., Tensor]]] = {
    "relu_": (lambda a, b: a.relu_(), lambda a, b: a.relu()),
    "add_": (lambda a, b: a.add_(_fit(b, a)), lambda a, b: a + _fit(b, a)),
    "mul_": (lambda a, b: a.mul_(0.5), lambda a, b: a * 0.5),
    "copy_": (lambda a, b: a.copy_(_fit(b, a)), lambda a, b: _fit(b, a)),
    "silence": (
        lambda a, b: a[..., 1:3].zero_(),
        lambda a, b: torch.cat([a[..., :1], 0 * a[..., 1:3], a[..., 3:]], -1),
    ),
    "fold": (
        lambda a, b: a[:, :2].add_(a[:, 2:]),
        lambda a, b: torch.cat([a[:, :2] + a[:, 2:], a[:, 2:]], 1),
    ),
}
"""As written in place, and what the value is then."""


class Written:
    """Values as a model holds them: tensors, views of them, and writes into both."""

    def __init__(self, x: Tensor) -> None:
        self.values = [x]

    def value(self, number: int) -> Tensor:
        return self.values[number % len(self.values)]

    def append(self, x: Tensor) -> None:
        self.values.append(x)

    def cut(self, number: int, piece: slice) -> None:
        self.append(self.value(number)[..., piece])

    def write(self, number: int, op: str, b: Tensor) -> None:
        WRITES[op][0](a := self.value(number), b)
        self.append(a)


class Pure:
    """The same values without a write: each is a cut of a cell, and a cell is replaced whole."""

    def __init__(self, x: Tensor) -> None:
        self.cells, self.values = [x], [(0, torch.arange(x.shape[-1]))]

    def value(self, number: int) -> Tensor:
        cell, samples = self.values[number % len(self.values)]
        return self.cells[cell][..., samples]

    def append(self, x: Tensor) -> None:
        self.values.append((len(self.cells), torch.arange(x.shape[-1])))
        self.cells.append(x)

    def cut(self, number: int, piece: slice) -> None:
        cell, samples = self.values[number % len(self.values)]
        self.values.append((cell, samples[piece]))

    def write(self, number: int, op: str, b: Tensor) -> None:
        cell, samples = self.values[number % len(self.values)]
        value = WRITES[op][1](self.value(number), b)
        self.cells[cell] = self.cells[cell].index_copy(-1, samples, value)
        self.values.append((cell, samples))


def network(steps: Sequence[Step], memory: type[Written | Pure]) -> Function:
    """A random network of mono waveforms, (batch, 1, time); it returns one of its last values."""

    def run(x: Tensor) -> Tensor:
        values = memory(F.conv1d(x, random(CHANNELS, 1, 3, seed=1), padding=1))
        for step in steps:
            a, b = values.value(step.first), values.value(step.second)
            if step.op in WRITES:
                values.write(step.first, step.op, b)
            elif step.op == "cut":
                values.cut(step.first, slice(min(step.padding, a.shape[-1] - 1), None, step.stride))
            else:
                values.append((FRESH | SMOOTH)[step.op](a, b, step))
        return values.value(-1 - steps[0].second % 3)  # also one that was written into since

    return run
