"""Whether a capture is what the model computes: checked against a plain forward pass and autograd.

Two passes of the same waveform are compared at the wanted map. One is recorded for the gradient
method; the other is the model alone, with autograd on:

    recorded pass        x -> ops -> map   mirror(a random map) -> signal at x
    plain pass           x -> ops -> map   torch.autograd.grad(map, x, the same seed)

The plain pass has to find the same map. If the map is a module's output, a forward hook finds it.
Else the calls of torch that the model makes are counted in both passes, and the map is what the
call of the same number returned. The plain pass is stopped there.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.overrides import TorchFunctionMode

from deconv1d.errors import ModelError, PathError
from deconv1d.layers.names import call_number
from deconv1d.mirror import mirror
from deconv1d.record.aliasing import before_write, storage_of, undo_writes
from deconv1d.record.capture import Capture, capture, cast, castable, replay_all
from deconv1d.record.interrupts import interruptible
from deconv1d.record.recorder import Recorder
from deconv1d.record.request import TapRequest
from deconv1d.record.structure import structure_of
from deconv1d.record.unchanged import unchanged
from deconv1d.record.wanted import Stop
from deconv1d.rules.op import depends_on_input, first_tensor, leaves
from deconv1d.rules.table import GRADIENT, RULES, Rules

VERIFY = ("once", "always", False)
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
HALF_TOLERANCE = 0.05
"""For models that compute in half precision even when they are run in float32."""

RECEPTIVE_FIELDS = 4
"""How much of a waveform is checked, where a map reads no more than its receptive field."""

MAP_ONLY = "only the map was asked for"
MAP_IS_THERE = "the map is there"

Forward = Callable[[Any, Tensor], Any]


@dataclass(frozen=True)
class Verified:
    """How far a capture is from the model itself.

    Attributes:
        layer: The layer's full name.
        value: Largest difference of the map from the plain model's, as a share of its peak; None:
            it could not be compared.
        signal: Largest difference of the gradient method from autograd, as a share of its peak;
            None: it could not be compared.
        note: Why something could not be compared, or what else has to be said.
    """

    layer: str
    value: float | None
    signal: float | None
    note: str = ""

    def __str__(self) -> str:
        value, signal = ("-" if e is None else f"{e:.0e}" for e in (self.value, self.signal))
        return f"{value}, {signal}" + (f" ({self.note})" if self.note else "")


class Verification:
    """Checks captures of a model; each layer once for each structure of its graph.

    Args:
        model: The model, not wrapped.
        forward: As for `Sonifier`.
        rules: As for `Sonifier`.
        dtype: As for `Sonifier`.
        verify: As for `Sonifier`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        forward: Forward | None,
        rules: Rules,
        dtype: torch.dtype | None,
        verify: str | bool,
    ) -> None:
        self.verify = verify
        self.outcomes: dict[str, Verified] = {}
        # A rule of the user's need not give the gradient. Here the capture is checked, not the
        # rules, so torch's own derivative stands in for each of them.
        own = {op: RULES.get(op, GRADIENT) for op in rules}
        self._model, self._forward, self._rules, self._dtype = model, forward, own, dtype
        self._done: dict[tuple[TapRequest, str], Verified] = {}

    def share(self, other: Verification) -> None:
        """Counts as verified what the other one checks, and the other way round.

        Args:
            other: Of the same model with other weights: no structure depends on their values.
        """
        self._done = other._done

    def check(
        self, captured: Capture, node: Node, request: TapRequest, layer: str, *, signal: bool
    ) -> Verified | None:
        """Checks one map of a capture, unless one of the same structure was checked before.

        Args:
            captured: The forward pass.
            node: The map's node.
            request: How the map was asked for.
            layer: The layer's full name.
            signal: Whether to check the way back too.

        Returns:
            The outcome; None if nothing is to be verified.

        Raises:
            ModelError: If the capture is not what the model computes.
        """
        if self.verify is False or not captured.kept[node].isfinite().all():
            return None  # a map that is not finite is an error of its own
        key = (request, structure_of(captured.graph, node))
        done = self._done.get(key)
        if done is None or self.verify == "always" or (signal and done.note == MAP_ONLY):
            done = self._check(captured, node, request, layer, signal)
        self._done[key] = self.outcomes[layer] = done
        return done

    def _check(
        self, captured: Capture, node: Node, request: TapRequest, layer: str, signal: bool
    ) -> Verified:
        x = captured.kept[captured.x]
        # In half precision rounding may be as large as the error of a wrong op: the check is in
        # float32.
        half = x.dtype in (torch.float16, torch.bfloat16)
        dtype = torch.float32 if half else self._dtype
        job = _Job(self._model, self._forward, self._rules, request, layer, signal)
        structure = structure_of(captured.graph, node)
        # An excerpt is faster. The model may refuse it, or run other ops on it, or differ on it: in
        # all of these cases the whole waveform decides.
        for excerpt in _excerpts(captured, node):
            with suppress(Exception):
                found = job.compare(excerpt, dtype)
                same = structure_of(found.recorded.captured.graph, found.recorded.node)
                if same == structure:
                    return job.judge(found, excerpt, dtype)
        return job.judge(job.compare(x, dtype), x, dtype)


def _excerpts(captured: Capture, node: Node) -> Iterator[Tensor]:
    """A few receptive fields of audio, where the map reads no more than one.

        ...01210000000000000013979312...
               |--------|     |------|       the edge of the silence, and the loudest moment

    Digital silence is checked too, if the waveform has any: derivatives may be infinite there.
    """
    x, field = captured.kept[captured.x], captured.receptive_fields[node]
    if field is None:
        return
    length = math.ceil(RECEPTIVE_FIELDS * (field.size + field.hop))
    rows = x[:2].reshape(-1, x.shape[-1])
    moments = [int(rows.abs().amax(0).argmax())]
    if (edge := _edge_of_silence((rows == 0).all(0))) is not None:
        moments.append(edge)
    if length * len(moments) < x.shape[-1] // 2:
        starts = [min(max(at - length // 2, 0), x.shape[-1] - length) for at in moments]
        yield torch.cat([x[:2, ..., start : start + length] for start in starts], -1)


def _edge_of_silence(silent: Tensor) -> int | None:
    """Where the longest run of silent samples begins; its end, if that is the waveform's start."""
    places = silent.nonzero().flatten()
    if not len(places):
        return None
    gaps = (places.diff() > 1).nonzero().flatten() + 1
    run = max(places.tensor_split(gaps.cpu()), key=len)
    return int(run[0]) or int(run[-1])


# --- two passes ---------------------------------------------------------------------------------


class _Calls(TorchFunctionMode):
    """Counts the calls of torch that a model makes, and shows what each returned."""

    def __init__(self, see: Callable[[int, str, list[Tensor]], None]) -> None:
        super().__init__()
        self._see, self._count = see, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        # x[...] = y returns None; the value that it makes is the new x.
        result = args[0] if func is Tensor.__setitem__ else output
        if tensors := [x for x in leaves(result) if isinstance(x, Tensor)]:
            self._see(self._count, func.__name__, tensors)
            self._count += 1
        return output


@dataclass
class _Recorded:
    """A capture, and which call of torch returned the value of which node.

    Attributes:
        captured: Up to the map.
        names: Of the calls of torch, in order.
        places: Number of a call and place in what it returned, by node.
    """

    captured: Capture
    names: list[str]
    places: dict[Node, tuple[int, int]]

    @property
    def node(self) -> Node:
        """The map's."""
        assert self.captured.tap is not None
        return self.captured.tap

    @property
    def module(self) -> str | None:
        """The module call that returned the map, if one did."""
        outputs = self.captured.outputs.items()
        return next((call for call, node in outputs if node is self.node), None)


class _Difference(NamedTuple):
    """What two passes of one waveform gave.

    Attributes:
        recorded: The recorded pass.
        kept: Of the map that was kept from the plain pass's, as a share of its peak; None: the
            plain pass does not show it.
        again: Of the map that the recorded ops give again.
        signal: See `Verified`.
        note: See `Verified`.
    """

    recorded: _Recorded
    kept: float | None
    again: float | None
    signal: float | None
    note: str

    @property
    def value(self) -> float | None:
        """See `Verified`."""
        return None if self.kept is None or self.again is None else max(self.kept, self.again)


class _Unable(Exception):
    """The plain pass cannot be run, or makes other calls of torch than the recorded one."""


class _Job:
    """One map to be checked."""

    def __init__(
        self,
        model: nn.Module,
        forward: Forward | None,
        rules: Rules,
        request: TapRequest,
        layer: str,
        signal: bool,
    ) -> None:
        self._model, self._forward, self._rules = model, forward, rules
        self._request, self._layer, self._signal = request, layer, signal

    def compare(self, x: Tensor, dtype: torch.dtype | None) -> _Difference:
        """Runs both passes on a waveform."""
        recorded, note = self._record(x, dtype)
        if self._signal and not note:
            try:
                with self._plain(x, dtype, recorded, grad=True) as plain:
                    return self._differences(recorded, plain)
            except _Unable as error:
                note = f"autograd cannot run the model: {error}"
        try:
            with self._plain(x, dtype, recorded, grad=False) as plain:
                kept, again = _value_differences(recorded, plain)
        except _Unable as error:
            note = f"no plain pass to compare with: {error}"
            return _Difference(recorded, None, None, None, note)
        note = note if kept is not None else _why_hidden(self._model)
        return _Difference(recorded, kept, again, None, note)

    def _differences(self, recorded: _Recorded, plain: _Plain) -> _Difference:
        kept, again = _value_differences(recorded, plain)
        if kept is None:
            return _Difference(recorded, None, None, None, _why_hidden(self._model))
        signal, note = self._signal_difference(recorded.captured, recorded.node, plain)
        return _Difference(recorded, kept, again, signal, note)

    def _signal_difference(
        self, captured: Capture, node: Node, plain: _Plain
    ) -> tuple[float | None, str]:
        """How far the gradient method is from autograd, from one node on."""
        value = plain.values[node]
        generator = torch.Generator().manual_seed(0)
        # Complex for a complex map: of a real seed's signal no missing conjugate would be seen.
        seed = torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)
        try:
            expected = _autograd(value, plain.x, seed)
        except Exception as error:  # derivatives of higher-order operators raise more kinds
            return None, f"autograd cannot go back: {_first_line(error)}"
        ours = self._mirrored(captured, node, seed)
        finite = expected.isfinite()
        note = "" if finite.all() else "autograd's own gradient is not finite"
        # Where autograd multiplies zero by an infinite derivative, as of sqrt at 0, its result is
        # NaN. The mirror takes such a derivative for 0, so its signal has to be finite there.
        if not ours.isfinite().all() and not _has_own_backward(captured):
            return math.inf, note
        if not finite.any():
            return None, note
        return _relative(ours[finite], expected[finite], float(seed.abs().max())), note

    def _mirrored(self, captured: Capture, node: Node, seed: Tensor) -> Tensor:
        """What the gradient method carries back to the waveform; zero where nothing gets there."""
        try:
            back = mirror(replace(captured, taps=(node,)), rules=self._rules, method="gradient")
        except PathError:
            return torch.zeros_like(captured.kept[captured.x])
        return back(seed)

    def _record(self, x: Tensor, dtype: torch.dtype | None) -> tuple[_Recorded, str]:
        """The recorded pass, and why the way back cannot be checked."""
        note = "" if self._signal else MAP_ONLY
        if self._signal:
            try:
                return self._capture(x, dtype, "gradient"), ""
            except PathError:
                note = "no autograd path"
        return self._capture(x, dtype, "forward"), note

    def _capture(self, x: Tensor, dtype: torch.dtype | None, method: str) -> _Recorded:
        names: list[str] = []
        places: dict[Node, tuple[int, int]] = {}

        def watch(recorder: Recorder) -> AbstractContextManager[Any]:
            # An op whose own output is wanted stops the model. The call of torch that runs the op
            # has to return first, or nothing shows which call it was.
            recorder.wanted.run_on = self._request.is_op and self._request.tap == "output"

            def see(number: int, name: str, tensors: list[Tensor]) -> None:
                names.append(name)
                for place, tensor in enumerate(tensors):
                    if (node := recorder.values.peek(tensor)) is not None:
                        # The first call that returned a value made it. Others may return it again,
                        # as `contiguous` does.
                        places.setdefault(node, (number, place))
                if recorder.wanted.complete:
                    raise Stop

            return _Calls(see)

        captured = capture(
            self._model,
            x.to(dtype or x.dtype),
            target=self._request,
            rules=self._rules,
            method=method,
            forward=self._forward,
            dtype=dtype,
            watch=watch,
        )
        return _Recorded(_apart_from_the_model(captured), names, places)

    @contextmanager
    def _plain(
        self,
        x: Tensor,
        dtype: torch.dtype | None,
        recorded: _Recorded,
        *,
        grad: bool,
        every: bool = False,
    ) -> Iterator[_Plain]:
        """The model alone, up to the map; `every` keeps all values that a call returned.

        What it wrote into the model is put back at the end: autograd may have saved it.
        """
        plain = _Plain(x.detach().to(dtype or x.dtype, copy=True).requires_grad_(grad))
        running = castable(self._model, dtype)
        with (
            unchanged(running),
            _put_back_after(recorded.captured.written),
            torch.set_grad_enabled(grad),
        ):
            try:
                module = None if every else recorded.module
                self._run(running, plain, recorded, module, every, dtype)
            except Exception as error:
                # A script turns `Stop` into an exception of its own.
                if plain.over != MAP_IS_THERE:
                    raise _Unable(plain.over or _first_line(error)) from error
            if plain.over not in ("", MAP_IS_THERE):
                raise _Unable(plain.over)
            with torch.no_grad():
                yield plain

    def _run(
        self,
        running: nn.Module,
        plain: _Plain,
        recorded: _Recorded,
        module: str | None,
        every: bool,
        dtype: torch.dtype | None,
    ) -> None:
        given = plain.x.clone()  # the model may write into it
        with (
            cast(running, dtype),
            interruptible(),
            _returned_by(running, module, recorded.node, plain),
            nullcontext() if module else _Calls(_keeping(recorded, plain, every)),
            suppress(Stop),
        ):
            running(given) if self._forward is None else self._forward(running, given)

    # --- the outcome ----------------------------------------------------------------------------

    def judge(self, found: _Difference, x: Tensor, dtype: torch.dtype | None) -> Verified:
        """The outcome, if the differences are within tolerance.

        Raises:
            ModelError: If they are not, in float64 either.
        """
        outcome = Verified(self._layer, found.value, found.signal, found.note)
        if not _fails(found):
            return outcome
        if self._draws(found, x, dtype):
            return Verified(self._layer, None, None, "random draws")
        # Rounding that the model magnifies is gone in float64; a wrong op still differs.
        if x.dtype != torch.float64:
            with suppress(Exception):
                if not _fails(self.compare(x, torch.float64)):
                    return replace(outcome, note="differs in this precision, not in float64")
        raise ModelError(self._explain(found, x, dtype))

    def _draws(self, found: _Difference, x: Tensor, dtype: torch.dtype | None) -> bool:
        """Whether random numbers of the model's, and nothing else, make the two passes differ.

            h + torch.rand(9)                      restored: every pass draws the same
            h + torch.rand(9, generator=GLOBAL)    not restored: every pass draws others

        Of the second kind two plain passes differ as well. What was recorded still has to give the
        map that was kept: the draws are part of the recording.
        """
        if found.kept is None or found.kept <= _tolerance(found):
            return False
        captured, node = found.recorded.captured, found.recorded.node
        again = replay_all(captured, node)[node]
        if _relative(again, captured.kept[node]) > _tolerance(found):
            return False
        maps = []
        for _ in range(2):
            try:
                with self._plain(x, dtype, found.recorded, grad=False) as plain:
                    maps.append(plain.values[node])
            except (_Unable, KeyError):  # it did not fail before: the model took another path
                return True
        return _relative(maps[0], maps[1]) > _tolerance(found)

    def _explain(self, found: _Difference, x: Tensor, dtype: torch.dtype | None) -> str:
        by_value = found.value is not None and found.value > _tolerance(found)
        what, error = ("value", found.value) if by_value else ("signal", found.signal)
        node = found.recorded.node
        passed = self._plain(x, dtype, found.recorded, grad=not by_value, every=True)
        with suppress(Exception), passed as plain:
            node = (_first_value if by_value else self._first_signal)(found, plain) or node
        return (
            f"The capture of layer {self._layer!r} is not what the model computes: expected the "
            f"{what} of a plain forward pass at {node.meta.get('name', str(node))!r} "
            f"({node.meta.get('source', 'a view')}), "
            f"got {_said(error)}. Please report this model; "
            f"Sonifier(model, verify=False) leaves the check out."
        )

    def _first_signal(self, found: _Difference, plain: _Plain) -> Node | None:
        """The first op from which the way back differs from autograd's.

        Found by bisection, then by going back to an input that differs too: a branch before the op
        may be right.
        """

        def differs(node: Node) -> bool:
            error, _ = self._signal_difference(found.recorded.captured, node, plain)
            return (error or 0) > _tolerance(found)

        graph = found.recorded.captured.graph
        nodes = [n for n in graph.nodes if n in plain.values and depends_on_input(n)]
        # Near the waveform the way back is short and agrees; behind the wrong op it differs.
        place = bisect_left(nodes, True, key=differs)
        node = nodes[place] if place < len(nodes) else None
        while node is not None:
            before = next(filter(differs, _inputs_among(node, set(nodes))), None)
            if before is None:
                break
            node = before
        return node


def _inputs_among(node: Node, wanted: set[Node]) -> list[Node]:
    """The nearest of the wanted values that a value was computed from."""
    nearest, waiting = [], list(node.all_input_nodes)
    while waiting:
        if (source := waiting.pop()) in wanted:
            nearest.append(source)
        else:
            waiting += source.all_input_nodes
    return nearest


@dataclass
class _Plain:
    """A plain pass.

    Attributes:
        x: The waveform, a leaf of autograd's.
        values: As they were when the model's calls returned them.
        over: Why the model was stopped: "the map is there", or why the pass cannot be compared;
            empty: it runs.
    """

    x: Tensor
    values: dict[Node, Tensor] = field(default_factory=dict)
    over: str = ""

    def stop(self, why: str) -> None:
        """Stops the model.

        By `Stop`, since a model's `except Exception` or a future that runs a callback would swallow
        any ordinary exception; the model might then wait for ever for what the callback does.
        """
        self.over = why
        raise Stop


def _keeping(
    recorded: _Recorded, plain: _Plain, every: bool
) -> Callable[[int, str, list[Tensor]], None]:
    """What the calls of a plain pass returned, by the node that each was recorded as."""
    wanted: dict[int, list[tuple[int, Node]]] = {}
    for node, (number, place) in recorded.places.items():
        if every or node is recorded.node:
            wanted.setdefault(number, []).append((place, node))

    def see(number: int, name: str, tensors: list[Tensor]) -> None:
        if plain.over:  # an `except BaseException` of the model's swallowed the first
            raise Stop
        before = recorded.names[number] if number < len(recorded.names) else "nothing more"
        if name != before:
            plain.stop(f"it calls {name} where it called {before}")
        for place, node in wanted.get(number, ()):
            plain.values[node] = tensors[place].clone()  # what comes after may write into it
            if node is recorded.node:
                plain.stop(MAP_IS_THERE)

    return see


@contextmanager
def _returned_by(model: nn.Module, call: str | None, node: Node, plain: _Plain) -> Iterator[None]:
    """Keeps what a module call returns, and stops there."""
    if call is None:
        yield
        return
    path, number = call_number(call)
    calls, thread = [], threading.get_ident()

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() != thread:
            return  # another thread runs the same model
        calls.append(output)
        if len(calls) == number and (value := first_tensor(output)) is not None:
            plain.values[node] = value.clone()
            plain.stop(MAP_IS_THERE)

    module = model.get_submodule(path)
    script = isinstance(module, torch.jit.ScriptModule)
    handle = None if script else module.register_forward_hook(keep)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


@contextmanager
def _put_back_after(written: Sequence[Tensor]) -> Iterator[None]:
    """Puts back what the plain pass writes into the model: the recorded pass showed where."""
    # A view into a buffer that had grown for a time may now reach beyond the buffer's memory.
    before = [before_write(tensor) for tensor in written if _fits(tensor)]
    try:
        yield
    finally:
        for tensor in written:
            # A write with gradients on has made the model's tensor part of an autograd graph.
            own = tensor if tensor._base is None else tensor._base  # views cannot be detached
            if own.grad_fn is not None:
                own.detach_()
        undo_writes(before)


def _fits(x: Tensor) -> bool:
    last = x.storage_offset() + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return x.numel() == 0 or (last + 1) * x.element_size() <= x.untyped_storage().nbytes()


def _apart_from_the_model(captured: Capture) -> Capture:
    """A capture whose values stay as they are while the plain pass writes into the model again."""
    written = {storage_of(tensor) for tensor in captured.written}

    def apart(values: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        return {k: x.clone() if storage_of(x) in written else x for k, x in values.items()}

    return replace(
        captured,
        kept=apart(captured.kept),
        recorded=apart(captured.recorded),
        constants=apart(captured.constants),
    )


# --- differences --------------------------------------------------------------------------------


def _autograd(value: Tensor, x: Tensor, seed: Tensor) -> Tensor:
    """What autograd carries back; zero where it has no path."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(value, x, seed, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


def _has_own_backward(captured: Capture) -> bool:
    """Whether the model has custom functions: what those return, finite or not, is theirs."""
    return any(hasattr(node.target, "pull_back") for node in captured.graph.nodes)


def _value_differences(
    recorded: _Recorded, plain: _Plain
) -> tuple[float, float] | tuple[None, None]:
    """Of the map that was kept, and of the map that the recorded ops give again."""
    expected = plain.values.get(recorded.node)
    if expected is None:
        return None, None
    again = replay_all(recorded.captured, recorded.node)[recorded.node]
    kept = recorded.captured.kept[recorded.node]
    return _relative(kept, expected.detach()), _relative(again, expected.detach())


def _first_value(found: _Difference, plain: _Plain) -> Node | None:
    """The first op whose value, by the recorded ops, differs from the plain pass's."""
    again = replay_all(found.recorded.captured, found.recorded.node)
    for node in found.recorded.captured.graph.nodes:
        if node in plain.values and _relative(again[node], plain.values[node]) > _tolerance(found):
            return node  # type: ignore[no-any-return]  # fx is untyped
    return None


def _relative(found: Tensor, expected: Tensor, least: float = 0.0) -> float:
    """The largest difference as a share of the peak; where the peak is 0, of `least`."""
    if found.shape != expected.shape:
        return math.inf
    if found.numel() == 0:
        return 0.0
    difference = float((found - expected).abs().max())
    if math.isnan(difference):  # which is neither above nor below a tolerance
        return math.inf
    peak = float(expected.abs().max()) or least or 1.0
    return difference / peak


def _tolerance(found: _Difference) -> float:
    """By the coarsest precision between the waveform and the map."""
    used = {
        n.meta["dtype"]
        for n in found.recorded.captured.graph.nodes
        if n.meta.get("depends_on_input")
    }
    real = {torch.empty(0, dtype=dtype).real.dtype for dtype in used}
    return max((TOLERANCES.get(dtype, HALF_TOLERANCE) for dtype in real), default=1e-4)


def _fails(found: _Difference) -> bool:
    errors = [error for error in (found.value, found.signal) if error is not None]
    return not all(error <= _tolerance(found) for error in errors)


def _said(error: float | None) -> str:
    if error is None or math.isinf(error):
        return "another shape, or values that are not finite"
    return f"a difference of {error:.2g} of the peak"


def _why_hidden(model: nn.Module) -> str:
    scripts = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    return "inside a script" if scripts else "inside one call of torch"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:80]
