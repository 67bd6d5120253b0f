"""What every value of a captured graph reads of the waveform, masks included."""

from __future__ import annotations

from operator import getitem

from torch.fx import Graph, Node

from deconv1d.ops import Field, Op, joined, shape_of, unknown
from deconv1d.rules import Reader, Rules, packet, rule_for
from deconv1d.schema import is_random, is_shaped


def fields_of(graph: Graph, x: Node, rules: Rules, method: str) -> dict[Node, Field | None]:
    """Returns the field of each node that follows from the waveform's values.

    Args:
        graph: Of a capture.
        x: The waveform's node.
        rules: The op table, whose `reach` is asked.
        method: "deconvnet", "guided" or "gradient".

    Returns:
        By node, its values in time; None for a value that may read all of it. A node that reads
        nothing of the waveform, such as a weight or random numbers, is not in it.
    """
    fields: dict[Node, Field | None] = {x: Field()}
    for node in graph.nodes:
        sources = [source for source in node.all_input_nodes if source in fields]
        drawn = is_random(node) and packet(node) not in rules
        if not sources or drawn or is_shaped(node) or "shape" not in node.meta:
            continue
        if node.target is getitem:
            fields[node] = fields[sources[0]]
        else:
            op = Op.of(node)
            reach = rule_for(rules, op, method).reach if op.carrying else unknown
            fields[node] = joined([_through(op, reach, x, fields[x]) for x in sources])
    return fields


def _through(op: Op, reach: Reader, x: Node, before: Field | None) -> Field | None:
    """What the op's output reads by way of one input."""
    placed = None if before is None else reach(op, before.axis)
    if before is None or placed is None:
        return None
    one_moment_for_all = shape_of(x)[before.axis] == 1 < op.shape[placed[1]]
    return None if one_moment_for_all else before.through(*placed)
