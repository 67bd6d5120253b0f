"""Where a layer's block ends: through normalisation, activation, max-pooling, and no further.

    h = conv(x)             # the layer
    if h.argmax() > 9: ...  # looks: its result carries no signal, so the block is not touched
    h = relu(norm(h))       # goes on, twice
    h = pool(h)             # goes on: this is the end of the block, since
    y = conv2(h)            # ends: a convolution is not part of a block

The recorder asks while the model runs (it stops the model there), the table of layers afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import getitem
from typing import Literal

from torch.fx import Graph, Node

from deconv1d.rules.op import Op, depends_on_input
from deconv1d.rules.table import Rule, Rules, packet, rule_for

Effect = Literal["goes on", "ends", "looks", "undecided"]


def effect_on_block(node: Node, rule: Rule, rules: Rules, *, ran: bool) -> Effect:
    """What an op does to the block whose last value it takes up.

    Args:
        node: The op.
        rule: Its rule.
        rules: The op table.
        ran: Whether the op ran and its result is described. Before it ran, one answer is certain:
            an op of the table through which no block goes ends the block. So the model is stopped
            before a convolution is computed.
    """
    if packet(node) in rules and not rule.block:
        return "ends"
    if not ran:
        return "undecided"
    # A comparison, argmax, zeros_like, .long(): the result carries no signal. A detached copy is
    # for other uses too, such as a state that is kept: the block goes on with the value itself.
    if not depends_on_input(node) or rule.detached:
        return "looks"
    return "goes on" if rule.block else "ends"


def ends_of_blocks(graph: Graph, rules: Rules) -> dict[Node, Node]:
    """For each value that carries the waveform, the value in which its block ends."""
    ends: dict[Node, Node] = {}
    for node in reversed(graph.nodes):
        if depends_on_input(node):
            ends[node] = _end(node, node.users, ends, rules)
    return ends


def end_of_block(
    node: Node, returned: Node, order: Mapping[Node, int], ends: Mapping[Node, Node], rules: Rules
) -> Node:
    """The value in which a module's block ends.

    Args:
        node: What the module returned.
        returned: The last op that ran before the module returned. What took up the value inside the
            module is no continuation of it: a gate's mean, for instance.
        order: Each node's place in the graph.
        ends: Of `ends_of_blocks`.
        rules: The op table.
    """
    later = [user for user in node.users if order[user] > order[returned]]
    return _end(node, later, ends, rules)


def _end(node: Node, users: Iterable[Node], ends: Mapping[Node, Node], rules: Rules) -> Node:
    for user in users:
        if user.target is getitem or user.meta.get("derived"):
            continue  # no op of the model's
        op = Op.of(user)
        effect = effect_on_block(user, rule_for(rules, op), rules, ran=True)
        if effect != "looks":
            return ends[first_result(user)] if effect == "goes on" else node
    return node


def first_result(node: Node) -> Node:
    """The first result of an op that may have several."""
    return next((user for user in node.users if user.target is getitem), node)
