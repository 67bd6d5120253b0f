"""What every value of a captured graph reads of the waveform, masks included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, lcm
from operator import getitem

from torch.fx import Graph, Node

from deconv1d.record.schema import is_random, is_shaped
from deconv1d.rules.op import Op, shape_of
from deconv1d.rules.reach import Reach, Reader, pointwise, unknown
from deconv1d.rules.table import Rules, packet, rule_for


@dataclass(frozen=True)
class ReceptiveField:
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

    def through(self, reach: Reach, axis: int) -> ReceptiveField:
        """Returns the field of an op's output, if its input has this one."""
        # Output t reads inputs t * stride + offset ... t * stride + offset + kernel - 1; input u
        # reads samples u * hop + start ... u * hop + stop. Put together, output t reads
        #
        #     samples  t * (stride * hop) + (offset * hop + start)  ...
        #              t * (stride * hop) + ((offset + kernel - 1) * hop + stop)
        #
        # Example: convolution, kernel 3 (0 ... 2, hop 1), then pooling by 2 (kernel 2, stride 2):
        # hop 2, samples 2 t ... 2 t + 3.
        start = self.start + self.hop * reach.offset
        stop = self.stop + self.hop * (reach.offset + reach.kernel - 1)
        return ReceptiveField(axis, self.hop * reach.stride, start, stop)


def joined(fields: Sequence[ReceptiveField | None]) -> ReceptiveField | None:
    """Joins the fields of several values; returns None (all of time) if their hops differ."""
    # Two branches that are added read the union of their samples. With different hops there is no
    # one interval that moves by the same step from each value to the next.
    first = fields[0]
    if first is None or any(
        f is None or (f.axis, f.hop) != (first.axis, first.hop) for f in fields
    ):
        return None
    starts, stops = zip(*((f.start, f.stop) for f in fields if f is not None), strict=True)
    return ReceptiveField(first.axis, first.hop, min(starts), max(stops))


def total_stride(fields: Iterable[ReceptiveField | None]) -> int:
    """The smallest shift of the waveform, in samples, that shifts every map by whole steps.

    Args:
        fields: Of all values up to the map.
    """
    return lcm(*(Fraction(field.hop).numerator for field in fields if field is not None))


def receptive_fields_of(
    graph: Graph, x: Node, rules: Rules, method: str, *, held: bool = False
) -> dict[Node, ReceptiveField | None]:
    """Returns the field of each node that follows from the waveform's values.

    Args:
        graph: Of a capture.
        x: The waveform's node.
        rules: The op table, whose `reach` is asked.
        method: "deconvnet", "guided" or "gradient".
        held: Whether statistics of the whole clip, as in normalisations, count as constants.

    Returns:
        By node, its values in time; None for a value that may read all of it. A node that reads
        nothing of the waveform, such as a weight or random numbers, is not in it.
    """
    fields: dict[Node, ReceptiveField | None] = {x: ReceptiveField()}
    for node in graph.nodes:
        sources = [source for source in node.all_input_nodes if source in fields]
        # Random numbers and shapes follow from the size of the waveform, not from its samples.
        drawn = is_random(node) and packet(node) not in rules
        if not sources or drawn or is_shaped(node) or "shape" not in node.meta:
            continue
        if node.target is getitem:
            fields[node] = fields[sources[0]]
        else:
            op = Op.of(node)
            reach: Reader = unknown
            if op.dependent:
                rule = rule_for(rules, op, method)
                # Of the rules that hold a value, those of normalisations record a statistic and are
                # part of a block.
                statistic = rule.kind == "hold" and rule.block and rule.record is not None
                reach = pointwise if held and statistic else rule.reach
            read = {x: _through(op, reach, x, fields[x]) for x in sources}
            fields[node] = joined(_local(op, read) if held else [*read.values()])
    return fields


def _local(op: Op, read: Mapping[Node, ReceptiveField | None]) -> list[ReceptiveField | None]:
    """What an op reads, without statistics of the whole clip beside values that move with time.

    A normalisation that is written by hand, `(x - x.mean(-1, True)) / x.std(-1, True)`, has such
    statistics: they are of size 1 where the other value has its time.
    """
    local = [field for field in read.values() if field is not None]
    if not local:
        return [*read.values()]
    axis = local[0].axis
    return [
        field
        for x, field in read.items()
        if field is not None or (len(shape_of(x)) >= -axis and shape_of(x)[axis] > 1)
    ]


def _through(
    op: Op, reach: Reader, x: Node, before: ReceptiveField | None
) -> ReceptiveField | None:
    """Returns what the op's output reads by way of one input."""
    placed = None if before is None else reach(op, before.axis)
    if before is None or placed is None:
        return None
    # A value that is broadcast over time (a mean added to each moment) is read by all moments:
    # its interval does not move with t, so nothing short of "all of time" is true.
    one_moment_for_all = shape_of(x)[before.axis] == 1 < op.shape[placed[1]]
    return None if one_moment_for_all else before.through(*placed)
