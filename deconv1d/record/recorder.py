"""A dispatch mode that writes every op of a running model into a `torch.fx` graph.

    h = conv(x)     node convolution, and the weight's node; h is this node (`values`)
    h.relu_()       node relu, its pure twin; h is this node from now on (`results`)
    y = conv2(h)    ends the block of conv: the model is stopped (`wanted`)

The mode stands below autograd, so no derivative is built while it records; see `values` for what is
written down instead. What the rules read is kept before a later op may overwrite it (`keeping`).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import Node, map_arg
from torch.utils._python_dispatch import TorchDispatchMode

from deconv1d.record.aliasing import Place, storage_of
from deconv1d.record.blocks import effect_on_block
from deconv1d.record.composite import is_whole, lazy_bits, run_parts
from deconv1d.record.detached import detached_beside_live
from deconv1d.record.functions import called, has_a_rectifier
from deconv1d.record.higher_order import run_higher_order
from deconv1d.record.keeping import Keeping
from deconv1d.record.request import Failure, Tap, TapRequest
from deconv1d.record.results import parts_of, settle
from deconv1d.record.schema import Schema, schema_of
from deconv1d.record.source_lines import source_line
from deconv1d.record.values import Values, note_facts
from deconv1d.record.wanted import Wanted
from deconv1d.rules.memory import strided
from deconv1d.rules.op import Op, converted, depends_on_input, first_tensor, leaves
from deconv1d.rules.table import Rule, Rules, rule_for

aten = torch.ops.aten


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
        self._rules, self._method = rules, method
        names = {id(tensor): name for name, tensor in state.items()}
        self.values = Values(x, names, rules=rules, method=method)
        self.keeping = Keeping(self.values, x)
        self.wanted = Wanted(targets, self.values.graph, self.keeping.kept, run_on=run_on)
        self.calls: Counter[str] = Counter()
        self.returned: dict[str, Node] = {}
        self.decides = False
        self.failure: Failure | None = None
        self._stacks = {threading.get_ident(): [_Frame("", 1)]}
        self._lock, self._over = threading.RLock(), False

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
        if self.wanted.complete or value is None:
            return
        node, call = self.values.node(value), f"{frame.path}#{frame.call}"
        self.wanted.outputs[call] = node
        # It may be a later one than `node`: a module may return a value that it made before others.
        self.returned[call] = next(iter(reversed(self.values.graph.nodes)))
        if taps := self.wanted.asked(call, is_op=False):
            self.wanted.advance(taps, node, value)

    def release(self) -> None:
        """Lets go of what only recording needs: it refers back, and tensors would outlive it."""
        self._over = True
        self.values.release()
        self.keeping.undo.clear()

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
        # A stopped model may go on: an `except BaseException` of its own, or a script that turned
        # the first `Stop` into another exception. Or a layer was completed in another thread.
        self.wanted.stop_if_complete()
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
            error, str(func.overloadpacket), self._stack[-1].label, source_line(), shapes
        )

    def _dispatch(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        schema = schema_of(func)
        # Composite ops with a rule are recorded whole; others as the ops that they are made of.
        if schema.composite and not is_whole(func, schema, self._rules, args, kwargs):
            with self:
                return run_parts(func, args, kwargs)
        self.decides |= schema.decides
        if schema.composite:  # a whole one: what it is made of runs in here
            with lazy_bits():
                return self._take(func, schema, args, kwargs)
        return self._take(func, schema, args, kwargs)

    def _take(self, func: OpOverload, schema: Schema, args: Any, kwargs: Any) -> Any:
        if not self.wanted.complete:
            return self._record(func, schema, args, kwargs)
        return self._pass_on(func, schema, args, kwargs)

    def _pass_on(self, func: OpOverload, schema: Schema, args: Any, kwargs: Any) -> Any:
        """Runs an op after the map is complete: only what must be put back is noted."""
        self.keeping.protect(schema.written(args, kwargs) + schema.statistics(args))
        output = func(*args, **kwargs)
        given = {storage_of(x) for x in leaves((args, kwargs)) if isinstance(x, Tensor)}
        self.keeping.made(output, _lent(func, given))
        return output

    def _record(self, func: OpOverload, schema: Schema, args: Any, kwargs: Any) -> Any:
        node, inputs, sources = self._written_down(func, schema, args, kwargs)
        op = Op.of(node)
        rule = rule_for(self._rules, op, self._method) if op.dependent else None
        note_facts(node, rule)
        written = schema.written(args, kwargs)
        followed = [] if rule is None else self._followed(node, rule, written)
        # Only with `run_on`: this op has ended the last wanted block, so its node is gone from the
        # graph, and the rest of the model runs without being recorded.
        if self.wanted.complete:
            return self._pass_on(func, schema, args, kwargs)
        # Both before the op runs: it may overwrite what the rule reads or what is kept.
        before = self.keeping.keep_inputs(op, rule, inputs, written)
        self.keeping.protect(written + schema.statistics(args))
        places = {id(x): (self.values.place(x), x.untyped_storage().nbytes()) for x in written}
        try:
            output = func(*args, **kwargs)
        except BaseException:
            self.values.graph.erase_node(node)  # the model may know what to do instead
            raise
        self.keeping.made(output, _lent(func, sources))
        results = settle(self.values, self.keeping.kept, op, sources, places, output, written)
        self.values.updated(schema.statistics(args))
        if rule is not None and rule.record is not None:
            self.keeping.recorded[node] = rule.record(op, before.__getitem__, output)
        going_on = self._going_on(node, rule, followed)
        if taps := going_on + self.wanted.asked(node.meta["name"], is_op=True):
            self.wanted.advance(taps, *results[0])
        return output

    def _written_down(
        self, func: OpOverload, schema: Schema, args: Any, kwargs: Any
    ) -> tuple[Node, dict[Node, Tensor], dict[int, Place]]:
        """An op's node, the values that it takes by node, and where they lie by storage."""
        inputs: dict[Node, Tensor] = {}

        def node_of(value: Tensor) -> Node:
            node = self.values.node(value)
            inputs[node] = value
            return node

        node_args, node_kwargs = converted(node_of, (tuple(args), kwargs))
        # Reversed, so that of several inputs in one storage the first counts: an op that returns a
        # view cuts it from its first argument.
        sources = {storage_of(x): self.values.place(x) for x in reversed(inputs.values())}
        pure = schema.pure
        if func is aten.as_strided.default:
            pure, node_kwargs = strided, {}
            label = self._stack[-1].label
            node_args, sources = self.values.by_values(args, kwargs, inputs, label)
        elif isinstance(pure, OpOverload):
            # The pure twin makes its own memory and takes no out=. An op without a twin runs on
            # copies (see `schema`) and still takes it.
            node_kwargs = {k: v for k, v in node_kwargs.items() if k not in schema.outs}
        if beside := detached_beside_live(schema, inputs):
            swap = {node: self.values.held(node) for node in beside}
            inputs = {swap.get(node, node): x for node, x in inputs.items()}
            node_args, node_kwargs = map_arg(
                (node_args, node_kwargs), lambda node: swap.get(node, node)
            )
        node = self.values.graph.create_node("call_function", pure, name=schema.name)
        node.args = node_args  # faster than in the call
        if node_kwargs:
            node.kwargs = node_kwargs
        self._locate(node, schema.name)
        self.values.track(node, detached=schema.packet is aten.detach)
        return node, inputs, sources

    def _locate(self, node: Node, op: str) -> None:
        """Where in the model an op runs: its module call, its name there, the source line."""
        frame = self._stack[-1]
        frame.ops[op] += 1
        name = f"{frame.label}.{op}#{frame.ops[op]}".removeprefix(".")
        node.meta.update(
            label=frame.label, name=name, source=source_line(), grad=self.values.grad()
        )

    def _followed(self, node: Node, rule: Rule, written: list[Tensor]) -> list[Tap]:
        """The wanted layers whose blocks this op may continue; those it surely ends are done."""
        taps = self.wanted.following(node)
        if not taps:
            return []
        if effect_on_block(node, rule, self._rules, ran=False) == "undecided":
            if written and not rule.block:  # the op may overwrite a map that it turns out to end
                self.keeping.kept.update(tap.tip for tap in taps if tap.tip is not None)
            return taps
        if all(tap.complete or tap in taps for tap in self.wanted.taps):
            self.values.graph.erase_node(node)  # it will not be recorded
        self.wanted.finish(taps)
        return []

    def _going_on(self, node: Node, rule: Rule | None, followed: list[Tap]) -> list[Tap]:
        """Of these layers, those whose blocks this op, which ran, continues."""
        if rule is None or not followed:
            return []
        effect = effect_on_block(node, rule, self._rules, ran=True)
        if effect == "ends":
            self.wanted.finish(followed)
        return followed if effect == "goes on" else []

    # --- custom functions ----------------------------------------------------------------------

    def custom_function(
        self, function: Any, run: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Runs a custom function and records its ops; or itself, where its own backward counts."""
        if function is torch.utils.checkpoint.CheckpointFunction:
            return args[0](*args[2:])  # which only saves memory
        given = converted(self.values.node, tuple(args))
        tensors = {id(x): x for x in leaves(args) if isinstance(x, Tensor)}
        last = next(iter(reversed(self.values.graph.nodes)))
        grad, outer = self.values.grad(), self.values.outer_grad
        self.values.outer_grad = grad
        try:
            output = run(*args, **kwargs)
        finally:
            self.values.outer_grad = outer
        in_place = any(id(x) in tensors for x in leaves(output))
        if self.wanted.complete or in_place or not any(map(depends_on_input, leaves(given))):
            return output
        if self._method == "gradient" or not has_a_rectifier(
            _after(last), self._rules, self._method
        ):
            self._record_itself(function, given, list(tensors.values()), output)
        return output

    def _record_itself(self, function: Any, given: Any, tensors: list[Tensor], output: Any) -> None:
        """Writes a custom function down as one op: its results replace those of the ops inside."""
        node = self.values.graph.create_node(
            "call_function", called(function), name=function.__name__
        )
        node.args = given
        self._locate(node, function.__name__)
        self.values.track(node)
        op = Op.of(node)
        inputs = {self.values.node(x): x for x in tensors}
        rule = rule_for(self._rules, op, self._method) if op.dependent else None
        note_facts(node, rule)
        self.keeping.keep_inputs(op, rule, inputs, [])
        node.meta["constant"] = all(n.meta["constant"] for n in node.all_input_nodes)
        node.meta["depends_on_input"] = bool(op.dependent)
        places = {storage_of(x): self.values.place(x) for x in tensors}
        for part, x in parts_of(self.values, node, output):
            base = places.get(storage_of(x))
            if base is None:
                self.values.define(x, part)
            else:  # x.view_as(x): the input's memory, with another way back
                self.values.remember(x, self.values.cut(x, base, part))


def _after(node: Node) -> Iterator[Node]:
    """The nodes that were written after this one."""
    while (node := node.next).op != "root":
        yield node


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


def _lent(func: OpOverload, given: Container[int]) -> Container[int]:
    """Of the memory that an op was given, what may be the model's own."""
    # torch.tensor(3.0) makes its memory unseen and then calls lift_fresh on it.
    return () if func is aten.lift_fresh.default else given
