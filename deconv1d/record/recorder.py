"""A dispatch mode that writes every op of a running model into a `torch.fx` graph.

The mode stands below autograd, so no derivative is built while it records. What autograd would do
is written down instead: each node's meta says whether autograd carries a gradient through it
(`tracked`), from the grad mode in which the op ran and from its inputs:

    h = conv(x)                      tracked
    d = h.detach() * 3               not tracked: detach, mul
    with torch.no_grad(): g = h * 2  not tracked: mul
    h + d                            tracked, by h alone

For `method="gradient"` only tracked values carry (`depends_on_input`), which makes it autograd's
gradient. For the others a detached value carries as any other does, but not beside a live one in
the same op: there it is wrapped in `held`, which makes it a constant. Straight-through estimators,
z + (q - z).detach(), would else cancel their own signal.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, wraps
from operator import getitem
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import Graph, Node, map_arg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import TensorWeakRef

from deconv1d.errors import PathError
from deconv1d.record.aliasing import (
    Aliases,
    Before,
    Place,
    before_write,
    place_of,
    storage_of,
    undo_writes,
)
from deconv1d.record.blocks import effect_on_block
from deconv1d.record.functions import called, has_a_rectifier
from deconv1d.record.higher_order import run_higher_order
from deconv1d.record.request import Failure, Tap, TapRequest
from deconv1d.record.schema import (
    PLACED,
    SIDE_BY_SIDE,
    Schema,
    draws,
    is_drawn_within,
    is_factory,
    is_random,
    is_random_op,
    is_shaped,
    returns_one_tensor,
    schema_of,
)
from deconv1d.rules.memory import covers, held, revalued, strided
from deconv1d.rules.op import Op, arguments_of, converted, depends_on_input, first_tensor, leaves
from deconv1d.rules.table import Rule, Rules, packet, rule_for

aten = torch.ops.aten

COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
OURS_AND_TORCH = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


class Stop(BaseException):
    """Ends the forward pass; a model's `except Exception` does not catch it."""


@dataclass
class _Frame:
    """One running module call."""

    path: str
    call: int
    ops: Counter[str] = field(default_factory=Counter)

    @property
    def label(self) -> str:
        return self.path if self.call == 1 else f"{self.path}#{self.call}"


class Recorder(TorchDispatchMode):
    """Writes down the ops that run while it is active.

    Args:
        x: The waveform that the model will be run on.
        state: The model's own tensors, by name.
        targets: The wanted layers: where the last of their blocks ends, the model is stopped. None
            at all records to the end.
        rules: The op table.
        method: Which rules to record for.
        run_on: Whether the model runs on to its end, to count calls, once the maps are complete.
    """

    def __init__(
        self,
        x: Tensor,
        state: Mapping[str, Tensor],
        *,
        targets: Iterable[TapRequest],
        rules: Rules,
        method: str,
        run_on: bool,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped
        self.taps, self.run_on = [Tap(target) for target in targets], run_on
        self.rules, self.method = rules, method
        self.graph, self.aliases = Graph(), Aliases()
        self.kept: dict[Node, Tensor] = {}
        self.recorded: dict[Node, Tensor] = {}
        self.constants: dict[str, Tensor] = {}
        self.calls: Counter[str] = Counter()
        self.outputs: dict[str, Node] = {}
        self.returned: dict[str, Node] = {}
        self.complete = False
        self.decides = False
        self.error: PathError | None = None
        self.failure: Failure | None = None
        self.undo: list[Before] = []
        self.writes: dict[str, None] = {}
        self._names = {id(tensor): name for name, tensor in state.items()}
        # Storages that this run made. A write into any other changes the model and is undone. The
        # waveform counts as made here: it is a copy of what the user gave (see `capture`).
        self._fresh = {storage_of(x)}
        # With the storage: `b.data = h` gives an object other memory without an op.
        self._branches: dict[int, tuple[TensorWeakRef, int, int]] = {}
        self._last_branch = 0
        self._outer_grad: bool | None = None
        self._stacks = {threading.get_ident(): [_Frame("", 1)]}
        self._lock, self._over = threading.RLock(), False
        self.x = self.graph.placeholder("x")
        self.x.meta.update(grad=True, tracked=True, undetached=True)
        self._describe(self.x, x, carried=True, constant=False)
        self.aliases.define(x, self.x)
        self._remember(x, 0)
        self.kept[self.x] = x

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: wrapping the dispatch for it would import the compiler, 2 s, at the first op."""
        return False

    # --- threads -----------------------------------------------------------------------------

    @property
    def _stack(self) -> list[_Frame]:
        return self._stacks[threading.get_ident()]

    def records_here(self) -> bool:
        """Whether this thread runs the model, or work that the model gave away."""
        return not self._over and threading.get_ident() in self._stacks

    def elsewhere(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, recorded in whatever thread it will run: the model gave it away."""
        frame = self._stack[-1]

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            # Nothing is set up if the forward pass is over, or if this thread is recorded already.
            if self._over or threading.get_ident() in self._stacks:
                return function(*args, **kwargs)
            self._stacks[threading.get_ident()] = [frame]
            try:
                # Both belong to a thread: another thread has neither the mode nor this dispatch.
                with torch._C._AutoDispatchBelowAutograd(), _Elsewhere(self):
                    return function(*args, **kwargs)
            finally:
                del self._stacks[threading.get_ident()]

        return run

    # --- modules ---------------------------------------------------------------------------

    def enter(self, path: str) -> None:
        """A module's forward begins."""
        self.calls[path] += 1
        self._stack.append(_Frame(path, self.calls[path]))

    def leave(self, output: Any) -> None:
        """A module's forward ended."""
        frame = self._stack.pop()
        value = first_tensor(output)
        if self.complete or value is None:
            return
        node, call = self._node(value), f"{frame.path}#{frame.call}"
        self.outputs[call] = node
        # It may be a later one than `node`: a module may return a value that it made before others.
        self.returned[call] = next(reversed(self.graph.nodes))
        if taps := self._asked(call, is_op=False):
            self._advance(taps, node, value)

    def _asked(self, call: str, *, is_op: bool) -> list[Tap]:
        """Where this module call or op is the wanted layer."""
        return [t for t in self.taps if (t.request.call, t.request.is_op) == (call, is_op)]

    def _advance(self, taps: list[Tap], node: Node, value: Tensor) -> None:
        """A wanted layer has run, or its block goes on through the op that has just run."""
        for tap in taps:
            tap.tip = (node, value)
            if not depends_on_input(node):
                self.error = PathError(self._off_path(tap.request.call))
        if self.error:
            self.finish(self.taps)
        self.finish([tap for tap in taps if tap.request.tap == "output"])

    def finish(self, taps: list[Tap]) -> None:
        """These maps are complete; with the last of all the model is stopped."""
        for tap in taps:
            tap.complete = True
            if tap.tip is not None:
                # Not replaced if it is there: `_protect` may have copied it before a write.
                self.kept.setdefault(*tap.tip)
        if taps and all(tap.complete for tap in self.taps):
            self.complete = True
            if not self.run_on:
                raise Stop

    def release(self) -> None:
        """Lets go of what only recording needs: it refers back, and tensors would outlive it."""
        self._over = True
        self.aliases = Aliases()
        self.undo.clear()
        self._branches.clear()

    def undo_writes(self) -> list[Tensor]:
        """Puts back what was written into the model's tensors, last write first; returns them.

        What is kept for the mirror and lies in such a tensor is copied first: a map that forward
        left in a buffer, `self.b.copy_(z)`, is z and not what the buffer held before.
        """
        written = {storage_of(undo.tensor) for undo in self.undo}
        for values in (self.kept, self.recorded):
            for node, value in values.items():
                if storage_of(value) in written:
                    values[node] = value.clone()
        undo_writes(self.undo)
        return [undo.tensor for undo in self.undo]

    def _off_path(self, layer: str) -> str:
        ends = [
            f"{node.meta['name']} ({node.meta['source']})"
            for node in self.graph.nodes
            if not depends_on_input(node)
            and any(depends_on_input(source) for source in node.all_input_nodes)
        ]
        able = [
            repr(call.removesuffix("#1")) for call, n in self.outputs.items() if depends_on_input(n)
        ]
        return (
            f"No signal can be carried from layer {layer.removesuffix('#1')!r} to the waveform: "
            f"expected a path of differentiable ops, but its value does not depend on the input "
            f"by any; what does ends at {', '.join(ends[-3:]) or 'no op'}. Choose a layer before "
            f"that, such as {', '.join(able[-3:]) or 'none'}; sonifier.layers(x) lists all."
        )

    # --- ops ---------------------------------------------------------------------------------

    supports_higher_order_operators = True

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs one op and writes it down."""
        if isinstance(func, HigherOrderOperator):  # runs others, which are written down
            self.decides = True
            with self:
                return run_higher_order(func, args, kwargs or {})
        # A stopped model may go on: an `except BaseException` of its own, or a script.
        if self.complete and not self.run_on:
            raise Stop  # the first was swallowed, or turned into another exception by a script
        try:
            with self._lock, torch._C.DisableTorchFunction():
                return self._dispatch(func, args, kwargs or {})
        except Exception as error:
            if self.failure is None or self.failure.error is not error:
                self.failure = self._failure(error, func, args)
            raise

    def _failure(self, error: Exception, func: OpOverload, args: Any) -> Failure:
        shapes = [tuple(x.shape) for x in leaves(args) if isinstance(x, Tensor)]
        return Failure(
            error, str(func.overloadpacket), self._stack[-1].label, _source_line(), shapes
        )

    def _dispatch(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        schema = schema_of(func)
        # Composite ops with a rule are recorded whole; others as the ops that they are made of.
        if schema.composite and not self._is_whole(func, schema, args, kwargs):
            with self, _lazy_bits():
                return func._op_dk(COMPOSITE, *args, **kwargs)
        self.decides |= schema.decides
        if schema.composite:  # a whole one: what it is made of runs in here
            with _lazy_bits():
                return self._take(func, schema, args, kwargs)
        return self._take(func, schema, args, kwargs)

    def _take(self, func: OpOverload, schema: Schema, args: Any, kwargs: Any) -> Any:
        if not self.complete:
            return self._record(func, schema, args, kwargs)
        return self._pass_on(func, schema, args, kwargs)

    def _is_whole(self, func: OpOverload, schema: Schema, args: Any, kwargs: Any) -> bool:
        """Whether an op that is made of others has a rule, rrelu's being that of rrelu_ too."""
        random = is_random_op(func)
        pure = getattr(schema.pure, "overloadpacket", schema.packet) if random else schema.packet
        if schema.packet not in self.rules and pure not in self.rules:
            return False
        given = arguments_of(func, args, kwargs) if random else {}
        # An op that draws a mask within is taken apart: only then is the mask a value to be kept.
        return not (random and draws(func, given) and is_drawn_within(given))

    def _pass_on(self, func: OpOverload, schema: Schema, args: Any, kwargs: Any) -> Any:
        """Runs an op after the map is complete: only what must be put back is noted."""
        self._protect(schema.written(args, kwargs) + schema.statistics(args))
        output = func(*args, **kwargs)
        self._made(output, {storage_of(x) for x in leaves((args, kwargs)) if isinstance(x, Tensor)})
        return output

    def _record(self, func: OpOverload, schema: Schema, args: Any, kwargs: Any) -> Any:
        inputs: dict[Node, Tensor] = {}

        def node_of(value: Tensor) -> Node:
            node = self._node(value)
            inputs[node] = value
            return node

        node_args, node_kwargs = converted(node_of, (tuple(args), kwargs))
        # Reversed, so that of several inputs in one storage the first counts: an op that returns a
        # view cuts it from its first argument.
        sources = {storage_of(x): self._place(x) for x in reversed(inputs.values())}
        pure = schema.pure
        if func is aten.as_strided.default:
            pure = strided
            node_args, sources = self._by_values(args, kwargs, inputs)
        elif isinstance(pure, OpOverload):
            # The pure twin makes its own memory and takes no out=. An op without a twin runs on
            # copies (see `schema`) and still takes it.
            node_kwargs = {k: v for k, v in node_kwargs.items() if k not in schema.outs}
        if beside := self._detached_beside_live(schema, inputs):
            swap = {node: self._held(node) for node in beside}
            inputs = {swap.get(node, node): x for node, x in inputs.items()}
            node_args, node_kwargs = map_arg(
                (node_args, node_kwargs), lambda node: swap.get(node, node)
            )
        node = self.graph.create_node("call_function", pure, name=schema.name)
        node.args = node_args  # faster than in the call
        if node_kwargs and pure is not strided:
            node.kwargs = node_kwargs
        self._locate(node, schema.name)
        self._track(node, detached=schema.packet is aten.detach)
        op = Op.of(node)
        rule = rule_for(self.rules, op, self.method) if op.dependent else None
        _note_facts(node, rule)
        written = schema.written(args, kwargs)
        followed = [] if rule is None else self._followed(node, rule, written)
        # Only with `run_on`: this op has ended the last wanted block, so its node is gone from the
        # graph, and the rest of the model runs without being recorded.
        if self.complete:
            return self._pass_on(func, schema, args, kwargs)
        # Both before the op runs: it may overwrite what the rule reads or what is kept.
        before = self._keep_inputs(op, rule, inputs, written)
        self._protect(written + schema.statistics(args))
        places = {id(x): (self._place(x), x.untyped_storage().nbytes()) for x in written}
        try:
            output = func(*args, **kwargs)
        except BaseException:
            self.graph.erase_node(node)  # the model may know what to do instead
            raise
        self._made(output, sources)
        results = self._settle(op, sources, places, output, written)
        self._updated(schema.statistics(args))
        if rule is not None and rule.record is not None:
            self.recorded[node] = rule.record(op, before.__getitem__, output)
        going_on = self._going_on(node, rule, followed)
        if taps := going_on + self._asked(node.meta["name"], is_op=True):
            self._advance(taps, *results[0])
        return output

    def _updated(self, statistics: list[Tensor]) -> None:
        """Running statistics that a normalisation has changed are other constants from now on."""
        for x in statistics:
            self._node(x)  # known, also if only the normalisation read it
            self.aliases.write(x, self._branch(x) or 0, self._constant(x.clone()))

    def _by_values(
        self, args: Any, kwargs: Any, inputs: dict[Node, Tensor]
    ) -> tuple[tuple[Any, ...], dict[int, Place]]:
        """Arguments of `strided` for those of as_strided: strides belong to the tensor that was."""
        x, sizes, strides, *rest = args
        offset = rest[0] if rest else kwargs.get("storage_offset")
        place = self._place(x)
        root = self.aliases.root(x, place.branch)
        inputs.clear()
        inputs[node := self.aliases.at(x, root)] = x
        view = (place.offset if offset is None else offset, tuple(sizes), tuple(strides))
        if not covers(root.layout, view):
            raise PathError(
                f"A view by strides reads beyond the value that it is made from (in "
                f"{self._stack[-1].label or 'the model'}, {_source_line()}): expected strides "
                f"within {root.layout}, got {view}. Make it from the whole value, before detach()."
            )
        return (node, root.layout, view), {storage_of(x): root}

    def peek(self, x: Tensor) -> Node | None:
        """The node of a tensor's value now, where one was written down already."""
        branch = self._branch(x)
        return None if branch is None else self.aliases.peek(x, branch)

    def _node(self, x: Tensor) -> Node:
        """The node of a tensor's value now; a tensor never seen is a constant of the model's."""
        branch = self._branch(x)
        if branch is None:
            branch = self._unseen(x)
        node = self.aliases.read(x, branch)
        return self._constant(x) if node is None else node

    def _place(self, x: Tensor) -> Place:
        return place_of(x, self._branch(x) or 0)

    def _constant(self, x: Tensor) -> Node:
        name = self._names.get(id(x), f"constant_{len(self.constants)}")
        node = self.graph.create_node("get_attr", name, name=name.replace(".", "_"))
        self.constants[name] = x
        # A parameter may have a gradient of its own, but none that goes on to the waveform.
        node.meta.update(grad=True, tracked=False, undetached=False)
        self._describe(node, x, carried=False, constant=True)
        self.aliases.add(x, node)
        self._remember(x, 0)
        return node

    # --- what autograd would follow ------------------------------------------------------------

    def _grad(self) -> bool:
        """The model's grad mode; in a custom function's forward, which has none, its caller's."""
        return torch.is_grad_enabled() if self._outer_grad is None else self._outer_grad

    def _track(self, node: Node, *, detached: bool = False) -> None:
        """Says whether autograd carries a gradient through an op, and would in any grad mode."""
        grad = node.meta.setdefault("grad", self._grad())
        sources = [] if detached else node.all_input_nodes
        node.meta["undetached"] = any(source.meta["undetached"] for source in sources)
        node.meta["tracked"] = grad and any(source.meta["tracked"] for source in sources)

    def _detached_beside_live(self, schema: Schema, inputs: Iterable[Node]) -> list[Node]:
        """The detached inputs of an op that also has live ones, as in z + (q - z).detach().

        In a model whose whole forward pass runs without gradients none is live for autograd. There
        those count that are not detached by name.
        """
        dependent = [node for node in inputs if depends_on_input(node)]
        if len(dependent) < 2 or schema.packet in PLACED:
            return []
        live = [node for node in dependent if node.meta["tracked"]]
        live = live or [node for node in dependent if node.meta["undetached"]]
        if not live:
            return []
        beside = [node for node in dependent if node not in live]
        if schema.packet in SIDE_BY_SIDE:
            return [node for node in beside if _computed_from(node, live)]
        return beside

    def _held(self, source: Node) -> Node:
        node = self._append(held, (source,), like=source)
        node.meta.update(depends_on_input=False, tracked=False, undetached=False)
        return node

    def _branch(self, x: Tensor) -> int | None:
        """Autograd's branch of a tensor object; None for an object that no op returned."""
        reference, storage, branch = self._branches.get(id(x), (None, 0, 0))
        if reference is not None and reference() is x and storage == storage_of(x):
            return branch
        own = id(x) in self._names and storage_of(x) not in self._fresh
        return 0 if own else None

    def _remember(self, x: Tensor, branch: int) -> None:
        self._branches[id(x)] = (TensorWeakRef(x), storage_of(x), branch)

    def _unseen(self, x: Tensor) -> int:
        """The branch of an object that no op returned: `nn.Parameter(h)` is a detached h.

        So is a buffer after `self.b.data = h`.
        """
        place = place_of(x)
        if self.aliases.read(x) is None:
            return 0
        branch = self._cut(x, place, None)
        self._remember(x, branch)
        return branch

    def _cut(self, x: Tensor, base: Place, node: Node | None) -> int:
        """A new branch of x's storage, which begins at `base` with this node."""
        self._last_branch += 1
        root = base._replace(branch=self._last_branch)
        self.aliases.alias(x, root, base, node, self._detached_again, self._restored)
        return self._last_branch

    def _detached_again(self, base: Node, old: Node | None) -> Node:
        """A detached value after its base was written to; its own way back stays."""
        again = self._append(aten.detach.default, (base,), like=base)
        return again if old is None or not old.meta["undetached"] else self._revalued(again, old)

    def _restored(self, base: Node, view: Node) -> Node:
        """A base after a detached view of it was written to; its own way back stays."""
        if base.meta["undetached"]:
            return self._revalued(view, base)
        return self._append(aten.detach.default, (view,), like=view)

    def _revalued(self, value: Node, history: Node) -> Node:
        """This value, with the way back of another node."""
        tracked, undetached = history.meta["tracked"], history.meta["undetached"]
        # Only one of the two may carry the signal, or it would count twice. Autograd goes back by
        # the history, the deconvnet by the value that the forward pass went on with.
        # A value that carries nothing, such as codes that were looked up, leaves the history to
        # both: `y.data.copy_(codes)` is a straight-through estimator. Zeros are no codes.
        source = value.args[1] if packet(value) is aten.copy else value
        looked_up = isinstance(source, Node) and not (
            depends_on_input(source) or source.meta["constant"] or source.meta["zero"]
        )
        if self.method == "gradient" or looked_up:
            value = self._held(value)
        else:
            history = self._held(history)
        node = self._append(revalued, (value, history), like=value)
        node.meta.update(tracked=tracked, undetached=undetached)
        node.meta["depends_on_input"] = any(map(depends_on_input, node.all_input_nodes))
        return node

    def _locate(self, node: Node, op: str) -> None:
        """Where in the model an op runs: its module call, its name there, the source line."""
        frame = self._stack[-1]
        frame.ops[op] += 1
        name = f"{frame.label}.{op}#{frame.ops[op]}".removeprefix(".")
        node.meta.update(label=frame.label, name=name, source=_source_line(), grad=self._grad())

    def _followed(self, node: Node, rule: Rule, written: list[Tensor]) -> list[Tap]:
        """The wanted layers whose blocks this op may continue; those it surely ends are done."""
        taps = [tap for tap in self.taps if tap.follows(node)]
        if not taps:
            return []
        if effect_on_block(node, rule, self.rules, ran=False) == "undecided":
            if written and not rule.block:  # the op may overwrite a map that it turns out to end
                self.kept.update(tap.tip for tap in taps if tap.tip is not None)
            return taps
        if all(tap.complete or tap in taps for tap in self.taps):
            self.graph.erase_node(node)  # it will not be recorded
        self.finish(taps)
        return []

    def _going_on(self, node: Node, rule: Rule | None, followed: list[Tap]) -> list[Tap]:
        """Of these layers, those whose blocks this op, which ran, continues."""
        if rule is None or not followed:
            return []
        effect = effect_on_block(node, rule, self.rules, ran=True)
        if effect == "ends":
            self.finish(followed)
        return followed if effect == "goes on" else []

    def custom_function(
        self, function: Any, run: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Runs a custom function and records its ops; or itself, where its own backward counts."""
        if function is torch.utils.checkpoint.CheckpointFunction:
            return args[0](*args[2:])  # which only saves memory
        given = converted(self._node, tuple(args))
        tensors = {id(x): x for x in leaves(args) if isinstance(x, Tensor)}
        last = next(reversed(self.graph.nodes))
        grad, outer = self._grad(), self._outer_grad
        self._outer_grad = grad
        try:
            output = run(*args, **kwargs)
        finally:
            self._outer_grad = outer
        in_place = any(id(x) in tensors for x in leaves(output))
        if self.complete or in_place or not any(map(depends_on_input, leaves(given))):
            return output
        if self.method == "gradient" or not has_a_rectifier(_after(last), self.rules, self.method):
            self._record_itself(function, given, list(tensors.values()), output)
        return output

    def _record_itself(self, function: Any, given: Any, tensors: list[Tensor], output: Any) -> None:
        """Writes a custom function down as one op: its results replace those of the ops inside."""
        node = self.graph.create_node("call_function", called(function), name=function.__name__)
        node.args = given
        self._locate(node, function.__name__)
        self._track(node)
        op = Op.of(node)
        inputs = {self._node(x): x for x in tensors}
        rule = rule_for(self.rules, op, self.method) if op.dependent else None
        _note_facts(node, rule)
        self._keep_inputs(op, rule, inputs, [])
        node.meta["constant"] = all(n.meta["constant"] for n in node.all_input_nodes)
        node.meta["depends_on_input"] = bool(op.dependent)
        places = {storage_of(x): self._place(x) for x in tensors}
        for part, x in self._parts(node, output):
            base = places.get(storage_of(x))
            if base is None:
                self.aliases.define(x, part)
                self._remember(x, 0)
            else:  # x.view_as(x): the input's memory, with another way back
                self._remember(x, self._cut(x, base, part))

    # --- what the mirror will need -----------------------------------------------------------

    def _keep_inputs(
        self, op: Op, rule: Rule | None, inputs: dict[Node, Tensor], written: list[Tensor]
    ) -> dict[Node, Tensor]:
        """Keeps the values that the rule reads; returns the inputs as they are before a write."""
        if rule is None:
            return inputs
        # Values that follow from the model alone are not kept: the mirror computes them anew, from
        # the parameters as they are then.
        wanted = set(rule.keeps(op))
        for node, x in inputs.items():
            if node in wanted or not (node.meta["depends_on_input"] or node.meta["constant"]):
                # A buffer after `self.b.data = h` gets its own memory back at the end.
                lent = id(x) in self._names and storage_of(x) in self._fresh
                self.kept.setdefault(node, x.detach() if lent else x)
        if rule.record is None:
            return inputs
        # `record` is called after the op. An input that the op wrote into holds the result by then.
        return {n: x.clone() if any(x is w for w in written) else x for n, x in inputs.items()}

    def _protect(self, written: list[Tensor]) -> None:
        """Before a write: copies what is kept there, and remembers what belongs to the model."""
        for x in written:
            storage = storage_of(x)
            # By storage, not by tensor: the write may go through another view of what is kept.
            for node, value in self.kept.items():
                if storage_of(value) == storage:
                    self.kept[node] = value.clone()
            if storage not in self._fresh:
                self.undo.append(before_write(x))
                self.writes[self._names.get(id(x), "a tensor without a name")] = None

    def _made(self, output: Any, given: Container[int]) -> None:
        """Memory that this run made; all other is the model's, and writes to it are undone."""
        made = (storage_of(x) for x in leaves(output) if isinstance(x, Tensor))
        self._fresh.update(storage for storage in made if storage not in given)

    # --- results -----------------------------------------------------------------------------

    def _settle(
        self,
        op: Op,
        sources: Mapping[int, Place],
        places: Mapping[int, tuple[Place, int]],
        output: Any,
        written: list[Tensor],
    ) -> list[tuple[Node, Tensor]]:
        """Describes each result of an op and says which node holds it from now on.

            y = torch.sin(h)      new memory: y is node sin
            v = y[:, 1:]          memory of y: v is node slice, cut from y
            d = y.detach()        memory of y: d is node detach, in a branch of its own
            y.mul_(2)             written: y is node mul, v and d are derived anew when read
            y.resize_(9, 9)       written, and laid out anew: y is node resize, as new memory

        Args:
            op: The op.
            sources: Where its inputs lay, by storage.
            places: Where what it wrote into lay and how many bytes that storage had, by object.
            output: What it returned.
            written: What it wrote into.
        """
        node = op.node
        if isinstance(node.target, OpOverload) and written:
            # The pure twin returns what the op wrote: one tensor, or several, as of sort(out=...).
            output = written[0] if returns_one_tensor(node.target) else tuple(written)
        elif written:
            # Without a twin the node returns the op's results and then what it wrote into, in this
            # order (see `_on_copies` in `schema`).
            output = (*leaves(output), *written)
        random = is_random(node) and packet(node) not in self.rules
        shaped = is_shaped(node)
        constant = all(n.meta["constant"] for n in node.all_input_nodes)
        node.meta["constant"] = constant and not random
        node.meta["depends_on_input"] = bool(op.dependent) and not (random or shaped)
        # Random numbers and zeros_like(x) do not depend on the values of what they are given.
        if random or shaped:
            node.meta.update(tracked=False, undetached=False)
        results = self._parts(node, output)
        for number, (part, x) in enumerate(results):
            if random or shaped or draws(node.target, op.arguments):
                self.kept[part] = x  # run again, it would be another
            if id(x) in places:
                results[number] = (self._overwrite(part, number, x, *places[id(x)]), x)
            elif storage_of(x) in sources:
                self._look(part, number, x, sources[storage_of(x)])
            else:
                self.aliases.define(x, part)
                self._remember(x, 0)
        return results

    def _look(self, part: Node, number: int, x: Tensor, base: Place) -> None:
        """A result that shares memory with an input, and was not written into."""
        cut = part.meta["undetached"] and not part.meta["grad"]  # a view without gradients
        if cut or packet(part) is aten.detach:
            # h.detach() is the first value of its branch. h[:, 1:] under no_grad is not: its branch
            # begins with all of h, detached when it is first read, and the slice is cut from that.
            same = place_of(x, base.branch) == base
            base = base._replace(branch=self._cut(x, base, part if same else None))
        if place_of(x, base.branch) != base:
            self._register_view(part, number, x, base)
        self._remember(x, base.branch)

    def _overwrite(self, part: Node, number: int, x: Tensor, before: Place, size: int) -> Node:
        """A tensor that an op wrote into; returns the node that holds its value from now on."""
        if packet(part) is aten.detach:  # detach_: the object leaves its branch
            self._remember(x, self._cut(x, before, part))
        # A buffer that grew has new memory; nothing that looked at the old one is up to date.
        elif x.untyped_storage().nbytes() != size or packet(part) is aten.resize:
            self.aliases.define(x, part)
            self._remember(x, 0)
        elif place_of(x, before.branch) != before:  # transpose_ and its kin
            self._register_view(part, number, x, before)
        else:
            old = self.aliases.read(x, before.branch)
            if old is not None and not part.meta["grad"] and old.meta["undetached"]:
                part = self._revalued(part, old)
            self.aliases.write(x, before.branch, part)
        return part

    def _parts(self, node: Node, output: Any) -> list[tuple[Node, Tensor]]:
        """A node for each tensor that an op returned."""
        if isinstance(output, Tensor):
            parts = [(node, output)]
        else:
            tensors = enumerate(output) if isinstance(output, tuple | list) else ()
            parts = [
                (self.graph.call_function(getitem, (node, number)), x)
                for number, x in tensors
                if isinstance(x, Tensor)
            ]
        carried, constant = node.meta["depends_on_input"], node.meta["constant"]
        tracking = {name: node.meta[name] for name in ("tracked", "undetached")}
        if not parts:  # a number, such as item()
            node.meta["depends_on_input"] = False
        else:  # of several results the first says the op's shape
            self._describe(node, parts[0][1], carried=carried, constant=constant)
        for part, x in parts[1:] if parts and parts[0][0] is node else parts:
            part.meta.update(node.meta, **tracking)
            self._describe(part, x, carried=carried, constant=constant)
        return parts

    def _register_view(self, part: Node, number: int, x: Tensor, base: Place) -> None:
        """A result that shares memory with an input."""
        call = part.args[0] if part.target is getitem else part
        assert isinstance(call, Node)
        target, rest = call.target, call.args[1:]

        def derive(new_base: Node, old: Node | None) -> Node:
            grad = call.meta["grad"]  # a view that was cut without gradients stays one
            again = self._append(target, (new_base, *rest), like=call, grad=grad)
            if call is part:
                return again
            return self._append(getitem, (again, number), like=part, grad=grad)

        def restore(new_base: Node, view: Node) -> Node:
            back = rule_for(self.rules, Op.of(call)).put_back
            if back is None:
                raise PathError(_not_put_back(call, new_base))
            return self._append(*back(call, number, new_base, view), like=new_base)

        self.aliases.alias(x, place_of(x, base.branch), base, part, derive, restore)

    def _append(self, target: Any, args: tuple[Any, ...], like: Node, *, grad: bool = True) -> Node:
        """A node for a value that no op computed: what a write to a view did to other views."""
        node = self.graph.call_function(target, args)
        sources = node.all_input_nodes
        floating = like.meta["dtype"].is_floating_point or like.meta["dtype"].is_complex
        node.meta.update(
            like.meta,
            depends_on_input=floating and any(depends_on_input(source) for source in sources),
            constant=all(source.meta["constant"] for source in sources),
            zero=False,
            derived=True,
            grad=grad,
        )
        self._track(node, detached=target is aten.detach.default)
        self._follow_autograd(node)
        carries = depends_on_input(node) and target is not getitem
        _note_facts(node, rule_for(self.rules, Op.of(node)) if carries else None)
        return node

    def _follow_autograd(self, node: Node) -> None:
        """The gradient method carries what autograd carries."""
        if self.method == "gradient" and not node.meta["tracked"]:
            node.meta["depends_on_input"] = False

    def _describe(self, node: Node, x: Tensor, *, carried: bool, constant: bool) -> None:
        floating = x.is_floating_point() or x.is_complex()
        node.meta.update(
            shape=tuple(x.shape),
            dtype=x.dtype,
            depends_on_input=carried and floating,
            constant=constant,
            zero=not carried and _is_zero(node, x),
        )
        if not floating:
            node.meta.update(tracked=False, undetached=False)
        self._follow_autograd(node)


class _Elsewhere(TorchDispatchMode):
    """Records ops of another thread."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped
        self._recorder = recorder

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if self._recorder.records_here():
            return self._recorder.__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


def _lazy_bits() -> Any:
    """Lets torch resolve conj() and imag, which it does lazily, for ops that are run from in here.

    A dispatch mode's handler is called with that switched off, as for whole ops it was done before.
    An op made of others, such as hfft, conjugates within, and its FFT would read the memory as is.
    """
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.Conjugate, torch._C.DispatchKey.Negative):
        excluded = excluded.remove(key)
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


# --- values ----------------------------------------------------------------------


def _note_facts(node: Node, rule: Rule | None) -> None:
    """What the rules of later ops ask of this one's (see `deconv1d.rules.gates`)."""
    for name in ("gate", "bounded", "detached", "reshapes", "affine"):
        node.meta[name] = rule is not None and getattr(rule, name)


def _after(node: Node) -> Iterator[Node]:
    """The nodes that were written after this one."""
    while (node := node.next).op != "root":
        yield node


def _computed_from(node: Node, sources: Iterable[Node]) -> bool:
    """Whether a value was computed from one of these, however they were turned or cut since."""
    wanted = {_before_views(source) for source in sources}
    seen: set[Node] = set()
    waiting = [node]
    while waiting:
        if (node := waiting.pop()) in wanted:
            return True
        new = [source for source in node.all_input_nodes if source not in seen]
        seen.update(new)
        waiting += new
    return False


def _before_views(node: Node) -> Node:
    """The value that a chain of views was cut from."""
    while isinstance(node.target, OpOverload) and len(node.all_input_nodes) == 1:
        if not any(
            a.alias_info and not a.alias_info.is_write for a in node.target._schema.arguments
        ):
            break
        node = node.all_input_nodes[0]
    return node


def _is_zero(node: Node, x: Tensor) -> bool:
    """Whether a constant is zero everywhere, as far as a glance tells.

    Looked at: single numbers, and what was made for this (zeros_like, new_full, torch.zeros), which
    is often as large as a map. A weight is not looked at: that would cost a pass over all of them.
    """
    if packet(node) is aten.zero:
        return True
    if packet(node) is aten.detach:  # with gradients on, torch.zeros_like detaches what it made
        return bool(node.all_input_nodes[0].meta["zero"])
    if x.is_complex() or not (x.numel() == 1 or is_factory(node.target)):
        return False
    return not bool(x.any())


def _not_put_back(cut: Node, base: Node) -> str:
    return (
        f"A write into a view made by {cut.target} cannot be carried back "
        f"(in {base.meta['label'] or 'the model'}, {base.meta['source']}). "
        f"Write into a slice, a selection or a reshape instead, or not in place."
    )


def _source_line() -> str:
    """The innermost line that is neither ours nor torch's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_ours_or_torchs(frame.f_code.co_filename):
        frame = frame.f_back
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


@cache
def _is_ours_or_torchs(filename: str) -> bool:
    return filename.startswith(OURS_AND_TORCH)
