"""What of a map is carried back: its seed, its channels, and the runs that carry them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from math import prod

import torch
from torch import Tensor

from deconv1d.capture import Capture
from deconv1d.errors import InputError
from deconv1d.mirror import Deconvnet
from deconv1d.ops import carries, shape_of

Seed = str | Callable[[Tensor], Tensor]
Channel = int | Tensor
"""A number, or one for each example, (batch,)."""
SEEDS = ("activation", "ones", "peak")

CHUNK_BYTES = 2**25
"""Size of the largest value of one chunk of channels. Larger ones are slower on a CPU, where fresh
memory costs more than the convolutions gain."""


@dataclass(frozen=True)
class Layout:
    """Which axes of a map count examples and channels."""

    batch: int
    channel: int

    def sorted(self, maps: Tensor) -> Tensor:
        """Maps as the model has them -> (batch, channels, ...)."""
        return maps.movedim((self.batch, self.channel), (0, 1))

    def unsorted(self, maps: Tensor) -> Tensor:
        """(batch, channels, ...) -> as the model has them."""
        return maps.movedim((0, 1), (self.batch, self.channel))


def layout_of(maps: Tensor, activation: Tensor) -> Layout:
    """How a model lays out its maps.

    Args:
        maps: As `Sonifier.maps` returns them, (batch, channels, ...).
        activation: The same as the model has them.
    """
    pairs = permutations(range(activation.dim()), 2)
    layouts = [Layout(*pair) for pair in pairs]
    fitting = [lay for lay in layouts if lay.sorted(activation).shape == maps.shape]
    return min(fitting, key=lambda lay: float((lay.sorted(activation) - maps).abs().max()))


def seed_of(activation: Tensor, seed: Seed, layout: Layout) -> Tensor:
    """The seed of every map.

    Args:
        activation: The maps, as the model has them.
        seed: "activation", "ones", "peak" (each map's strongest moment only), or a function from
            the maps to a seed of their shape.
        layout: Their axes.

    Returns:
        (batch, channels, ...).

    Raises:
        InputError: If a function returns another shape.
    """
    maps = layout.sorted(activation)
    if seed == "activation":
        return maps
    if seed == "ones":
        return torch.ones_like(maps)
    if seed == "peak":
        return _peaks(maps)
    assert callable(seed)
    value = seed(activation.clone())
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if shape != tuple(activation.shape):
        raise InputError(
            f"The seed function does not fit the map: expected shape {tuple(activation.shape)}, "
            f"got {shape}. Return a value for each element of the map."
        )
    return layout.sorted(value.to(activation))


def _peaks(maps: Tensor) -> Tensor:
    """Zero but at the strongest moment of each example's each map.

    Source: Zeiler & Fergus 2014, figure 2.
    """
    flat = maps.reshape(*maps.shape[:2], -1)
    strongest = flat.argmax(-1, keepdim=True)
    peaks = torch.zeros_like(flat).scatter(-1, strongest, flat.gather(-1, strongest))
    return peaks.reshape(maps.shape)


def leveled(values: Tensor) -> tuple[Tensor, float]:
    """The seed, and what to multiply its raw sonification by.

    Half precision overflows early: there the seed is scaled to 1. Every rule is positively
    homogeneous, so only the level changes.
    """
    level = float(values.abs().max())
    if values.dtype not in (torch.float16, torch.bfloat16) or level == 0:
        return values, 1.0
    return values / level, level


def means(maps: Tensor) -> Tensor:
    """Mean activation of every channel, (batch, channels), of maps (batch, channels, ...)."""
    return maps.reshape(*maps.shape[:2], -1).mean(-1)


def most_active(maps: Tensor) -> Tensor:
    """For each example the channel with the largest mean activation, (batch,)."""
    return means(maps).argmax(1)


def ranked(maps: Tensor, count: int) -> Tensor:
    """For each example the channels with the largest means, best first, (up to count, batch)."""
    return means(maps).argsort(dim=1, descending=True, stable=True)[:, :count].T


def only(values: Tensor, channel: Channel) -> Tensor:
    """The seed with every channel zero but one."""
    kept = torch.zeros_like(values)
    examples = torch.arange(len(values), device=values.device)
    kept[examples, channel] = values[examples, channel]
    return kept


def carry(
    deconvnet: Deconvnet, values: Tensor, layout: Layout, channels: Sequence[Channel], chunk: int
) -> Tensor:
    """Carries single channels back, some at a time.

    Args:
        deconvnet: The mirror.
        values: Seed of every map, (batch, channels, ...).
        layout: The axes of the model's maps.
        channels: Which to carry.
        chunk: How many at a time.

    Returns:
        (channels, *waveform shape).
    """
    carried: Tensor | None = None
    for start in range(0, len(channels), chunk):
        some = channels[start : start + chunk]
        seeds = torch.stack([layout.unsorted(only(values, channel)) for channel in some])
        raw = deconvnet(seeds) if len(some) > 1 else deconvnet(seeds[0])[None]
        if carried is None:  # kept together: small results in between would scatter the heap
            carried = raw.new_empty(len(channels), *raw.shape[1:])
        carried[start : start + chunk] = raw
    assert carried is not None
    return carried


def chunk_of(captured: Capture) -> int:
    """How many channels to carry at a time.

    Args:
        captured: The forward pass, whose largest value on the signal's way decides.
    """
    sizes = [
        prod(shape_of(node)) * int(node.meta["dtype"].itemsize)
        for node in captured.graph.nodes
        if carries(node)
    ]
    return max(1, CHUNK_BYTES // max(sizes))
