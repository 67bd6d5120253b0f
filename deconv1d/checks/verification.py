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
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from deconv1d.checks.differences import (
    Difference,
    fails,
    first_signal,
    first_value,
    is_drawn,
    relative,
    signal_difference,
    tolerance,
    value_differences,
)
from deconv1d.checks.excerpts import excerpts
from deconv1d.checks.passes import (
    Calls,
    Forward,
    PlainPass,
    RecordedPass,
    Unable,
    apart_from_the_model,
    plain_pass,
)
from deconv1d.errors import ModelError, PathError
from deconv1d.record.capture import Capture, capture
from deconv1d.record.recorder import Recorder
from deconv1d.record.replay import replay_all
from deconv1d.record.request import TapRequest
from deconv1d.record.schema import is_random
from deconv1d.record.structure import structure_of
from deconv1d.record.wanted import Stop
from deconv1d.rules.table import GRADIENT, RULES, Rules

VERIFY = ("once", "always", False)
VARIES = (
    "Two plain passes of it differ too: it has something that cannot be put back after a pass, "
    "such as an iterator or a generator outside of it; use an attribute that can be instead"
)
MAP_ONLY = "only the map was asked for"


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
        for excerpt in excerpts(captured, node):
            with suppress(Exception):
                found = job.compare(excerpt, dtype)
                same = structure_of(found.recorded.captured.graph, found.recorded.node)
                if same == structure and not fails(found):
                    return job.judge(found, excerpt, dtype)
        return job.judge(job.compare(x, dtype), x, dtype)


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

    def compare(self, x: Tensor, dtype: torch.dtype | None) -> Difference:
        """Runs both passes on a waveform."""
        recorded, note = self._record(x, dtype)
        if self._signal and not note:
            try:
                with self._plain(x, dtype, recorded, grad=True) as plain:
                    return self._differences(recorded, plain)
            except Unable as error:
                note = f"autograd cannot run the model: {error}"
        try:
            with self._plain(x, dtype, recorded, grad=False) as plain:
                kept, again = value_differences(recorded, plain)
        except Unable as error:
            note = f"no plain pass to compare with: {error}"
            return Difference(recorded, None, None, None, note)
        note = note if kept is not None else _why_hidden(self._model)
        return Difference(recorded, kept, again, None, note)

    def _differences(self, recorded: RecordedPass, plain: PlainPass) -> Difference:
        kept, again = value_differences(recorded, plain)
        if kept is None:
            return Difference(recorded, None, None, None, _why_hidden(self._model))
        signal, note = signal_difference(recorded.captured, recorded.node, plain, self._rules)
        return Difference(recorded, kept, again, signal, note)

    def _record(self, x: Tensor, dtype: torch.dtype | None) -> tuple[RecordedPass, str]:
        """The recorded pass, and why the way back cannot be checked."""
        note = "" if self._signal else MAP_ONLY
        if self._signal:
            try:
                return self._capture(x, dtype, "gradient"), ""
            except PathError:
                note = "no autograd path"
        return self._capture(x, dtype, "forward"), note

    def _capture(self, x: Tensor, dtype: torch.dtype | None, method: str) -> RecordedPass:
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

            return Calls(see)

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
        return RecordedPass(apart_from_the_model(captured), names, places)

    def _plain(
        self,
        x: Tensor,
        dtype: torch.dtype | None,
        recorded: RecordedPass,
        *,
        grad: bool,
        every: bool = False,
    ) -> AbstractContextManager[PlainPass]:
        return plain_pass(self._model, self._forward, x, dtype, recorded, grad=grad, every=every)

    # --- the outcome ----------------------------------------------------------------------------

    def judge(self, found: Difference, x: Tensor, dtype: torch.dtype | None) -> Verified:
        """The outcome, if the differences are within tolerance.

        Raises:
            ModelError: If they are not, in float64 either.
        """
        outcome = Verified(self._layer, found.value, found.signal, found.note)
        if not fails(found):
            return outcome
        varies = self._varies(found, x, dtype)
        if varies and self._begins_at_a_draw(found, x, dtype):
            return Verified(self._layer, None, None, "random draws")
        # Rounding that the model magnifies is gone in float64; a wrong op still differs.
        if x.dtype != torch.float64 and not varies:
            with suppress(Exception):
                exact = self.compare(x, torch.float64)
                # A comparison that could not be made excuses nothing.
                if exact.value is not None and not fails(exact):
                    return replace(outcome, note="differs in this precision, not in float64")
        raise ModelError(self._explain(found, x, dtype, varies))

    def _varies(self, found: Difference, x: Tensor, dtype: torch.dtype | None) -> bool:
        """Whether the model itself, and not the recording, makes the two passes differ.

            h + torch.rand(9)                      put back: every pass draws the same
            h + torch.rand(9, generator=GLOBAL)    out of reach: every pass draws others
            h * next(self.numbers)                 cannot be put back: every pass gets the next

        Of the last two kinds two plain passes differ as well. What was recorded still has to give
        the map that was kept: the draws are part of the recording.
        """
        if found.kept is None or found.kept <= tolerance(found):
            return False
        captured, node = found.recorded.captured, found.recorded.node
        # Draws are kept: what is replayed must not differ, however random the model is.
        again = replay_all(captured, node)[node]
        if relative(again, captured.kept[node]) > tolerance(found):
            return False
        maps = []
        for _ in range(2):
            try:
                with self._plain(x, dtype, found.recorded, grad=False) as plain:
                    maps.append(plain.values[node])
            except (Unable, KeyError):  # it did not fail before: the model took another path
                return True
        return relative(maps[0], maps[1]) > tolerance(found)

    def _begins_at_a_draw(self, found: Difference, x: Tensor, dtype: torch.dtype | None) -> bool:
        """Whether the first value that differs is a random number, or is made from one."""
        try:
            with self._plain(x, dtype, found.recorded, grad=False, every=True) as plain:
                return is_drawn(first_value(found, plain) or found.recorded.node, plain)
        except Unable:  # a model that draws may take another path
            return any(is_random(node) for node in found.recorded.captured.graph.nodes)

    def _explain(
        self, found: Difference, x: Tensor, dtype: torch.dtype | None, varies: bool
    ) -> str:
        by_value = found.value is not None and found.value > tolerance(found)
        what, error = ("value", found.value) if by_value else ("signal", found.signal)
        node = found.recorded.node
        passed = self._plain(x, dtype, found.recorded, grad=not by_value, every=True)
        with suppress(Exception), passed as plain:
            node = (
                first_value(found, plain) if by_value else first_signal(found, plain, self._rules)
            ) or node
        return (
            f"The capture of layer {self._layer!r} is not what the model computes: expected the "
            f"{what} of a plain forward pass at {node.meta.get('name', str(node))!r} "
            f"({node.meta.get('source', 'a view')}), "
            f"got {_said(error)}. {VARIES if varies else 'Please report this model'}; "
            f"Sonifier(model, verify=False) leaves the check out."
        )


def _said(error: float | None) -> str:
    if error is None or math.isinf(error):
        return "another shape, or values that are not finite"
    return f"a difference of {error:.2g} of the peak"


def _why_hidden(model: nn.Module) -> str:
    scripts = any(isinstance(module, torch.jit.ScriptModule) for module in model.modules())
    return "inside a script" if scripts else "inside one call of torch, or in another thread"
