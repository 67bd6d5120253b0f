"""Seeds that are zero but for a stretch of time: only what that stretch reads is run and mirrored.

The strongest moment of a map reads one receptive field of the waveform, and its way back ends
there. So the waveform is cropped to it, the crop is run forward and the seed is carried back on the
crop; the result is the same as on the whole, at a fraction of the cost:

    waveform   |--------------[  crop  ]----------------|
    seed       |0 0 0 0 0 0 0 0 0 3 0 0 0 0 0 0 0 0 0 0 |

Crops begin at multiples of the layer's total stride, so that strides and pools see the same windows
as in the whole waveform. Crops of one length run as one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from math import ceil, floor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconv1d.channels import chunk_of
from deconv1d.errors import Deconv1dError
from deconv1d.layers.axes import Layout
from deconv1d.record.capture import Capture
from deconv1d.record.receptive_fields import ReceptiveField, total_stride
from deconv1d.rules.op import shape_of

if TYPE_CHECKING:
    from deconv1d.prepared.halves import Trace

SMALL = 0.5
"""Of the waveform, the share that all crops of a seed may have together; else the whole is run."""
TOLERANCE = 1000
"""Rounding that may separate a map on a crop from the same on the whole, in epsilons of the peak:
convolutions sum in another order for another length."""


def local_mirror(
    dense: Callable[[Tensor], Tensor],
    captured: Capture,
    layout: Layout,
    trace: Callable[[Tensor], Trace],
) -> Callable[[Tensor], Tensor]:
    """A mirror that runs on crops where that is enough; the dense one where it never is.

    Args:
        dense: The mirror of the whole waveform.
        captured: The forward pass that it mirrors.
        layout: The axes of the map.
        trace: Writes both halves of a program for waveforms shaped like the one given.
    """
    assert captured.tap is not None
    field, x = captured.receptive_fields[captured.tap], captured.kept[captured.x]
    if field is None or field.size > SMALL * x.shape[-1]:
        return dense
    # Examples are not counted, or behind time.
    if layout.batch is None or layout.batch >= len(shape_of(captured.tap)) + field.axis:
        return dense
    stride = total_stride(captured.receptive_fields.values())
    at_once = chunk_of(captured) * x.shape[-1]
    return LocalMirror(
        dense,
        x,
        captured.kept[captured.tap],
        layout=layout,
        field=field,
        stride=stride,
        at_once=at_once,
        trace=trace,
    )


class _NotLocalError(Exception):
    """A moment of the map depends on more than what its receptive field says."""


@dataclass(frozen=True)
class _Crop:
    """A stretch of one example, and of the seed that is carried back on it."""

    seed: int
    example: int
    first: int
    last: int
    start: int
    end: int


class LocalMirror:
    """Carries seeds back like a `Deconvnet`, on crops of the waveform where that is enough.

    Args:
        dense: The mirror of the whole waveform.
        x: The waveform as the model took it, batch first.
        maps: The map of the whole waveform, with which those of the crops must agree.
        layout: The axes of the map.
        field: What a moment of the map reads.
        stride: The layer's total stride, in samples.
        at_once: How many samples of crops to carry at once.
        trace: Writes both halves of a program for waveforms shaped like the one given.
    """

    def __init__(
        self,
        dense: Callable[[Tensor], Tensor],
        x: Tensor,
        maps: Tensor,
        *,
        layout: Layout,
        field: ReceptiveField,
        stride: int,
        at_once: int,
        trace: Callable[[Tensor], Trace],
    ) -> None:
        self._dense, self._x, self._maps, self._layout = dense, x, maps, layout
        assert layout.batch is not None  # `local_mirror` asks before
        self._batch = layout.batch
        self._field, self._stride, self._at_once = field, stride, at_once
        self._trace = trace
        self._traces: dict[torch.Size, Trace] = {}

    def __call__(self, seed: Tensor) -> Tensor:
        """One seed of the map's shape, or several along a leading axis, to raw sonifications."""
        several = seed.dim() > self._maps.dim()
        seeds = seed if several else seed[None]
        crops = list(self._crops(seeds))
        size = sum(crop.end - crop.start for crop in crops)
        if size > SMALL * len(seeds) * len(self._x) * self._x.shape[-1]:
            return self._dense(seed)
        raw = self._x.new_zeros(len(seeds), *self._x.shape)
        try:
            for length, group in groupby(sorted(crops, key=_length), _length):
                self._carry(list(group), length, seeds, raw)
        except (Deconv1dError, _NotLocalError):
            # The crop is too short for the model, the model cannot be prepared, or a moment depends
            # on more than its field, such as on the other examples of the batch.
            return self._dense(seed)
        return raw if several else raw[0]

    def _crops(self, seeds: Tensor) -> Iterator[_Crop]:
        """What each example of each seed reads; nothing for those that are zero."""
        # Seeds are (seeds, *map_shape): the map's batch axis is one place further on, and its time
        # axis, which is counted from the end, stays the same.
        kept = (0, self._batch + 1, seeds.dim() + self._field.axis)
        others = [axis for axis in range(seeds.dim()) if axis not in kept]
        support = seeds.ne(0).any(others)  # (seeds, batch, time)
        extents = []
        for number, example in support.any(-1).nonzero().tolist():
            moments = support[number, example].nonzero()
            extents.append((number, example, int(moments[0]), int(moments[-1])))
        yield from self._aligned(extents)

    def _aligned(self, extents: Sequence[tuple[int, int, int, int]]) -> Iterator[_Crop]:
        """Crops that begin at the stride's multiples: of one length, and of one more at the end."""
        hop, samples = self._field.hop, self._x.shape[-1]
        starts = [
            self._at_stride(floor(first * hop + self._field.start)) for *_, first, _ in extents
        ]
        # `stop` is the last sample that is read, so the end is one more. All crops get the length
        # of the longest, but for those at the waveform's end: they run as one batch with one trace.
        ends = [ceil(last * hop + self._field.stop) + 1 for *_, last in extents]
        length = max((end - start for start, end in zip(starts, ends, strict=True)), default=0)
        for extent, start in zip(extents, starts, strict=True):
            if start + length > samples:  # the waveform's own end, with the padding it has there
                yield _Crop(*extent, self._at_stride(samples - length), samples)
            else:
                yield _Crop(*extent, start, start + length)

    def _at_stride(self, sample: int) -> int:
        return max(0, sample) // self._stride * self._stride

    def _carry(self, crops: list[_Crop], length: int, seeds: Tensor, raw: Tensor) -> None:
        """Runs crops of one length, some at a time, and adds what comes back to where they lie."""
        at_once = max(1, self._at_once // length)
        for begin in range(0, len(crops), at_once):
            some = crops[begin : begin + at_once]
            if begin:  # the same number as before: another one would be traced anew
                some = some + [some[-1]] * (at_once - len(some))
            x = torch.stack([self._x[c.example, ..., c.start : c.end] for c in some])
            if x.shape not in self._traces:
                self._traces[x.shape] = self._trace(x)
            traced = self._traces[x.shape]
            activation, *held = traced.forward(x)
            self._check(some, activation)
            cropped = self._seeds(some, seeds, activation)
            carried = traced.mirror.bound(held)(cropped)
            for crop, sound in zip(crops[begin : begin + at_once], carried, strict=False):
                # Assigned, not added: an example of a seed has one crop.
                raw[crop.seed, crop.example, ..., crop.start : crop.end] = sound

    def _check(self, crops: list[_Crop], activation: Tensor) -> None:
        """Raises _NotLocalError unless the maps of the crops are those of the whole waveform."""
        bound = TOLERANCE * float(self._maps.abs().max()) * torch.finfo(self._maps.dtype).eps
        for number, crop in enumerate(crops):
            whole = self._stretch(self._maps, crop.example, crop.first, crop)
            here = self._stretch(activation, number, self._place(crop), crop)
            if float((whole - here).abs().max()) > bound:
                raise _NotLocalError

    def _stretch(self, maps: Tensor, example: int, place: int, crop: _Crop) -> Tensor:
        one = maps.select(self._batch, example)
        return one.narrow(self._field.axis, place, crop.last - crop.first + 1)

    def _place(self, crop: _Crop) -> int:
        """The first moment of a crop's stretch in the crop's own map."""
        # The crop begins start / hop moments into the whole map. This is a whole number, since
        # `start` is a multiple of the total stride; a fraction keeps it exact.
        return crop.first - int(crop.start / Fraction(self._field.hop))

    def _seeds(self, crops: list[_Crop], seeds: Tensor, activation: Tensor) -> Tensor:
        """The stretches of the seeds, at their places in the maps of the crops."""
        cropped = torch.zeros_like(activation)
        for number, crop in enumerate(crops):
            there = self._stretch(cropped, number, self._place(crop), crop)
            there.copy_(self._stretch(seeds[crop.seed], crop.example, crop.first, crop))
        return cropped


def _length(crop: _Crop) -> int:
    return crop.end - crop.start
