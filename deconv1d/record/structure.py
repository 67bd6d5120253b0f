"""The structure of a recorded graph as a short key: two graphs of one structure have equal keys.

The key covers, in order, each op, the module call that it ran in, which earlier ops its arguments
come from, and arguments that choose what an op does (flags, names, dtypes). It leaves out numbers:
sizes, slice bounds and factors differ between two waveforms that take the same path. So

    relu(conv(x)) on 800 samples    and    relu(conv(x)) on 900 samples    have one key,
    relu(conv(x))                   and    conv(relu(x))                   have two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from operator import getitem
from typing import Any

from torch.fx import Graph, Node

NUMBERS = (int, float, complex)


def structure_of(graph: Graph, last: Node | None = None) -> str:
    """The key of a graph's structure.

    Args:
        graph: Of a capture.
        last: The last node that counts, such as the map's; None: all count.
    """
    digest = blake2b(digest_size=16)
    places: dict[Node, int] = {}
    for place, node in enumerate(graph.nodes):
        places[node] = place
        digest.update(_line(node, places).encode("utf-8", "surrogatepass"))
        if node is last:
            break
    return digest.hexdigest()


def _line(node: Node, places: Mapping[Node, int]) -> str:
    """What one node adds to the key."""
    if node.op != "call_function":
        return f"{node.op};"  # a weight's name does not matter: tied weights have several
    if node.target is getitem:
        return f"{places[node.all_input_nodes[0]]}[{node.args[1]}];"
    name = getattr(node.target, "__name__", str(node.target))
    arguments = _text((*node.args, *node.kwargs.items()), places)
    return f"{node.meta.get('label', '')}.{name}{arguments};"


def _text(argument: Any, places: Mapping[Node, int]) -> str:
    if isinstance(argument, Node):
        return f"%{places[argument]}"
    if isinstance(argument, (list, tuple)):
        return _listed(argument, places)
    if isinstance(argument, NUMBERS) and not isinstance(argument, bool):
        return "n"
    return str(argument)


def _listed(arguments: Iterable[Any], places: Mapping[Node, int]) -> str:
    """Arguments in brackets; a run of numbers, such as a shape, counts as one."""
    texts = [_text(argument, places) for argument in arguments]
    return f"({','.join(t for i, t in enumerate(texts) if t != 'n' or texts[i - 1 : i] != ['n'])})"
