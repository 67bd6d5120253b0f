"""Why a map that is not zero gives silence: its signal was rectified away, or it cancelled.

The deconvnet of `q.detach() - z.detach() + z`, with both detached terms carrying, would be
signal - signal = 0 at every sample. Such silence says nothing about the map, and is an error. The
silence of a signal that is negative wherever a ReLU waits is the deconvnet's own result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from deconv1d.errors import PathError
from deconv1d.mirror import Deconvnet, mirror
from deconv1d.record.capture import Capture
from deconv1d.rules import adjoints
from deconv1d.rules.op import Op, shape_of
from deconv1d.rules.table import Emit, Entry, Rule, Rules, Signals

RECTIFIED = "all that the map carries back is rectified away"
NOTHING = "nothing of the map gets to the waveform, and its gradient is zero"


def why_silent(
    seed: Tensor, captured: Capture, layer: str, gradient: Callable[[], Deconvnet]
) -> str:
    """Why a seed that is not zero gives silence.

    Args:
        seed: Shaped like the map.
        captured: The forward pass whose mirror is silent.
        layer: The layer's full name.
        gradient: Makes the mirror of the same map for the gradient method.

    Raises:
        PathError: If the gradient method carries the seed back, and no rectifier stops it.
    """
    # The gradient method does what autograd does, so that its zero needs no second opinion.
    if captured.method == "gradient":
        return NOTHING
    # The cheaper question first: this mirror is built from the forward pass that is there, while
    # the gradient's needs another.
    if mirror(captured, rules=_without_rectifiers(captured.rules))(seed).any():
        return RECTIFIED
    try:
        carried = bool(gradient()(seed).any())
    except PathError:
        return NOTHING
    if not carried:
        return NOTHING
    raise PathError(
        f"The {captured.method} of layer {layer!r} is exactly zero: expected a signal at the "
        f"waveform, since the map is not zero and its gradient is not, got terms that cancel or "
        f"that nothing carries. sonifier.plan(x, {layer!r}) shows the way back; choose a layer "
        f"before that, or method='gradient'."
    )


def _without_rectifiers(rules: Rules) -> Rules:
    return {op: _passing(entry) for op, entry in rules.items()}


def _passing(entry: Entry) -> Entry:
    # Which rule an op gets may depend on its arguments, so it is replaced after it was chosen.
    def choose(op: Op) -> Rule:
        rule = entry if isinstance(entry, Rule) else entry(op)
        if rule.kind != "rectify":
            return rule
        return replace(rule, kind="pass", carry_back=_pass_on)

    return choose


def _pass_on(op: Op, signal: object, emit: Emit) -> Signals:
    x = op.dependent[0]
    yield x, emit(adjoints.unbroadcast, signal, shape_of(x), x.meta["dtype"])
