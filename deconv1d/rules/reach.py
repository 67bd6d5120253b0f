"""What an op's output reads of its input along time: one function for each way to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

from torch.fx import Node

from deconv1d.rules.op import Op, shape_of


def from_end(axis: int, rank: int) -> int:
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


Placed = tuple[Reach, int] | None
"""Reach and the output's time axis counted from the end; None: every output may read all time."""

Reader = Callable[[Op, int], Placed]
"""`reach(op, axis)`: of an op, and of an axis of its input counted from the end."""


def _called(reach: Reader, name: str, meaning: str) -> Reader:
    """Gives a function made by another one a name and a meaning; docs/rules.md prints both."""
    reach.__name__, reach.__doc__ = name, meaning
    return reach


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
    # Linear interpolation reads two neighbours; aligned corners and rounding move them by up to
    # two samples more on each side.
    ratio = Fraction(shape_of(op.dependent[0])[axis], op.shape[axis])
    return Reach(ratio + 5, ratio, -2), axis


def reshaped(op: Op, axis: int) -> Placed:
    """A view keeps time if one of its axes has time's length and as many values behind it."""
    before, after = shape_of(op.dependent[0]), op.shape
    length, behind = before[axis], prod(before[axis:][1:])
    kept = [
        place - len(after)
        for place, size in enumerate(after)
        if size == length and prod(after[place + 1 :]) == behind
    ]
    return (Reach(), kept[0]) if kept else None


def squeezed(op: Op, axis: int) -> Placed:
    """Axes of length 1 are left out; which ones, the op's arguments say, or all of them."""
    shape = shape_of(op["self"])
    dims = op.arguments.get("dim", range(len(shape)))
    named = {from_end(dim, len(shape)) for dim in ([dims] if isinstance(dims, int) else dims)}
    lost = {dim for dim in named if shape[dim] == 1}
    return None if axis in lost else (Reach(), axis + sum(dim > axis for dim in lost))


def before_new_axis(op: Op, axis: int) -> Placed:
    """A new last axis moves all others one place from the end."""
    return Reach(), axis - 1


def before_lost_axis(op: Op, axis: int) -> Placed:
    """The last axis is taken away."""
    return None if axis == -1 else (Reach(), axis + 1)


def behind(name: str) -> Reader:
    """Reach of an op that mixes the last axes, as many as argument `name` has sizes."""

    def reach(op: Op, axis: int) -> Placed:
        return None if axis >= -len(op[name]) else (Reach(), axis)

    meaning = f"All of time if it is one of the last axes that `{name}` names."
    return _called(reach, f"behind {name}", meaning)


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
    # A slice of another axis leaves time alone.
    if from_end(op["dim"], len(op.shape)) != axis:
        return Reach(), axis
    length = shape_of(op["self"])[axis]
    start = op["start"] or 0
    start = max(start + length, 0) if start < 0 else min(start, length)
    return Reach(1, op["step"], start), axis


def along(name: str, *, keeps_axis: bool = True) -> Reader:
    """Reach of an op that mixes the axes named by argument `name` and leaves all others alone."""

    def reach(op: Op, axis: int) -> Placed:
        rank = len(shape_of(op.dependent[0]))
        dims = op.arguments.get(name)
        dims = range(rank) if dims is None or dims == [] else dims
        mixed = {from_end(d, rank) for d in ([dims] if isinstance(dims, int) else dims)}
        if axis in mixed:
            return None
        kept = keeps_axis or op.arguments.get("keepdim", False)
        return Reach(), axis if kept else axis + sum(dim > axis for dim in mixed)

    meaning = f"All of time if argument `{name}` names its axis, else one moment."
    return _called(reach, f"along {name}", meaning)


def split(op: Op, axis: int) -> Placed:
    """Pieces along another axis keep time; unbinding removes its axis."""
    dim = from_end(op["dim"], len(shape_of(op["self"])))
    removed = not {"split_size", "split_sizes"} & op.arguments.keys()
    return None if dim == axis else (Reach(), axis + (removed and dim > axis))


def padded(op: Op, axis: int) -> Placed:
    """Padding shifts time; what the edges repeat or mirror is not counted."""
    left = op["pad" if "pad" in op.arguments else "padding"][2 * (-axis - 1) :][:1]
    return Reach(1, 1, -left[0] if left else 0), axis


def unfold(op: Op, axis: int) -> Placed:
    """Tensor.unfold: overlapping frames; time counts frames, a new last axis runs within them."""
    # The new last axis moves every other one place from the end.
    if from_end(op["dimension"], len(shape_of(op["self"]))) != axis:
        return Reach(), axis - 1
    return Reach(op["size"], op["step"]), axis - 1


def scattered(op: Op, axis: int) -> Placed:
    """A piece put into its base: in step, unless it was cut from time."""
    along_time = from_end(op["dim"], len(op.shape)) == axis
    return None if along_time else (Reach(), axis)


def stacked(op: Op, axis: int) -> Placed:
    """A new axis before or behind time."""
    return Reach(), axis - (from_end(op["dim"], len(op.shape)) >= axis)


def multiplied(op: Op, axis: int) -> Placed:
    """Matrix products sum over the last axis of the left and the last but one of the right."""
    # addmm and baddbmm have the term that is added first, so the factors are the last two.
    left, right = (x for x in op.node.args[-2:] if isinstance(x, Node))
    if len(op.dependent) > 1 or min(len(shape_of(left)), len(shape_of(right))) < 2:
        return None
    (x,) = op.dependent
    return None if axis == (-1 if x is left else -2) else (Reach(), axis)


def linear(op: Op, axis: int) -> Placed:
    """A linear layer sums over the last axis."""
    return None if axis == -1 else (Reach(), axis)
