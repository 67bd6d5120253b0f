"""Directions among a layer's channels: a probe's row, a latent of a sparse autoencoder.

A direction d has one number for each channel. The map m has a vector of channels at each moment;
what is carried back is its orthogonal projection on d,

    seed(t) = (<m(t), d> / <d, d>) d

so that the length of d does not matter, and the direction with a single 1 at channel c has the seed
that channel c has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deconv1d.errors import InputError
from deconv1d.layers.axes import Layout
from deconv1d.seeds import Seed
from deconv1d.sonification import Sonification
from deconv1d.sounding import ReachedMap, sonify_map


def check_direction(direction: Any, *, channel: Any, seed: Seed, method: str) -> None:
    """Refuses a direction beside what it excludes, before the model runs.

    Raises:
        InputError: If a channel, another seed or `method="mask"` is asked for as well.
    """
    others = {
        f"channel={channel!r}": channel is not None and not _is_default(channel),
        f"seed={seed!r}": callable(seed) or seed != "activation",
        f"method={method!r}": method == "mask",
    }
    if direction is not None and (also := [text for text, given in others.items() if given]):
        raise InputError(
            f"A direction cannot go with {also[0]}: expected direction= alone, whose seed is the "
            f"map projected on it, got both. Leave one of them out."
        )


def _is_default(channel: Any) -> bool:
    return isinstance(channel, str) and channel == "most_active"


def sonify_directions(reached: ReachedMap, direction: Any, **options: Any) -> Sonification:
    """Makes the sonification of one or several directions.

    Args:
        reached: The map.
        direction: (channels,), or (directions, channels): then sounds have a leading axis.
        options: `sample_rate` and `low_cut`, as for `Sonifier.sonify`.

    Raises:
        InputError: If the direction does not fit the map.
        ModelError: As for `sonify_map`.
    """
    rows = _rows(direction, reached)
    sounds = [
        sonify_map(reached, channel=None, seed=_projection(row, reached.layout), **options)
        for row in rows
    ]
    if rows.shape != torch.as_tensor(direction).shape:  # a single one: no leading axis
        return replace(sounds[0], direction=rows[0])
    return replace(
        sounds[0],
        waveform=torch.stack([sound.waveform for sound in sounds]),
        raw=torch.stack([sound.raw for sound in sounds]),
        gain=torch.stack([sound.gain for sound in sounds]),
        channel=list(range(len(rows))),
        direction=rows,
    )


def _rows(direction: Any, reached: ReachedMap) -> Tensor:
    """The directions as (directions, channels), in the map's dtype."""
    values = torch.as_tensor(direction)
    channels = reached.layout.channels(reached.activation)
    fits = values.dim() in (1, 2) and values.shape[-1] == channels and values.numel() > 0
    if not fits or not values.is_floating_point():
        raise InputError(
            f"The direction does not fit layer {reached.layer!r}: expected floating numbers of "
            f"shape ({channels},) or (directions, {channels}), got {values.dtype} of shape "
            f"{tuple(values.shape)}. Give one number for each channel."
        )
    rows = values.detach().reshape(-1, channels).to(reached.activation)
    if not torch.isfinite(rows).all() or not rows.abs().sum(1).all():
        raise InputError(
            f"The direction in layer {reached.layer!r} has no projection: expected finite numbers, "
            f"not all 0, got others. Give another direction."
        )
    return rows


def _projection(direction: Tensor, layout: Layout) -> Callable[[Tensor], Tensor]:
    return partial(_project, direction=direction, layout=layout)


def _project(maps: Tensor, *, direction: Tensor, layout: Layout) -> Tensor:
    """The map projected on the direction, at each moment; of the map's shape."""
    unit = direction / direction.norm()
    along = torch.einsum("bc...,c->b...", layout.sorted(maps), unit.conj())
    return layout.unsorted(torch.einsum("b...,c->bc...", along, unit))
