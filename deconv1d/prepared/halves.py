"""The two generated halves of a prepared program: the forward pass and the mirror.

    waveform -> forward -> map, switches, held values
    seed, switches, held values -> mirror -> raw sonification

Both are `torch.fx` modules whose weights are the model's own parameters, so they follow an
optimiser step. What was recorded for one waveform must hold for all others of its shape; a model
for which that is not certain is refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, getitem
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from deconv1d.channels import chunk_of
from deconv1d.errors import ModelError
from deconv1d.layers.axes import Layout, layout_of
from deconv1d.mirror import Deconvnet, Generated, carry_seeds, mirror, quiet, rectify_in_place
from deconv1d.record.schema import is_random, makes_memory
from deconv1d.rules.op import Op, shape_of
from deconv1d.rules.table import packet, rule_for

if TYPE_CHECKING:
    from deconv1d.forward import ForwardPass
    from deconv1d.record.capture import Capture

aten = torch.ops.aten

# No rules: each is called as itself, by another name.
DIRECT: Mapping[Any, Callable[..., Any]] = {
    aten.batch_norm.default: torch.batch_norm,
    aten.convolution.default: torch.convolution,
    aten.max_pool1d.default: torch.max_pool1d,
}
"""The same ops by another entry of torch's, which reads lists of numbers in less time."""


@dataclass(frozen=True)
class Forward:
    """A generated forward pass.

    Attributes:
        module: Waveform -> a tuple of the wanted values, in their order.
    """

    module: Generated

    def __call__(self, x: Tensor) -> tuple[Any, ...]:
        """Runs it, without gradients."""
        with quiet(x.device):
            values: tuple[Any, ...] = self.module.forward(x)
            return values


@dataclass(frozen=True)
class Recorded:
    """What a rule records of an op (switches, a statistic), as a wanted value of a forward pass."""

    node: Node


@dataclass(frozen=True)
class Looked:
    """What is made of a value at once, as a wanted value; the value itself can then be let go."""

    node: Node
    look: Callable[[Tensor], Any]


Wanted = Node | Recorded | Looked


def generate_forward(captured: Capture, wanted: Sequence[Wanted]) -> Forward:
    """Writes the recorded forward pass as a module of its own.

    Args:
        captured: One forward pass.
        wanted: Which values it is to return.
    """
    graph, copies, written = Graph(), dict[Node, Node](), dict[Wanted, Node]()
    weights: dict[str, Tensor] = {}
    missing: dict[Node, list[Wanted]] = {}
    for want in wanted:
        missing.setdefault(_node_of(want), []).append(want)
    for node in captured.graph.nodes:
        if node.op == "get_attr":  # names in code come from a counter: the model's could be code
            copies[node] = graph.get_attr(name := f"weight_{len(weights)}")
            weights[name] = captured.constants[str(node.target)]
        else:
            copies[node] = _copy(graph, node, copies)
        for want in missing.pop(node, ()):
            written[want] = _write(graph, want, captured, copies)
        if not missing:
            break  # what ran after the last wanted value is not needed
    graph.output(tuple(written[want] for want in wanted))
    graph.eliminate_dead_code()
    rectify_in_place(graph, aten.relu.default, aten.relu_.default, makes_memory)
    for node in graph.nodes:
        node.target = DIRECT.get(node.target, node.target)
    return Forward(Generated(weights, graph, class_name="Forward"))


def _copy(graph: Graph, node: Node, copies: dict[Node, Node]) -> Node:
    """The same call in another graph, under a name that torch chooses."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), copies.__getitem__)
    return graph.create_node(node.op, node.target, args, kwargs)


def _node_of(want: Wanted) -> Node:
    return want if isinstance(want, Node) else want.node


def _write(graph: Graph, want: Wanted, captured: Capture, copies: dict[Node, Node]) -> Node:
    """Writes a wanted value, right after the op that it is of."""
    if isinstance(want, Recorded):
        return _write_record(graph, want.node, captured, copies)
    if isinstance(want, Looked):
        return graph.call_function(want.look, (copies[want.node],))
    return copies[want]


def _write_record(graph: Graph, node: Node, captured: Capture, copies: dict[Node, Node]) -> Node:
    """Writes a call of the rule's own `record`, which reads the op's inputs and its output."""
    op = Op.of(node)
    rule = rule_for(captured.rules, op, captured.method)
    sources = list(dict.fromkeys(node.all_input_nodes))

    # A rule asks for an input by its node; here inputs are arguments, in the order of `sources`.
    def record(output: Any, *inputs: Tensor) -> Tensor:
        assert rule.record is not None
        return rule.record(op, dict(zip(sources, inputs, strict=True)).__getitem__, output)

    return graph.call_function(record, (copies[node], *map(copies.__getitem__, sources)))


class PreparedMirror:
    """A mirror whose switches and held values are arguments, not buffers.

    Args:
        deconvnet: A mirror of one forward pass, from which it is made.
    """

    def __init__(self, deconvnet: Deconvnet) -> None:
        self.wanted: list[Wanted] = [
            Recorded(source.node) if source.recorded else source.node
            for source in deconvnet.held.values()
        ]
        self.steps = deconvnet.steps
        # Only these facts of the mirror: itself it holds the values of its forward pass.
        self.map_shape, self.map_dtype = deconvnet.map_shape, deconvnet.map_dtype
        self.vectorized = deconvnet.vectorized
        self._module = _with_arguments(deconvnet, list(deconvnet.held))

    @property
    def weights(self) -> list[Tensor]:
        """The model's own tensors that it holds."""
        return [*self._module.parameters(), *self._module.buffers()]

    def bound(self, held: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """The mirror of one forward pass, given what it recorded: seeds -> raw sonifications."""

        def run(seed: Tensor) -> Tensor:
            raw: Tensor = self._module.forward(seed, *held)
            return raw

        return lambda seed: carry_seeds(run, seed, self)


def _with_arguments(deconvnet: Deconvnet, names: Sequence[str]) -> Generated:
    """The mirror's graph with these buffers as further arguments after the seed."""
    graph, copies = Graph(), dict[Node, Node]()
    # The seed stays the first argument; the held values come after it, in the order of `names`.
    seed, *rest = deconvnet.graph.nodes
    copies[seed] = _copy(graph, seed, copies)
    arguments = {name: graph.placeholder(name) for name in names}
    for node in rest:
        is_argument = node.op == "get_attr" and node.target in arguments
        copies[node] = arguments[str(node.target)] if is_argument else _copy(graph, node, copies)
    used = [str(node.target) for node in graph.find_nodes(op="get_attr")]
    weights = {name: attrgetter(name)(deconvnet) for name in used}
    return Generated(weights, graph, class_name="Mirror")


@dataclass(frozen=True)
class Trace:
    """The two generated halves for one shape of waveforms.

    Attributes:
        layer: The layer's full name.
        layout: The axes of its map.
        chunk: How many channels to carry at a time.
        shape: In which the model took the waveform.
        like: An empty tensor of the dtype and on the device that it took.
        forward: Waveform -> map and held values.
        mirror: Seed and held values -> raw sonification.
    """

    layer: str
    layout: Layout
    chunk: int
    shape: tuple[int, ...]
    like: Tensor
    forward: Forward
    mirror: PreparedMirror

    def as_traced(self, given: Tensor) -> Tensor:
        """A waveform in the shape, dtype and device in which the model took it."""
        return given.reshape(self.shape).to(self.like)


def trace(
    forward_pass: ForwardPass, x: Any, layer: str, *, channel_axis: int | None = None, **words: str
) -> Trace:
    """Runs the model once on a waveform and writes both halves of a program for its shape.

    Args:
        forward_pass: How to run the model.
        x: As for `Sonifier.sonify`.
        layer: As for `Sonifier.sonify`.
        channel_axis: As for `Sonifier.sonify`.
        words: `tap` and `method`, as for `Sonifier.sonify`.

    Raises:
        ModelError: If another waveform of this shape may run otherwise.
        InputError, LayerError, PathError: As for `Sonifier.sonify`.
    """
    run = forward_pass.run_to(x, layer, **words)
    captured = run.captured
    assert captured.tap is not None
    prepared = PreparedMirror(mirror(captured, rules=captured.rules, method=captured.method))
    wanted = [captured.tap, *prepared.wanted]
    check_preparable(forward_pass.model, captured, wanted)
    return Trace(
        layer=run.layer,
        layout=layout_of(captured, captured.tap, channel_axis),
        chunk=chunk_of(captured),
        shape=shape_of(captured.x),
        like=captured.kept[captured.x].new_empty(0),
        forward=generate_forward(captured, wanted),
        mirror=prepared,
    )


# --- what may be prepared ------------------------------------------------------------------------


def check_preparable(model: nn.Module, captured: Capture, wanted: Sequence[Wanted]) -> None:
    """Raises ModelError unless what was recorded holds for every waveform of this shape.

    Args:
        model: The model.
        captured: The forward pass.
        wanted: Which values a program is to compute again.
    """
    reason = next(_reasons(model, captured, wanted), None)
    if reason is not None:
        raise ModelError(
            f"{type(model).__name__} cannot be prepared: expected a forward pass that is the same "
            f"for every waveform of one shape, but {reason}. Use sonify, which records each anew."
        )


def _reasons(model: nn.Module, captured: Capture, wanted: Sequence[Wanted]) -> Iterator[str]:
    scripts = [n for n, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    if scripts:
        yield f"{scripts[0] or 'the model'!r} is a script, whose decisions are not recorded"
    if captured.decides:
        yield "it looks at values of tensors, on which it may decide what to run"
    if captured.writes:
        yield f"it writes into {captured.writes[0]!r}, which outlives the call"
    # Only ops that a wanted value is computed from: random numbers elsewhere do no harm.
    for node in _needed(captured, wanted):
        if is_random(node) and packet(node) not in captured.rules:
            yield f"{node.meta['name']!r} draws random numbers ({node.meta['source']})"


def _needed(captured: Capture, wanted: Sequence[Wanted]) -> Iterator[Node]:
    """Every node that the wanted values are computed from, last first."""
    needed = {_node_of(want) for want in wanted}
    for node in reversed(captured.graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
            yield node.args[0] if node.target is getitem else node
