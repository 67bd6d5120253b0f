"""The seed: what of a map is carried back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deconv1d.errors import InputError
from deconv1d.layers.axes import Layout

Seed = str | Callable[[Tensor], Tensor]
SEEDS = ("activation", "ones", "peak")


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


def scaled_for_half(values: Tensor) -> tuple[Tensor, float]:
    """The seed, and what to multiply its raw sonification by.

    Half precision overflows early: there the seed is scaled to 1. Every rule is positively
    homogeneous, so only the level changes.
    """
    level = float(values.abs().max())
    if values.dtype not in (torch.float16, torch.bfloat16) or level == 0:
        return values, 1.0
    return values / level, level
