"""How far two passes of one waveform are apart, and from which op on."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from deconv1d.checks.passes import PlainPass, RecordedPass, first_line
from deconv1d.errors import PathError
from deconv1d.mirror import mirror
from deconv1d.record.replay import replay_all
from deconv1d.record.schema import is_random
from deconv1d.rules.op import depends_on_input

if TYPE_CHECKING:
    from deconv1d.record.capture import Capture
    from deconv1d.rules.table import Rules

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
HALF_TOLERANCE = 0.05
"""For models that compute in half precision even when they are run in float32."""


class Difference(NamedTuple):
    """What two passes of one waveform gave.

    Attributes:
        recorded: The recorded pass.
        kept: Of the map that was kept from the plain pass's, as a share of its peak; None: the
            plain pass does not show it.
        again: Of the map that the recorded ops give again.
        signal: See `Verified`.
        note: See `Verified`.
    """

    recorded: RecordedPass
    kept: float | None
    again: float | None
    signal: float | None
    note: str

    @property
    def value(self) -> float | None:
        """See `Verified`."""
        return None if self.kept is None or self.again is None else max(self.kept, self.again)


def value_differences(
    recorded: RecordedPass, plain: PlainPass
) -> tuple[float, float] | tuple[None, None]:
    """Of the map that was kept, and of the map that the recorded ops give again."""
    expected = plain.values.get(recorded.node)
    if expected is None:
        return None, None
    again = replay_all(recorded.captured, recorded.node)[recorded.node]
    kept = recorded.captured.kept[recorded.node]
    return relative(kept, expected.detach()), relative(again, expected.detach())


def signal_difference(
    captured: Capture, node: Node, plain: PlainPass, rules: Rules
) -> tuple[float | None, str]:
    """How far the gradient method is from autograd, from one node on."""
    value = plain.values[node]
    generator = torch.Generator().manual_seed(0)
    # Complex for a complex map: of a real seed's signal no missing conjugate would be seen.
    seed = torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)
    # The plain pass keeps its autograd graph, so that each of its values has a way back of its own.
    try:
        expected = _autograd(value, plain.x, seed)
    except Exception as error:  # derivatives of higher-order operators raise more kinds
        return None, f"autograd cannot go back: {first_line(error)}"
    ours = _mirrored(captured, node, seed, rules)
    finite = expected.isfinite()
    note = "" if finite.all() else "autograd's own gradient is not finite"
    # Where autograd multiplies zero by an infinite derivative, as of sqrt at 0, its result is
    # NaN. The mirror takes such a derivative for 0, so its signal has to be finite there.
    if not ours.isfinite().all() and not has_own_backward(captured):
        return math.inf, note
    if not finite.any():
        return None, note
    return relative(ours[finite], expected[finite], float(seed.abs().max())), note


def _mirrored(captured: Capture, node: Node, seed: Tensor, rules: Rules) -> Tensor:
    """What the gradient method carries back to the waveform; zero where nothing gets there."""
    try:
        back = mirror(replace(captured, taps=(node,)), rules=rules, method="gradient")
    except PathError:  # autograd's gradient is zero there as well, or the difference shows it
        return torch.zeros_like(captured.kept[captured.x])
    return back(seed)


def _autograd(value: Tensor, x: Tensor, seed: Tensor) -> Tensor:
    """What autograd carries back; zero where it has no path."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(value, x, seed, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


def has_own_backward(captured: Capture) -> bool:
    """Whether the model has custom functions: what those return, finite or not, is theirs."""
    return any(hasattr(node.target, "pull_back") for node in captured.graph.nodes)


def relative(found: Tensor, expected: Tensor, least: float = 0.0) -> float:
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


def tolerance(found: Difference) -> float:
    """By the coarsest precision between the waveform and the map."""
    used = {
        n.meta["dtype"]
        for n in found.recorded.captured.graph.nodes
        if n.meta.get("depends_on_input")
    }
    real = {torch.empty(0, dtype=dtype).real.dtype for dtype in used}
    return max((TOLERANCES.get(dtype, HALF_TOLERANCE) for dtype in real), default=1e-4)


def fails(found: Difference) -> bool:
    """Whether a difference is larger than rounding."""
    errors = [error for error in (found.value, found.signal) if error is not None]
    return not all(error <= tolerance(found) for error in errors)


def first_value(found: Difference, plain: PlainPass) -> Node | None:
    """The first op whose value, by the recorded ops, differs from the plain pass's."""
    again = replay_all(found.recorded.captured, found.recorded.node)
    for node in found.recorded.captured.graph.nodes:
        if node in plain.values and relative(again[node], plain.values[node]) > tolerance(found):
            return node  # type: ignore[no-any-return]  # fx is untyped
    return None


def is_drawn(node: Node, plain: PlainPass) -> bool:
    """Whether a value is a random number, or made from one within the same call of torch."""
    waiting = [node]
    while waiting:
        if is_random(node := waiting.pop()):
            return True
        # What a call before returned is known: there the two passes agree.
        waiting += [source for source in node.all_input_nodes if source not in plain.values]
    return False


def first_signal(found: Difference, plain: PlainPass, rules: Rules) -> Node | None:
    """The first op from which the way back differs from autograd's.

    Found by bisection, then by going back to an input that differs too: a branch before the op
    may be right.
    """

    def differs(node: Node) -> bool:
        error, _ = signal_difference(found.recorded.captured, node, plain, rules)
        return (error or 0) > tolerance(found)

    graph = found.recorded.captured.graph
    nodes = [n for n in graph.nodes if n in plain.values and depends_on_input(n)]
    # Near the waveform the way back is short and agrees; behind the wrong op it differs.
    place = bisect_left(nodes, True, key=differs)
    node = nodes[place] if place < len(nodes) else None
    while node is not None:
        before = next(filter(differs, inputs_among(node, set(nodes))), None)
        if before is None:
            break
        node = before
    return node


def inputs_among(node: Node, wanted: set[Node]) -> list[Node]:
    """The nearest of the wanted values that a value was computed from."""
    nearest, waiting = [], list(node.all_input_nodes)
    while waiting:
        if (source := waiting.pop()) in wanted:
            nearest.append(source)
        else:
            waiting += source.all_input_nodes
    return nearest
