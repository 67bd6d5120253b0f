"""What a model's output loses without a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deconv1d.record.aliasing import before_write, undo_writes
from deconv1d.record.unchanged import unchanged

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

OTHERS = 8


def ablation(
    sonifier: Sonifier,
    x: Tensor,
    weight: str,
    axis: int,
    channel: int,
    generator: torch.Generator,
    *,
    others: int = OTHERS,
) -> tuple[float | None, float | None]:
    """How much the model's output changes without a channel, and without random other ones.

    The channel's filter and its bias are set to 0. The change is the norm of the difference over
    the norm of the output.

    Args:
        sonifier: Of the model, which keeps its weights: a copy of it has others.
        x: One clip, as for `Sonifier.sonify`.
        weight: Name of the weight that makes the layer's channels.
        axis: Which of its axes counts them.
        channel: The channel.
        generator: On the CPU.
        others: How many other channels, drawn at random, a mean is taken of.

    Returns:
        The two changes; None where the model returns no tensor, its output is 0, or there is no
        other channel.
    """
    parameters = dict(sonifier.model.named_parameters())
    channels = parameters[weight].shape[axis]
    bias = f"{weight.removesuffix('weight')}bias"

    def output(*silenced: int) -> Tensor | None:
        weights = {weight: parameters[weight].detach().clone()}
        if bias in parameters and parameters[bias].shape == (channels,):
            weights[bias] = parameters[bias].detach().clone()
        for number in silenced:
            weights[weight].select(axis, number).zero_()
            if bias in weights:
                weights[bias][number] = 0
        return model_output(sonifier.with_weights(weights), x)

    unchanged_output = output()
    if unchanged_output is None or not unchanged_output.any():
        return None, None

    def change(number: int) -> float:
        changed = output(number)
        assert changed is not None
        return float((changed - unchanged_output).norm() / unchanged_output.norm())

    order = torch.randperm(channels, generator=generator).tolist()
    changes = [change(c) for c in [c for c in order if c != channel][:others]]
    return change(channel), sum(changes) / len(changes) if changes else None


def model_output(sonifier: Sonifier, x: Tensor) -> Tensor | None:
    """What the model returns, if it is a tensor; the model is left as it is.

    Args:
        sonifier: Of the model.
        x: As for `Sonifier.sonify`.

    Raises:
        ModelError: If the sonifier has other weights, and the model's own are read.
    """
    model, call = sonifier.model, sonifier.forward
    assert call is not None
    like = next((p for p in model.parameters() if p.is_floating_point()), x)
    buffers = [before_write(buffer) for buffer in model.buffers()]
    x = sonifier.as_taken(x)
    with unchanged(model), sonifier.forward_pass.plain_run():
        try:
            return _tensor(call(model, x.to(like)))
        finally:
            undo_writes(buffers)


def _tensor(output: Any) -> Tensor | None:
    return output.detach().clone() if isinstance(output, Tensor) else None
