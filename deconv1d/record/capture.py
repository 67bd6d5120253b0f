"""One forward pass, as the model is, recorded as a graph of the ops that ran.

The model is stopped as soon as the wanted map is complete and is left exactly as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from deconv1d.record.axes import Axes, axes_of
from deconv1d.record.interception import custom_functions, threads
from deconv1d.record.interrupts import interruptible
from deconv1d.record.precision import cast, castable
from deconv1d.record.receptive_fields import ReceptiveField, receptive_fields_of
from deconv1d.record.recorder import Recorder
from deconv1d.record.request import TapRequest
from deconv1d.record.unchanged import unchanged
from deconv1d.record.wanted import Stop
from deconv1d.rules.table import RULES, Rules


@dataclass(frozen=True)
class Capture:
    """What one forward pass did.

    Attributes:
        graph: Every op that ran, in order. A node's meta has `label` (module path with call
            number), `name` (label.op#n), `source` (file:line), `shape`, `dtype`,
            `depends_on_input` (whether
            it carries the waveform) and `constant` (whether it follows from the model alone).
        x: The waveform's node.
        taps: The nodes of the wanted maps, in the order asked for; None for one not reached.
        kept: Values of nodes that the mirror needs; a map's own is `kept[tap]`.
        recorded: What the rules recorded (switches, statistics), by node.
        constants: What `get_attr` nodes name: parameters are the model's own objects.
        outputs: The node that each module call returned, by "path#call".
        returned: By "path#call": the last op that had run when that module call returned.
        calls: How often each module ran; None if the model was stopped before its end.
        writes: Names of the model's own tensors that forward wrote into.
        decides: Whether the model looked at a value, so that another input may run otherwise.
        written: Tensors of the model that its forward pass wrote into; they are put back.
        rules: The op table it was recorded for.
        method: "deconvnet", "guided", "gradient" or "forward".
    """

    graph: Graph
    x: Node
    taps: tuple[Node | None, ...]
    kept: Mapping[Node, Tensor]
    recorded: Mapping[Node, Tensor]
    constants: Mapping[str, Tensor]
    outputs: Mapping[str, Node]
    returned: Mapping[str, Node]
    calls: Counter[str] | None
    writes: tuple[str, ...]
    decides: bool
    written: Sequence[Tensor]
    rules: Rules
    method: str

    @property
    def tap(self) -> Node | None:
        """The node of the first wanted map; None if none was wanted, or it was not reached."""
        return self.taps[0] if self.taps else None

    @cached_property
    def receptive_fields(self) -> dict[Node, ReceptiveField | None]:
        """What each value reads of the waveform, by node; None: all of it."""
        return receptive_fields_of(self.graph, self.x, self.rules, self.method)

    @cached_property
    def axes(self) -> dict[Node, Axes]:
        """Which axes of each value count examples and channels, by node."""
        return axes_of(self.graph, self.x, self.rules)


def capture(
    model: nn.Module,
    x: Tensor,
    *,
    target: TapRequest | Sequence[TapRequest] | None = None,
    rules: Rules = RULES,
    method: str = "deconvnet",
    forward: Callable[[Any, Tensor], Any] | None = None,
    dtype: torch.dtype | None = None,
    run_on: bool = False,
    watch: Callable[[Recorder], AbstractContextManager[Any]] | None = None,
) -> Capture:
    """Runs the model on a waveform and writes down what it computes.

    Args:
        model: Any module; not wrapped by torch.compile or DistributedDataParallel.
        x: The waveform as the model takes it; it is not written into.
        target: The map to stop at, or several: the last of them; None runs to the end.
        rules: The op table: what has to be kept for the mirror.
        method: "deconvnet", "guided" or "gradient"; or "forward", for maps that nothing is to be
            carried back from: only they are kept.
        forward: `forward(model, x)`, for models that take more than a waveform.
        dtype: Run with the parameters cast to this; None: as they are.
        run_on: Whether to let the model run to its end once the maps are complete, which fills
            `calls`.
        watch: Makes a context in which the model runs, of the recorder; for verification.

    Raises:
        PathError: If a map does not depend on the waveform by differentiable ops.
        Exception: Whatever the model raises; if an op did, its `failure` says which and where.
    """
    # A copy: the model may write into its input, which is the user's.
    x = x.detach().clone()
    model = castable(model, dtype)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with unchanged(model):
        recorder = Recorder(
            x, state, targets=_listed(target), rules=rules, method=method, run_on=run_on
        )
        try:
            watching = nullcontext() if watch is None else watch(recorder)
            ended = _run(recorder, model, x, forward, dtype, watching)
        finally:
            # Also after an error, and inside `unchanged`: no other thread of ours runs the model.
            written = recorder.keeping.undo_writes()
            recorder.release()
    if recorder.wanted.error is not None:
        raise recorder.wanted.error
    return Capture(
        graph=recorder.values.graph,
        x=recorder.values.x,
        taps=tuple(None if tap.tip is None else tap.tip[0] for tap in recorder.wanted.taps),
        kept=recorder.keeping.kept,
        recorded=recorder.keeping.recorded,
        constants=recorder.values.constants,
        outputs=recorder.wanted.outputs,
        returned=recorder.returned,
        calls=recorder.calls if ended else None,
        writes=tuple(recorder.keeping.writes),
        decides=recorder.decides,
        written=written,
        rules=rules,
        method=method,
    )


def _listed(target: TapRequest | Sequence[TapRequest] | None) -> Sequence[TapRequest]:
    if target is None:
        return ()
    return (target,) if isinstance(target, TapRequest) else target


def _run(
    recorder: Recorder,
    model: nn.Module,
    x: Tensor,
    forward: Callable[[Any, Tensor], Any] | None,
    dtype: torch.dtype | None,
    watching: AbstractContextManager[Any],
) -> bool:
    """Runs the model under the recorder; whether it came to its end."""
    try:
        # Below autograd composite ops (linear, max_pool1d, attention) arrive whole.
        with (
            _hooks(model, recorder),
            custom_functions(recorder),
            threads(recorder),
            torch._C._AutoDispatchBelowAutograd(),
            # `unchanged` switches gradients off. Here they are on, so that only a no_grad of the
            # model's own detaches a value.
            torch.enable_grad(),
            _plain_scripts(),
            recorder,
            # Inside the recorder, so that casts are ops of the graph: its constants stay the
            # model's own parameters.
            cast(model, dtype),
            watching,
            interruptible(),
        ):
            model(x) if forward is None else forward(model, x)
            recorder.wanted.ended()
    except Stop:
        return False
    except Exception as error:
        if recorder.wanted.complete:  # the map was there before; scripts rename the exception
            return False
        if recorder.failure is not None and recorder.failure.error is error:
            error.failure = recorder.failure  # type: ignore[attr-defined]  # for the front door
        raise
    return True


def _plain_scripts() -> AbstractContextManager[None]:
    """Scripts run op by op: optimised ones detach values for a derivative of their own."""
    return torch.jit.optimized_execution(False)  # type: ignore[attr-defined]  # untyped


@contextmanager
def _hooks(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Forward hooks that tell the recorder, in its own threads alone, which module runs."""
    paths = {module: path for path, module in model.named_modules() if path}

    def enter(module: nn.Module, args: Any) -> None:
        if recorder.records_here() and module in paths:
            recorder.enter(paths[module])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if recorder.records_here() and module in paths:
            recorder.leave(output)

    def enter_script(module: nn.Module, args: Any) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            enter(module, args)

    def leave_script(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            leave(module, args, output)

    handles = []
    scripts = [module for module in paths if isinstance(module, torch.jit.ScriptModule)]
    try:
        # Entered before the user's own hooks and left after them: their ops belong to the module.
        # `always_call`, since a model may catch an exception of a module and go on.
        for module in paths.keys() - scripts:
            handles.append(module.register_forward_pre_hook(enter, prepend=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
        if scripts:  # which take no hooks but those of all modules
            handles.append(register_module_forward_pre_hook(enter_script))
            handles.append(register_module_forward_hook(leave_script, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
