"""A write into a view, as a new value of the tensor that the view was cut from.

    y = x[..., 2:5]     # a view made by aten.slice
    y.zero_()           # x has changed too: slice_scatter(x, new y, -1, 2, 5)

One function for each way to cut a view; each returns the pure op and its arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from deconv1d.rules.memory import strided_scatter, with_imag, with_real

aten = torch.ops.aten

Call = tuple[Callable[..., Any], tuple[Any, ...]]
PutBack = Callable[[Node, int, Node, Node], Call]
"""`put_back(cut, output, base, view)`: the node that cut the view, which of its outputs the view
is, the base's value before the write, the view's value after it."""


def slice_back(cut: Node, output: int, base: Node, view: Node) -> Call:
    """A slice is put where it was cut."""
    axis, *bounds = cut.args[1:] or (0,)
    piece = slice(*bounds) if bounds else slice(None)
    # Bounds may be missing, negative or too large: `indices` makes them start, end and step.
    places = piece.indices(base.meta["shape"][axis])
    return aten.slice_scatter.default, (base, view, axis, *places)


def piece_back(cut: Node, output: int, base: Node, view: Node) -> Call:
    """One of several pieces of an axis: it starts where those before it end."""
    given: Any = cut.args[1]
    axis: Any = cut.args[2] if len(cut.args) > 2 else 0
    # A number is the size of all pieces but perhaps the last. So where a piece ends is read from
    # its own shape.
    sizes = [given] * output if isinstance(given, int) else given
    start = sum(sizes[:output])
    end = start + view.meta["shape"][axis]
    return aten.slice_scatter.default, (base, view, axis, start, end)


def unbound_back(cut: Node, output: int, base: Node, view: Node) -> Call:
    """One of the places of an axis that was taken apart."""
    axis = cut.args[1] if len(cut.args) > 1 else 0
    return aten.select_scatter.default, (base, view, axis, output)


def scatter_back(scatter: OpOverload) -> PutBack:
    """By the op that torch has for it, which takes the cut's own arguments."""

    def put_back(cut: Node, output: int, base: Node, view: Node) -> Call:
        return scatter, (base, view, *cut.args[1:])

    return put_back


def permute_back(cut: Node, output: int, base: Node, view: Node) -> Call:
    """Axes back to their old order; to swap two of them once more undoes it."""
    target: Any = cut.target
    if target.overloadpacket is not aten.permute:
        return target, (view, *cut.args[1:])
    given: Any = cut.args[1]
    order = [axis % len(given) for axis in given]
    # The inverse permutation: the old axis a is now where `order` holds a. (2, 0, 1) -> (1, 2, 0).
    return target, (view, [order.index(axis) for axis in range(len(order))])


def complex_back(cut: Node, output: int, base: Node, view: Node) -> Call:
    """Two real values as a complex one."""
    return aten.view_as_complex.default, (view,)


def part_back(cut: Node, output: int, base: Node, view: Node) -> Call:
    """A real or imaginary part beside the other one."""
    target: Any = cut.target
    return with_real if target.overloadpacket is aten.real else with_imag, (base, view)


def conjugate_back(cut: Node, output: int, base: Node, view: Node) -> Call:
    """A conjugate, conjugated once more."""
    return aten._conj_physical.default, (view,)


def strided_back(cut: Node, output: int, base: Node, view: Node) -> Call:
    """The values that were read by strides, back to where they lay."""
    return strided_scatter, (base, view, *cut.args[1:])


def reshape_back(cut: Node, output: int, base: Node, view: Node) -> Call:
    """All values, in the base's shape."""
    return aten.reshape.default, (view, list(base.meta["shape"]))
