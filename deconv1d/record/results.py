"""Which node holds each result of an op, and what it overwrote, from now on."""

from __future__ import annotations

from collections.abc import Mapping
from operator import getitem
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from deconv1d.errors import PathError
from deconv1d.record.aliasing import Place, place_of, storage_of
from deconv1d.record.schema import draws, is_random, is_shaped, is_unfilled, returns_one_tensor
from deconv1d.rules.op import Op, leaves
from deconv1d.rules.table import packet, rule_for

if TYPE_CHECKING:
    from deconv1d.record.values import Values

aten = torch.ops.aten


def settle(
    values: Values,
    kept: dict[Node, Tensor],
    op: Op,
    sources: Mapping[int, Place],
    places: Mapping[int, tuple[Place, int]],
    output: Any,
    written: list[Tensor],
) -> list[tuple[Node, Tensor]]:
    """Describes each result of an op and says which node holds it from now on.

        y = torch.sin(h)      new memory: y is node sin
        v = y[:, 1:]          memory of y: v is node slice, cut from y
        d = y.detach()        memory of y: d is node detach, in a branch of its own
        y.mul_(2)             written: y is node mul, v and d are derived anew when read
        y.resize_(9, 9)       written, and laid out anew: y is node resize, as new memory

    Args:
        values: Of the forward pass.
        kept: Where results are kept that would be others if the op ran again.
        op: The op.
        sources: Where its inputs lay, by storage.
        places: Where what it wrote into lay and how many bytes that storage had, by object.
        output: What it returned.
        written: What it wrote into.
    """
    node = op.node
    if isinstance(node.target, OpOverload) and written:
        # The pure twin returns what the op wrote: one tensor, or several, as of sort(out=...).
        output = written[0] if returns_one_tensor(node.target) else tuple(written)
    elif written:
        # Without a twin the node returns the op's results and then what it wrote into, in this
        # order (see `_on_copies` in `schema`).
        output = (*leaves(output), *written)
    random = is_random(node) and packet(node) not in values.rules
    shaped = is_shaped(node) or is_unfilled(node.target)
    constant = all(n.meta["constant"] for n in node.all_input_nodes)
    node.meta["constant"] = constant and not (random or is_unfilled(node.target))
    node.meta["depends_on_input"] = bool(op.dependent) and not (random or shaped)
    # Random numbers and zeros_like(x) do not depend on the values of what they are given.
    if random or shaped:
        node.meta.update(tracked=False, undetached=False)
    results = parts_of(values, node, output)
    for number, (part, x) in enumerate(results):
        if random or shaped or draws(node.target, op.arguments):
            kept[part] = x  # run again, it would be another
        if id(x) in places:
            results[number] = (_overwrite(values, part, number, x, *places[id(x)]), x)
        elif storage_of(x) in sources:
            _look(values, part, number, x, sources[storage_of(x)])
        else:
            values.define(x, part)
    return results


def _look(values: Values, part: Node, number: int, x: Tensor, base: Place) -> None:
    """A result that shares memory with an input, and was not written into."""
    cut = part.meta["undetached"] and not part.meta["grad"]  # a view without gradients
    if cut or packet(part) is aten.detach:
        # h.detach() is the first value of its branch. h[:, 1:] under no_grad is not: its branch
        # begins with all of h, detached when it is first read, and the slice is cut from that.
        same = place_of(x, base.branch) == base
        base = base._replace(branch=values.cut(x, base, part if same else None))
    if place_of(x, base.branch) != base:
        _register_view(values, part, number, x, base)
    values.remember(x, base.branch)


def _overwrite(
    values: Values, part: Node, number: int, x: Tensor, before: Place, size: int
) -> Node:
    """A tensor that an op wrote into; returns the node that holds its value from now on."""
    if packet(part) is aten.detach:  # detach_: the object leaves its branch
        values.remember(x, values.cut(x, before, part))
    # A buffer that grew has new memory; nothing that looked at the old one is up to date.
    elif x.untyped_storage().nbytes() != size or packet(part) is aten.resize:
        values.define(x, part)
    elif place_of(x, before.branch) != before:  # transpose_ and its kin
        _register_view(values, part, number, x, before)
    else:
        old = values.aliases.read(x, before.branch)
        if old is not None and not part.meta["grad"] and old.meta["undetached"]:
            part = values.revalued(part, old)
        values.aliases.write(x, before.branch, part)
    return part


def parts_of(values: Values, node: Node, output: Any) -> list[tuple[Node, Tensor]]:
    """A node for each tensor that an op returned."""
    if isinstance(output, Tensor):
        parts = [(node, output)]
    else:
        tensors = enumerate(output) if isinstance(output, tuple | list) else ()
        parts = [
            (values.graph.call_function(getitem, (node, number)), x)
            for number, x in tensors
            if isinstance(x, Tensor)
        ]
    carried, constant = node.meta["depends_on_input"], node.meta["constant"]
    tracking = {name: node.meta[name] for name in ("tracked", "undetached")}
    if not parts:  # a number, such as item()
        node.meta["depends_on_input"] = False
    else:  # of several results the first says the op's shape
        values.describe(node, parts[0][1], carried=carried, constant=constant)
    for part, x in parts[1:] if parts and parts[0][0] is node else parts:
        part.meta.update(node.meta, **tracking)
        values.describe(part, x, carried=carried, constant=constant)
    return parts


def _register_view(values: Values, part: Node, number: int, x: Tensor, base: Place) -> None:
    """A result that shares memory with an input."""
    call = part.args[0] if part.target is getitem else part
    assert isinstance(call, Node)
    target, rest = call.target, call.args[1:]

    def derive(new_base: Node, old: Node | None) -> Node:
        grad = call.meta["grad"]  # a view that was cut without gradients stays one
        again = values.append(target, (new_base, *rest), like=call, grad=grad)
        if call is part:
            return again
        return values.append(getitem, (again, number), like=part, grad=grad)

    def restore(new_base: Node, view: Node) -> Node:
        back = rule_for(values.rules, Op.of(call)).put_back
        if back is None:
            raise PathError(_not_put_back(call, new_base))
        return values.append(*back(call, number, new_base, view), like=new_base)

    values.aliases.alias(x, place_of(x, base.branch), base, part, derive, restore)


def _not_put_back(cut: Node, base: Node) -> str:
    return (
        f"A write into a view made by {cut.target} cannot be carried back "
        f"(in {base.meta['label'] or 'the model'}, {base.meta['source']}). "
        f"Write into a slice, a selection or a reshape instead, or not in place."
    )
