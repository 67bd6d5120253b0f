"""The table of all layers that can be sonified."""

from __future__ import annotations

from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from deconv1d.layers.axes import CHANNELS_FIRST, CHANNELS_LAST, channel_axis
from deconv1d.layers.names import call_number
from deconv1d.record.capture import Capture
from deconv1d.record.receptive_fields import ReceptiveField
from deconv1d.record.recorder import COMPARISONS
from deconv1d.rules.op import Op, depends_on_input, shape_of
from deconv1d.rules.table import Rules, packet, rule_for
from deconv1d.table import Table

aten = torch.ops.aten


@dataclass(frozen=True)
class LayerRow:
    """One layer that can be sonified.

    Attributes:
        name: What to give as `layer`.
        type: Module class, or op.
        calls: How often it ran.
        channels: Number of maps.
        channel_axis: The axis of its output that counts them.
        hop: Samples of waveform from one value to the next; None (printed "all"): not in step.
        receptive_field: Samples of waveform that one value reads; None (printed "all"): all.
        block_ends_in: Where `tap="block"` takes the map.
    """

    name: str
    type: str
    calls: int
    channels: int
    channel_axis: int
    hop: str | None
    receptive_field: int | None
    block_ends_in: str


def layer_table(captured: Capture, model: nn.Module, rules: Rules) -> Table[LayerRow]:
    """Every module and free op whose output carries the waveform, in order of first execution."""
    assert captured.calls is not None
    modules = dict(model.named_modules())
    wrapped = {path for path, m in modules.items() if path and not any(m.children())}
    order = {node: place for place, node in enumerate(captured.graph.nodes)}
    rows: list[tuple[int, LayerRow]] = []

    def row(name: str, kind: str, calls: int, node: Node) -> LayerRow:
        end = _end_of_block(node, rules).meta
        inside = call_number(end.get("label", ""))[0] in wrapped
        ends_in = end["label"] if inside else end.get("name", name)
        return _row(name, kind, calls, node, captured.receptive_fields[node], ends_in)

    for call, node in captured.outputs.items():
        path, _ = call_number(call)
        if depends_on_input(node):
            calls = captured.calls[path]
            name = call if calls > 1 else path
            kind = type(modules[path]).__name__
            rows.append((order[node], row(name, kind, calls, node)))
    for node in captured.graph.nodes:
        if depends_on_input(node) and node.op == "call_function" and node.target is not getitem:
            free = call_number(node.meta["label"])[0] not in wrapped
            if free and _worth_listing(node, rules):
                kind = str(packet(node) or node.target)
                rows.append((order[node], row(node.meta["name"], kind, 1, node)))
    return Table([row for _, row in sorted(rows, key=lambda pair: pair[0])])


def _worth_listing(node: Node, rules: Rules) -> bool:
    """Free ops that a person would call a layer: those with weights, and those of a block."""
    weighted = any(source.op == "get_attr" for source in node.all_input_nodes)
    product = packet(node) in CHANNELS_FIRST | CHANNELS_LAST
    return (weighted and product) or (rule_for(rules, Op.of(node)).block and not _is_pass(node))


def _is_pass(node: Node) -> bool:
    return packet(node) in (aten.clone, aten.alias, aten.detach, aten._to_copy)


def _row(
    name: str, kind: str, calls: int, node: Node, field: ReceptiveField | None, ends_in: str
) -> LayerRow:
    axis = channel_axis(node)
    return LayerRow(
        name,
        kind,
        calls,
        shape_of(node)[axis],
        axis,
        None if field is None else str(field.hop),
        None if field is None else field.size,
        ends_in,
    )


def _end_of_block(tip: Node, rules: Rules) -> Node:
    """Follows the ops that consume a map while its block goes on (as `Recorder` does live)."""
    node: Any = tip
    while (node := node.next).op != "root":
        if (
            tip in node.all_input_nodes
            and packet(node) not in COMPARISONS
            and depends_on_input(node)
        ):
            if node.target is not getitem and not rule_for(rules, Op.of(node)).block:
                break
            tip = node
    return tip
