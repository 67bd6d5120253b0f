"""A part of a waveform that is enough to check a map with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import Node

if TYPE_CHECKING:
    from deconv1d.record.capture import Capture

RECEPTIVE_FIELDS = 4
"""How much of a waveform is checked, where a map reads no more than its receptive field."""


def excerpts(captured: Capture, node: Node) -> Iterator[Tensor]:
    """A few receptive fields of audio, where the map reads no more than one.

        ...01210000000000000013979312...
               |--------|     |------|       the edge of the silence, and the loudest moment

    Digital silence is checked too, if the waveform has any: derivatives may be infinite there.
    """
    x, field = captured.kept[captured.x], captured.receptive_fields[node]
    if field is None:
        return
    length = math.ceil(RECEPTIVE_FIELDS * (field.size + field.hop))
    # Two examples are enough to see them mixed up.
    rows = x[:2].reshape(-1, x.shape[-1])
    moments = [int(rows.abs().amax(0).argmax())]
    if (edge := _edge_of_silence((rows == 0).all(0))) is not None:
        moments.append(edge)
    # From half of the waveform on the excerpt would save little.
    if length * len(moments) < x.shape[-1] // 2:
        starts = [min(max(at - length // 2, 0), x.shape[-1] - length) for at in moments]
        yield torch.cat([x[:2, ..., start : start + length] for start in starts], -1)


def _edge_of_silence(silent: Tensor) -> int | None:
    """Where the longest run of silent samples begins; its end, if that is the waveform's start."""
    places = silent.nonzero().flatten()
    if not len(places):
        return None
    gaps = (places.diff() > 1).nonzero().flatten() + 1
    run = max(places.tensor_split(gaps.cpu()), key=len)
    return int(run[0]) or int(run[-1])
