"""What max-pooling's way back can be instead of its switches: less of the input passes through.

The switches of a max-pool are places of the input: they alone carry much of it into a sonification.
Here a pooled value goes back to where its window is, not to where its maximum was.

| unpool      | a pooled value goes back to                                                     |
|-------------|---------------------------------------------------------------------------------|
| switches    | the place of its window's maximum                                               |
| spread      | all places of its window, in equal shares: the transpose of average pooling     |
| interpolate | the middle of its window, and linearly between the middles of neighbours        |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from deconv1d.rules.op import Op, shape_of
from deconv1d.rules.table import Emit, Entry, Kind, Rule, Rules, Signals

UNPOOL = ("switches", "spread", "interpolate")

Back = Callable[[Tensor, Sequence[Sequence[int]], Sequence[int]], Tensor]
"""Signal, each axis' windows (kernel, stride, padding, dilation), sizes before the pool."""

CarryBack = Callable[[Op, Any, Emit], Signals]


def rules_with(rules: Rules, unpool: str) -> Rules:
    """The op table with another way back for its max-pools.

    Args:
        rules: The table.
        unpool: Out of `UNPOOL`.
    """
    if unpool == "switches":
        return rules
    return {op: VARIANTS[unpool].entry(entry) for op, entry in rules.items()}


def spread(signal: Tensor, windows: Sequence[Sequence[int]], size: Sequence[int]) -> Tensor:
    """Each value in equal shares to all places of its window, on the last axes; they add up."""
    for axis, (window, places) in enumerate(zip(windows, size, strict=True), -len(size)):
        signal = _along(_spread, signal, axis, window, places)
    return signal


def interpolate(signal: Tensor, windows: Sequence[Sequence[int]], size: Sequence[int]) -> Tensor:
    """Linearly between the windows' middles, constant beyond the outer ones, on the last axes."""
    for axis, (window, places) in enumerate(zip(windows, size, strict=True), -len(size)):
        signal = _along(_interpolate, signal, axis, window, places)
    return signal


def _along(
    one: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    signal: Tensor,
    axis: int,
    window: Sequence[int],
    size: int,
) -> Tensor:
    places, inside = _places(signal.shape[axis], window, size)
    back = one(signal.movedim(axis, -1), places.to(signal.device), inside.to(signal.device), size)
    return back.movedim(-1, axis)


def _places(count: int, window: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
    """The places of each window, (count, longest), and whether they are its own and in the input.

    An empty `window` is adaptive: `count` windows that divide the input, as torch rounds them.
    """
    # Windows as rows: window n of kernel 3, stride 2, padding 1 has places 2n - 1, 2n, 2n + 1.
    number = torch.arange(count)[:, None]
    if window:
        kernel, stride, padding, dilation = window
        places = number * stride - padding + torch.arange(kernel) * dilation
        return places, (places >= 0) & (places < size)
    start, end = number * size // count, -(-(number + 1) * size // count)
    places = start + torch.arange(int((end - start).max()))
    return torch.minimum(places, end - 1), places < end


def _spread(signal: Tensor, places: Tensor, inside: Tensor, size: int) -> Tensor:
    # A place in the padding has no sample, so the others of its window share more each.
    shares = inside / inside.sum(1, keepdim=True).clamp(min=1)
    values = (signal[..., None] * shares.to(signal)).flatten(-2)
    full = signal.new_zeros(*signal.shape[:-1], size)
    return full.index_add_(-1, places.clamp(0, size - 1).flatten(), values)


def _interpolate(signal: Tensor, places: Tensor, inside: Tensor, size: int) -> Tensor:
    middles = (places[:, 0] + places[:, -1]) / 2
    where = torch.arange(size, device=signal.device).to(middles)
    # One window alone has no neighbour: left and right are then the same.
    last = len(middles) - 1
    right = torch.searchsorted(middles, where).clamp(min(1, last), last)
    left = (right - 1).clamp(min=0)
    gap = middles[right] - middles[left]
    weight = ((where - middles[left]) / gap.where(gap > 0, 1)).clamp(0, 1)
    return signal[..., left].lerp(signal[..., right], weight.to(signal))


def _windows(op: Op) -> list[tuple[int, ...]]:
    """Kernel, stride, padding and dilation of each axis; nothing for adaptive pools."""
    if "kernel_size" not in op.arguments:
        return [() for _ in op["output_size"]]
    geometry = (op["kernel_size"], op["stride"] or op["kernel_size"], op["padding"], op["dilation"])
    axes = len(op["kernel_size"])
    each = (list(part) * (axes if len(part) == 1 else 1) for part in geometry)
    return list(zip(*each, strict=True))


def broadcast(signal: Tensor, axes: Sequence[int], sizes: Sequence[int], share: bool) -> Tensor:
    """A maximum over whole axes, back to every place of them: in equal shares, or whole."""
    shape = list(signal.shape)
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = size
        signal = signal / size if share else signal
    return signal.expand(shape)


def _pool_back(back: Back) -> CarryBack:
    """For a pool of one output, or of values and indices."""

    def carry_back(op: Op, signal: Node | list[Node], emit: Emit) -> Signals:
        values = signal[0] if isinstance(signal, list) else signal
        windows = _windows(op)
        size = list(shape_of(op["self"])[-len(windows) :])
        yield op["self"], emit(back, values, windows, size)

    return carry_back


def _axes_back(share: bool) -> CarryBack:
    """For a maximum over whole axes."""

    def carry_back(op: Op, signal: Node | list[Node], emit: Emit) -> Signals:
        values = signal[0] if isinstance(signal, list) else signal
        shape = shape_of(op["self"])
        dims = op["dim"] if isinstance(op["dim"], (list, tuple)) else [op["dim"]]
        axes = sorted(dim % len(shape) for dim in dims or range(len(shape)))
        if not op["keepdim"]:
            for axis in axes:
                values = emit(torch.unsqueeze, values, axis)
        yield op["self"], emit(broadcast, values, axes, [shape[axis] for axis in axes], share)

    return carry_back


@dataclass(frozen=True)
class Variant:
    """One way to undo a max-pool without its switches.

    Attributes:
        kind: Of the rules it makes.
        source: Of the rules it makes.
        carry_back: For each value of `Rule.unpool`.
    """

    kind: Kind
    source: str
    carry_back: Mapping[str, CarryBack]

    def of(self, rule: Rule) -> Rule:
        """The rule with this way back; one that unpools nothing stays as it is."""
        if not rule.unpool:
            return rule
        # The switches that the rule recorded are not read any more.
        return replace(
            rule,
            kind=self.kind,
            source=self.source,
            carry_back=self.carry_back[rule.unpool],
            record=None,
            keeps=lambda op: (),
        )

    def entry(self, entry: Entry) -> Entry:
        """A table's entry with this way back."""
        return self.of(entry) if isinstance(entry, Rule) else lambda op: self.of(entry(op))


VARIANTS = {
    "spread": Variant(
        "adjoint",
        "of average pooling over the same windows, in place of switches",
        {"windows": _pool_back(spread), "axes": _axes_back(share=True)},
    ),
    "interpolate": Variant(
        "hold",
        "linear interpolation in place of switches",
        {"windows": _pool_back(interpolate), "axes": _axes_back(share=False)},
    ),
}
