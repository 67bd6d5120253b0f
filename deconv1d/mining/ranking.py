"""Which clips of a batch enter the rankings of a layer's channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import lcm, prod
from typing import Any

import numpy as np
from torch import Tensor

from deconv1d.channels import HALF
from deconv1d.layers.axes import ordered
from deconv1d.layers.maps import LayerMaps, check_finite
from deconv1d.mining.mined import Array, Ranking
from deconv1d.record.receptive_fields import ReceptiveField

SCORES = ("peak", "mean")
NOWHERE = float("-inf")
"""The value of a clip that has no place in a layer's ranking: it is too long for that layer."""
NO_END = 2**62
"""More samples than any clip has."""


@dataclass(frozen=True)
class Scores:
    """What the channels of layers answer to clips of one length.

    Attributes:
        values: (channels, clips), the channels of the first layer, of the second, and so on.
        strongest: Where each map is largest, counted along time and what follows it; of that shape.
        facts: Of each channel, how many values its map has at each moment, and the march of its
            receptive field; (channels, 5).
        samples: Length of the clips.
    """

    values: Array
    strongest: Array
    facts: Array
    samples: int

    @classmethod
    def of(cls, found: LayerMaps, score: str) -> Scores:
        """Of the maps of one layer, one example a clip.

        Args:
            found: The maps.
            score: "peak" or "mean".

        Raises:
            ModelError: If a value is not finite.
        """
        maps = ordered(found.maps)
        maps = maps if found.time in (None, 2) else maps.movedim(found.time, 2)
        flat = maps.reshape(*maps.shape[:2], -1)
        value, place = _largest(flat)
        if score == "mean":
            value = _array(flat.mean(-1).double())
        if not np.isfinite(value).all():  # to look at each value of a map costs as much as a layer
            check_finite(found.maps, found.layer)
        facts = _facts(tuple(found.maps.shape), found.time, found.field)
        return cls(value.T, place.T, facts, found.samples)

    @classmethod
    def of_layers(cls, parts: Sequence[Scores]) -> Scores:
        """Of several layers of the same clips."""
        values, strongest, facts = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("values", "strongest", "facts")
        )
        return cls(values, strongest, facts, parts[0].samples)

    @classmethod
    def of_batches(cls, parts: Sequence[Scores]) -> Scores:
        """Of several batches of clips of one length."""
        values, strongest = (
            np.concatenate([getattr(part, name) for part in parts], axis=1)
            for name in ("values", "strongest")
        )
        return cls(values, strongest, parts[0].facts, parts[0].samples)

    def places(self, channels: Array, clips: Array) -> tuple[Array, Array, Array]:
        """Position, first and last sample of some moments, (channels, clips) each.

        Args:
            channels: Which, (channels,).
            clips: Which of each channel, (channels, clips).
        """
        after, *march = self.facts[channels].T[..., None]
        position = self.strongest[channels[:, None], clips] // after
        return position, *_windows(march, position, self.samples)


def ranked(best: Ranking | None, scores: Scores, clips: Array, k: int) -> Ranking:
    """The top k of those before and of further clips, for the channels of all layers at once.

    Args:
        best: The ranking before; None: of nothing yet.
        scores: Of the further clips.
        clips: Their ids, or numbers that sort as the ids do.
        k: How many places.

    Returns:
        Channels of the first layer, of the second, and so on; see `by_layer`.
    """
    values = scores.values
    last = min(k, len(clips))
    enough = np.partition(values, -last, axis=1)[:, -last]
    full = best if best is not None and best.value.shape[1] == k else None
    if full is not None:
        enough = np.maximum(enough, full.value[:, -1])
    entering = values >= enough[:, None]
    if full is not None:  # of equals the smaller id enters; else all would where a map is dead
        tied = np.nonzero(entering & (values == full.value[:, -1:]))
        entering[tied] = clips[tied[1]] <= full.clip[tied[0], -1]
        if not entering.any():
            return full
    # Most clips of a large set enter nowhere: of each channel those that do are moved together.
    rows = np.flatnonzero(entering.any(1))
    columns = np.argsort(~entering[rows], axis=1, kind="stable")[:, : entering.sum(1).max()]
    value = np.take_along_axis(values[rows], columns, 1)
    here = Ranking(value, clips[columns], *scores.places(rows, columns))
    if full is not None:
        return full.replaced(rows, full.taken(rows).merged(here, k))
    return here.best(k) if best is None else best.merged(here, k)


def by_layer(ranking: Ranking, channels: Mapping[str, int]) -> dict[str, Ranking]:
    """The ranking of each layer.

    Args:
        ranking: As from `ranked`.
        channels: How many each layer has, in their order.
    """
    ends = np.cumsum(list(channels.values()))
    rows = np.split(np.arange(len(ranking.value)), ends[:-1])
    return {name: ranking.taken(own) for name, own in zip(channels, rows, strict=True)}


@cache
def _facts(shape: tuple[int, ...], time: int | None, field: ReceptiveField | None) -> Array:
    """`Scores.facts` of maps of a shape, (batch, channels, ...)."""
    # How many values at each moment; all, if no axis is time.
    after = prod(shape[2:]) // (1 if time is None else shape[time])
    return np.tile(np.array((after, *_march(field)), np.int64), (shape[1], 1))


def _largest(flat: Tensor) -> tuple[Array, Array]:
    """The largest values along the last axis, and where each is, the first among equals."""
    if flat.is_cuda:
        place = flat.argmax(-1)
        return _array(flat.gather(-1, place[..., None])[..., 0].double()), _array(place)
    # On a CPU NumPy's is several times as fast as torch's: as fast as finding the value alone.
    values = _array(flat.float() if flat.dtype in HALF else flat)
    places: Array = values.argmax(-1)
    chosen = values.reshape(-1, values.shape[-1])[np.arange(places.size), places.reshape(-1)]
    return chosen.reshape(places.shape).astype(np.float64), places


def _array(values: Tensor) -> Array:
    return values.detach().cpu().numpy()


def window_of(field: ReceptiveField | None, position: Array, samples: int) -> tuple[Array, Array]:
    """The samples that moments read, within the clip: the first, and the one after the last.

    Args:
        field: Of their map; None: they read all of the clip.
        position: Their places in the map.
        samples: Length of the clip.
    """
    return _windows(_march(field), position, samples)


def _march(field: ReceptiveField | None) -> tuple[int, int, int, int]:
    """How a map's moments go along the samples, in whole numbers: the unit, hop, start, stop."""
    if field is None:
        return 1, 0, 0, NO_END
    unit = lcm(*(Fraction(x).denominator for x in (field.hop, field.start, field.stop)))
    return unit, int(field.hop * unit), int(field.start * unit), int(field.stop * unit)


def _windows(march: Sequence[Any], position: Array, samples: int) -> tuple[Array, Array]:
    unit, hop, start, stop = march
    first = -(-(position * hop + start) // unit)  # rounded up
    end = (position * hop + stop) // unit + 1
    return np.clip(first, 0, samples), np.clip(end, 0, samples)
