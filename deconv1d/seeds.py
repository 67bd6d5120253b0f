"""The seed: what of a map is carried back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from deconv1d.errors import InputError, check_word
from deconv1d.layers.axes import Layout, ordered

SeedName = Literal["activation", "ones", "peak"]
# The words stand in the types, so that editors complete them; a str that is computed is fine, too.
Seed = SeedName | str | Callable[[Tensor], Tensor]
SEEDS: tuple[SeedName, ...] = get_args(SeedName)


def check_seed(seed: Seed) -> None:
    """Raises InputError unless a seed is a function or one of the known words."""
    if not callable(seed):
        check_word("seed", seed, SEEDS)


def seed_of(activation: Tensor, seed: Seed, layout: Layout) -> Tensor:
    """Returns the seed of every map.

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
    # The function gets a copy: if it writes into its argument, the recorded map stays as it is.
    value = seed(activation.clone())
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if shape != tuple(activation.shape):
        raise InputError(
            f"The seed function does not fit the map: expected shape {tuple(activation.shape)}, "
            f"got {shape}. Return a value for each element of the map."
        )
    return layout.sorted(value.to(activation))


def _peaks(maps: Tensor) -> Tensor:
    """Keeps the strongest moment of each map of each example, and sets the rest to zero.

    Of complex maps that is the moment of the largest magnitude.

    Source: Zeiler & Fergus 2014, figure 2.
    """
    flat = maps.reshape(*maps.shape[:2], -1)
    # Time, and a further axis if there is one, count as one: one moment of each map is kept,
    #
    #     map   0 3 1 5 2      peaks   0 0 0 5 0
    #
    # and of equal values the first. An argmax has one index for each map, which scatter writes to.
    strongest = ordered(flat).argmax(-1, keepdim=True)
    peaks = torch.zeros_like(flat).scatter(-1, strongest, flat.gather(-1, strongest))
    return peaks.reshape(maps.shape)
