"""Which clips of a batch enter the rankings of a layer's channels."""

from __future__ import annotations

from fractions import Fraction
from math import lcm

import numpy as np
import torch
from torch import Tensor

from deconv1d.layers.axes import ordered
from deconv1d.layers.maps import LayerMaps
from deconv1d.mining.mined import Array, Ranking
from deconv1d.record.receptive_fields import ReceptiveField

SCORES = ("peak", "mean")


def ranked(best: Ranking | None, found: LayerMaps, clips: Array, k: int, score: str) -> Ranking:
    """The top k of those before and of a batch of clips.

    Args:
        best: The ranking before; None: of nothing yet.
        found: The maps of the batch, one example a clip.
        clips: Their ids, or numbers that sort as the ids do.
        k: How many places.
        score: "peak" or "mean".
    """
    maps = ordered(found.maps)
    flat = maps if found.time is None else maps.movedim(found.time, 2)
    flat = flat.reshape(*maps.shape[:2], -1)
    value = _scores(maps, score)
    values = _array(value.double().T)  # (channels, clips)
    # Only what may enter is looked at more closely: where the strongest moment is costs ten times
    # what its value costs.
    rows = np.arange(len(values)) if best is None else _reached(best, values, k)
    if not len(rows):
        assert best is not None
        return best
    here = _ranking(found, flat, values, rows, clips, k)
    if best is None:
        return here.best(k)
    if len(rows) == len(values):
        return best.merged(here, k)
    return best.replaced(rows, best.taken(rows).merged(here, k))


def _reached(best: Ranking, values: Array, k: int) -> Array:
    """The channels in which a clip reaches the last place."""
    if best.value.shape[1] < k:
        return np.arange(len(values))
    return np.flatnonzero(values.max(1) >= best.value[:, -1])


def _ranking(
    found: LayerMaps, flat: Tensor, values: Array, rows: Array, clips: Array, k: int
) -> Ranking:
    """The clips' places in the rankings of some channels; with positions for the top k alone."""
    chosen = values[rows]
    last = min(k, len(clips))
    enough = np.partition(chosen, -last, axis=1)[:, -last]
    row, clip = np.nonzero(chosen >= enough[:, None])
    # The first among equals.
    moments = flat[torch.from_numpy(clip), torch.from_numpy(rows[row])].argmax(1)
    per_moment = 1 if found.time is None else flat.shape[2] // found.maps.shape[found.time]
    position = np.zeros(chosen.shape, np.int64)
    position[row, clip] = 0 if found.time is None else _array(moments) // per_moment
    window = _window(None if found.time is None else found.field, position, found.samples)
    return Ranking(chosen, np.broadcast_to(clips, chosen.shape), position, *window)


def _scores(maps: Tensor, score: str) -> Tensor:
    """Each channel's value for each clip, (clips, channels)."""
    flat = maps.reshape(*maps.shape[:2], -1)
    return flat.amax(-1) if score == "peak" else flat.mean(-1)


def _array(values: Tensor) -> Array:
    return values.detach().cpu().numpy()


def _window(field: ReceptiveField | None, position: Array, samples: int) -> tuple[Array, Array]:
    """The samples that moments read, within the clip: the first, and the one after the last."""
    if field is None:
        return np.zeros_like(position), np.full_like(position, samples)
    unit = lcm(*(Fraction(x).denominator for x in (field.hop, field.start, field.stop)))
    hop, start, stop = (int(x * unit) for x in (field.hop, field.start, field.stop))
    first = -(-(position * hop + start) // unit)  # rounded up
    end = (position * hop + stop) // unit + 1
    return np.clip(first, 0, samples), np.clip(end, 0, samples)
