"""Which axes count examples and channels, for every value of a captured graph, op by op."""

from __future__ import annotations

from collections.abc import Callable
from operator import getitem
from typing import NamedTuple

from torch.fx import Graph, Node

from deconv1d.rules.op import Op, depends_on_input, shape_of
from deconv1d.rules.reach import reshaped
from deconv1d.rules.table import Rule, Rules, rule_for


class Axes(NamedTuple):
    """The axes of a value, counted from the end; None: it cannot be told."""

    batch: int | None
    channel: int | None


def axes_of(graph: Graph, x: Node, rules: Rules) -> dict[Node, Axes]:
    """Returns the axes of each value that carries the waveform.

    The waveform counts examples on its first axis, and channels on the second if it has three or
    more. An op whose rule says so (`Rule.channels`) counts channels of its own; any other leaves
    both axes where its rule's `reach` puts them.
    """
    rank = len(shape_of(x))
    axes = {x: Axes(-rank, 1 - rank if rank > 2 else None)}
    for node in graph.nodes:
        if node in axes or not depends_on_input(node):
            continue
        if node.target is getitem:
            axes[node] = axes[node.args[0]]
            continue
        op = Op.of(node)
        rule, source = rule_for(rules, op), op.dependent[0]
        batch = moved(op, rule, source, axes[source].batch)
        if rule.channels is None:
            channel = moved(op, rule, source, axes[source].channel)
        else:
            channel = rule.channels(op, _channel_of(axes))
        # A dot product, or a loss, leaves a single number: it has no axis.
        lost = channel is None or channel < -len(op.shape)
        axes[node] = Axes(batch, None if lost else channel)
    return axes


def _channel_of(axes: dict[Node, Axes]) -> Callable[[Node], int | None]:
    return lambda node: axes[node].channel


def moved(op: Op, rule: Rule, source: Node, axis: int | None) -> int | None:
    """Where an op puts an axis of its input; None if it takes the axis apart or away."""
    if axis is None:
        return None
    placed = rule.reach(op, axis)
    if placed is not None:
        return placed[1] if placed[1] >= -len(op.shape) else None
    # The op mixes places of the axis, as a sum with keepdim or a flip does: it stays where it is.
    same_rank = len(op.shape) == len(shape_of(source))
    return axis if same_rank and rule.reach is not reshaped else None
