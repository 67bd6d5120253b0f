"""Names of layers: from what a user writes to one module call or op, and the table of all."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from operator import getitem
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from deconv1d.capture import Capture
from deconv1d.errors import LayerError
from deconv1d.ops import Field, Op, carries, permutation, shape_of
from deconv1d.recorder import COMPARISONS
from deconv1d.rules import Rules, packet, rule_for
from deconv1d.table import Table

aten = torch.ops.aten

WRAPPERS = ("_orig_mod.", "module.")


@dataclass(frozen=True)
class Layer:
    """A layer as asked for: a module's path, or an op's name; and which call of it."""

    path: str
    call: int | None = None
    is_op: bool = False

    @property
    def target(self) -> str:
        """What the recorder stops at."""
        return self.path if self.is_op else f"{self.path}#{1 if self.call is None else self.call}"

    def __str__(self) -> str:
        return self.path if self.call is None else f"{self.path}#{self.call}"


def find_module(model: nn.Module, name: str) -> Layer | None:
    """The module that a name means: its dotted path, or any unique suffix of it; with "#n".

    Raises:
        LayerError: If several modules answer to the name.
    """
    name, call = _call_number(_without_wrappers(model, name))
    paths = {module: path for path, module in reversed(list(model.named_modules()))}
    every = {p: paths[m] for p, m in model.named_modules(remove_duplicate=False) if p}
    every = {**{alias.replace("_orig_mod.", ""): path for alias, path in every.items()}, **every}
    if name in every:
        return Layer(every[name], call)
    found = sorted({path for alias, path in every.items() if alias.endswith(f".{name}")})
    if len(found) > 1:
        raise LayerError(_ambiguous(name, found))
    return Layer(found[0], call) if found else None


def find_op(captured: Capture, model: nn.Module, name: str) -> Layer:
    """The op that a name means: "<module path>.<op>#n", or any unique suffix of it.

    Raises:
        LayerError: If several ops, or neither op nor module, answer to the name.
    """
    calls = [n for n in captured.graph.nodes if n.op == "call_function" and n.target is not getitem]
    ops = [n.meta["name"] for n in calls if carries(n)]
    found = [op for op in ops if op == name] or [op for op in ops if op.endswith(f".{name}")]
    if len(found) > 1:
        raise LayerError(_ambiguous(name, found))
    if found:
        return Layer(found[0], is_op=True)
    modules = [path for path, _ in model.named_modules() if path]
    near = difflib.get_close_matches(name, [*modules, *ops], n=5, cutoff=0.3)
    raise LayerError(
        f"No layer {name!r} in this model: expected a module path or a unique suffix of one, "
        f"such as {', '.join(map(repr, near or modules[:5]))}. sonifier.layers(x) lists them all."
    )


def _call_number(name: str) -> tuple[str, int | None]:
    base, mark, number = name.rpartition("#")
    return (base, int(number)) if mark and number.isdigit() else (name, None)


def _without_wrappers(model: nn.Module, name: str) -> str:
    own = {path for path, _ in model.named_modules()}
    while name.split("#")[0] not in own and name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def _ambiguous(name: str, found: Iterable[str]) -> str:
    return (
        f"Layer {name!r} is ambiguous: expected a name that one layer answers to, "
        f"got {', '.join(map(repr, found))}. Give one of these in full."
    )


def channel_axis(node: Node) -> int:
    """The axis that counts a map's channels, from the op that made it.

    1 for convolution, batch norm, pooling and maps of rank 2; the last for linear layers, layer
    norm, attention, matrix products and RNNs of rank 3 and more; permutations move it along.
    """

    def made(source: Node) -> int | None:
        rank = len(shape_of(source))
        if packet(source) in CHANNELS_LAST:
            return rank - 1
        return min(1, rank - 1) if packet(source) in CHANNELS_FIRST or _is_input(source) else None

    return _carried_axis(node, made, default=min(1, len(shape_of(node)) - 1))


def batch_axis(node: Node) -> int:
    """The axis that counts a map's examples: the waveform's first, moved along."""
    return _carried_axis(node, lambda source: 0 if _is_input(source) else None, default=0)


def _is_input(node: Node) -> bool:
    return node.op == "placeholder"


def _carried_axis(node: Node, made: Callable[[Node], int | None], default: int) -> int:
    """An axis of a map, from the op that made it through what moves axes."""
    chain: list[Node] = []
    while (axis := made(node)) is None:
        sources = [x for x in node.all_input_nodes if carries(x) or node.target is getitem]
        if not sources:
            return default
        chain.append(node)
        node = sources[0]
    for after in reversed(chain):
        axis = _moved(axis, shape_of(node), after)
        if axis is None:
            return default
        node = after
    return axis


def _moved(axis: int, before: tuple[int, ...], node: Node) -> int | None:
    """Where an op puts an axis; None if it takes it apart."""
    after = shape_of(node)
    if packet(node) in PERMUTATIONS:
        return permutation(Op.of(node)).index(axis)
    if len(after) == len(before) and packet(node) not in (aten.view, aten.reshape):
        return axis
    behind = prod(before[axis + 1 :])
    places = (
        p for p, size in enumerate(after) if size == before[axis] and prod(after[p + 1 :]) == behind
    )
    return next(places, None)


CHANNELS_FIRST = frozenset(
    {aten.convolution, aten._convolution, aten.batch_norm, aten.instance_norm, aten.group_norm}
)
CHANNELS_LAST = frozenset(
    {aten.linear, aten.layer_norm, aten.scaled_dot_product_attention, aten.matmul, aten.bmm}
    | {aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu}
)
PERMUTATIONS = frozenset({aten.transpose, aten.permute, aten.t})


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
        inside = _call_number(end.get("label", ""))[0] in wrapped
        ends_in = end["label"] if inside else end.get("name", name)
        return _row(name, kind, calls, node, captured.fields[node], ends_in)

    for call, node in captured.outputs.items():
        path, _ = _call_number(call)
        if carries(node):
            calls = captured.calls[path]
            name = call if calls > 1 else path
            kind = type(modules[path]).__name__
            rows.append((order[node], row(name, kind, calls, node)))
    for node in captured.graph.nodes:
        if carries(node) and node.op == "call_function" and node.target is not getitem:
            free = _call_number(node.meta["label"])[0] not in wrapped
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
    name: str, kind: str, calls: int, node: Node, field: Field | None, ends_in: str
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
        if tip in node.all_input_nodes and packet(node) not in COMPARISONS and carries(node):
            if node.target is not getitem and not rule_for(rules, Op.of(node)).block:
                break
            tip = node
    return tip
