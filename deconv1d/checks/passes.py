"""The two passes that are compared: which call of torch returned which value.

    recorded pass     calls: conv1d, relu, mul      relu's value is node relu: call 1, place 0
    plain pass        calls: conv1d, relu           stopped: call 1 has returned the map

If a module returned the map, a forward hook finds it in the plain pass. Else the calls of torch
that the model makes are counted in both passes. A plain pass that makes other calls cannot be
compared.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.overrides import TorchFunctionMode

from deconv1d.layers.names import call_number
from deconv1d.record.aliasing import before_write, storage_of, undo_writes
from deconv1d.record.interrupts import interruptible
from deconv1d.record.precision import cast, castable
from deconv1d.record.unchanged import unchanged
from deconv1d.record.wanted import Stop
from deconv1d.rules.op import first_tensor, leaves

if TYPE_CHECKING:
    from deconv1d.record.capture import Capture

AS_FAR = "it has come as far as the recorded pass"

Forward = Callable[[Any, Tensor], Any]


class Calls(TorchFunctionMode):
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
class RecordedPass:
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


def apart_from_the_model(captured: Capture) -> Capture:
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


class Unable(Exception):
    """The plain pass cannot be run, or makes other calls of torch than the recorded one."""


@dataclass
class PlainPass:
    """A plain pass.

    Attributes:
        x: The waveform, a leaf of autograd's.
        values: As they were when the model's calls returned them.
        over: Why the model was stopped: `AS_FAR`, or why the pass cannot be compared; empty: it
            runs.
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


@contextmanager
def plain_pass(
    model: nn.Module,
    forward: Forward | None,
    x: Tensor,
    dtype: torch.dtype | None,
    recorded: RecordedPass,
    *,
    grad: bool,
    every: bool = False,
) -> Iterator[PlainPass]:
    """The model alone, up to the map; `every` keeps all values that a call returned.

    What it wrote into the model is put back at the end: autograd may have saved it.
    """
    # Also for a caller in `no_grad` or `inference_mode`. A copy is given to the model, since it may
    # write into it; it is made here, where calls are not counted.
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        plain = PlainPass(x.detach().to(dtype or x.dtype, copy=True).requires_grad_(grad))
        running, given = castable(model, dtype), plain.x.clone()
    with (
        unchanged(running),
        _put_back_after(recorded.captured.written),
        torch.set_grad_enabled(grad),
    ):
        try:
            module = None if every else recorded.module
            with (
                cast(running, dtype),
                interruptible(),
                _returned_by(running, module, recorded.node, plain),
                nullcontext() if module else Calls(_keeping(recorded, plain, every)),
                suppress(Stop),
            ):
                running(given) if forward is None else forward(running, given)
        except Exception as error:
            # A script turns `Stop` into an exception of its own.
            if plain.over != AS_FAR:
                raise Unable(plain.over or first_line(error)) from error
        if plain.over not in ("", AS_FAR):
            raise Unable(plain.over)
        with torch.no_grad():
            yield plain


def _keeping(
    recorded: RecordedPass, plain: PlainPass, every: bool
) -> Callable[[int, str, list[Tensor]], None]:
    """What the calls of a plain pass returned, by the node that each was recorded as."""
    # One call may return several values that are nodes, as `chunk` does.
    wanted: dict[int, list[tuple[int, Node]]] = {}
    for node, (number, place) in recorded.places.items():
        if every or node is recorded.node:
            wanted.setdefault(number, []).append((place, node))

    def see(number: int, name: str, tensors: list[Tensor]) -> None:
        if plain.over:  # an `except BaseException` of the model's swallowed the first
            raise Stop
        if number == len(recorded.names):  # without the map: no call of this thread returned it
            plain.stop(AS_FAR)
        if name != recorded.names[number]:
            plain.stop(f"it calls {name} where it called {recorded.names[number]}")
        for place, node in wanted.get(number, ()):
            plain.values[node] = tensors[place].clone()  # what comes after may write into it
            if node is recorded.node:
                plain.stop(AS_FAR)

    return see


@contextmanager
def _returned_by(
    model: nn.Module, call: str | None, node: Node, plain: PlainPass
) -> Iterator[None]:
    """Keeps what a module call returns, and stops there."""
    if call is None:
        yield
        return
    path, number = call_number(call)
    calls, thread = [], threading.get_ident()

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() != thread:
            return  # another thread runs the same model
        # Counted by this hook alone: the module may have been called before, in other passes.
        calls.append(output)
        if len(calls) == number and (value := first_tensor(output)) is not None:
            plain.values[node] = value.clone()
            plain.stop(AS_FAR)

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


def first_line(error: Exception) -> str:
    """What an error says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:80]
