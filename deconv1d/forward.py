"""A forward pass on a waveform up to a named layer, or an error that says what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.fx import Node

from deconv1d.checks.verification import VERIFY, Verification, Verified
from deconv1d.errors import InputError, LayerError, check_word
from deconv1d.layers.names import Layer, find_module, find_op
from deconv1d.record.capture import Capture, capture
from deconv1d.record.copies import NotRead, check_not_read
from deconv1d.record.misfits import check_batch, explain, to_explain
from deconv1d.record.refusals import check_ready
from deconv1d.record.request import TapRequest
from deconv1d.record.waveform import Waveform, as_waveform, shortest
from deconv1d.rules.op import shape_of
from deconv1d.rules.table import METHODS, Rules

Tap = Literal["block", "output"]
TAPS: tuple[Tap, ...] = get_args(Tap)


class RunTo(NamedTuple):
    """One forward pass up to a layer: what ran, on what, the layer's full name, its check."""

    captured: Capture
    waveform: Waveform
    layer: str
    verified: Verified | None


class RunThrough(NamedTuple):
    """One forward pass through several layers: what ran, and the layers' full names."""

    captured: Capture
    layers: tuple[str, ...]


class TooShort(InputError):
    """A pass failed for want of samples: it does so on every waveform of that length."""


class ForwardPass:
    """Runs a model on waveforms, up to layers that are given by their names.

    Args:
        model: The model, not wrapped.
        forward: As for `Sonifier`.
        rules: As for `Sonifier`.
        dtype: As for `Sonifier`.
        verify: As for `Sonifier`.
        sample_rate: As for `Sonifier`; files are read at it.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        forward: Callable[[Any, Tensor], Any] | None,
        rules: Rules,
        dtype: torch.dtype | None,
        verify: str | bool,
        sample_rate: int | None = None,
    ) -> None:
        if verify not in VERIFY or (verify in (0, 1) and verify is not False):
            raise InputError(
                f"Unknown verify {verify!r}: expected 'once' (each layer the first time), "
                f"'always' or False."
            )
        self.model, self.rules, self.sample_rate = model, rules, sample_rate
        self._forward, self._dtype = forward, dtype
        self.verification = Verification(
            model, forward=forward, rules=rules, dtype=dtype, verify=verify
        )
        self._ops: dict[str, Layer] = {}
        self._needed: dict[tuple[Any, ...], int] = {}
        self._replaced: Mapping[str, Tensor] = {}

    def runs_a_copy(self, of: ForwardPass, replaced: Mapping[str, Tensor]) -> None:
        """Says that this model is a copy of another pass's, with other weights.

        A run that reads one of the other model's is refused then. What the other pass has verified
        counts here.

        Args:
            of: The other pass.
            replaced: The other model's tensors that this one has others of, by name.
        """
        self._replaced = {**of._replaced, **replaced}
        self.verification.share(of.verification)

    def plain_run(self) -> AbstractContextManager[Any]:
        """Where a run that is not recorded is refused if a copy reads what it has another of."""
        return NotRead(self._replaced) if self._replaced else nullcontext()

    def run_whole(self, x: Any) -> Capture:
        """Runs the whole forward pass.

        Args:
            x: As for `Sonifier.sonify`.

        Raises:
            InputError: If the waveform cannot be used.
        """
        return self._run(self.waveform(x), None, "deconvnet", run_on=False)

    def waveform(self, x: Any) -> Waveform:
        """Checks what a user gives as a waveform.

        Args:
            x: As for `Sonifier.sonify`.

        Raises:
            InputError, FileError: As for `as_waveform`.
        """
        return as_waveform(x, self.sample_rate)

    def as_taken(self, x: Any) -> Tensor:
        """A waveform in the shape in which the model takes it, batch first.

        Args:
            x: As for `Sonifier.sonify`.
        """
        waveform = self.waveform(x)
        if waveform.given.dim() > 2:
            return waveform.given
        shape = shape_of(self._run(waveform, None, "deconvnet", run_on=False).x)
        return waveform.read_as(shape).given.reshape(shape)

    def run_to(self, x: Any, name: str, *, tap: str, method: str = "deconvnet") -> RunTo:
        """Runs the model up to a layer, and stops it there.

        Args:
            x: As for `Sonifier.sonify`.
            name: As for `Sonifier.sonify`.
            tap: As for `Sonifier.sonify`.
            method: As for `Sonifier.sonify`.

        Raises:
            InputError, LayerError, PathError: As for `Sonifier.sonify`.
        """
        # All words are checked before the model runs: a forward pass may take minutes.
        check_word("tap", tap, TAPS)
        check_word("method", method, METHODS)
        waveform = self.waveform(x)
        layer = self._find(waveform, name)
        captured = self._reach(waveform, [layer], tap, method, self.rules)
        (verified,) = self._verify(captured, [layer], tap, signal=True)
        waveform = waveform.read_as(shape_of(captured.x))
        return RunTo(captured, waveform, str(layer), verified)

    def run_through(
        self, x: Any, names: Sequence[str], *, tap: str, method: str = "forward"
    ) -> RunThrough:
        """Runs the model through several layers.

        Args:
            x: As for `Sonifier.sonify`.
            names: Each as for `Sonifier.sonify`.
            tap: As for `Sonifier.sonify`.
            method: "forward": for their maps alone, nothing can be carried back; else as for
                `Sonifier.sonify`.

        Raises:
            InputError, LayerError, PathError: As for `Sonifier.sonify`.
        """
        check_word("tap", tap, TAPS)
        check_names(names)
        waveform = self.waveform(x)
        layers = [self._find(waveform, name) for name in names]
        captured = self._reach(waveform, layers, tap, method, self.rules)
        self._verify(captured, layers, tap, signal=method != "forward")
        return RunThrough(captured, tuple(map(str, layers)))

    def _reach(
        self, waveform: Waveform, layers: Sequence[Layer], tap: str, method: str, rules: Rules
    ) -> Capture:
        # Only the end shows how often a layer runs, and nothing shows why: a model may decide by
        # `tolist()`, by Python's random numbers or by an attribute. A call given by its number
        # need not be counted.
        counted = all(layer.is_op or layer.call is not None for layer in layers)
        captured = self._run(
            waveform,
            [_request(layer, tap) for layer in layers],
            method,
            run_on=not counted,
            rules=rules,
        )
        for layer, node in zip(layers, captured.taps, strict=True):
            self._check_calls(layer, node, captured)
        return captured

    def _verify(
        self, captured: Capture, layers: Sequence[Layer], tap: str, *, signal: bool
    ) -> list[Verified | None]:
        """Checks each map against the model itself; see `deconv1d.checks.verification`."""
        return [
            self.verification.check(captured, node, _request(layer, tap), str(layer), signal=signal)
            for layer, node in zip(layers, captured.taps, strict=True)
            if node is not None  # `_check_calls` raises if it is
        ]

    def _find(self, waveform: Waveform, name: str) -> Layer:
        if not isinstance(name, str):
            raise LayerError(
                f"The layer is a {type(name).__name__}: expected a module path such as 'conv8'. "
                f"sonifier.layers(x) lists them."
            )
        # A module is found by its name alone; the name of an op only in a record of the whole pass.
        layer = find_module(self.model, name) or self._ops.get(name)
        if layer is None:
            captured = self._run(waveform, None, "deconvnet", run_on=False)
            layer = self._ops[name] = find_op(captured, self.model, name)
        return layer

    def _check_calls(self, layer: Layer, tap: Node | None, captured: Capture) -> None:
        """Raises LayerError unless the model called the layer as often as its name says."""
        if captured.calls is None:
            return
        calls = 0 if layer.is_op else captured.calls[layer.path]
        if calls > 1 and layer.call is None:
            names = ", ".join(repr(f"{layer.path}#{n + 1}") for n in range(calls))
            raise LayerError(
                f"Layer {layer.path!r} is called {calls} times: expected the call to be named, "
                f"got its bare name. Give one of {names}."
            )
        if tap is None:
            raise LayerError(_never_ran(layer, calls))

    def _run(
        self,
        waveform: Waveform,
        target: Sequence[TapRequest] | None,
        method: str,
        *,
        run_on: bool,
        rules: Rules | None = None,
    ) -> Capture:
        """Captures the model on the waveform, in the first shape that it takes."""
        check_ready(self.model)
        captured, refused = waveform.attempt(
            lambda x: self._attempt(x, target, method, run_on, rules)
        )
        if captured is None:
            shape, cause = to_explain(waveform, refused)
            # These are the errors that torch raises where a kernel is longer than its input.
            if isinstance(cause, RuntimeError | ValueError | IndexError | AssertionError):
                self._check_length(waveform, target, method)
            explained = explain(shape, cause)
            raise explained from (None if explained is cause else cause)
        return captured

    def _attempt(
        self,
        x: Tensor,
        target: Sequence[TapRequest] | None,
        method: str,
        run_on: bool = False,
        rules: Rules | None = None,
    ) -> Capture:
        parameter = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        like = x if parameter is None else parameter
        attempt = partial(
            capture,
            self.model,
            x.to(device=like.device, dtype=self._dtype or like.dtype),
            target=target,
            rules=rules or self.rules,
            method=method,
            forward=self._forward,
            dtype=self._dtype,
            run_on=run_on,
        )
        captured = _attempted(attempt)
        check_not_read(captured, self._replaced)
        check_batch(captured)
        return captured

    def _check_length(
        self, waveform: Waveform, target: Sequence[TapRequest] | None, method: str
    ) -> None:
        """Raises InputError if the model runs on more samples: then it failed for want of them."""
        given = waveform.given
        length = given.shape[-1]
        # The search runs the model some ten times: once for thousands of clips that are too short.
        key = (tuple(target or ()), method)

        def runs(samples: int) -> bool:
            # The waveform repeated, not padded: a model may treat silence in another way.
            longer = given.repeat(*[1] * (given.dim() - 1), -(-samples // length))[..., :samples]
            try:
                Waveform(longer, waveform.mono).run(lambda x: self._attempt(x, target, method))
            except Exception:
                return False
            return True

        needed = self._needed.get(key, 0)
        if length < needed or (needed := shortest(runs, length) or 0):
            self._needed[key] = needed
            raise TooShort(
                f"The waveform is too short for this model: expected at least {needed} samples, "
                f"got {length}. Give a longer one, or pad it with zeros."
            )


def _attempted(attempt: Callable[[], Capture]) -> Capture:
    """A capture, tried twice where the model imported torch's compiler at the first try.

    torch.cond does so at its first call. Compilation is kept off during a forward pass of ours, but
    only where the compiler was imported before.
    """
    compiles = "torch._dynamo" in sys.modules
    try:
        return attempt()
    except Exception:
        if compiles or "torch._dynamo" not in sys.modules:
            raise
    return attempt()


def _request(layer: Layer, tap: str) -> TapRequest:
    return TapRequest(layer.target, tap, layer.is_op)


def check_names(names: Sequence[str]) -> None:
    """Raises InputError unless there are names of layers."""
    if isinstance(names, str) or not names:
        raise InputError(
            f"The layers cannot be used: expected a list of one or more names, got {names!r}. "
            f"Give for example ['conv1', 'conv2']; sonifier.layers(x) lists them."
        )


def _never_ran(layer: Layer, calls: int) -> str:
    if calls:
        return (
            f"Layer {str(layer)!r} cannot be sonified: expected a call of that number that "
            f"returns a floating tensor, got {calls} call(s). sonifier.layers(x) lists what can."
        )
    if layer.is_op:
        return (
            f"Op {layer.path!r} did not run on this waveform: expected the model to take the same "
            f"path for every input, got another. sonifier.layers(x) lists what runs on this one."
        )
    return (
        f"Layer {layer.path!r} never ran: expected the model's forward pass to call it. Choose one "
        f"that sonifier.layers(x) lists; inside TorchScript name an op, such as 'convolution#1'."
    )
