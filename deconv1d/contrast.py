"""What of a channel's sonification is its own: the part that other channels' do not explain.

Deep in a network all sonifications of a clip share one carrier, whatever the channel. Here, moment
by moment, what a linear combination of other channels' sonifications can say is taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deconv1d.channels import Channel, ranked
from deconv1d.errors import InputError, check_word

CONTRASTS = ("channels",)
OTHERS = 8
FRAME = 1024
"""Samples; longer frames remove less, shorter ones leave less that the channel answers."""
FRAMES_AT_ONCE = 256
COARSEST = 0.02
"""Of a frame's norm, the most that counts as rounding: in bfloat16 32 epsilon are a sound."""


def check_contrast(contrast: str, channels: int, chosen: object, layer: str) -> None:
    """Whether there is something to contrast.

    Args:
        contrast: Out of `CONTRASTS`.
        channels: How many the layer has.
        chosen: What `deconv1d.channels.check_channels` made of the channels asked for.
        layer: The layer's name.

    Raises:
        InputError: If the word is unknown, all maps sound at once, or the layer has one channel.
    """
    check_word("contrast", contrast, CONTRASTS)
    if chosen is None:
        raise InputError(
            f"All maps of layer {layer!r} at once have no others to be contrasted with: expected "
            f"single channels with contrast={contrast!r}, got channel=None. Name channels, or "
            f"leave contrast out."
        )
    if channels == 1:
        raise InputError(
            f"Layer {layer!r} has nothing to contrast with: expected two channels or more with "
            f"contrast={contrast!r}, got 1. Leave contrast out."
        )


def without_others(
    raw: Tensor,
    channels: Sequence[Channel],
    maps: Tensor,
    carry_back: Callable[[Sequence[Channel]], Tensor],
) -> Tensor:
    """Raw sonifications, each without what its clip's `OTHERS` most active other channels explain.

    What a channel is contrasted with does not depend on the other channels that are asked for.

    Args:
        raw: (sounds, batch, ..., time).
        channels: Whose they are: numbers, or (batch,) each.
        maps: (batch, channels, ...).
        carry_back: Channels to their raw sonifications, `raw`'s shape.
    """
    most = ranked(maps, OTHERS + 1)
    rivals = carry_back(list(most))
    return torch.stack(
        [
            contrasted(own, torch.where(_others(most, channel, rivals), rivals, 0))
            for own, channel in zip(raw, channels, strict=True)
        ]
    )


def contrasted(own: Tensor, others: Tensor, *, frame: int = FRAME) -> Tensor:
    """One sound without what others explain; exact silence where they explain all but rounding.

    The sounds are cut into half-overlapping frames under a root-Hann window. Of each frame its
    orthogonal projection onto the span of the others' frames is taken off; the rest, under the
    window again, adds up to a sound that is orthogonal to each of the others. Examples and audio
    channels are each for themselves; the others' levels do not matter.

    Args:
        own: (..., time).
        others: (sounds, ..., time).
        frame: Samples in a frame, even.

    Returns:
        `own`'s shape.

    Source:
        Projection onto an orthogonal complement, as in Gram-Schmidt; frames as in the weighted
        overlap-add of Crochiere (1980).
    """
    samples, hop = own.shape[-1], frame // 2
    window = torch.hann_window(frame, dtype=torch.float64, device=own.device).sqrt()
    rows = own.reshape(-1, samples)
    both = torch.stack([rows, *others.reshape(len(others), -1, samples)], 1)
    frames = F.pad(both, (hop, hop + -samples % hop)).unfold(-1, frame, hop).movedim(2, 1)
    parts = frames.flatten(0, 1).split(FRAMES_AT_ONCE)
    rest = torch.cat([_unexplained(part * window, own.dtype) * window for part in parts])
    rest = rest.reshape(len(rows), -1, frame).mT
    total = (rest.shape[-1] + 1) * hop
    added = F.fold(rest, (1, total), (1, frame), stride=(1, hop))
    return added[..., hop : hop + samples].reshape(own.shape).to(own)


def _unexplained(frames: Tensor, dtype: torch.dtype) -> Tensor:
    """(frames, 1 + others, samples) -> of each frame's first sound what the others leave."""
    tolerance = min(32 * torch.finfo(dtype).eps, COARSEST)
    own, others = frames[:, 0], frames[:, 1:]
    level = others.norm(dim=-1, keepdim=True)
    _, size, basis = torch.linalg.svd(others / level.where(level > 0, 1), full_matrices=False)
    basis = basis * (size > tolerance)[..., None]
    rest = own - (own[:, None] @ basis.mT @ basis)[:, 0]
    audible = rest.norm(dim=-1, keepdim=True) > tolerance * own.norm(dim=-1, keepdim=True)
    return torch.where(audible, rest, 0)


def _others(most: Tensor, channel: Channel, rivals: Tensor) -> Tensor:
    """Which of the most active channels are the first `OTHERS` that are not this one.

    Args:
        most: (OTHERS + 1, batch).
        channel: A number or (batch,).
        rivals: What to choose from, (OTHERS + 1, batch, ...): the answer has its rank.
    """
    other = most != channel
    if other.shape[1] != rivals.shape[1]:  # the model counts its examples in another way
        other = other.all(1, keepdim=True)
    chosen = other & (other.cumsum(0) <= OTHERS)
    return chosen.reshape(*chosen.shape, *[1] * (rivals.dim() - 2))
