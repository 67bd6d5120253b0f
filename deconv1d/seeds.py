"""What of a map is carried back: its seed, its channels, and the runs that carry them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deconv1d.errors import InputError
from deconv1d.mirror import Deconvnet

Seed = str | Callable[[Tensor], Tensor]
SEEDS = ("activation", "ones", "peak")


def seed_of(activation: Tensor, seed: Seed, axis: int) -> Tensor:
    """The seed of every map.

    Args:
        activation: The maps, batch first.
        seed: "activation", "ones", "peak" (each map's strongest moment only), or a function from
            the maps to a seed of their shape.
        axis: The axis that counts channels.

    Raises:
        InputError: If a function returns another shape.
    """
    if seed == "activation":
        return activation
    if seed == "ones":
        return torch.ones_like(activation)
    if seed == "peak":
        return _peaks(activation, axis)
    assert callable(seed)
    value = seed(activation.clone())
    if value.shape != activation.shape:
        raise InputError(
            f"The seed function does not fit the map: expected shape {tuple(activation.shape)}, "
            f"got {tuple(value.shape)}. Return a value for each element of the map."
        )
    return value.to(activation)


def _peaks(activation: Tensor, axis: int) -> Tensor:
    """Zero but at the strongest moment of each example's each map.

    Source: Zeiler & Fergus 2014, figure 2.
    """
    maps = activation.movedim(axis, 1).flatten(2) if activation.dim() > 2 else activation[..., None]
    strongest = maps.argmax(-1, keepdim=True)
    peaks = torch.zeros_like(maps).scatter(-1, strongest, maps.gather(-1, strongest))
    return peaks.reshape(activation.movedim(axis, 1).shape).movedim(1, axis)


def leveled(values: Tensor) -> tuple[Tensor, float]:
    """The seed, and what to multiply its raw sonification by.

    Half precision overflows early: there the seed is scaled to 1. Every rule is positively
    homogeneous, so only the level changes.
    """
    level = float(values.abs().max())
    if values.dtype not in (torch.float16, torch.bfloat16) or level == 0:
        return values, 1.0
    return values / level, level


def most_active(activation: Tensor, axis: int) -> Tensor:
    """For each example the channel with the largest mean activation, (batch,)."""
    others = [a for a in range(1, activation.dim()) if a != axis]
    mean = activation.mean(others) if others else activation
    return mean.argmax(1)


def only(values: Tensor, axis: int, channel: Tensor) -> Tensor:
    """The values with every channel but one zero, which for each example is given, (batch,)."""
    shape = [1] * values.dim()
    shape[0], shape[axis] = values.shape[0], values.shape[axis]
    numbers = torch.arange(values.shape[axis], device=values.device)
    mask = (numbers == channel.to(values.device)[:, None]).reshape(shape)
    return torch.where(mask, values, 0)


def carry(
    deconvnet: Deconvnet, values: Tensor, axis: int, channels: list[int], chunk: int
) -> Tensor:
    """Carries single channels back, some at a time.

    Args:
        deconvnet: The mirror.
        values: Seed of every map.
        axis: The axis that counts channels.
        channels: Which to carry.
        chunk: How many at a time.

    Returns:
        (channels, *waveform shape).
    """
    runs = []
    for start in range(0, len(channels), chunk):
        some = channels[start : start + chunk]
        seeds = torch.zeros(len(some), *values.shape, dtype=values.dtype, device=values.device)
        for seed, channel in zip(seeds, some, strict=True):
            seed.select(axis, channel).copy_(values.select(axis, channel))
        runs.append(deconvnet(seeds) if len(some) > 1 else deconvnet(seeds[0])[None])
    return torch.cat(runs)
