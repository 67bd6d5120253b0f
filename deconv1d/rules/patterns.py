"""Functions that models spell by several ops: what they compute together decides, not the spelling.

    x * rsqrt(x.pow(2).mean(-1) + eps)          a value and a statistic of it (RMSNorm)
    0.5 * x * (1 + tanh(0.8 * (x + 0.04 * x**3)))    a value gated by itself, which rectifies (GELU)
    exp(x) / exp(x).sum(-1)                     softmax
    x + sin(a * x)**2 / a                       Snake

Each is recognised by walking back from the op over the captured graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from deconv1d.rules.op import Op, depends_on_input, shape_of

aten = torch.ops.aten

FURTHEST = 200
"""How many ops a walk goes back before it gives up."""
FAR, NEAR = 40.0, 1e-6
"""Where a rectifier is a straight line, and how close to one: 40 * sigmoid(-40) is 2e-16."""


def is_statistic(factor: Node, x: Node) -> bool:
    """Whether a factor is a reduction of the value that it multiplies.

    On each way back from the factor, over ops that work on each value by itself, there must be an
    op that takes an axis away; and all ways must end where those from x end:

        x = conv(...)                       both ways back end at conv
        factor = rsqrt((x * x).mean(-1))    mean takes an axis away
    """
    # A statistic is the same for all values along an axis, so it has fewer values.
    if _count(factor) >= _count(x):
        return False
    sources = _sources(factor)
    if sources is None or not all(source.reduced for source in sources):
        return False
    behind = _sources(x)
    return behind is not None and {s.node for s in sources} <= {s.node for s in behind} | {x}


class _Source(NamedTuple):
    """Where a walk back ended, and whether an axis was taken away before."""

    node: Node
    reduced: bool


def _sources(node: Node) -> set[_Source] | None:
    """The ends of all ways back over ops that mix no values but by reducing an axis."""
    found: set[_Source] = set()
    waiting, seen = [_Source(node, reduced=False)], set[_Source]()
    while waiting:
        if (here := waiting.pop()) in seen:
            continue
        seen.add(here)
        if len(seen) > FURTHEST:
            return None
        reduces = _reduces(here.node)
        if not (reduces or _is_pointwise(here.node) or here.node.meta.get("reshapes")):
            found.add(here)
            continue
        live = [source for source in here.node.all_input_nodes if depends_on_input(source)]
        waiting += [_Source(source, here.reduced or reduces) for source in live]
    return found


def _packet(node: Any) -> Any:
    """The op of a node, whichever its overload; None for anything else."""
    return getattr(getattr(node, "target", None), "overloadpacket", None)


def _count(node: Node) -> int:
    count = 1
    for size in shape_of(node):
        count *= size
    return count


def _is_pointwise(node: Node) -> bool:
    # getitem takes one result of several: it is no op of torch's.
    if isinstance(node.target, OpOverload):
        return (
            torch.Tag.pointwise in node.target.tags or node.target.overloadpacket is aten._to_copy
        )
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def _reduces(node: Node) -> bool:
    """Whether an op takes an axis away, or all: mean, sum, amax, std, a norm."""
    if not isinstance(node.target, OpOverload) or torch.Tag.pointwise in node.target.tags:
        return False
    names = {argument.name for argument in node.target._schema.arguments}
    return "keepdim" in names or node.meta.get("shape") == ()


class Line(NamedTuple):
    """A value, and the slope of a straight line for large values of it."""

    node: Node
    slope: float


def self_gated(op: Op) -> Line | None:
    """Of x * g(x) or x / g(x) that rectifies smoothly: x, and the slope left for large x.

    The product must be a function of one value alone, with numbers for constants. It is evaluated
    where x is far below zero, at zero and far above:

        x * sigmoid(1.702 * x)     about 0, 0, x: a rectifier
        x * tanh(x)                about -x, 0, x: none
    """
    memo = op.node.meta.get("self_gated")
    if memo is None or memo[0] is not op.node:  # a node's facts may be a copy of another's
        memo = op.node.meta["self_gated"] = (op.node, _self_gated(op))
    return memo[1]


def _self_gated(op: Op) -> Line | None:
    if len(op.dependent) != 2 or op.dependent[0] is op.dependent[1]:
        return None
    divides = _packet(op.node) is aten.div
    candidates = op.dependent[:1] if divides else op.dependent
    for x in candidates:
        root, slope = _before_scaling(x)
        at = torch.tensor([-FAR, 0.0, FAR], dtype=torch.float64)
        with torch.no_grad():
            value = _value(op.node, root, at)
        if value is None or value.shape != at.shape or value.is_complex():
            continue
        below, zero, above = value.tolist()
        left = above / FAR / slope
        if left > NEAR and max(abs(below), abs(zero)) < NEAR * above:
            return Line(x, 1.0 if abs(left - 1) < NEAR else left)
    return None


def _before_scaling(x: Node) -> tuple[Node, float]:
    """The value before it was multiplied by numbers, and their product."""
    slope = 1.0
    # Which ops scale by a number is the pattern itself, here and in `_scaled`.
    while _packet(x) in (aten.mul, aten.div):
        value, number = x.args[:2]
        if not isinstance(value, Node) or not isinstance(number, int | float) or number <= 0:
            break
        by = number if _packet(x) is aten.mul else 1 / number
        x, slope = value, slope * by
    return x, slope


def _value(node: Any, root: Node, at: Tensor, depth: int = 16) -> Any:
    """A function of one value, evaluated; None if it reads anything but that value and numbers."""
    if node is root:
        return at
    if not isinstance(node, Node):
        return node
    if depth == 0 or not isinstance(node.target, OpOverload) or not _is_pointwise(node):
        return None
    args = [_value(argument, root, at, depth - 1) for argument in node.args]
    if any(new is None and old is not None for new, old in zip(args, node.args, strict=True)):
        return None
    if any(isinstance(argument, list | tuple) for argument in args):
        return None
    if node.target.overloadpacket is aten._to_copy:
        return args[0]
    return node.target(*args, **node.kwargs)


def is_softmax(op: Op) -> bool:
    """Whether a quotient is exp(x) divided by its own sum."""
    total: Any
    above, total = op["self"], op["other"]
    while isinstance(total, Node) and total.meta.get("reshapes"):
        total = total.args[0]
    if not isinstance(total, Node) or _packet(total) is not aten.sum:
        return False
    return _packet(above) is aten.exp and is_same(above, total.args[0])


def is_same(left: Any, right: Any, depth: int = 8) -> bool:
    """Whether two values are one, or were computed in the same way from the same values."""
    if left is right or depth == 0:
        return left is right
    if not isinstance(left, Node) or not isinstance(right, Node):
        return type(left) is type(right) and bool(left == right)
    if left.target is not right.target or left.kwargs != right.kwargs:
        return False
    if not isinstance(left.target, OpOverload) or len(left.args) != len(right.args):
        return False
    # Two draws of random numbers are two values.
    if torch.Tag.nondeterministic_seeded in left.target.tags:
        return False
    return all(is_same(*pair, depth - 1) for pair in zip(left.args, right.args, strict=True))


def snake(op: Op) -> Node | None:
    """The x of x + sin(a * x)**2 / a, whose slope 1 + sin(2 a x) is never negative."""
    if len(op.dependent) != 2 or op["alpha"] != 1:
        return None
    first, second = op.dependent
    for x, wave in ((first, second), (second, first)):
        sine = next(filter(None, map(_squared, _scaled(wave))), None)
        if _packet(sine) is aten.sin:
            assert sine is not None
            if x in _scaled(sine.args[0]):
                return x
    return None


def _squared(node: Node) -> Node | None:
    """The value that a square is of."""
    packet = _packet(node)
    is_square = packet is aten.pow and node.args[1] == 2
    is_product = packet is aten.mul and is_same(node.args[0], node.args[1])
    return node.args[0] if is_square or is_product else None  # type: ignore[return-value]  # a node


def _scaled(node: Any) -> Iterator[Node]:
    """A value, and what it was before each product with or quotient by a constant."""
    yield node
    # As in `_before_scaling`.
    while _packet(node) in (aten.mul, aten.div):
        live = list(_live(node))
        # Of c / x the live value is no numerator.
        if len(live) != 1 or (node.target is aten.div.Tensor and live[0] is not node.args[0]):
            break
        yield (node := live[0])


def _live(node: Node) -> Iterator[Node]:
    # As often as they are given: x * x has two.
    return (x for x in node.args if isinstance(x, Node) and depends_on_input(x))
