"""Which value an op holds: of two factors the gate, of two terms the detached one.

Gates are found by facts that the recorder copies from each op's rule into its node: `gate`,
`bounded`, `detached`, `reshapes` and `affine` (see `deconv1d.rules.table.Rule`).
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import getitem

import torch
from torch._ops import OpOverload
from torch.fx import Node

from deconv1d.rules.op import Op, depends_on_input, shape_of
from deconv1d.rules.patterns import is_statistic


def is_gate(x: Node) -> bool:
    """Whether a value is a sigmoid, a softmax or a detached value.

    It may have another shape, or be scaled and shifted by constants: 1 - sigmoid(a) is a gate.
    """
    return bool(_before_affine(x).meta.get("gate"))


def held_factor(op: Op) -> Node | None:
    """Of two factors that carry the signal the one that is held.

    maps * sigmoid(a)                     the gate, if just one of the two is
    maps * rsqrt(maps.pow(2).mean(-1))    else the statistic of the other
    maps * cos(a)                         else the bounded one, if just one of the two is
    """
    if len(op.dependent) != 2 or op.dependent[0] is op.dependent[1]:
        return None
    first, second = op.dependent
    gates = [x for x in (first, second) if is_gate(x)]
    if gates:
        # With two gates nothing says which of the two values is to be held.
        return gates[0] if len(gates) == 1 else None
    for factor, x in ((first, second), (second, first)):
        if is_statistic(factor, x):
            return factor
    bounded = [x for x in (first, second) if _before_affine(x).meta.get("bounded")]
    return bounded[0] if len(bounded) == 1 else None


def held_term(op: Op) -> Node | None:
    """Of two terms that carry the signal: the one that is detached, if just one is."""
    held = [x for x in op.dependent if _unshaped(x).meta.get("detached")]
    return held[0] if len(op.dependent) == 2 and len(held) == 1 else None


def held_values(op: Op) -> Iterable[Node]:
    """The held factor, as what a rule keeps."""
    return [held] if (held := held_factor(op)) else []


def _before_affine(x: Node) -> Node:
    """The value before ops that only scale it, shift it or give it another shape."""
    # `get`: the waveform and the model's constants have no rule, and so no such fact.
    while not x.meta.get("gate"):
        if (piece := _written_there(x)) is not None:
            x = piece
            continue
        # One of several pieces that an op cut: r, z = sigmoid(a).chunk(2, 1).
        if x.meta.get("reshapes") or x.target is getitem:
            x = x.args[0]  # type: ignore[assignment]  # these ops all take their input first
            continue
        live = [source for source in x.all_input_nodes if depends_on_input(source)]
        if not x.meta.get("affine") or len(live) != 1:
            break
        x = live[0]
    return x


def _written_there(x: Node) -> Node | None:
    """The value that was last written to the place of which a slice is read.

    torch's own cells of recurrent layers work in place on pieces of one tensor:

        i, f, g, o = gates.chunk(4, 1)
        i.sigmoid_()              gates is slice_scatter(gates, sigmoid(i), 1, 0, 3) from now on
        f.sigmoid_()              and slice_scatter of that: i is read through both
    """
    place = _slice_of(x)
    if place is None:
        return None
    base, *wanted = place
    # Which op puts a slice back is the pattern itself.
    while getattr(base.target, "overloadpacket", None) is torch.ops.aten.slice_scatter:
        op = Op.of(base)
        start, length = op["start"] or 0, shape_of(op["src"])[op["dim"]]
        if op["step"] != 1 or op["dim"] != wanted[0]:
            return None
        if [start, length] == wanted[1:]:
            return op["src"]  # type: ignore[no-any-return]  # arguments are untyped
        if start < wanted[1] + wanted[2] and wanted[1] < start + length:
            return None
        base = op["self"]
    return None


def _slice_of(x: Node) -> tuple[Node, int, int, int] | None:
    """What a node is a slice of, its axis, its start and its length; None: it is no slice."""
    call = x.args[0] if x.target is getitem else x
    if not isinstance(call, Node) or not isinstance(call.target, OpOverload):
        return None
    op = Op.of(call)
    axis = op.arguments.get("dim", 0)
    if x.target is getitem and "split_size" in op.arguments:
        start = x.args[1] * op["split_size"]
    elif x.target is getitem and "split_sizes" in op.arguments:
        start = sum(op["split_sizes"][: x.args[1]])
    elif x is call and {"start", "end", "step"} <= {*op.arguments} and "src" not in op.arguments:
        start = op["start"] or 0
    else:
        return None
    return op["self"], axis % len(shape_of(x)), start, shape_of(x)[axis]


def _unshaped(x: Node) -> Node:
    """The value before ops that only gave it another shape.

    A gate is often computed for fewer axes than it multiplies:

        gate = sigmoid(maps.mean(-1))     # gate: True
        y = maps * gate.unsqueeze(-1)     # unsqueeze reshapes: its input is looked at instead
    """
    while x.meta.get("reshapes"):
        x = x.args[0]  # type: ignore[assignment]  # these ops all take their input first
    return x
