"""The mirrored deconvnet: one walk back over the captured graph writes it, rule by rule."""

from __future__ import annotations

import linecache
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import getitem
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx import graph_module as fx_graph_module

from deconv1d.errors import InputError, PathError
from deconv1d.rules import adjoints
from deconv1d.rules.op import Op
from deconv1d.rules.table import RULES, Rule, Rules, rule_for

if TYPE_CHECKING:
    from deconv1d.record.capture import Capture


@dataclass(frozen=True)
class Held:
    """Where a buffer of a mirror comes from: a value of one forward pass.

    Attributes:
        node: The op's node.
        recorded: Whether it is what the op's rule recorded, rather than the op's own output.
    """

    node: Node
    recorded: bool


@dataclass(frozen=True)
class Step:
    """One op on the way from the map back to the waveform, and its rule."""

    op: Op
    rule: Rule


class Generated(GraphModule):
    """A module written op by op, whose source text is forgotten with it."""

    def recompile(self) -> Any:
        """Compiles the graph; its source text is forgotten with the module.

        torch.fx keeps the source of all modules that it ever compiled, for tracebacks. Here every
        sonification compiles one, so that would grow for as long as the process lives.
        """
        code = super().recompile()
        source = type(self).forward.__code__.co_filename
        weakref.finalize(self, _forget, source).atexit = False
        return code


class Deconvnet(Generated):
    """Carries a seed at one layer's map back to the waveform.

    Call it with a seed shaped like the map, or with any number of them along a leading axis; it
    returns the raw sonification, shaped like the waveform (with that leading axis). Its parameters
    are the model's own objects; switches and held values of one forward pass are its buffers.

    Attributes:
        steps: Each op that the signal passes, from the map to the waveform.
        map_shape: Shape of the map, (batch, channels, time) as a rule.
        map_dtype: Its dtype, which is the seed's too.
        names: What each attribute is in the model's own words: "weight_3" -> "conv1.weight", and
            the op's name for a recorded or kept value. Names in the code are a counter's alone.
        held: Its buffers by name, with their origin: what another forward pass would change.
        vectorized: Whether several seeds run as one; with an op that the table does not know they
            run one by one (not every derivative of torch's survives `vmap`).
    """

    steps: tuple[Step, ...]
    map_shape: tuple[int, ...]
    map_dtype: torch.dtype
    names: dict[str, str]
    held: dict[str, Held]
    vectorized: bool

    def __call__(self, seed: Tensor) -> Tensor:
        """Runs the mirror.

        Args:
            seed: The map's shape, or (seeds, *map_shape); on any device, which is the result's.

        Raises:
            InputError: If the seed has another shape or dtype.
        """
        own = next(chain(self.parameters(), self.buffers()), seed).device
        return carry_seeds(super().__call__, seed.to(own), self).to(seed.device)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        raise InputError(
            "A deconvnet cannot be moved or cast (.to, .half, .double): its parameters are the "
            "model's own, so this would convert the model. Convert the model or the input instead "
            "and sonify again, or give Sonifier(model, dtype=...)."
        )


def _forget(source: str) -> None:
    """Drops a compiled graph's text from where torch.fx and Python's tracebacks keep it."""
    fx_graph_module._loader.eval_cache.pop(source, None)
    linecache.cache.pop(source, None)


class Fit(Protocol):
    """What a mirror says of the seeds that it takes; see `Deconvnet`."""

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Shape of the map."""

    @property
    def map_dtype(self) -> torch.dtype:
        """Its dtype."""

    @property
    def vectorized(self) -> bool:
        """Whether several seeds run as one."""


def carry_seeds(run: Callable[[Tensor], Tensor], seed: Tensor, mirror: Fit) -> Tensor:
    """Carries one seed back, or several along a leading axis.

    Args:
        run: Carries one seed.
        seed: The map's shape, or (seeds, *map_shape).
        mirror: Which map and dtype the seeds must fit, and whether several run as one.

    Raises:
        InputError: If the seed has another shape or dtype.
    """
    shape = tuple(seed.shape)
    if seed.dtype != mirror.map_dtype:
        raise InputError(
            f"The seed does not fit the map: expected {mirror.map_dtype}, got {seed.dtype}. "
            f"Give seed.to({mirror.map_dtype})."
        )
    if mirror.map_shape not in (shape, shape[1:]):
        raise InputError(
            f"The seed does not fit the map: expected shape {mirror.map_shape} or "
            f"(seeds, {', '.join(map(str, mirror.map_shape))}), got {shape}. "
            f"Give a value for each element of the map."
        )
    with quiet(seed.device):
        if shape == mirror.map_shape:
            return run(seed)
        if mirror.vectorized:
            return torch.func.vmap(run, randomness="same")(seed)
        return torch.stack([run(one) for one in seed])


def quiet(device: torch.device) -> AbstractContextManager[object]:
    """No gradients, no inference tensors (autograd cannot save them), no autocast."""
    if torch.is_inference_mode_enabled() or torch.is_autocast_enabled(device.type):
        return _all_off(device)
    return torch.no_grad()  # the others are off: to turn them off takes a tenth of a small mirror


@contextmanager
def _all_off(device: torch.device) -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def mirror(captured: Capture, *, rules: Rules = RULES, method: str = "deconvnet") -> Deconvnet:
    """Builds the deconvnet of a captured map.

    Args:
        captured: A forward pass recorded up to the map, for the same rules and method.
        rules: The op table.
        method: "deconvnet", "guided" or "gradient".

    Raises:
        PathError: If no signal gets back to the waveform.

    Source: Zeiler & Fergus 2014; paper, section 3.2 and figure B.2.
    """
    assert captured.tap is not None
    writer = _Writer(captured)
    signals: dict[Node, Any] = {captured.tap: writer.graph.placeholder("seed")}
    steps = []
    # Last op first: when an op's turn comes, all ops that use its value have been carried back, so
    # that its signal is complete.
    for node in reversed(captured.graph.nodes):
        signal = signals.get(node)
        if signal is None or node is captured.x:
            continue
        if node.target is getitem:
            # An op with several outputs is carried back once, with the list of their signals. An
            # output that the map does not depend on has None there.
            call, number = node.args
            outputs = signals.setdefault(call, [])
            outputs.extend([None] * (number + 1 - len(outputs)))
            outputs[number] = signal
            continue
        step = Step(op := Op.of(node), rule := rule_for(rules, op, method))
        steps.append(step)
        for source, part in rule.carry_back(op, signal, writer.at(step)):
            # A value that is used twice gets the sum of what its users carry back: the transpose
            # of copying it.
            before = signals.get(source)
            signals[source] = part if before is None else writer(torch.add, before, part)
    if captured.x not in signals:
        raise PathError(_blocked(captured, steps))
    deconvnet = writer.finish(signals[captured.x])
    about = captured.tap.meta
    deconvnet.map_shape, deconvnet.map_dtype = about["shape"], about["dtype"]
    deconvnet.steps = tuple(steps)
    deconvnet.vectorized = all(step.rule.batched for step in steps)
    return deconvnet


def _blocked(captured: Capture, steps: list[Step]) -> str:
    assert captured.tap is not None
    where = captured.tap.meta
    last = steps[-1].op.node.meta if steps else where
    return (
        f"No signal gets from {where['name']!r} back to the waveform: expected a path of ops that "
        f"carry it, got none past {last['name']!r} ({last['source']}). "
        f"Choose a layer before that; sonifier.layers(x) lists them."
    )


class _Writer:
    """What the rules write with; see `deconv1d.rules.table.Emit`.

    The graph becomes Python source, so every attribute is named by a counter: names of modules may
    be keywords, hold quotes or line ends, or be whole expressions. For `Sequential(Conv1d(...),
    ReLU(), MaxPool1d(2))` the mirror of the pool's map reads

        switches_0 = self.switches_0                  # where each maximum was
        unpool = deconv1d_rules_adjoints_unpool(seed, switches_0, 2, 0, 1, 96)
        relu = torch.relu_(unpool)
        weight_1 = self.weight_1                      # Deconvnet.names: {"weight_1": "0.weight"}
        conv_transpose = deconv1d_rules_adjoints_conv_transpose(relu, weight_1, ...)
    """

    def __init__(self, captured: Capture) -> None:
        self.graph = Graph()
        self._captured = captured
        self.held: dict[str, Held] = {}
        self._attributes: dict[str, Tensor] = {}
        self._names: dict[str, str] = {}
        self._named: dict[int, str] = {}
        self._values: dict[Node, Node] = {}
        self._step: Step | None = None

    def at(self, step: Step) -> _Writer:
        """The same writer, now at this step."""
        self._step = step
        return self

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        return self.graph.call_function(function, args, kwargs)

    def value(self, argument: Any) -> Any:
        return torch.fx.map_arg(argument, self._value)

    def recorded(self, op: Op) -> Node:
        kind = rule.kind if (rule := self._step and self._step.rule) else "held"
        word = "switches" if kind == "switch" else "held"
        return self._held(word, self._captured.recorded[op.node], Held(op.node, recorded=True))

    def _value(self, node: Node) -> Node:
        if node not in self._values:
            self._values[node] = self._forward(node)
        return self._values[node]

    def _forward(self, node: Node) -> Node:
        """Kept from the forward pass, or recomputed from the model's parameters."""
        if node in self._captured.kept:
            return self._held("kept", self._captured.kept[node], Held(node, recorded=False))
        if not node.meta["constant"]:
            raise InputError(
                f"The rule for {self._step.op.node.target if self._step else 'an op'} reads the "
                f"forward value of {node.meta['name']!r}, which was not kept. Name that input in "
                f"the rule's `keeps`."
            )
        if node.op == "get_attr":
            return self._attribute(
                "weight", self._captured.constants[str(node.target)], str(node.target)
            )
        args, kwargs = self.value(node.args), self.value(node.kwargs)
        return self.graph.create_node(node.op, node.target, args, kwargs)

    def _attribute(self, word: str, tensor: Tensor, name: str) -> Node:
        """A tensor of the mirror; what it is of in the model's own words goes into `names`."""
        if id(tensor) not in self._named:  # `_attributes` keeps it, so the id stays its own
            attribute = self._named[id(tensor)] = f"{word}_{len(self._attributes)}"
            self._attributes[attribute], self._names[attribute] = tensor, name
        return self.graph.get_attr(self._named[id(tensor)])

    def _held(self, word: str, tensor: Tensor, held: Held) -> Node:
        """A value of this forward pass, as a buffer."""
        attribute = self._attribute(word, tensor, held.node.meta.get("name", held.node.name))
        self.held[str(attribute.target)] = held
        return attribute

    def finish(self, raw: Node) -> Deconvnet:
        """The module that returns this node."""
        self.graph.output(raw)
        # Rules also write signals for values that do not lead to the waveform. These ops are
        # dropped, and with them the weights and switches that only they read.
        self.graph.eliminate_dead_code()
        rectify_in_place(self.graph, torch.relu, torch.relu_, FRESH.__contains__)
        deconvnet = Deconvnet(self._attributes, self.graph, class_name="Deconvnet")
        used = {str(node.target) for node in self.graph.nodes if node.op == "get_attr"}
        deconvnet.names = {
            attribute: name for attribute, name in self._names.items() if attribute in used
        }
        deconvnet.held = {
            attribute: held for attribute, held in self.held.items() if attribute in used
        }
        return deconvnet


FRESH = (
    adjoints.unpool,
    adjoints.unpool_pairs,
    adjoints.unpool_at,
    adjoints.conv_transpose,
)
"""What of a mirror's calls returns memory that nothing else holds."""


def rectify_in_place(
    graph: Graph, relu: Any, in_place: Any, makes_memory: Callable[[Any], bool]
) -> None:
    """Uses in-place relu where the input is a fresh tensor with no other user.

    This saves a pass over memory; and a fresh tensor, whose memory is new to the process, costs the
    time of a convolution in small networks. In place on anything else, relu could change the
    caller's seed, a weight or a buffer.

    Args:
        graph: In which calls are replaced.
        relu: The call.
        in_place: What replaces it.
        makes_memory: Whether a call always returns memory of its own.
    """
    for node in graph.find_nodes(op="call_function", target=relu):
        (source,) = node.all_input_nodes
        if makes_memory(source.target) and len(source.users) == 1:
            node.target = in_place
