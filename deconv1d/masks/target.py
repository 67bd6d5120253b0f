"""What a mask is to serve: one channel's activation, less that of its rivals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

HARDNESS = 10.0
"""How much more a rival counts that is more active on the sound than another."""
EVEN = 0.7
"""What all rivals together count in `even`. At 1 a channel whose rivals respond to the same sound
is left with little but noise; at 0 masks point worse."""


@dataclass(frozen=True)
class Target:
    """Channels of one layer against their rivals, on one recording: what their masks are to serve.

    Activations are relative to those on the recording. Where some are below 0, as class logits,
    that has no meaning: they are taken as they are.

    Attributes:
        scale: What each channel's activation is divided by, (channels,); infinite for a channel
            that is not active on the recording, so that it counts as 0.
        asked: (asked, channels), 1 at each asked channel; or equal shares of all of them.
        rivals: (asked, channels), whether a channel is a rival.
    """

    scale: Tensor
    asked: Tensor
    rivals: Tensor

    def of(self, some: Tensor) -> Target:
        """The target of some of the asked channels."""
        return replace(self, asked=self.asked[some], rivals=self.rivals[some])

    def even(self) -> Tensor:
        """Weights of the channels with all rivals equal, (asked, channels)."""
        count = self.rivals.sum(1, keepdim=True)
        return (self.asked - EVEN * self.rivals / count.clamp(min=1)) / self.scale

    def hard(self, activations: Tensor) -> Tensor:
        """Weights of the channels with the rivals weighed by how active they are, as `even`.

        Args:
            activations: On each asked channel's sound, (asked, channels).
        """
        relative = HARDNESS * activations.to(self.scale) / self.scale
        # A row without rivals is -inf throughout and its softmax NaN; `where` below makes it 0.
        odds = relative.masked_fill(~self.rivals, -torch.inf).softmax(1)
        weights = (self.asked - torch.where(self.rivals, odds, 0)) / self.scale
        return weights.to(activations)


def target_of(activation: Tensor, asked: Tensor, rivals: int | None, *, signed: bool) -> Target:
    """The target of asked channels.

    Args:
        activation: Of each channel on the recording, (channels,).
        asked: Channel numbers, (asked,); -1: all channels at once, which have no rivals.
        rivals: How many of the most active other channels; None: none.
        signed: Whether activations below 0 occur.
    """
    channels = len(activation)
    scale = torch.ones_like(activation) if signed else activation
    scale = torch.where(scale > 0, scale, torch.inf)
    everything = torch.full_like(activation, 1 / channels)
    ones = torch.eye(channels, dtype=activation.dtype, device=activation.device)
    numbers = asked.tolist()
    asked_weights = torch.stack(
        [ones[channel] if channel >= 0 else everything for channel in numbers]
    )
    is_rival = torch.zeros_like(asked_weights, dtype=torch.bool)
    ranked = activation.argsort(descending=True, stable=True)
    active = ranked[torch.isfinite(scale[ranked])].tolist()
    for row, channel in zip(is_rival, numbers, strict=True):
        if channel in active:
            row[[other for other in active if other != channel][: rivals or 0]] = True
    return Target(scale, asked_weights, is_rival)
