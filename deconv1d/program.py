"""Prepared programs: a model is traced once, then run on many waveforms without tracing again.

A plain `sonify` records every op of the forward pass, writes the mirror and compiles it, on each
call. For small networks that costs several times what the arithmetic costs. A program does it once:

    waveform -> forward (generated) -> map, switches, held values
    seed, switches, held values -> mirror (generated) -> raw sonification

Both halves are `torch.fx` modules whose weights are the model's own parameters, so a program
follows an optimiser step. What was recorded for one waveform must hold for all others of its shape;
a model for which that is not certain is refused, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter, getitem
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from deconv1d.channels import chunk_of
from deconv1d.errors import InputError, ModelError, check_word
from deconv1d.layers.axes import Layout, layout_of
from deconv1d.layers.maps import check_finite
from deconv1d.mirror import Deconvnet, Generated, carry_seeds, mirror, quiet
from deconv1d.record.capture import Capture
from deconv1d.record.schema import is_random
from deconv1d.record.waveform import Waveform, as_waveform
from deconv1d.rules.op import Op, shape_of
from deconv1d.rules.table import packet, rule_for
from deconv1d.seeds import SEEDS, Seed
from deconv1d.sonification import Sonification
from deconv1d.sounding import ReachedMap, sonify_map

if TYPE_CHECKING:
    from deconv1d.forward import ForwardPass
    from deconv1d.sonify import Sonifier


@dataclass(frozen=True)
class Forward:
    """A generated forward pass.

    Attributes:
        module: Waveform -> a tuple of the wanted values, in their order.
    """

    module: Generated

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Runs it, without gradients."""
        with quiet(x.device):
            values: tuple[Tensor, ...] = self.module(x)
            return values


@dataclass(frozen=True)
class Recorded:
    """What a rule records of an op (switches, a statistic), as a wanted value of a forward pass."""

    node: Node


Wanted = Node | Recorded


def generate_forward(captured: Capture, wanted: Sequence[Wanted]) -> Forward:
    """Writes the recorded forward pass as a module of its own.

    Args:
        captured: One forward pass.
        wanted: Which values it is to return.
    """
    graph, copies = Graph(), dict[Node, Node]()
    recorded = {want.node for want in wanted if isinstance(want, Recorded)}
    records: dict[Node, Node] = {}
    weights: dict[str, Tensor] = {}
    missing = set(map(_node_of, wanted))
    for node in captured.graph.nodes:
        if node.op == "get_attr":  # names in code come from a counter: the model's could be code
            copies[node] = graph.get_attr(name := f"weight_{len(weights)}")
            weights[name] = captured.constants[str(node.target)]
        else:
            copies[node] = _copy(graph, node, copies)
        if node in recorded:
            records[node] = _write_record(graph, node, captured, copies)
        missing.discard(node)
        if not missing:
            break  # what ran after the last wanted value is not needed
    graph.output(
        tuple(records[want.node] if isinstance(want, Recorded) else copies[want] for want in wanted)
    )
    graph.eliminate_dead_code()
    return Forward(Generated(weights, graph, class_name="Forward"))


def _copy(graph: Graph, node: Node, copies: dict[Node, Node]) -> Node:
    """The same call in another graph, under a name that torch chooses."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), copies.__getitem__)
    return graph.create_node(node.op, node.target, args, kwargs)


def _node_of(want: Wanted) -> Node:
    return want.node if isinstance(want, Recorded) else want


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
        self.steps, self._like = deconvnet.steps, deconvnet
        self._module = _with_arguments(deconvnet, list(deconvnet.held))

    def bound(self, held: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """The mirror of one forward pass, given what it recorded: seeds -> raw sonifications."""

        def run(seed: Tensor) -> Tensor:
            raw: Tensor = self._module(seed, *held)
            return raw

        return lambda seed: carry_seeds(run, seed, self._like)


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


class Program:
    """Sonifies waveforms of one shape; made by `Sonifier.prepare`.

    Args:
        sonifier: Whose model, rate and options it uses.
        forward_pass: How the sonifier runs its model.
        x: As for `Sonifier.prepare`, as are the rest.
        layer: See there.
        tap: See there.
        seed: See there.
        method: See there.
        channel_axis: See there.
        verify: See there.
    """

    def __init__(
        self,
        sonifier: Sonifier,
        forward_pass: ForwardPass,
        x: Any,
        *,
        layer: str,
        tap: str,
        seed: Seed,
        method: str,
        channel_axis: int | None,
        verify: bool,
    ) -> None:
        if not callable(seed):
            check_word("seed", seed, SEEDS)
        self._sonifier, self._forward_pass, self._verify = sonifier, forward_pass, verify
        self._options: dict[str, Any] = {
            "layer": layer,
            "tap": tap,
            "method": method,
        }
        self._seed, self._channel_axis = seed, channel_axis
        self._structure = Structure(sonifier.model)
        self._traces: dict[torch.Size, Trace] = {}
        self._given = as_waveform(x).given
        self._traced(as_waveform(x))

    def __call__(self, x: Any, *, channel: Any = "most_active") -> Sonification:
        """The sonification of a waveform, as `Sonifier.sonify` gives it.

        Args:
            x: Of the shape, dtype and device that the program was prepared for; with another number
                of examples, the model is traced once more.
            channel: As for `Sonifier.sonify`.

        Raises:
            InputError: If the waveform does not fit.
            ModelError: If the model was changed in structure since, or, with `verify`, if the
                result differs from `sonify`'s.
            ChannelError: As for `Sonifier.sonify`.
        """
        waveform = as_waveform(x)
        self._check(waveform.given)
        traced = self._traced(waveform)
        activation, *held = traced.forward(traced.as_traced(waveform.given))
        check_finite(activation, traced.layer)
        reached = ReachedMap(
            layer=traced.layer,
            tap=self._options["tap"],
            waveform=waveform,
            activation=activation,
            layout=traced.layout,
            carry_back=traced.mirror.bound(held),
            steps=traced.mirror.steps,
            chunk=traced.chunk,
        )
        sonification = sonify_map(
            reached,
            channel=channel,
            seed=self._seed,
            sample_rate=self._sonifier.sample_rate,
        )
        sonification = replace(sonification, method=self._options["method"])
        if self._verify:
            self._compare(sonification, x, channel)
        return sonification

    def _traced(self, waveform: Waveform) -> Trace:
        """What was traced for this number of examples; traced now if it is new."""
        shape = waveform.given.shape
        # One trace for each number of examples: reshapes in a graph may hold it as a number.
        if shape not in self._traces:
            self._traces[shape] = trace(
                self._forward_pass, waveform.given, channel_axis=self._channel_axis, **self._options
            )
        return self._traces[shape]

    def _check(self, x: Tensor) -> None:
        """Raises unless the waveform fits and the model is the one that was traced."""
        then = self._given
        batch = int(then.dim() > 1)  # how many leading axes may differ in length
        facts: tuple[tuple[str, Any, Any], ...] = (
            ("number of axes", then.dim(), x.dim()),
            ("shape after the batch", tuple(then.shape[batch:]), tuple(x.shape[batch:])),
            ("dtype", then.dtype, x.dtype),
            ("device", then.device, x.device),
        )
        for what, expected, got in facts:
            if expected != got:
                raise InputError(
                    f"The waveform does not fit this program: expected the {what} it was prepared "
                    f"for, {expected}, got {got}. Convert the waveform, or prepare another program."
                )
        if (change := self._structure.change(self._sonifier.model)) is not None:
            raise ModelError(
                f"The model is not the one that this program was prepared for: expected the same "
                f"structure, but {change}. Prepare it again."
            )

    def _compare(self, sonification: Sonification, x: Any, channel: Any) -> None:
        plain = self._sonifier.sonify(
            x,
            channel=channel,
            seed=self._seed,
            channel_axis=self._channel_axis,
            **self._options,
        )
        difference = float((plain.raw - sonification.raw).abs().max())
        bound = 1e-4 * float(plain.raw.abs().max())
        if difference > bound:
            raise ModelError(
                f"The program of layer {sonification.layer!r} does not give what sonify gives: "
                f"expected a difference of at most {bound:.2g}, got {difference:.2g}. Use sonify "
                f"for this model."
            )


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


class Structure:
    """How a model was built when it was traced: modules, their modes, their parameters' identity.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        # The objects themselves are kept: an identity alone could be given to another object.
        self._modules = list(model.named_modules())
        self._training = [_mode(module) for _, module in self._modules]
        self._tensors = _tensors_of(model)

    def change(self, model: nn.Module) -> str | None:
        """What differs from the model as it is now; None: nothing."""
        now = list(model.named_modules())
        if len(now) != len(self._modules):
            return f"it had {len(self._modules)} modules and has {len(now)}"
        for (name, then), training, (_, module) in zip(
            self._modules, self._training, now, strict=True
        ):
            if module is not then:
                return f"module {name!r} was replaced"
            if _mode(module) != training:
                mode = "train" if _mode(module) else "eval"
                return f"module {name!r} was put into {mode} mode"
        tensors = _tensors_of(model)
        if tensors.keys() != self._tensors.keys():
            return f"its tensors differ in {min(tensors.keys() ^ self._tensors.keys())!r}"
        # Identity and shape, not values: an optimiser changes values in place, and a program uses
        # the parameters as they are when it is called.
        for name, tensor in tensors.items():
            if tensor is not self._tensors[name] or tensor.shape != self._tensors[name].shape:
                return f"tensor {name!r} was replaced"
        return None


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _mode(module: nn.Module) -> bool:
    return bool(getattr(module, "training", False))  # frozen scripts have no such attribute
