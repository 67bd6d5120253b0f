"""A dispatch mode that writes every op of a running model into a `torch.fx` graph."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from operator import getitem
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.utils._python_dispatch import TorchDispatchMode

from deconv1d.errors import PathError
from deconv1d.record.aliasing import Aliases, Place, place_of, storage_of
from deconv1d.record.blocks import effect_on_block
from deconv1d.record.request import Failure, Tap, TapRequest
from deconv1d.record.schema import (
    Schema,
    draws,
    is_drawn_within,
    is_factory,
    is_random,
    is_random_op,
    is_shaped,
    schema_of,
)
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
        self.undo: list[tuple[Tensor, Tensor]] = []
        self.writes: dict[str, None] = {}
        self._names = {id(tensor): name for name, tensor in state.items()}
        self._fresh = {storage_of(x)}
        self._detached: dict[int, tuple[Tensor, Node, Node]] = {}
        self._stack = [_Frame("", 1)]
        self.x = self.graph.placeholder("x")
        self._describe(self.x, x, carried=True, constant=False)
        self.aliases.define(x, self.x)
        self.kept[self.x] = x

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: wrapping the dispatch for it would import the compiler, 2 s, at the first op."""
        return False

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
        self.returned[call] = next(reversed(self.graph.nodes))
        if taps := self._asked(call, is_op=False):
            self._advance(taps, node, value)

    def _asked(self, call: str, *, is_op: bool) -> list[Tap]:
        """Where this module call or op is the wanted layer."""
        return [t for t in self.taps if (t.request.call, t.request.is_op) == (call, is_op)]

    def _advance(self, taps: list[Tap], node: Node, value: Tensor) -> None:
        """A wanted layer has answered, or its block has gone on."""
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
                self.kept.setdefault(*tap.tip)
        if taps and all(tap.complete for tap in self.taps):
            self.complete = True
            if not self.run_on:
                raise Stop

    def release(self) -> None:
        """Lets go of what only recording needs: it refers back, and tensors would outlive it."""
        self.aliases = Aliases()
        self.undo.clear()
        self._detached.clear()

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

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs one op and writes it down."""
        if self.complete and not self.run_on:
            raise Stop  # the first was swallowed, or turned into another exception by a script
        try:
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
        if isinstance(schema.pure, OpOverload):
            node_kwargs = {k: v for k, v in node_kwargs.items() if k not in schema.outs}
        node = self.graph.create_node("call_function", schema.pure, name=schema.name)
        node.args = node_args  # faster than in the call
        if node_kwargs:
            node.kwargs = node_kwargs
        self._locate(node, schema.name)
        op = Op.of(node)
        rule = rule_for(self.rules, op, self.method) if op.dependent else None
        _note_facts(node, rule)
        written = schema.written(args, kwargs)
        followed = [] if rule is None else self._followed(node, rule, written)
        if self.complete:
            return self._pass_on(func, schema, args, kwargs)
        before = self._keep_inputs(op, rule, inputs, written)
        self._protect(written + schema.statistics(args))
        places = {n: place_of(x) for n, x in inputs.items()} if written else None
        try:
            output = func(*args, **kwargs)
        except BaseException:
            self.graph.erase_node(node)  # the model may know what to do instead
            raise
        sources = {storage_of(x): (n, x) for n, x in reversed(inputs.items())}
        self._made(output, sources)
        results = self._settle(op, sources, places, output, written)
        if rule is not None and rule.record is not None:
            self.recorded[node] = rule.record(op, before.__getitem__, output)
        going_on = self._going_on(node, rule, followed)
        if taps := going_on + self._asked(node.meta["name"], is_op=True):
            self._advance(taps, *results[0])
        return output

    def _node(self, x: Tensor) -> Node:
        """The node of a tensor's value now; a tensor never seen is a constant of the model's."""
        node = self.aliases.read(x)
        if node is None:
            return self._constant(x)
        if id(x) not in self._detached:
            return node
        _, source, detached = self._detached[id(x)]
        if node is not source:  # what it shares memory with was written to
            detached = self._append(aten.detach.default, (node,), like=detached)
            self._detached[id(x)] = (x, node, detached)
        return detached

    def _constant(self, x: Tensor) -> Node:
        name = self._names.get(id(x), f"constant_{len(self.constants)}")
        node = self.graph.create_node("get_attr", name, name=name.replace(".", "_"))
        self.constants[name] = x
        self._describe(node, x, carried=False, constant=True)
        self.aliases.define(x, node)
        return node

    def _locate(self, node: Node, op: str) -> None:
        """Where in the model an op runs: its module call, its name there, the source line."""
        frame = self._stack[-1]
        frame.ops[op] += 1
        name = f"{frame.label}.{op}#{frame.ops[op]}".removeprefix(".")
        node.meta.update(label=frame.label, name=name, source=_source_line())

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

    # --- what the mirror will need -----------------------------------------------------------

    def _keep_inputs(
        self, op: Op, rule: Rule | None, inputs: dict[Node, Tensor], written: list[Tensor]
    ) -> dict[Node, Tensor]:
        """Keeps the values that the rule reads; returns the inputs as they are before a write."""
        if rule is None:
            return inputs
        wanted = set(rule.keeps(op))
        for node, x in inputs.items():
            if node in wanted or not (node.meta["depends_on_input"] or node.meta["constant"]):
                self.kept.setdefault(node, x)
        if rule.record is None:
            return inputs
        return {n: x.clone() if any(x is w for w in written) else x for n, x in inputs.items()}

    def _protect(self, written: list[Tensor]) -> None:
        """Before a write: copies what is kept there, and remembers what belongs to the model."""
        for x in written:
            storage = storage_of(x)
            for node, value in self.kept.items():
                if storage_of(value) == storage:
                    self.kept[node] = value.clone()
            if storage not in self._fresh:
                self.undo.append((x, x.clone()))
                self.writes[self._names.get(id(x), "a tensor without a name")] = None

    def _made(self, output: Any, given: Container[int]) -> None:
        """Memory that this run made; all other is the model's, and writes to it are undone."""
        made = (storage_of(x) for x in leaves(output) if isinstance(x, Tensor))
        self._fresh.update(storage for storage in made if storage not in given)

    # --- results -----------------------------------------------------------------------------

    def _settle(
        self,
        op: Op,
        sources: dict[int, tuple[Node, Tensor]],
        places: dict[Node, Place] | None,
        output: Any,
        written: list[Tensor],
    ) -> list[tuple[Node, Tensor]]:
        """Describes each result of an op and says which node holds it from now on."""
        node = op.node
        if isinstance(node.target, OpOverload) and written:
            output = written[0]  # the pure twin returns what the op wrote
        elif written:
            output = (*leaves(output), *written)
        random = is_random(node) and packet(node) not in self.rules
        shaped = is_shaped(node)
        constant = all(n.meta["constant"] for n in node.all_input_nodes)
        node.meta["constant"] = constant and not random
        node.meta["depends_on_input"] = bool(op.dependent) and not (random or shaped)
        results = self._parts(node, output)
        for number, (part, x) in enumerate(results):
            if random or shaped or draws(node.target, op.arguments):
                self.kept[part] = x  # run again, it would be another
            if storage_of(x) not in sources:
                self.aliases.define(x, part)
                continue
            base, given = sources[storage_of(x)]
            place = place_of(given) if places is None else places[base]
            if packet(node) is aten.detach and depends_on_input(part):
                self._detached[id(x)] = (x, base, part)  # by identity: its place is its input's
            elif place != place_of(x):
                self._register_view(part, number, x, place)
            elif any(x is w for w in written):
                self._detached.pop(id(x), None)
                self.aliases.write(x, part)
        return results

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
        if not parts:  # a number, such as item()
            node.meta["depends_on_input"] = False
        else:  # of several results the first says the op's shape
            self._describe(node, parts[0][1], carried=carried, constant=constant)
        for part, x in parts[1:] if parts and parts[0][0] is node else parts:
            part.meta.update(node.meta)
            self._describe(part, x, carried=carried, constant=constant)
        return parts

    def _register_view(self, part: Node, number: int, x: Tensor, base: Place) -> None:
        """A result that shares memory with an input."""
        call = part.args[0] if part.target is getitem else part
        assert isinstance(call, Node)
        target, rest = call.target, call.args[1:]

        def derive(new_base: Node) -> Node:
            again = self._append(target, (new_base, *rest), like=call)
            return again if call is part else self._append(getitem, (again, number), like=part)

        def restore(new_base: Node, view: Node) -> Node:
            back = rule_for(self.rules, Op.of(call)).put_back
            if back is None:
                raise PathError(_not_put_back(call, new_base))
            return self._append(*back(call, number, new_base, view), like=new_base)

        self.aliases.alias(x, base, part, derive, restore)

    def _append(self, target: Any, args: tuple[Any, ...], like: Node) -> Node:
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
        )
        carries = depends_on_input(node) and target is not getitem
        _note_facts(node, rule_for(self.rules, Op.of(node)) if carries else None)
        return node

    def _describe(self, node: Node, x: Tensor, *, carried: bool, constant: bool) -> None:
        floating = x.is_floating_point() or x.is_complex()
        node.meta.update(
            shape=tuple(x.shape),
            dtype=x.dtype,
            depends_on_input=carried and floating,
            constant=constant,
            zero=not carried and _is_zero(node, x),
        )


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
    for name in ("gate", "detached", "reshapes"):
        node.meta[name] = rule is not None and getattr(rule, name)


def _is_zero(node: Node, x: Tensor) -> bool:
    """Whether a constant is zero everywhere, as far as a glance tells.

    Looked at: single numbers, and what was made for this (zeros_like, new_full, torch.zeros), which
    is often as large as a map. A weight is not looked at: that would cost a pass over all of them.
    """
    if packet(node) is aten.zero:
        return True
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
