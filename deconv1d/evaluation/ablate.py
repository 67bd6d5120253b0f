"""The model's output with one channel's map silenced, beside the unchanged one.

The forward pass is recorded once, op by op, and run again from the record; on the second run the
channel's map is overwritten where the layer's tap is. So it works where no module hook could: at an
op without a module, at one of several calls of a module, after an activation.

    x --> conv --> relu (tap) --> conv --> output
                    |
                    channel 3 is set to 0, or to its mean over time
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from deconv1d.channels import check_channels, most_active
from deconv1d.errors import InputError, ModelError, check_word
from deconv1d.evaluation.ablation import model_output
from deconv1d.layers.axes import layout_of
from deconv1d.layers.maps import map_of
from deconv1d.record.capture import Capture
from deconv1d.rules.op import shape_of
from deconv1d.sonification import channels_in_words

if TYPE_CHECKING:
    from deconv1d.forward import ForwardPass
    from deconv1d.layers.axes import Layout
    from deconv1d.sonify import Sonifier

VALUES = ("zero", "mean")


@dataclass(frozen=True)
class Ablated:
    """What a model returns with and without a channel.

    Attributes:
        output: With the channel's map silenced.
        unchanged: As the model is.
        layer: The layer's full name.
        channels: Which channels were silenced.
    """

    output: Tensor
    unchanged: Tensor
    layer: str
    channels: tuple[int, ...]

    def __repr__(self) -> str:
        shown = channels_in_words(list(self.channels))
        return f"Ablated(layer {self.layer!r}, {shown}, change {self.change:.3g})"

    @property
    def change(self) -> float:
        """Norm of the difference over the norm of the unchanged output."""
        return float((self.output - self.unchanged).norm() / self.unchanged.norm())


def ablate(
    sonifier: Sonifier,
    forward_pass: ForwardPass,
    x: Any,
    layer: str,
    channel: Any,
    *,
    value: str = "zero",
    tap: str = "block",
    channel_axis: int | None = None,
) -> Ablated:
    """See `Sonifier.ablate`."""
    check_word("value", value, VALUES)
    reached, _, name, _ = forward_pass.run_to(x, layer, tap=tap)
    assert reached.tap is not None
    layout = layout_of(reached, reached.tap, channel_axis)
    if isinstance(channel, str) and channel == "most_active":
        channel = most_active(layout.sorted(map_of(reached))).unique().tolist()
        channel = channel if len(channel) == 1 else "most_active"
    numbers = check_channels(channel, layout.channels(map_of(reached)), name)
    if not isinstance(numbers, list):
        raise InputError(
            f"The channel {channel!r} of layer {name!r} cannot be silenced: expected a number, a "
            f'list of them, "all", or "most_active" of one clip. Give one of these.'
        )
    x = forward_pass.as_taken(x)
    whole = forward_pass.run_whole(x)
    tip = _same_node(reached, whole)
    unchanged = model_output(sonifier, x)
    if unchanged is None or tip is None or whole.decides or whole.writes:
        raise _refused(name, unchanged, whole)
    given = _as_recorded(x, whole)
    values = _run(whole, given, {})
    # The record does not say which value the model returned: it is the last that equals it.
    end = next((n for n in reversed(values) if _equal(values[n], unchanged)), None)
    if end is None:
        raise _refused(name, None, whole)

    def silence(map_: Tensor) -> None:
        _silence(map_, layout, numbers, value)

    output: Tensor = _run(whole, given, {tip: silence})[end]
    return Ablated(output.to(unchanged), unchanged, name, tuple(numbers))


def _silence(map_: Tensor, layout: Layout, channels: list[int], value: str) -> None:
    """Overwrites channels of a map in place, so that every view of it changes as well."""
    sorted_maps = layout.sorted(map_)  # a view
    for channel in channels:
        one = sorted_maps[:, channel]
        rest = list(range(1, one.dim()))
        one.copy_(one.mean(rest, keepdim=True) if value == "mean" and rest else one.new_zeros(()))


def _same_node(reached: Capture, whole: Capture) -> Node | None:
    """The tap in a record of the whole pass: records of one model have the same ops in order."""
    place = list(reached.graph.nodes).index(reached.tap)
    node = list(whole.graph.nodes)[place]
    assert reached.tap is not None
    same = node.target == reached.tap.target and shape_of(node) == shape_of(reached.tap)
    return node if same else None


def _run(captured: Capture, x: Tensor, changes: dict[Node, Any]) -> dict[Node, Any]:
    """Runs the record again, and changes some values on the way."""
    values: dict[Node, Any] = {captured.x: x.clone()}
    with torch.no_grad():
        for node in captured.graph.nodes:
            if node.op == "get_attr":
                values[node] = captured.constants[str(node.target)]
            elif node.op == "call_function":
                args, kwargs = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)
            if node in changes:
                # A map that is a view of the waveform or of a weight must not write into it.
                values[node] = values[node].clone() if _is_foreign(node) else values[node]
                changes[node](values[node])
    return values


def _is_foreign(node: Node) -> bool:
    """Tells whether a map may share memory with the waveform or a weight itself."""
    return all(source.op != "call_function" for source in node.all_input_nodes)


def _as_recorded(x: Any, captured: Capture) -> Tensor:
    """The waveform in the shape, the dtype and on the device in which the model took it."""
    like = next(iter(captured.constants.values()), torch.as_tensor(x))
    dtype = captured.x.meta["dtype"]
    return torch.as_tensor(x).to(like.device, dtype).reshape(shape_of(captured.x))


def _equal(again: Any, unchanged: Tensor) -> bool:
    if not isinstance(again, Tensor) or again.shape != unchanged.shape:
        return False
    return torch.allclose(again.to(unchanged), unchanged, rtol=1e-4, atol=1e-6)


def _refused(layer: str, unchanged: Tensor | None, whole: Capture) -> ModelError:
    reasons = {
        "it looks at values, so that it may run otherwise without the channel": whole.decides,
        f"it writes into its own tensors {', '.join(whole.writes)}": bool(whole.writes),
        "it returns something else than one tensor, or draws random numbers": unchanged is None,
    }
    reason = next((text for text, holds in reasons.items() if holds), "no two passes are the same")
    return ModelError(
        f"The model cannot be run without a channel of layer {layer!r}: expected a forward pass "
        f"that runs the same way each time and returns one tensor, got a model for which {reason}. "
        f"Give forward= that returns the tensor you mean."
    )
