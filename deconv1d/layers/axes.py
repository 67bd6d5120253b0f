"""Which axes of a map count examples and channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from operator import getitem

import torch
from torch import Tensor
from torch.fx import Node

from deconv1d.errors import InputError
from deconv1d.rules.op import Op, depends_on_input, shape_of
from deconv1d.rules.reach import permutation
from deconv1d.rules.table import packet

aten = torch.ops.aten


@dataclass(frozen=True)
class Layout:
    """Which axes of a map count examples and channels."""

    batch: int
    channel: int

    def sorted(self, maps: Tensor) -> Tensor:
        """Maps as the model has them -> (batch, channels, ...)."""
        return maps.movedim((self.batch, self.channel), (0, 1))

    def unsorted(self, maps: Tensor) -> Tensor:
        """(batch, channels, ...) -> as the model has them."""
        return maps.movedim((0, 1), (self.batch, self.channel))


def layout_of(tap: Node, override: int | None = None) -> Layout:
    """Which axes of a map count examples and channels.

    Args:
        tap: Its node.
        override: The axis of channels, if not the one assumed.

    Raises:
        InputError: If the map has no such axis, or it counts examples.
    """
    shape, batch = shape_of(tap), batch_axis(tap)
    if override is None:
        return Layout(batch, channel_axis(tap))
    if not -len(shape) <= override < len(shape) or override % len(shape) == batch:
        raise InputError(
            f"channel_axis={override} does not fit the map: expected an axis other than {batch} "
            f"of shape {shape}. sonifier.layers(x) shows the one assumed."
        )
    return Layout(batch, override % len(shape))


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
        sources = [x for x in node.all_input_nodes if depends_on_input(x) or node.target is getitem]
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
