"""The op table: how each op carries a signal from its output back to its inputs.

`RULES` is the support matrix of this library. To support an op, add one entry here and one case in
`tests/cases.py`. An op without an entry carries its exact vector-Jacobian product and is *flagged*.

| kind     | the signal is carried by                                    | law                     |
|----------|-------------------------------------------------------------|-------------------------|
| adjoint  | the linear part's transpose, weights tied, bias dropped     | <A x, y> = <x, A' y>    |
| switch   | the places that the forward pass chose                      | adjoint at the switches |
| rectify  | relu(signal); "guided": also where the input was positive   | relu(signal)            |
| hold     | the op with a recorded value (statistic, gate) as constant  | linear in the signal    |
| pass     | nothing: the signal is unchanged                            | identity                |
| gradient | the vector-Jacobian product at the recorded input, flagged  | equals autograd         |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import e, inf, log
from operator import getitem
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from deconv1d.errors import PathError
from deconv1d.rules import adjoints, channel_axis, memory, patterns, reach, recurrent, views
from deconv1d.rules.channel_axis import ChannelAxis
from deconv1d.rules.gates import held_factor, held_term, held_values, is_gate
from deconv1d.rules.op import Op, depends_on_input, shape_of
from deconv1d.rules.reach import Reader, from_end, permutation, pointwise
from deconv1d.rules.views import PutBack

aten = torch.ops.aten

Kind = Literal["adjoint", "switch", "rectify", "hold", "pass", "gradient"]
LAWS: Mapping[Kind, str] = {
    "adjoint": "<Ax, y> = <x, A'y>",
    "switch": "adjoint at the switches",
    "rectify": "relu(signal)",
    "hold": "linear in the signal",
    "pass": "identity",
    "gradient": "equals autograd",
}
Method = Literal["deconvnet", "guided", "gradient"]
METHODS: tuple[Method, ...] = get_args(Method)

Signals = Iterator[tuple[Node, Node]]
Values = Callable[[Any], Any]


class Emit(Protocol):
    """What a rule writes its part of the mirror with."""

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        """Appends a call and returns its node."""

    def value(self, argument: Any) -> Any:
        """A forward value: recomputed from the parameters, or kept from the forward pass.

        Raises:
            InputError: If it is neither: it depends on the waveform and `Rule.keeps` does not name
                it.
        """

    def recorded(self, op: Op) -> Node:
        """What the rule's `record` returned during the forward pass."""


def _nothing(op: Op) -> Iterable[Node]:
    return ()


@dataclass(frozen=True)
class Rule:
    """How one op carries a signal back, and every other fact about it that the library needs.

    Attributes:
        kind: See this module's table.
        carry_back: `carry_back(op, signal, emit)` yields (input node, its signal). For an op with
            several outputs `signal` is a list, None where an output has no signal.
        reach: `reach(op, axis)`, for an axis of the input: which of its values one value of the
            output reads, and which axis of the output it becomes. It is called for the time axis,
            and to follow the batch and channel axes.
        keeps: Inputs that depend on the waveform and whose forward values `carry_back` reads. All
            other values that it may read follow from the model's parameters.
        holds: Inputs that depend on the waveform and get no signal on purpose (a gate, a slope,
            what is overwritten). Every other such input gets one; a test checks all rules.
        record: `record(op, value, output)` -> a tensor to remember; `value(node)` gives inputs.
        block: Whether a layer's block goes on through this op (normalisation, activation,
            max-pooling, pass).
        channels: The axis on which the op counts channels of its own making; None: it makes none,
            and leaves its input's channels where `reach` puts their axis.
        gate: Whether its value is held where it multiplies another value that carries the signal.
        bounded: Whether its values lie between two numbers, as a tanh's do. In a product of two
            values that depend on the waveform, the bounded one is held if the other is neither
            bounded nor a gate.
        detached: Whether autograd carries nothing through it. In a sum with a value that depends on
            the waveform and is not detached, it is held.
        reshapes: Whether it gives its first input's values in another shape, and no more: a gate
            seen through it is still a gate.
        singular: Whether the op's derivative may be infinite; 0 takes its place there.
        batched: Whether several signals can be carried at once, under `torch.func.vmap`.
        put_back: For an op that returns a view: how a write into the view becomes a new value of
            the tensor that it was cut from (see `deconv1d.rules.views`).
        guided: `carry_back` of guided backpropagation, where a rectifier has one of its own.
        source: Where the rule comes from, and departures.
    """

    kind: Kind
    carry_back: Callable[[Op, Any, Emit], Signals]
    reach: Reader = pointwise
    keeps: Callable[[Op], Iterable[Node]] = _nothing
    holds: Callable[[Op], Iterable[Node]] = _nothing
    record: Callable[[Op, Callable[[Any], Any], Any], Tensor] | None = None
    block: bool = False
    channels: ChannelAxis | None = None
    gate: bool = False
    bounded: bool = False
    detached: bool = False
    reshapes: bool = False
    batched: bool = True
    singular: bool = False
    put_back: PutBack | None = None
    guided: Callable[[Op, Any, Emit], Signals] | None = None
    source: str = ""

    @property
    def affine(self) -> bool:
        """Whether each value of one live input is scaled and shifted by constants, and no more."""
        return self.kind == "adjoint" and self.reach is pointwise

    @property
    def flagged(self) -> bool:
        """Whether nothing better than the op's gradient is known."""
        return self.kind == "gradient"


Entry = Rule | Callable[[Op], Rule]
Rules = Mapping[Any, Entry]


def packet(argument: Any) -> Any:
    """The op of a node, whichever its overload: aten.add for aten.add.Tensor."""
    target = argument.target if isinstance(argument, Node) else None
    return getattr(target, "overloadpacket", target)


def rule_for(rules: Rules, op: Op, method: str = "deconvnet") -> Rule:
    """The rule of one recorded op under "deconvnet", "guided", "gradient" or "forward"."""
    entry = rules.get(packet(op.node), GRADIENT)
    rule = entry if isinstance(entry, Rule) else entry(op)
    # Maps are wanted and nothing is carried back: no input is kept, no switch recorded.
    if method == "forward":
        return replace(rule, keeps=_nothing, record=None)
    if method == "gradient" and rule.kind == "rectify" and rule.record is not None:
        return replace(rule, carry_back=_by_slopes)
    # Adjoints and switches are already what autograd does; these three kinds depart from it.
    if method == "gradient" and rule.kind in ("rectify", "hold", "pass"):
        back = _pull_back_safely if rule.singular else _pull_back
        return replace(rule, carry_back=back, keeps=_dependent, holds=_nothing, record=None)
    # Guided backpropagation reads the forward input's sign, so that input is kept.
    if method == "guided" and rule.kind == "rectify":
        return replace(rule, carry_back=rule.guided or _rectify_guided, keeps=_dependent)
    return rule


# --- gradient, and linear ops whose transpose autograd knows ------------------------------------


def _dependent(op: Op) -> Iterable[Node]:
    return op.dependent


def _pull_back(op: Op, signal: Any, emit: Emit) -> Signals:
    yield from _differentiate(op, signal, emit, op.dependent, emit.value)


def _pull_back_safely(op: Op, signal: Any, emit: Emit) -> Signals:
    """The same with 0, a subgradient, in the place of an infinite derivative, as autograd has it.

    sqrt(x.pow(2).sum(-1)), the magnitude of a digital silence, would carry infinity times zero.
    Autograd takes 0 there for `abs` and `norm`, but not where a model writes them by hand.
    """
    yield from _differentiate(op, signal, emit, op.dependent, emit.value, singular=True)


def _transpose(op: Op, signal: Any, emit: Emit) -> Signals:
    yield from _transpose_by(op, signal, emit, op.dependent)


def _transpose_held(op: Op, signal: Any, emit: Emit) -> Signals:
    held = held_factor(op)
    yield from _transpose_by(op, signal, emit, [x for x in op.dependent if x is not held])


def _transpose_by(op: Op, signal: Any, emit: Emit, live: list[Node]) -> Signals:
    """The derivative of a linear op does not depend on its input: take it at zero."""
    like = signal if isinstance(signal, Node) else next(s for s in signal if s is not None)

    def zeros(argument: Any) -> Any:
        if isinstance(argument, Node) and argument in live:
            return emit(adjoints.blank, like, shape_of(argument), argument.meta["dtype"])
        return emit.value(argument)

    yield from _differentiate(op, signal, emit, live, zeros)


def _differentiate(
    op: Op,
    signal: Any,
    emit: Emit,
    live: list[Node],
    value: Callable[[Any], Any],
    singular: bool = False,
) -> Signals:
    # A tensor may be given twice, as in x * x: each place has a signal, and the walk adds them up.
    flat, structure = pytree.tree_flatten((tuple(op.node.args), dict(op.node.kwargs)))
    # Nodes alone are compared: not all that an op is given can be, such as packed weights.
    places = [
        n for n, argument in enumerate(flat) if isinstance(argument, Node) and argument in live
    ]
    if any(isinstance(argument, torch.ScriptObject) for argument in flat):
        raise PathError(
            f"The signal cannot be carried back through {op.node.meta['name']!r} "
            f"({op.node.meta['source']}): expected weights that are tensors, got packed ones, as "
            f"of a quantised layer, which has no derivative. Give the model before quantisation."
        )
    args, kwargs = pytree.tree_unflatten([value(argument) for argument in flat], structure)
    pulled = emit(adjoints.pull_back(_function(op), places, singular), signal, args, kwargs)
    for number, place in enumerate(places):
        yield flat[place], emit(getitem, pulled, number)


def _function(op: Op) -> Callable[..., Any]:
    assert callable(op.node.target)
    return DIFFERENTIABLE.get(op.node.target, op.node.target)


DIFFERENTIABLE: Mapping[Any, Callable[..., Any]] = {
    aten._embedding_bag_forward_only.default: aten._embedding_bag.default
}
"""The op with a derivative, for one that torch calls in its place where none is wanted."""


def _gradient(reach: Reader = reach.unknown, *, singular: bool = False, **facts: Any) -> Rule:
    back = _pull_back_safely if singular else _pull_back
    return Rule("gradient", back, reach, keeps=_dependent, singular=singular, **facts)


def _linear(reach: Reader = reach.pointwise, **facts: Any) -> Rule:
    return Rule("adjoint", _transpose, reach, **facts)


# Not every derivative of torch's can be run under `vmap`, so unknown ops run signal by signal.
GRADIENT = _gradient(batched=False, singular=True)
"""Every op without an entry."""

# --- adjoint ------------------------------------------------------------------------------------


def _convolve_back(op: Op, signal: Node, emit: Emit) -> Signals:
    weight, size = op["weight"], shape_of(op["input"])[2:]
    # One number may stand for all axes: Conv2d(padding="valid") gives [0].
    each = [
        [*op[name]] * (len(size) // len(op[name])) for name in ("stride", "padding", "dilation")
    ]
    back: Callable[..., Tensor] = adjoints.conv_of_transpose
    end = [*size]
    if not op["transposed"]:
        axes = zip(size, shape_of(weight)[2:], *each, strict=True)
        back = adjoints.conv_transpose
        end = [(n + 2 * p - d * (k - 1) - 1) % s for n, k, s, p, d in axes]
    yield op["input"], emit(back, signal, emit.value(weight), *each, op["groups"], end)


def _convolution(op: Op) -> Rule:
    """A live weight shares the signal with a live input; a live bias is one more term of a sum."""
    if depends_on_input(op["weight"]):
        return _with_live_weight(op, channel_axis.first)
    if depends_on_input(op["bias"]):
        return _linear(reach.everywhere, channels=channel_axis.first)
    # torch's transposed convolution does not conjugate a complex weight; its derivative does.
    if op["weight"].meta["dtype"].is_complex:
        return _linear(reach.windowed, channels=channel_axis.first)
    return CONVOLUTION


CONVOLUTION = Rule(
    "adjoint",
    _convolve_back,
    reach.windowed,
    channels=channel_axis.first,
    source="Zeiler & Fergus 2014; paper, section 3.2 (3 iii)",
)


def _linear_layer_back(op: Op, signal: Node, emit: Emit) -> Signals:
    yield op["input"], emit(torch.matmul, signal, emit.value(op["weight"]))


def _with_live_weight(op: Op, channels: ChannelAxis) -> Rule:
    linear = _linear(reach.everywhere, channels=channels)
    if not depends_on_input(op["input"]):
        return linear
    if depends_on_input(op["bias"]):  # a term of the sum, which shares nothing
        return _gradient(reach.everywhere, channels=channels)
    return _shared(linear)


def _linear_layer(op: Op) -> Rule:
    if depends_on_input(op["weight"]):
        return _with_live_weight(op, channel_axis.last)
    if depends_on_input(op["bias"]):
        return _linear(reach.everywhere, channels=channel_axis.last)
    if op["weight"].meta["dtype"].is_complex:
        return _linear(reach.linear, channels=channel_axis.last)
    return LINEAR_LAYER


LINEAR_LAYER = Rule("adjoint", _linear_layer_back, reach.linear, channels=channel_axis.last)


def _reshape_back(op: Op, signal: Node, emit: Emit) -> Signals:
    yield op["self"], emit(torch.reshape, signal, shape_of(op["self"]))


def _no_bits(op: Op, signal: Node, emit: Emit) -> Signals:
    raise PathError(
        f"The signal cannot be carried through {op.node.meta['name']!r} "
        f"({op.node.meta['source']}): expected a view of the same dtype, got the bits of "
        f"{op['self'].meta['dtype']} read as {op['dtype']}, which has no derivative. Use "
        f"torch.view_as_complex, torch.view_as_real or .to(dtype), or choose a layer before that."
    )
    yield


def _view(op: Op) -> Rule:
    """A view in another shape; view(dtype), which reads the bits anew, cannot be carried."""
    return _reshaped(reach.reshaped) if "dtype" not in op.arguments else BITS


def _reshaped(reach: Reader) -> Rule:
    return Rule("adjoint", _reshape_back, reach, reshapes=True, put_back=views.reshape_back)


def _permute_back(op: Op, signal: Node, emit: Emit) -> Signals:
    order = permutation(op)
    yield op["self"], emit(torch.permute, signal, [order.index(axis) for axis in range(len(order))])


BITS = Rule("gradient", _no_bits, reach.everywhere)
PERMUTE = Rule("adjoint", _permute_back, reach.permuted, reshapes=True, put_back=views.permute_back)


def _concatenate_back(op: Op, signal: Node, emit: Emit) -> Signals:
    # Parts that are constant carry nothing, but take up their length of the signal.
    start, axis = 0, op["dim"]
    for part in op["tensors"]:
        # torch skips an empty vector, whatever the rank of the others: cat([tensor([]), h], 2).
        length = 0 if shape_of(part) == (0,) else shape_of(part)[axis]
        if not length:
            continue
        if depends_on_input(part):
            own = emit(torch.narrow, signal, axis, start, length)
            promoted = part.meta["dtype"] != op.node.meta["dtype"]
            fit = (adjoints.unbroadcast, own, shape_of(part), part.meta["dtype"])
            yield part, emit(*fit) if promoted else own
        start += length


def _put_together(cut: Any, reach: Reader = reach.everywhere) -> Rule:
    """What a write to a view becomes: the piece's signal is cut out, the rest is the base's."""

    def carry_back(op: Op, signal: Node, emit: Emit) -> Signals:
        base, piece = op["self"], op["src"]
        rest = op.node.args[2:]
        own = emit(cut, signal, *rest)
        if depends_on_input(piece):
            yield piece, own
        if depends_on_input(base):
            zeros = emit(torch.zeros_like, own)
            yield base, emit(_function(op), signal, zeros, *rest)

    return Rule("adjoint", carry_back, reach)


def _fitted(op: Op, emit: Emit, signal: Node, x: Node) -> Node:
    """The signal in the shape and dtype of input x, which the op may have broadcast or cast."""
    if shape_of(x) == op.shape and x.meta["dtype"] == op.node.meta["dtype"]:
        return signal
    return emit(adjoints.unbroadcast, signal, shape_of(x), x.meta["dtype"])


def _snake_back(op: Op, signal: Node, emit: Emit) -> Signals:
    x = patterns.snake(op)
    assert x is not None  # `_addition` asks before
    yield x, _fitted(op, emit, emit(torch.relu, signal), x)


def _snake_guided(op: Op, signal: Node, emit: Emit) -> Signals:
    x = patterns.snake(op)
    assert x is not None
    yield x, _fitted(op, emit, emit(adjoints.gate, emit(torch.relu, signal), emit.value(x)), x)


def _addition(op: Op) -> Rule:
    """Also x + sin(a * x)**2 / a, which is Snake."""
    return ADD if patterns.snake(op) is None else SNAKE


def _snake_wave(op: Op) -> Iterable[Node]:
    return [x for x in op.dependent if x is not patterns.snake(op)]


def _add_back(op: Op, signal: Node, emit: Emit) -> Signals:
    """Straight-through estimators, z + (q - z).detach(), carry by their live term alone."""
    alpha, held = op["alpha"], held_term(op)
    # self + alpha * other, self - alpha * other, other - alpha * self: a factor for each operand.
    by_op = {aten.add: (1, alpha), aten.sub: (1, -alpha), aten.rsub: (-alpha, 1)}
    for x, factor in zip((op["self"], op["other"]), by_op[packet(op.node)], strict=True):
        if depends_on_input(x) and x is not held:
            # alpha may be complex: the transpose of a product by it is by its conjugate
            part = signal if factor == 1 else emit(torch.mul, signal, factor.conjugate())
            yield x, _fitted(op, emit, part, x)


ADD = Rule("adjoint", _add_back, holds=lambda op: _held_terms(op))


def _copy_back(op: Op, signal: Node, emit: Emit) -> Signals:
    if depends_on_input(op["src"]):
        yield op["src"], _fitted(op, emit, signal, op["src"])


def _held_terms(op: Op) -> Iterable[Node]:
    return [held] if (held := held_term(op)) else []


def _overwritten(op: Op) -> Iterable[Node]:
    return [x for x in (op["self"],) if depends_on_input(x) and x is not op["src"]]


def _negate_back(op: Op, signal: Node, emit: Emit) -> Signals:
    yield op["self"], emit(torch.neg, signal)


def _conjugate_back(op: Op, signal: Node, emit: Emit) -> Signals:
    yield op["self"], emit(torch.conj_physical, signal)


def _scale_back(op: Op, signal: Node, emit: Emit) -> Signals:
    x, factor = op["self"], op["other"]
    if not depends_on_input(x):
        x, factor = factor, x
    value = emit.value(factor)
    if isinstance(factor, complex):
        value = factor.conjugate()
    elif isinstance(factor, Node) and factor.meta["dtype"].is_complex:
        value = emit(torch.conj, value)
    back = torch.div if packet(op.node) is aten.div else torch.mul
    yield x, _fitted(op, emit, emit(back, signal, value), x)


SCALE = Rule("adjoint", _scale_back)


def _shared_back(op: Op, signal: Node, emit: Emit) -> Signals:
    halved = emit(torch.mul, signal, 0.5)
    yield from _differentiate(op, halved, emit, op.dependent, emit.value)


def _shared(linear: Rule) -> Rule:
    """The product of two live values: each carries half of the signal, times the other, held."""
    return replace(linear, kind="hold", carry_back=_shared_back, keeps=_dependent, source=SHARED)


SHARED = (
    "half of the signal to each factor, times the other, held: Achtibat et al. 2024 (AttnLRP, "
    "uniform rule), Jafari et al. 2024 (MambaLRP, half rule)"
)


def _product(linear: Rule) -> Callable[[Op], Rule]:
    """A product: linear in its one live factor, else a gate is held, else both share the signal."""

    def choose(op: Op) -> Rule:
        if len(_factors(op)) <= 1:
            return linear
        if len(op.dependent) > len(_factors(op)):  # a live term beside two live factors
            return _gradient(linear.reach, channels=linear.channels)
        if held_factor(op) is None:
            return _shared(linear)
        return replace(
            linear,
            kind="hold",
            carry_back=_transpose_held,
            keeps=held_values,
            holds=held_values,
            source=HELD_GATE,
        )

    return choose


def _factors(op: Op) -> list[Node]:
    """The factors that carry the waveform; in c + a @ b (addmm, baddbmm) the term c is none."""
    for names in (("mat1", "mat2"), ("batch1", "batch2")):
        if names[0] in op.arguments:
            return [op[name] for name in names if depends_on_input(op[name])]
    return op.dependent


HELD_GATE = (
    "of a product of two live values the gate (sigmoid, softmax), the other's statistic or the "
    "bounded value is a recorded constant: Arras et al. 2017; Ali et al. 2022"
)


def _multiplication(op: Op) -> Rule:
    """Also x * sigmoid(x), which is SiLU, and x * (x > 0), which is ReLU."""
    x, other = op["self"], op["other"]
    for value, factor in ((x, other), (other, x)):
        itself = packet(factor) is aten.sigmoid and factor.args[0] is value
        if depends_on_input(value) and (itself or _is_positive(factor, value)):
            return replace(RECTIFY, holds=_not_rectified)
    if (line := patterns.self_gated(op)) is not None:
        return _self_gated(line)
    return _product(SCALE)(op)


def _self_gated(line: patterns.Line) -> Rule:
    """A product x * g(x) that is about 0 for x < 0 and a line for x > 0: GELU, SiLU by hand."""

    def carry_back(op: Op, signal: Node, emit: Emit) -> Signals:
        yield line.node, _fitted(op, emit, rectified(signal, emit), line.node)

    def guided(op: Op, signal: Node, emit: Emit) -> Signals:
        passed = emit(adjoints.gate, rectified(signal, emit), emit.value(line.node))
        yield line.node, _fitted(op, emit, passed, line.node)

    def rectified(signal: Node, emit: Emit) -> Node:
        positive = emit(torch.relu, signal)
        return positive if line.slope == 1 else emit(torch.mul, positive, line.slope)

    return replace(
        RECTIFY,
        carry_back=carry_back,
        guided=guided,
        holds=lambda op: [x for x in op.dependent if x is not line.node],
    )


def _division(op: Op) -> Rule:
    # Rounding has derivative zero.
    if op.arguments.get("rounding_mode") is not None:
        return _gradient(reach.pointwise, singular=True)
    if not depends_on_input(op["other"]):
        return SCALE
    if (line := patterns.self_gated(op)) is not None:
        return _self_gated(line)
    if patterns.is_softmax(op):
        return _gradient(reach.pointwise, gate=True, singular=True)
    # The reciprocal of a live value has no live numerator to be linear in.
    live_above = depends_on_input(op["self"]) and op["self"] is not op["other"]
    return HELD_DIVISOR if live_above else _gradient(reach.pointwise, singular=True)


def _held_divisor(op: Op) -> Iterable[Node]:
    return [op["other"]]


def _held_divisor_back(op: Op, signal: Node, emit: Emit) -> Signals:
    held = emit.value(op["other"])
    if op["other"].meta["dtype"].is_complex:
        held = emit(torch.conj, held)
    yield op["self"], _fitted(op, emit, emit(adjoints.quotient, signal, held), op["self"])


HELD_DIVISOR = Rule(
    "hold",
    _held_divisor_back,
    keeps=_held_divisor,
    holds=_held_divisor,
    singular=True,
    source="a live divisor is a recorded constant: Ali et al. 2022, Achtibat et al. 2024 (AttnLRP)",
)


# --- hold: a recorded gain ------------------------------------------------------------------------


def _gain_back(op: Op, signal: Node, emit: Emit) -> Signals:
    (x,) = op.dependent
    gain = emit.recorded(op)
    if op.node.meta["dtype"].is_complex:
        gain = emit(torch.conj, gain)
    yield x, _fitted(op, emit, emit(torch.mul, signal, gain), x)


def _gain_of_power(op: Op, value: Values, output: Tensor) -> Tensor:
    (x,) = op.dependent
    return adjoints.quotient(output, value(x))


def _gain_of_log(reference: float) -> Callable[[Op, Values, Tensor], Tensor]:
    """What a logarithm multiplies the distance from its own zero by; there, its slope."""

    def record(op: Op, value: Values, output: Tensor) -> Tensor:
        (x,) = op.dependent
        # What tells the three logarithms of one rule apart.
        base = {aten.log2: 2.0, aten.log10: 10.0}.get(packet(op.node), e)
        return adjoints.gain_of_log(output, value(x) - reference, 1 / log(base))

    return record


def _power(op: Op) -> Rule:
    """x**p with p > 0 is x times a recorded x**(p - 1); any other power has its gradient."""
    exponent = op["exponent"] if "exponent" in op.arguments else 0.5
    if len(op.dependent) == 1 and isinstance(exponent, int | float) and exponent > 0:
        return POWER
    return _gradient(reach.pointwise, singular=True)


POWER = Rule(
    "hold",
    _gain_back,
    record=_gain_of_power,
    singular=True,
    source="x**p is x times what it was multiplied by, held; Shrikumar et al. 2017 (rescale)",
)


def _logarithm(reference: float) -> Rule:
    return replace(
        POWER,
        record=_gain_of_log(reference),
        source="Shrikumar et al. 2017 (DeepLIFT, rescale), from where the logarithm is 0",
    )


# --- constants that are zero, and conditions -------------------------------------------------


def _is_zero(argument: Any) -> bool:
    """Whether a constant is zero everywhere."""
    if isinstance(argument, Node):
        return bool(argument.meta.get("zero", False))
    return bool(argument == 0)


def _is_positive(condition: Any, x: Any) -> bool:
    """Whether a recorded condition says x > 0 (or x >= 0), perhaps cast to another dtype."""
    while packet(condition) is aten._to_copy:
        condition = condition.args[0]
    compares = packet(condition)
    if compares is not aten.gt and compares is not aten.ge:
        return False
    return condition.args[0] is x and _is_zero(condition.args[1])


# --- switch -------------------------------------------------------------------------------------

SHORT_WINDOW = 16
"""Up to this many taps, comparing strided views finds the switches faster than torch's indices."""


def _pool_geometry(op: Op) -> tuple[int, int, int, int]:
    (kernel,), (stride,) = op["kernel_size"], op["stride"] or op["kernel_size"]
    return kernel, stride, op["padding"][0], op["dilation"][0]


def _pool_switches(op: Op, value: Values, pooled: Any) -> Tensor:
    # A switch is a place within a window (one byte); long windows keep torch's own index instead.
    x, geometry = value(op["self"]), _pool_geometry(op)
    if geometry[0] <= SHORT_WINDOW:
        return adjoints.pool_switches(x, pooled, *geometry)
    return aten.max_pool1d_with_indices(x, *geometry, op["ceil_mode"])[1].to(torch.int32)  # type: ignore[no-any-return]  # ops are untyped


def _unpool(op: Op, signal: Node, emit: Emit) -> Signals:
    size, (kernel, *places) = shape_of(op["self"])[-1], _pool_geometry(op)
    if (kernel, *places) == (2, 2, 0, 1):
        back = emit(adjoints.unpool_pairs, signal, emit.recorded(op), size)
    elif kernel <= SHORT_WINDOW:
        back = emit(adjoints.unpool, signal, emit.recorded(op), *places, size)
    else:
        back = emit(adjoints.unpool_at, signal, emit.recorded(op), (size,))
    yield op["self"], back


def _indices(op: Op, value: Values, output: Any) -> Tensor:
    return output[1].to(torch.int32)  # type: ignore[no-any-return]  # ops are untyped


def _unpool_at(op: Op, signal: Any, emit: Emit) -> Signals:
    window = op["kernel_size"] if "kernel_size" in op.arguments else op["output_size"]
    size = shape_of(op["self"])[-len(window) :]
    yield op["self"], emit(adjoints.unpool_at, signal[0], emit.recorded(op), size)


def _unpool_along(op: Op, signal: Any, emit: Emit) -> Signals:
    x, axis = op["self"], from_end(op["dim"], len(shape_of(op["self"])))
    if not shape_of(x):  # of a single number
        yield x, signal[0]
        return
    values = signal[0] if op["keepdim"] else emit(torch.unsqueeze, signal[0], axis)
    indices = emit.recorded(op) if op["keepdim"] else emit(torch.unsqueeze, emit.recorded(op), axis)
    yield x, emit(adjoints.unpool_along, values, indices, axis, shape_of(x)[axis])


def _indexed_pool(reach: Reader) -> Rule:
    return Rule(
        "switch",
        _unpool_at,
        reach,
        record=_indices,
        block=True,
        source=UNPOOLED,
    )


UNPOOLED = "paper, section 3.2 (3 i); where windows overlap the sum, as the adjoint asks"
MAX_POOL = Rule(
    "switch",
    _unpool,
    reach.windowed,
    record=_pool_switches,
    block=True,
    source=UNPOOLED,
)
MAX_ALONG = Rule(
    "switch",
    _unpool_along,
    reach.along("dim", keeps_axis=False),
    record=_indices,
    source="the first of equals",
)
PIECEWISE = Rule(
    "switch",
    _pull_back,
    keeps=_dependent,
    source="piecewise linear: its derivative says which piece the forward pass chose",
)
AMAX = Rule(
    "switch",
    _pull_back,
    reach.along("dim", keeps_axis=False),
    keeps=_dependent,
    source="equals share, as in autograd",
)


def _max(op: Op) -> Rule:
    """max(dim), max(other) and max() are one op to torch, and so are those of min."""
    # The three overloads take other arguments: max(x, dim), max(x, other), max(x).
    if "dim" in op.arguments:
        return MAX_ALONG
    if "other" not in op.arguments:
        return AMAX
    return _maximum(op) if packet(op.node) is aten.max else PIECEWISE


def _magnitude(op: Op) -> Rule:
    """|x| of a real value is piecewise linear; of a complex one its phase is held."""
    return PHASE if op["self"].meta["dtype"].is_complex else PIECEWISE


PHASE = replace(
    PIECEWISE,
    kind="hold",
    singular=True,
    source="the phase z/|z| is held, 0 at 0: it is the derivative of |z|",
)


def _norm(op: Op) -> Rule:
    """The length of a vector: its direction is held. Of order 1 or infinity it is piecewise."""
    along = reach.along("dim", keeps_axis=False)
    if op["ord"] == 2:
        return replace(PHASE, reach=along)
    piecewise = abs(op["ord"]) in (1, inf)
    return replace(PIECEWISE, reach=along) if piecewise else _gradient(along, singular=True)


def _embedding(op: Op) -> Rule:
    """Rows of a live table, summed, averaged or (mode 2) the largest of each column."""
    if depends_on_input(op["per_sample_weights"]):
        return _gradient(reach.everywhere)
    piecewise = replace(PIECEWISE, reach=reach.everywhere)
    return piecewise if op["mode"] == 2 else _linear(reach.everywhere)


def _interpolation(op: Op) -> Rule:
    """Linear between two values by a constant weight."""
    return _gradient() if depends_on_input(op["weight"]) else _linear()


# --- chance: what was drawn is remembered, for run again these ops draw others -------------------


def _slopes(op: Op, value: Values, output: Tensor) -> Tensor:
    """What each value was multiplied by; at 0, where that cannot be told, the mean slope."""
    x = value(op["self"])
    mean = torch.where(x > 0, 1, (op["lower"] + op["upper"]) / 2)
    return torch.where(x != 0, output / x, mean).to(x.dtype)


def _by_slopes(op: Op, signal: Node, emit: Emit) -> Signals:
    yield op["self"], emit(torch.mul, signal, emit.recorded(op))


def _rrelu(op: Op) -> Rule:
    return replace(RANDOM_RELU, record=_slopes) if op["training"] else RANDOM_RELU


def _dropped(op: Op, value: Values, output: Any) -> Tensor:
    """The mask of a dropout, scaled as it scales."""
    kept = 1 - op["p"] if op["train"] is not False else 1
    mask: Tensor = output[1].to(output[0].dtype)
    return mask / kept if kept else mask


def _dropout_back(op: Op, signal: Any, emit: Emit) -> Signals:
    yield op["input"], _fitted(op, emit, emit(torch.mul, signal[0], emit.recorded(op)), op["input"])


# --- rectify ------------------------------------------------------------------------------------


def _rectified(op: Op) -> Node:
    """The value that is rectified: in x * sigmoid(x) the sigmoid carries too, in prelu the slope.

    An activation other than a product takes what it rectifies first: prelu(sigmoid(x), slope(x))
    rectifies the sigmoid.
    """
    if packet(op.node) is not aten.mul and depends_on_input(op.arguments.get("self")):
        return op["self"]  # type: ignore[no-any-return]  # arguments are untyped
    return next((x for x in op.dependent if not is_gate(x)), op.dependent[0])


def _not_rectified(op: Op) -> Iterable[Node]:
    return [x for x in op.dependent if x is not _rectified(op)]


def _prelu(op: Op) -> Rule:
    """A live slope is held, as that of any leaky activation is a constant."""
    slope_alone = not depends_on_input(op["self"])
    return GRADIENT if slope_alone else replace(RECTIFY, holds=_not_rectified)


def _rectify(op: Op, signal: Node, emit: Emit) -> Signals:
    x = _rectified(op)
    yield x, _fitted(op, emit, emit(torch.relu, signal), x)


def _rectify_guided(op: Op, signal: Node, emit: Emit) -> Signals:
    x = _rectified(op)
    passed = emit(adjoints.gate, emit(torch.relu, signal), emit.value(x))
    yield x, _fitted(op, emit, passed, x)


RECTIFY = Rule(
    "rectify",
    _rectify,
    block=True,
    source="paper, section 3.2 (3 ii); guided: Springenberg et al. 2015",
)
# The derivative of rrelu is the one of the table that torch cannot run under `vmap`.
RANDOM_RELU = replace(RECTIFY, batched=False)
SNAKE = replace(
    RECTIFY,
    carry_back=_snake_back,
    guided=_snake_guided,
    holds=_snake_wave,
    source="a relative of ReLU: its slope is never negative (Ziyin et al. 2020)",
)
ACTIVATION = _gradient(reach.pointwise, block=True)
CLIPPED = replace(PIECEWISE, block=True, bounded=True)


def _maximum(op: Op) -> Rule:
    """maximum(x, 0)."""
    # Either side may be the zero: maximum(x, 0), maximum(0, x).
    x, other = op["self"], op["other"]
    constant = other if depends_on_input(x) else x
    return RECTIFY if not depends_on_input(constant) and _is_zero(constant) else PIECEWISE


def _where(op: Op) -> Rule:
    """where(x > 0, x, 0), or a choice by a recorded condition."""
    x = op["self"]
    relu = depends_on_input(x) and _is_zero(op["other"]) and _is_positive(op["condition"], x)
    return RECTIFY if relu else _linear()


def _clamp(op: Op) -> Rule:
    """clamp(min=0); a live upper bound carries too, which a rectifier has no place for."""
    from_zero = not isinstance(op["min"], Node) and op["min"] == 0
    bounded = op["min"] is not None and op.arguments.get("max") is not None
    rectifies = from_zero and not depends_on_input(op.arguments.get("max"))
    return replace(RECTIFY if rectifies else CLIPPED, bounded=bounded)


def _hardtanh(op: Op) -> Rule:
    return replace(RECTIFY, bounded=True) if op["min_val"] >= 0 else CLIPPED


def _threshold(op: Op) -> Rule:
    return RECTIFY if op["value"] == 0 <= op["threshold"] else replace(CLIPPED, bounded=False)


# --- hold ---------------------------------------------------------------------------------------

HELD_STATISTIC = "ours: the deviation is a recorded constant; the mean is linear and transposed"


AFFINE, STATISTICS = ("weight", "bias"), ("running_mean", "running_var")


def _live(op: Op, names: Iterable[str]) -> list[Node]:
    """The operands of these names that carry the waveform."""
    return [op[name] for name in names if depends_on_input(op.arguments.get(name))]


def _conditioned(rule: Rule, op: Op, twin: Callable[[Op], Any]) -> Rule:
    """The same normalisation where more than its input carries the waveform.

    In FiLM weight and bias are computed from the recording: `F.layer_norm(x, n, w(x), b(x))` is
    `F.layer_norm(x, n) * w(x) + b(x)`, so all three get a signal: the derivative of `twin(op)`, the
    op with its statistics held. Statistics that the model computed itself are held too (autograd
    refuses them). In eval batch norm nothing else is held: it is a product of two live values.
    """
    if not _live(op, (*AFFINE, *STATISTICS)):
        return rule

    def carry_back(op: Op, signal: Node, emit: Emit) -> Signals:
        names = ("input", *AFFINE)
        places = [place for place, name in enumerate(names) if depends_on_input(op[name])]
        held = (
            [emit.value(op[name]) for name in STATISTICS]
            if rule.record is None
            else [emit.recorded(op)]
        )
        args = (*(emit.value(op[name]) for name in names), *held)
        pulled = emit(adjoints.pull_back(twin(op), places), signal, args, {})
        for number, place in enumerate(places):
            yield op[names[place]], emit(getitem, pulled, number)

    return replace(
        rule,
        kind="gradient" if rule is BATCH_NORM else "hold",
        carry_back=carry_back,
        reach=reach.everywhere,
        keeps=lambda op: _live(op, ("input", *AFFINE, *STATISTICS)),
        holds=lambda op: _live(op, STATISTICS),
    )


def _batch_norm_back(op: Op, signal: Node, emit: Emit) -> Signals:
    weight, variance = emit.value(op["weight"]), emit.value(op["running_var"])
    yield op["input"], emit(adjoints.batch_norm_scale, signal, weight, variance, op["eps"])


def _normalize_back(axes: Callable[[Op], list[int]], per_channel: bool) -> Any:
    def carry_back(op: Op, signal: Node, emit: Emit) -> Signals:
        weight = emit.value(op["weight"])
        # Layer norm's weight has the shape of the last axes; the others' have a value a channel.
        if per_channel and weight is not None:
            weight = emit(adjoints.per_channel, weight, len(op.shape))
        scale = emit.recorded(op)
        yield (
            op["input"],
            emit(adjoints.normalization_transpose, signal, scale, weight, axes(op)),
        )

    return carry_back


def _deviation(axes: Callable[[Op], list[int]]) -> Any:
    def record(op: Op, value: Values, output: Any) -> Tensor:
        return adjoints.inverse_deviation(value(op["input"]), axes(op), op["eps"])

    return record


def _normalization(
    axes: Callable[[Op], list[int]],
    reach: Reader,
    *,
    per_channel: bool = True,
    channels: ChannelAxis = channel_axis.first,
) -> Callable[[Op], Rule]:
    rule = Rule(
        "hold",
        _normalize_back(axes, per_channel),
        reach,
        record=_deviation(axes),
        block=True,
        channels=channels,
        source=HELD_STATISTIC,
    )

    def twin(op: Op) -> Any:
        return partial(adjoints.held_normalization, axes=axes(op), per_channel=per_channel)

    return lambda op: _conditioned(rule, op, twin)


_layer_norm = _normalization(
    lambda op: list(range(-len(op["normalized_shape"]), 0)),
    reach.behind("normalized_shape"),
    per_channel=False,
    channels=channel_axis.normalized,
)
_by_instance = _normalization(lambda op: list(range(2, len(op.shape))), reach.everywhere)
_by_batch = _normalization(
    lambda op: [axis for axis in range(len(op.shape)) if axis != 1], reach.everywhere
)
BATCH_NORM = Rule(
    "adjoint",
    _batch_norm_back,
    block=True,
    channels=channel_axis.first,
    source="scale only; the shift is bias",
)


def _by_recorded(op: Op) -> Rule:
    """Batch or instance norm with statistics that are given: one factor a channel."""
    return _conditioned(BATCH_NORM, op, lambda op: partial(adjoints.held_batch_norm, eps=op["eps"]))


def _instance_norm(op: Op) -> Rule:
    return _by_instance(op) if op["use_input_stats"] else _by_recorded(op)


def _batch_norm(op: Op) -> Rule:
    return _by_batch(op) if op["training"] else _by_recorded(op)


def _group_norm_back(op: Op, signal: Node, emit: Emit) -> Signals:
    weight, groups = emit.value(op["weight"]), op["num_groups"]
    yield (
        op["input"],
        emit(adjoints.group_normalization_transpose, signal, emit.recorded(op), weight, groups),
    )


def _group_deviation(op: Op, value: Values, output: Any) -> Tensor:
    # All channels of a group and all of time share one deviation.
    x = value(op["input"])
    return adjoints.inverse_deviation(x.reshape(len(x), op["num_groups"], -1), [-1], op["eps"])


def _group_norm(op: Op) -> Rule:
    return _conditioned(
        GROUP_NORM,
        op,
        lambda op: partial(adjoints.held_group_normalization, groups=op["num_groups"]),
    )


GROUP_NORM = Rule(
    "hold",
    _group_norm_back,
    reach.everywhere,
    record=_group_deviation,
    block=True,
    channels=channel_axis.first,
    source=HELD_STATISTIC,
)


def _attend_back(op: Op, signal: Node, emit: Emit) -> Signals:
    held = [emit.value(op[name]) for name in ("query", "key", "attn_mask")]
    value = op["value"]
    back = emit(adjoints.attention_transpose, signal, *held, op["is_causal"], op["scale"])
    if shape_of(value)[:-2] != op.shape[:-2]:  # keys and values may be broadcast over the batch
        back = emit(adjoints.unbroadcast, back, shape_of(value), value.meta["dtype"])
    yield value, back


def _attention_weights(op: Op) -> Iterable[Node]:
    return [op[name] for name in ("query", "key", "attn_mask") if depends_on_input(op[name])]


def _attention(op: Op) -> Rule:
    # Constant values leave only the attention weights to carry; grouped queries repeat the keys.
    if not depends_on_input(op["value"]) or op["enable_gqa"]:
        return _gradient(reach.everywhere, channels=channel_axis.last)
    return ATTENTION


ATTENTION = Rule(
    "hold",
    _attend_back,
    reach.everywhere,
    keeps=_attention_weights,
    holds=_attention_weights,
    channels=channel_axis.last,
    source=HELD_GATE,
)


def _glu_back(op: Op, signal: Node, emit: Emit) -> Signals:
    yield op["self"], emit(adjoints.glu_transpose, signal, emit.value(op["self"]), op["dim"])


GLU = Rule("hold", _glu_back, reach.along("dim"), keeps=_dependent, source=HELD_GATE)

RECURRENT = _gradient(reach.everywhere, channels=channel_axis.last)


def _recurrent(transpose: Callable[..., Any]) -> Callable[[Op], Rule]:
    """A recurrent layer as the loop that it stands for: gates are held, tanh passes."""

    def carry_back(op: Op, signal: Any, emit: Emit) -> Signals:
        first = _first_states(op)
        given = [[emit.value(x) for x in each] for each in (first, op["params"])]
        options = [op[name] for name in ("has_biases", "bidirectional", "batch_first")]
        back = emit(transpose, signal, emit.value(op["input"]), *given, *options)
        for number, x in enumerate((op["input"], *first)):
            if depends_on_input(x):
                yield x, emit(getitem, back, number)

    held = replace(
        RECURRENT,
        kind="hold",
        carry_back=carry_back,
        source="unrolled, with gates held: Arras et al. 2017 (signal-take-all); tanh passes",
    )
    return lambda op: held if _is_plainly_recurrent(op) else RECURRENT


def _first_states(op: Op) -> list[Any]:
    return [op["hx"]] if isinstance(op["hx"], Node) else list(op["hx"])


def _is_plainly_recurrent(op: Op) -> bool:
    """Padded sequences, constant weights, no projection (proj_size), no dropout between layers."""
    if "batch_sizes" in op.arguments or (op["train"] and op["dropout"] > 0):
        return False
    runs = op["num_layers"] * (2 if op["bidirectional"] else 1)
    as_usual = len(op["params"]) == runs * (4 if op["has_biases"] else 2)
    return as_usual and not any(map(depends_on_input, op["params"]))


# --- pass ---------------------------------------------------------------------------------------


def _pass(op: Op, signal: Node, emit: Emit) -> Signals:
    (x,) = op.dependent
    yield x, _fitted(op, emit, signal, x)


PASS = Rule("pass", _pass, block=True)
ODD = replace(PASS, bounded=True, source="ours: odd and monotone, so it keeps signs; no switch")


def _sigmoid_back(op: Op, signal: Node, emit: Emit) -> Signals:
    """sigmoid(x) = 1/2 + tanh(x / 2) / 2: the shift is bias, tanh passes, a quarter is left."""
    (x,) = op.dependent
    yield x, _fitted(op, emit, emit(torch.mul, signal, 0.25), x)


SIGMOID = Rule(
    "hold",
    _sigmoid_back,
    block=True,
    gate=True,
    source="ours: 1/2 + tanh(x/2)/2, so it is carried as tanh is, its steepest slope held",
)

# --- memory -------------------------------------------------------------------------------------


def _stride_back(op: Op, signal: Node, emit: Emit) -> Signals:
    x, layout, view = op.node.args
    yield x, emit(memory.strided_transpose, signal, layout, view)  # type: ignore[misc]  # a node


def _scatter_strided_back(op: Op, signal: Node, emit: Emit) -> Signals:
    x, piece, layout, view = op.node.args
    if depends_on_input(piece):
        yield piece, emit(memory.strided, signal, layout, view)  # type: ignore[misc]  # a node
    if depends_on_input(x):
        yield x, emit(memory.without_strided, signal, layout, view)  # type: ignore[misc]  # a node


# --- the table ---------------------------------------------------------------------------------


def _each(names: str, rule: Entry) -> dict[Any, Entry]:
    return {getattr(aten, name): rule for name in names.split()}


RULES: Rules = {
    # adjoint
    **_each("convolution _convolution", _convolution),
    **_each("linear", _linear_layer),
    **_each(
        "matmul mm bmm addmm baddbmm mv dot",
        _product(_linear(reach.multiplied, channels=channel_axis.of_product)),
    ),
    **_each("add", _addition),
    **_each("sub rsub", ADD),
    **_each("copy", Rule("adjoint", _copy_back, holds=_overwritten)),
    **_each("_conj", Rule("adjoint", _conjugate_back, put_back=views.conjugate_back)),
    **_each("_conj_physical", Rule("adjoint", _conjugate_back)),
    **_each("neg", Rule("adjoint", _negate_back)),
    **_each("native_dropout", Rule("adjoint", _dropout_back, record=_dropped)),
    **_each("mul", _multiplication),
    **_each("div", _division),
    **_each("batch_norm", _batch_norm),
    **_each("view", _view),
    **_each("reshape _unsafe_view", _reshaped(reach.reshaped)),
    **_each("unsqueeze", _reshaped(reach.stacked)),
    **_each("squeeze", _reshaped(reach.squeezed)),
    **_each("permute transpose t", PERMUTE),
    **_each("_embedding_bag_forward_only", _embedding),
    **_each("cat", Rule("adjoint", _concatenate_back, reach.along("dim"))),
    **_each("slice_scatter", _put_together(aten.slice.Tensor, reach.scattered)),
    **_each("select_scatter", _put_together(aten.select.int)),
    **_each("diagonal_scatter", _put_together(aten.diagonal.default)),
    **_each("stack", _linear(reach.stacked)),
    **_each("slice", _linear(reach.sliced, reshapes=True, put_back=views.slice_back)),
    **_each(
        "select",
        _linear(
            reach.along("dim", keeps_axis=False),
            reshapes=True,
            put_back=views.scatter_back(aten.select_scatter.default),
        ),
    ),
    **_each(
        "split split_with_sizes unsafe_split unsafe_split_with_sizes",
        _linear(reach.split, reshapes=True, put_back=views.piece_back),
    ),
    **_each("unbind", _linear(reach.split, reshapes=True, put_back=views.unbound_back)),
    **_each("unfold", _linear(reach.unfold)),
    **_each("sum mean", _linear(reach.along("dim", keeps_axis=False))),
    **_each("cumsum _fft_r2c _fft_c2c _fft_c2r", _linear(reach.along("dim"))),
    **_each("avg_pool1d avg_pool2d avg_pool3d", _linear(reach.windowed)),
    **_each(
        "adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d",
        _linear(reach.adaptive),
    ),
    **_each(
        "constant_pad_nd reflection_pad1d replication_pad1d reflection_pad2d replication_pad2d",
        _linear(reach.padded),
    ),
    **_each("upsample_nearest1d upsample_linear1d", _linear(reach.resampled, reshapes=True)),
    **_each(
        "_upsample_nearest_exact1d"
        " upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d",
        _linear(reach.resampled),
    ),
    **_each("expand", _linear(reshapes=True)),
    **_each("masked_fill fill zero tril triu complex", _linear()),
    **_each("real imag", _linear(put_back=views.part_back)),
    **_each("repeat", _linear(reach.everywhere, reshapes=True)),
    **_each(
        "flip roll index index_put index_select gather scatter scatter_add"
        " im2col col2im pixel_shuffle pixel_unshuffle",
        _linear(reach.everywhere),
    ),
    **_each(
        "diagonal",
        _linear(reach.everywhere, put_back=views.scatter_back(aten.diagonal_scatter.default)),
    ),
    # A complex value as two real ones, in a new last axis, and back.
    **_each("view_as_real", _linear(reach.before_new_axis, put_back=views.complex_back)),
    **_each("view_as_complex", _linear(reach.before_lost_axis)),
    memory.strided: Rule("adjoint", _stride_back, reach.everywhere, put_back=views.strided_back),
    memory.strided_scatter: Rule("adjoint", _scatter_strided_back, reach.everywhere),
    memory.revalued: Rule("adjoint", _pass),
    memory.with_real: _linear(),
    memory.with_imag: _linear(),
    # switch
    **_each("max_pool1d", MAX_POOL),
    **_each("max_pool2d_with_indices max_pool3d_with_indices", _indexed_pool(reach.windowed)),
    **_each(
        "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", _indexed_pool(reach.adaptive)
    ),
    **_each("max min", _max),
    **_each("amax amin", AMAX),
    **_each("minimum fmax fmin hardshrink softshrink clamp_max", PIECEWISE),
    **_each("hardsigmoid", replace(PIECEWISE, block=True, gate=True)),
    **_each("sort cummax cummin topk", replace(PIECEWISE, reach=reach.along("dim"))),
    **_each("nansum", replace(PIECEWISE, reach=reach.along("dim", keeps_axis=False))),
    **_each("abs", _magnitude),
    **_each("linalg_vector_norm", _norm),
    **_each("lerp", _interpolation),
    # rectify
    **_each("relu leaky_relu elu celu gelu silu mish softplus hardswish", RECTIFY),
    **_each("prelu _prelu_kernel", _prelu),
    **_each("rrelu", _rrelu),
    **_each("clamp clamp_min", _clamp),
    **_each("hardtanh", _hardtanh),
    **_each("threshold", _threshold),
    **_each("maximum", _maximum),
    **_each("where", _where),
    # hold
    **_each("layer_norm", _layer_norm),
    **_each("instance_norm", _instance_norm),
    **_each("group_norm", _group_norm),
    **_each("scaled_dot_product_attention", _attention),
    **_each("glu", GLU),
    **_each("lstm", _recurrent(recurrent.lstm_transpose)),
    **_each("gru", _recurrent(recurrent.gru_transpose)),
    **_each("rnn_tanh", _recurrent(recurrent.rnn_transpose)),
    **_each("sigmoid", SIGMOID),
    **_each("pow sqrt", _power),
    **_each("log log2 log10", _logarithm(1.0)),
    **_each("log1p", _logarithm(0.0)),
    # pass
    **_each("clone _to_copy", replace(PASS, reshapes=True)),
    **_each("lift_fresh", PASS),
    **_each("tanh atan asinh erf", ODD),
    **_each("alias", replace(PASS, put_back=views.reshape_back)),
    # Whoever detaches a value says that it is to be a constant.
    **_each("detach", replace(PASS, gate=True, detached=True, put_back=views.reshape_back)),
    # gradient: known to have nothing better
    **_each("sin cos", replace(ACTIVATION, block=False, bounded=True)),
    **_each("softmax _softmax", _gradient(reach.along("dim"), gate=True)),
    **_each("rnn_relu", RECURRENT),
}
"""Every op with a rule of its own. Extend by value: `Sonifier(model, rules={**RULES, op: rule})`.

A composite op (`aten.linear`) with an entry here is captured whole; any other is captured as the
ops that it is made of.
"""
