"""Which clips of a batch enter the rankings of a layer's channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import lcm

import numpy as np
import torch
from torch import Tensor

from deconv1d.layers.axes import ordered
from deconv1d.layers.maps import LayerMaps, check_finite
from deconv1d.mining.mined import Array, Ranking
from deconv1d.record.receptive_fields import ReceptiveField

SCORES = ("peak", "mean")
NOWHERE = float("-inf")
"""The value of a clip that has no place in a layer's ranking: it is too long for that layer."""


def ranked(
    best: Ranking | None, found: Sequence[LayerMaps], clips: Array, k: int, score: str
) -> Ranking:
    """The top k of those before and of a batch of clips, for the channels of all layers at once.

    Args:
        best: The ranking before; None: of nothing yet.
        found: The maps of each layer, one example a clip.
        clips: Their ids, or numbers that sort as the ids do.
        k: How many places.
        score: "peak" or "mean".

    Returns:
        Channels of the first layer, of the second, and so on; see `by_layer`.

    Raises:
        ModelError: If a value is not finite.
    """
    values = _array(torch.cat([_scores(maps, score).T.double() for maps in found]))
    if not np.isfinite(values).all():
        for maps in found:
            check_finite(maps.maps, maps.layer)
    # Only what enters is looked at more closely: to find where a map's strongest moment is costs
    # ten times what its value costs.
    last = min(k, len(clips))
    enough = np.partition(values, -last, axis=1)[:, -last]
    if best is not None and best.value.shape[1] == k:
        enough = np.maximum(enough, best.value[:, -1])
    row, clip = np.nonzero(values >= enough[:, None])
    if not len(row):
        assert best is not None
        return best
    rows = np.unique(row)
    places = np.zeros((3, *values.shape), np.int64)
    places[:, row, clip] = np.concatenate(list(_places(found, row, clip)), axis=1)
    here = Ranking(values, np.broadcast_to(clips, values.shape), *places)
    if best is None:
        return here.best(k)
    if best.value.shape[1] < k:
        return best.merged(here, k)
    return best.replaced(rows, best.taken(rows).merged(here.taken(rows), k))


def _places(found: Sequence[LayerMaps], row: Array, clip: Array) -> Iterator[Array]:
    """Of channels and clips: the strongest moment, first and last sample; (3, pairs) a layer."""
    first = 0
    for maps in found:
        channels = maps.maps.shape[1]
        own = slice(*np.searchsorted(row, (first, first + channels)))
        if own.start < own.stop:
            yield _moments(maps, torch.from_numpy(row[own] - first), torch.from_numpy(clip[own]))
        first += channels


def _moments(found: LayerMaps, channel: Tensor, clip: Tensor) -> Array:
    maps = ordered(found.maps)
    chosen = maps[clip.to(maps.device), channel.to(maps.device)]
    if found.time is None:
        position = np.zeros(len(channel), np.int64)
        return np.stack([position, *window_of(None, position, found.samples)])
    chosen = chosen.movedim(found.time - 1, 1).reshape(len(channel), maps.shape[found.time], -1)
    # The first among equals.
    position = _array(chosen.reshape(len(channel), -1).argmax(1)) // chosen.shape[2]
    return np.stack([position, *window_of(found.field, position, found.samples)])


def by_layer(ranking: Ranking, channels: Mapping[str, int]) -> dict[str, Ranking]:
    """The ranking of each layer.

    Args:
        ranking: As from `ranked`.
        channels: How many each layer has, in their order.
    """
    ends = np.cumsum(list(channels.values()))
    rows = np.split(np.arange(len(ranking.value)), ends[:-1])
    return {name: ranking.taken(own) for name, own in zip(channels, rows, strict=True)}


def _scores(found: LayerMaps, score: str) -> Tensor:
    """Each channel's value for each clip, (clips, channels)."""
    maps = ordered(found.maps)
    flat = maps.reshape(*maps.shape[:2], -1)
    return flat.amax(-1) if score == "peak" else flat.mean(-1)


def _array(values: Tensor) -> Array:
    return values.detach().cpu().numpy()


def window_of(field: ReceptiveField | None, position: Array, samples: int) -> tuple[Array, Array]:
    """The samples that moments read, within the clip: the first, and the one after the last.

    Args:
        field: Of their map; None: they read all of the clip.
        position: Their places in the map.
        samples: Length of the clip.
    """
    if field is None:
        return np.zeros_like(position), np.full_like(position, samples)
    unit = lcm(*(Fraction(x).denominator for x in (field.hop, field.start, field.stop)))
    hop, start, stop = (int(x * unit) for x in (field.hop, field.start, field.stop))
    first = -(-(position * hop + start) // unit)  # rounded up
    end = (position * hop + stop) // unit + 1
    return np.clip(first, 0, samples), np.clip(end, 0, samples)
