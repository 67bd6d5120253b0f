"""Which clips of a batch enter the rankings of a layer's channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm, prod
from typing import Any

import numpy as np
import torch
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
        maps = maps if found.time is None else maps.movedim(found.time, 2)
        flat = maps.reshape(*maps.shape[:2], -1)
        place = _largest(flat)
        if score == "mean":
            value = _array(flat.mean(-1).double())
        else:
            index = torch.from_numpy(place)[..., None].to(flat.device)
            value = _array(flat.gather(-1, index)[..., 0].double())
        if not np.isfinite(value).all():  # to look at each value of a map costs as much as a layer
            check_finite(found.maps, found.layer)
        facts = np.array((_after_time(found), *_march(found.field)), np.int64)
        repeated = np.broadcast_to(facts, (maps.shape[1], len(facts)))
        return cls(value.T, place.T, repeated, found.samples)

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

    def places(self, entering: Array) -> Array:
        """Position, first and last sample of some moments, (3, channels, clips); else zeros.

        Args:
            entering: Which, (channels, clips).
        """
        after, *march = self.facts[np.nonzero(entering)[0]].T
        position = self.strongest[entering] // after
        places = np.zeros((3, *entering.shape), np.int64)
        places[:, entering] = np.stack([position, *_windows(march, position, self.samples)])
        return places


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
    # Most clips of a large set enter nowhere: only for what enters are samples worked out.
    last = min(k, len(clips))
    enough = np.partition(values, -last, axis=1)[:, -last]
    if best is not None and best.value.shape[1] == k:
        enough = np.maximum(enough, best.value[:, -1])
    entering = values >= enough[:, None]
    rows = np.flatnonzero(entering.any(1))
    if not len(rows):
        assert best is not None
        return best
    here = Ranking(values, np.broadcast_to(clips, values.shape), *scores.places(entering))
    if best is None:
        return here.best(k)
    if best.value.shape[1] < k:
        return best.merged(here, k)
    return best.replaced(rows, best.taken(rows).merged(here.taken(rows), k))


def by_layer(ranking: Ranking, channels: Mapping[str, int]) -> dict[str, Ranking]:
    """The ranking of each layer.

    Args:
        ranking: As from `ranked`.
        channels: How many each layer has, in their order.
    """
    ends = np.cumsum(list(channels.values()))
    rows = np.split(np.arange(len(ranking.value)), ends[:-1])
    return {name: ranking.taken(own) for name, own in zip(channels, rows, strict=True)}


def _after_time(found: LayerMaps) -> int:
    """How many values a map has at each moment; all, if none of its axes is time."""
    shape = found.maps.shape
    return prod(shape[2:]) // (1 if found.time is None else shape[found.time])


def _largest(flat: Tensor) -> Array:
    """Where along the last axis each largest value is, the first among equals."""
    if flat.is_cuda:
        return _array(flat.argmax(-1))
    # On a CPU NumPy's is several times as fast as torch's: as fast as finding the value alone.
    flat = flat.float() if flat.dtype in HALF else flat
    places: Array = _array(flat).argmax(-1)
    return places


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
