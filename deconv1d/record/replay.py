"""A map again, from what was recorded: the ops that ran, on the waveform and the random draws."""

from __future__ import annotations

from collections.abc import Mapping
from operator import getitem
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Interpreter, Node

from deconv1d.record.schema import is_random

if TYPE_CHECKING:
    from deconv1d.record.capture import Capture


def replay(captured: Capture, tap: Node | None = None) -> Tensor:
    """A map again, by running the recorded ops on the recorded waveform and random draws.

    Args:
        captured: A capture that wanted it.
        tap: Its node; None: the first wanted one's.
    """
    tap = tap or captured.tap
    assert tap is not None
    return replay_all(captured, tap)[tap]  # type: ignore[no-any-return]  # fx is untyped


def replay_all(captured: Capture, tap: Node) -> Mapping[Node, Any]:
    """The value of every op up to a map, again."""
    values: dict[Node, Any] = {}
    # A copy that ends at the map: an interpreter runs a graph to its end, and what comes after
    # the map is not asked for.
    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in captured.graph.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node is tap:
            break
    graph.output(copies[tap])
    originals = {copy: node for node, copy in copies.items()}
    # Without a derivative: only values are compared.
    with torch.no_grad():
        _Replay(captured, graph, originals, values).run(captured.kept[captured.x])
    return values


class _Replay(Interpreter):
    """Runs a copy of a captured graph, with recorded values for random ops."""

    def __init__(
        self,
        captured: Capture,
        graph: Graph,
        originals: dict[Node, Node],
        values: dict[Node, Any],
    ) -> None:
        super().__init__(nn.Module(), graph=graph)
        self._captured, self._originals, self._values = captured, originals, values

    def run_node(self, n: Node) -> Any:
        node = self._originals.get(n)
        if node is not None and _is_drawn(node) and node in self._captured.kept:
            value = self._captured.kept[node]
        elif node is not None and is_random(node) and self._all_kept(node):
            return None  # its results are kept one by one; run again, it would draw again
        else:
            value = super().run_node(n)
        if node is not None:
            self._values[node] = value
        return value

    def _all_kept(self, node: Node) -> bool:
        kept = self._captured.kept
        return bool(node.users) and all(u in kept and u.target is getitem for u in node.users)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Tensor:
        return self._captured.constants[target]


def _is_drawn(node: Node) -> bool:
    call = node.args[0] if node.target is getitem else node
    return isinstance(call, Node) and is_random(call)
