"""Mirrors of graphs that ran before are used again, without writing and compiling them anew.

Each plain `sonify` records its own forward pass, so nothing of that pass is taken for granted. But
two waveforms of one length mostly run the same ops, and then their mirrors are the same code: only
the switches and held values differ, and these are given to it as arguments.

    first pass of a graph     its mirror is written, with its buffers
    second pass               its mirror is written with arguments in the place of buffers, and kept
    each pass after that      the kept mirror is called with this pass' switches and held values
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from deconv1d.mirror import Step, mirror
from deconv1d.prepared.halves import PreparedMirror, Recorded
from deconv1d.record.capture import Capture

KEPT = 32
"""Mirrors of a sonifier: one for each layer, method, tap and length that were asked for lately."""

SIMPLE = (bool, int, float, str, torch.dtype, torch.device, tuple, type(None))


class Way(NamedTuple):
    """The way back from a map: a mirror of one forward pass, and the ops that it passes."""

    carry_back: Callable[[Tensor], Tensor]
    steps: Sequence[Step]


@dataclass(frozen=True)
class _Kept:
    """A mirror without its values, and where to find them in another pass of the same graph.

    Attributes:
        mirror: Takes the values as arguments.
        places: Of each value: the place of its node in the graph, and whether a rule recorded it.
        weights: By name in the graph, the tensors of the model that the mirror holds.
    """

    mirror: PreparedMirror
    places: list[tuple[int, bool]]
    weights: dict[str, Tensor]

    def way(self, captured: Capture) -> Way | None:
        """The way back in another pass; None if that ran on other tensors of the model."""
        if any(captured.constants.get(name) is not one for name, one in self.weights.items()):
            return None
        nodes = list(captured.graph.nodes)
        held = [
            (captured.recorded if recorded else captured.kept)[nodes[place]]
            for place, recorded in self.places
        ]
        return Way(self.mirror.bound(held), self.mirror.steps)


class Mirrors:
    """The mirrors of one sonifier; those that were not used for longest are dropped.

    A copy of it, or what is unpickled, is empty: it would hold the weights of another model.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], _Kept | None] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Mirrors], tuple[()]]:
        return Mirrors, ()

    def way_back(self, captured: Capture) -> Way:
        """The way back from the map of a forward pass.

        Args:
            captured: The forward pass.

        Raises:
            PathError: As `deconv1d.mirror.mirror`.
        """
        key = exact_key(captured)
        with self._lock:
            known, kept = key in self._kept, self._kept.get(key)
        if kept is not None and (way := kept.way(captured)) is not None:
            self._remember(key, kept)
            return way
        deconvnet = mirror(captured, rules=captured.rules, method=captured.method)
        if not known:  # most are asked for once: what is kept for later costs one more compilation
            self._remember(key, None)
            return Way(deconvnet, deconvnet.steps)
        prepared = PreparedMirror(deconvnet)
        places = {node: place for place, node in enumerate(captured.graph.nodes)}
        kept = _Kept(
            prepared,
            [
                (places[want.node], True) if isinstance(want, Recorded) else (places[want], False)
                for want in prepared.wanted
            ],
            dict(_weights(captured, prepared)),
        )
        self._remember(key, kept)
        return Way(deconvnet, deconvnet.steps)

    def _remember(self, key: tuple[Any, ...], kept: _Kept | None) -> None:
        with self._lock:
            self._kept[key] = kept
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)


def _weights(captured: Capture, prepared: PreparedMirror) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the graph that a mirror holds, by their names in the graph."""
    held = {id(tensor) for tensor in prepared.weights}
    return ((name, t) for name, t in captured.constants.items() if id(t) in held)


def exact_key(captured: Capture) -> tuple[Any, ...]:
    """What a mirror follows from: passes with equal keys have one mirror, but for its values.

    Unlike `deconv1d.record.structure` it has all numbers: sizes, strides and factors stand in the
    mirror's code.

    Args:
        captured: A forward pass.
    """
    places: dict[Node, int] = {}
    lines: list[Any] = [captured.method]
    for place, node in enumerate(captured.graph.nodes):
        places[node] = place
        facts = [
            (name, _exact(fact, places))
            for name, fact in node.meta.items()
            if name != "source" and isinstance(fact, SIMPLE)
        ]
        values = (node in captured.kept, node in captured.recorded)
        lines.append((node.target, _exact((node.args, node.kwargs), places), *facts, *values))
        if node is captured.tap:
            break
    return tuple(lines)


def _exact(argument: Any, places: dict[Node, int]) -> Any:
    """An argument with its nodes as their places, so that arguments of two graphs compare."""
    if isinstance(argument, Node):
        return ("%", places.get(argument))
    if isinstance(argument, (list, tuple)):
        return tuple(_exact(part, places) for part in argument)
    if isinstance(argument, dict):
        return tuple((name, _exact(part, places)) for name, part in argument.items())
    if isinstance(argument, slice):
        ends = (argument.start, argument.stop, argument.step)
        return ("slice", *(_exact(end, places) for end in ends))
    if isinstance(argument, (float, complex)):
        return repr(argument)  # tells nan from nan by no more than its text, and 0.0 from -0.0
    return (type(argument), argument)
