"""One op of a captured graph: its arguments by name, and its reach in time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from functools import cache, cached_property
from math import ceil, floor, prod
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

PLAIN = frozenset({int, float, bool, str, type(None)})


@dataclass(frozen=True)
class Op:
    """A node with its arguments by schema name, defaults filled in."""

    node: Node
    arguments: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @classmethod
    def of(cls, node: Node) -> Op:
        """Binds a node's arguments; a node whose target has no schema has none by name."""
        if not isinstance(node.target, OpOverload):
            return cls(node, {})
        names, defaults = _signature(node.target)
        return cls(node, {**defaults, **node.kwargs, **dict(zip(names, node.args, strict=False))})

    @cached_property
    def carrying(self) -> list[Node]:
        """The inputs that carry the waveform, as often as they are given."""
        return [x for x in leaves((self.node.args, self.node.kwargs)) if carries(x)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return shape_of(self.node)


def leaves(value: Any) -> list[Any]:
    """What lists, tuples and dicts hold; torch's pytree does more, at a hundred times the cost."""
    found: list[Any] = []
    _gather((value,), found)
    return found


def _gather(values: Iterable[Any], found: list[Any]) -> None:
    for value in values:
        if isinstance(value, (list, tuple)):
            _gather(value, found)
        elif isinstance(value, dict):
            _gather(value.values(), found)
        else:
            found.append(value)


def converted(convert: Callable[[Tensor], Node], value: Any) -> Any:
    """A value with its tensors converted, in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return convert(value)
    if isinstance(value, (list, tuple)):
        parts = [part if type(part) in PLAIN else converted(convert, part) for part in value]
        return type(value)(parts)
    if isinstance(value, dict):
        return {name: converted(convert, part) for name, part in value.items()}
    return value


def first_tensor(output: Any) -> Tensor | None:
    """The first floating tensor in a module's output: tensor, tuple, dict or dataclass."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() or output.is_complex() else None
    return next((x for part in _members(output) if (x := first_tensor(part)) is not None), None)


def _members(output: Any) -> Iterator[Any]:
    if isinstance(output, Mapping):
        yield from output.values()
    elif isinstance(output, tuple | list):
        yield from output
    elif is_dataclass(output):
        yield from (getattr(output, member.name) for member in fields(output))


@cache
def _signature(target: OpOverload) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of an op's arguments, and the defaults of those that have one."""
    schema = target._schema.arguments
    defaults = {a.name: a.default_value for a in schema if a.has_default_value()}
    return tuple(a.name for a in schema), defaults


def carries(argument: Any) -> bool:
    """Whether this argument is a floating (or complex) value computed from the waveform."""
    return isinstance(argument, Node) and bool(argument.meta["carries"])


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of a node's value as recorded."""
    return node.meta["shape"]  # type: ignore[no-any-return]  # fx meta is untyped


def strip(axis: int, rank: int) -> int:
    """An axis of an array of this rank, counted from the end (-1 is the last)."""
    return axis - rank if axis >= 0 else axis


@dataclass(frozen=True)
class Reach:
    """Output t of an op reads inputs t * stride + offset ... t * stride + offset + kernel - 1.

    Along time, in samples of the op's input. An op that refines time has a fractional stride.
    """

    kernel: Fraction | int = 1
    stride: Fraction | int = 1
    offset: Fraction | int = 0


@dataclass(frozen=True)
class Field:
    """What value t of a map reads of the waveform: samples t * hop + start ... t * hop + stop.

    Attributes:
        axis: The map's time axis, counted from the end.
        hop: Samples from one value to the next.
        start: First sample read, relative to t * hop.
        stop: Last sample read, relative to t * hop.
    """

    axis: int = -1
    hop: Fraction | int = 1
    start: Fraction | int = 0
    stop: Fraction | int = 0

    @property
    def size(self) -> int:
        """The receptive field in samples."""
        return floor(self.stop) - ceil(self.start) + 1

    def through(self, reach: Reach, axis: int) -> Field:
        """The field of an op's output whose input has this one."""
        start = self.start + self.hop * reach.offset
        stop = self.stop + self.hop * (reach.offset + reach.kernel - 1)
        return Field(axis, self.hop * reach.stride, start, stop)


def joined(fields: Sequence[Field | None]) -> Field | None:
    """The field of a value computed from several; None (all of time) unless they march in step."""
    first = fields[0]
    if first is None or any(
        f is None or (f.axis, f.hop) != (first.axis, first.hop) for f in fields
    ):
        return None
    starts, stops = zip(*((f.start, f.stop) for f in fields if f is not None), strict=True)
    return Field(first.axis, first.hop, min(starts), max(stops))


Placed = tuple[Reach, int] | None
"""Reach and the output's time axis counted from the end; None: every output may read all time."""


def pointwise(op: Op, axis: int) -> Placed:
    """Output t reads input t, on the same axis."""
    return Reach(), axis


def everywhere(op: Op, axis: int) -> Placed:
    """Every output may read all of time."""
    return None


def unknown(op: Op, axis: int) -> Placed:
    """What torch says of an op without an entry: pointwise, or nothing."""
    tags = getattr(op.node.target, "tags", ())
    return (Reach(), axis) if any(tag.name == "pointwise" for tag in tags) else None


def windowed(op: Op, axis: int) -> Placed:
    """Convolution and pooling: a window of `kernel` taps every `stride` samples."""
    kernel = shape_of(op["weight"])[2:] if "weight" in op.arguments else op["kernel_size"]
    rank = len(op["stride"] or kernel)
    if axis < -rank:
        return None
    size, stride, padding, dilation = (
        _at(values, axis)
        for values in (
            kernel,
            op["stride"] or kernel,
            op["padding"],
            op.arguments.get("dilation", [1]),
        )
    )
    span = dilation * (size - 1)
    if op.arguments.get("transposed"):
        # Sample t takes from inputs i with i * stride - padding + tap * dilation = t.
        return Reach(
            Fraction(span, stride) + 1, Fraction(1, stride), Fraction(padding - span, stride)
        ), axis
    return Reach(span + 1, stride, -padding), axis


def _at(values: Sequence[int], axis: int) -> int:
    return values[axis] if len(values) > 1 else values[0]


def adaptive(op: Op, axis: int) -> Placed:
    """Adaptive pooling: equal windows where the sizes divide, else any."""
    size, pooled = shape_of(op["self"])[axis], op.node.meta["shape"][axis]
    return (
        (Reach(size // pooled, size // pooled), axis) if size % pooled == 0 and pooled > 1 else None
    )


def resampled(op: Op, axis: int) -> Placed:
    """Resampling: neighbours around t * (input length / output length), wherever corners align."""
    ratio = Fraction(shape_of(op.carrying[0])[axis], op.shape[axis])
    return Reach(ratio + 5, ratio, -2), axis


def reshaped(op: Op, axis: int) -> Placed:
    """A view keeps time if one of its axes has time's length and as many values behind it."""
    before, after = shape_of(op.carrying[0]), op.shape
    length, behind = before[axis], prod(before[axis:][1:])
    kept = [
        place - len(after)
        for place, size in enumerate(after)
        if size == length and prod(after[place + 1 :]) == behind
    ]
    return (Reach(), kept[0]) if kept else None


def permuted(op: Op, axis: int) -> Placed:
    """Time goes where the permutation puts it."""
    rank = len(op.shape)
    return Reach(), permutation(op).index(axis % rank) - rank


def permutation(op: Op) -> list[int]:
    """The order of axes that permute, transpose, t, movedim's kin produce."""
    rank = len(op.shape)
    if "dims" in op.arguments:
        return [dim % rank for dim in op["dims"]]
    first, second = op.arguments.get("dim0", 0) % rank, op.arguments.get("dim1", rank - 1) % rank
    order = list(range(rank))
    order[first], order[second] = order[second], order[first]
    return order


def sliced(op: Op, axis: int) -> Placed:
    """A slice of time is a shift and a step."""
    if strip(op["dim"], len(op.shape)) != axis:
        return Reach(), axis
    length = shape_of(op["self"])[axis]
    start = op["start"] or 0
    start = max(start + length, 0) if start < 0 else min(start, length)
    return Reach(1, op["step"], start), axis


def along(name: str, *, keeps_axis: bool = True) -> Any:
    """Reach of an op that mixes the axes named by argument `name` and leaves all others alone."""

    def reach(op: Op, axis: int) -> Placed:
        rank = len(shape_of(op.carrying[0]))
        dims = op.arguments.get(name)
        dims = range(rank) if dims is None or dims == [] else dims
        mixed = {strip(d, rank) for d in ([dims] if isinstance(dims, int) else dims)}
        if axis in mixed:
            return None
        kept = keeps_axis or op.arguments.get("keepdim", False)
        return Reach(), axis if kept else axis + sum(dim > axis for dim in mixed)

    return reach


def split(op: Op, axis: int) -> Placed:
    """Pieces along another axis keep time; unbinding removes its axis."""
    dim = strip(op["dim"], len(shape_of(op["self"])))
    removed = not {"split_size", "split_sizes"} & op.arguments.keys()
    return None if dim == axis else (Reach(), axis + (removed and dim > axis))


def padded(op: Op, axis: int) -> Placed:
    """Padding shifts time; what the edges repeat or mirror is not counted."""
    left = op["pad" if "pad" in op.arguments else "padding"][2 * (-axis - 1) :][:1]
    return Reach(1, 1, -left[0] if left else 0), axis


def framed(op: Op, axis: int) -> Placed:
    """Tensor.unfold: overlapping frames; time counts frames, a new last axis runs within them."""
    if strip(op["dimension"], len(shape_of(op["self"]))) != axis:
        return Reach(), axis - 1
    return Reach(op["size"], op["step"]), axis - 1


def scattered(op: Op, axis: int) -> Placed:
    """A piece put into its base: in step, unless it was cut from time."""
    along_time = strip(op["dim"], len(op.shape)) == axis
    return None if along_time else (Reach(), axis)


def stacked(op: Op, axis: int) -> Placed:
    """A new axis before or behind time."""
    return Reach(), axis - (strip(op["dim"], len(op.shape)) >= axis)


def multiplied(op: Op, axis: int) -> Placed:
    """Matrix products sum over the last axis of the left and the last but one of the right."""
    left, right = (x for x in op.node.args[-2:] if isinstance(x, Node))
    if len(op.carrying) > 1 or min(len(shape_of(left)), len(shape_of(right))) < 2:
        return None
    (x,) = op.carrying
    return None if axis == (-1 if x is left else -2) else (Reach(), axis)


def mapped(op: Op, axis: int) -> Placed:
    """A linear layer sums over the last axis."""
    return None if axis == -1 else (Reach(), axis)
