"""The table of all layers that can be sonified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import getitem
from typing import TYPE_CHECKING

from torch import nn
from torch.fx import Node

from deconv1d.layers.axes import layout_of
from deconv1d.layers.names import call_number
from deconv1d.record.blocks import end_of_block, ends_of_blocks, first_result
from deconv1d.record.capture import Capture
from deconv1d.record.receptive_fields import ReceptiveField, receptive_fields_of
from deconv1d.rules.op import Op, depends_on_input, shape_of
from deconv1d.rules.table import Rules, packet, rule_for
from deconv1d.table import Table

if TYPE_CHECKING:
    from deconv1d.checks.verification import Verified


@dataclass(frozen=True)
class LayerRow:
    """One layer that can be sonified.

    Attributes:
        name: What to give as `layer`.
        type: Module class, or op.
        calls: How often it ran.
        channels: Number of maps where its block ends.
        channel_axis: The axis that counts them there; None: there is none, the map is one channel.
        hop: Samples of waveform from one value to the next; None (printed "all"): not in step.
        receptive_field: Samples of waveform that one value reads; None (printed "all"): all.
        block_ends_in: Where `tap="block"` takes the map.
        verified: How far its capture is from the model itself; None (printed "-"): it was not
            heard yet.
        note: Whether statistics over the whole clip, such as a group norm's, are read as well: hop
            and receptive field then are those with mean and deviation taken for constants.
    """

    name: str
    type: str
    calls: int
    channels: int
    channel_axis: int | None
    hop: str | None
    receptive_field: int | None
    block_ends_in: str
    verified: Verified | None = field(default=None, metadata={"none": "-", "optional": True})
    note: str = field(default="", metadata={"optional": True})


STATISTICS = "statistics over the whole clip"


def each_map_once(rows: Iterable[LayerRow], tap: str) -> list[str]:
    """The names of all layers; of those whose blocks end in one place, and have one map, the first.

    Args:
        rows: As from `Sonifier.layers`.
        tap: As for `Sonifier.sonify`.
    """
    ends: dict[str, str] = {}
    for row in rows:
        ends.setdefault(row.block_ends_in if tap == "block" else row.name, row.name)
    return list(ends.values())


def layer_table(
    captured: Capture, model: nn.Module, rules: Rules, verified: Mapping[str, Verified]
) -> Table[LayerRow]:
    """Every module and free op whose output carries the waveform, in order of first execution.

    Args:
        captured: The whole forward pass.
        model: The model.
        rules: The op table.
        verified: What is known of layers that were heard, by their names.
    """
    assert captured.calls is not None
    modules = dict(model.named_modules())
    # Ops inside a module without children have no row: the module has.
    wrapped = {path for path, m in modules.items() if path and not any(m.children())}
    order = {node: place for place, node in enumerate(captured.graph.nodes)}
    ends = ends_of_blocks(captured.graph, rules)
    held = receptive_fields_of(
        captured.graph, captured.x, captured.rules, captured.method, held=True
    )
    rows: list[tuple[int, LayerRow]] = []

    def add(name: str, kind: str, calls: int, node: Node, end: Node) -> None:
        inside = call_number(end.meta.get("label", ""))[0] in wrapped
        ends_in = end.meta["label"] if inside else end.meta.get("name", name)
        rows.append((order[node], _row(captured, held, name, kind, calls, node, end, ends_in)))

    # Modules by their calls: "relu#2" is a row of its own if relu ran more than once.
    for call, node in captured.outputs.items():
        path, _ = call_number(call)
        if depends_on_input(node):
            calls = captured.calls[path]
            end = end_of_block(node, captured.returned[call], order, ends, rules)
            add(call if calls > 1 else path, type(modules[path]).__name__, calls, node, end)
    for node in captured.graph.nodes:
        free = call_number(node.meta.get("label", ""))[0] not in wrapped
        if free and _worth_listing(node, rules):
            # Of several results, such as an LSTM's, the first is the map.
            node_of_map = first_result(node)
            end = ends[node_of_map]
            add(node.meta["name"], str(packet(node) or node.target), 1, node_of_map, end)
    return Table(
        [
            # "relu#1" and "relu" are one layer if relu ran once.
            replace(row, verified=verified.get(row.name, verified.get(f"{row.name}#1")))
            for _, row in sorted(rows, key=lambda pair: pair[0])
        ]
    )


def _worth_listing(node: Node, rules: Rules) -> bool:
    """Free ops that a person would call a layer: those with weights, and those of a block."""
    if not depends_on_input(node) or node.op != "call_function" or node.target is getitem:
        return False
    rule = rule_for(rules, Op.of(node))
    if rule.channels is not None and any(map(_is_weight, node.all_input_nodes)):
        return True
    return rule.block and rule.kind != "pass"


def _is_weight(node: Node) -> bool:
    """Whether a value follows from the model alone: a parameter, or computed from parameters."""
    return bool(node.meta["constant"]) and bool(node.meta["dtype"].is_floating_point)


def _row(
    captured: Capture,
    held: Mapping[Node, ReceptiveField | None],
    name: str,
    kind: str,
    calls: int,
    node: Node,
    end: Node,
    ends_in: str,
) -> LayerRow:
    # Channels are those of the map that is heard by default, where the block ends.
    layout, exact = layout_of(captured, end), captured.receptive_fields[node]
    local = held[node] if exact is None else exact
    return LayerRow(
        name,
        kind,
        calls,
        1 if layout.channel is None else shape_of(end)[layout.channel],
        layout.channel,
        None if local is None else str(local.hop),
        None if local is None else local.size,
        ends_in,
        note=STATISTICS if local is not exact else "",
    )
