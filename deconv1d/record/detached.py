"""Detached values beside live ones in one op: straight-through estimators.

For `method="gradient"` only what autograd tracks carries. For the other methods a detached value
carries as any other does, but not beside a live one in the same op:

    z + (q - z).detach()                   the detached term is held, a constant
    torch.stack([z, (q - z).detach()])     held too: a sum over the new axis may follow
    torch.where(mask, z, q.detach())       both carry: no value is added to another

Else z would carry the signal, q - z the signal of z with the other sign, and the two would cancel.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch._ops import OpOverload
from torch.fx import Node

from deconv1d.record.schema import PLACED, SIDE_BY_SIDE, Schema
from deconv1d.rules.op import depends_on_input


def detached_beside_live(schema: Schema, inputs: Iterable[Node]) -> list[Node]:
    """The detached inputs of an op that also has live ones, as in z + (q - z).detach().

    In a model whose whole forward pass runs without gradients none is live for autograd. There
    those count that are not detached by name.
    """
    # A single input that carries has nothing to cancel with.
    dependent = [node for node in inputs if depends_on_input(node)]
    if len(dependent) < 2 or schema.packet in PLACED:
        return []
    live = [node for node in dependent if node.meta["tracked"]]
    live = live or [node for node in dependent if node.meta["undetached"]]
    if not live:
        return []
    beside = [node for node in dependent if node not in live]
    # What is only put beside a live value may be added to it later. It can cancel if it was made
    # from the same value; another branch's detached value is a map of its own.
    if schema.packet in SIDE_BY_SIDE:
        return [node for node in beside if _computed_from(node, live)]
    return beside


def _computed_from(node: Node, sources: Iterable[Node]) -> bool:
    """Whether a value was computed from one of these, however they were turned or cut since."""
    wanted = {_before_views(source) for source in sources}
    seen: set[Node] = set()
    waiting = [node]
    while waiting:
        if (node := waiting.pop()) in wanted:
            return True
        new = [source for source in node.all_input_nodes if source not in seen]
        seen.update(new)
        waiting += new
    return False


def _before_views(node: Node) -> Node:
    """The value that a chain of views was cut from."""
    while isinstance(node.target, OpOverload) and len(node.all_input_nodes) == 1:
        if not any(
            a.alias_info and not a.alias_info.is_write for a in node.target._schema.arguments
        ):
            break
        node = node.all_input_nodes[0]
    return node
