"""Long clips: mined in exact tiles and heard around their moments, so that memory stays flat.

A moment of a map reads one stretch of samples. Tiles of the recording overlap by as much as the
layers read, and each moment counts in the tile in whose kept part it begins: the values are those
of the recording as a whole. Layers that read all of time have no such tiles.

    recording   |-----------------------------------------------|
    tile 0      |=============......|                               = a moment that begins here
    tile 1             |......========......|                         counts in this tile
    tile 2                      |......======================|      . is read alone
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deconv1d.audio import Samples
from deconv1d.errors import InputError
from deconv1d.layers.axes import ordered
from deconv1d.layers.maps import LayerMaps, check_finite, layer_maps
from deconv1d.mining.batches import BatchedMaps
from deconv1d.mining.mined import Array
from deconv1d.mining.ranking import NOWHERE, window_of
from deconv1d.mining.sources import WHOLE, Clip, read_clip
from deconv1d.prepared.stream import Tiling, opened, tiles
from deconv1d.record.receptive_fields import total_stride
from deconv1d.record.waveform import as_waveform

if TYPE_CHECKING:
    from deconv1d.forward import ForwardPass

LONG_SECONDS = 60.0
"""From here on a clip is mined in tiles, if all layers read a stretch of time."""
WHOLE_SECONDS = 600.0
"""Up to here a clip is run as a whole for the sake of layers that read all of time."""
TILE_SECONDS = 20.0
STRETCH_SECONDS = 10.0
SMALL = 20_000
"""Bytes; a file of no more is not looked into before it is read: it holds no long clip."""


@dataclass(frozen=True)
class LongClip:
    """A clip that is read in blocks.

    Attributes:
        seconds: About how long it is.
        blocks: Reads it from its beginning, (time,) each, at the model's rate.
        whole: Reads all of it.
    """

    seconds: float
    blocks: Callable[[], Iterator[Samples]]
    whole: Callable[[], Samples]


@dataclass(frozen=True)
class Stretch:
    """Samples that are heard, and where in a long clip they begin; None: they are all of a clip."""

    samples: Samples
    start: int | None


def open_clip(clip: Clip, sample_rate: int) -> Samples | LongClip:
    """The waveform of a clip, or a way to read it in blocks where it is long.

    Args:
        clip: A line of the list.
        sample_rate: In hertz.

    Raises:
        FileError: If it cannot be read.
    """
    whole = partial(read_clip, clip, sample_rate)
    seconds = _seconds(clip)
    if seconds > LONG_SECONDS:
        return LongClip(seconds, partial(_blocks, clip.path, sample_rate), whole)
    waveform = whole()
    if len(waveform) <= LONG_SECONDS * sample_rate:
        return waveform
    # In an archive, or of a format that does not say its length: its samples are in memory, but
    # its maps need not be.
    return LongClip(len(waveform) / sample_rate, lambda: iter([waveform]), lambda: waveform)


def beginning_of(waveform: Samples | LongClip, sample_rate: int) -> Samples:
    """A clip; of a long one the first seconds."""
    if not isinstance(waveform, LongClip):
        return waveform
    return next(_cut(waveform.blocks(), [(0, round(TILE_SECONDS * sample_rate))]))


def _seconds(clip: Clip) -> float:
    """The length that a file tells before it is read; 0 if it tells none."""
    import soundfile

    if clip.place != WHOLE or 0 <= clip.size <= SMALL or Path(clip.path).suffix.lower() == ".mp3":
        return 0.0
    try:
        return float(soundfile.info(clip.path).duration)
    except (soundfile.LibsndfileError, OSError, RuntimeError):  # reading it says what is wrong
        return 0.0


def _blocks(path: str, sample_rate: int) -> Iterator[Samples]:
    for block in opened(path, sample_rate)[1]:
        if not np.isfinite(block).all():
            as_waveform(block)  # says what is wrong
        yield block


# --- tiles ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peaks:
    """What a layer's channels give on a long clip, as columns of a ranking; (channels,) each.

    Attributes:
        value: `NOWHERE` where the layer reads all of time.
        position: Index in time of the strongest moment.
        start_sample: First sample that it reads.
        end_sample: The one after the last.
    """

    value: Array
    position: Array
    start_sample: Array
    end_sample: Array


@dataclass
class _Sum:
    """A layer's maps so far: each channel's largest value, where it is, and the sum of all."""

    maps: LayerMaps
    value: Array = field(init=False)
    position: Array = field(init=False)
    total: Array = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        channels = self.maps.maps.shape[1]
        self.value = np.full(channels, NOWHERE)
        self.position, self.total = np.zeros(channels, np.int64), np.zeros(channels)

    def add(self, found: LayerMaps, kept: slice, first: int, *, last: bool) -> None:
        """Adds a tile.

        Args:
            found: Its maps.
            kept: Which of its samples are kept.
            first: The recording's sample that it begins with.
            last: Whether it is the last.
        """
        assert found.field is not None
        assert found.time is not None
        hop = Fraction(found.field.hop)
        begin = ceil(kept.start / hop)
        end = found.maps.shape[found.time] if last else ceil(kept.stop / hop)
        if end <= begin:
            return
        own = ordered(found.maps)[0].narrow(found.time - 1, begin, end - begin)
        flat = own.movedim(found.time - 1, 1).reshape(len(own), end - begin, -1).cpu().double()
        each = flat.shape[2]
        largest, place = (x.numpy() for x in flat.reshape(len(own), -1).max(1))
        # The first among equals: of an earlier tile.
        better = largest > self.value
        self.value = np.where(better, largest, self.value)
        here = place // each + begin + int(first / hop)
        self.position = np.where(better, here, self.position)
        self.total += flat.sum((1, 2)).numpy()
        self.count += (end - begin) * each

    def peaks(self, score: str, samples: int) -> Peaks:
        """The columns of a ranking.

        Args:
            score: "peak" or "mean".
            samples: Of the recording.
        """
        value = self.value if score == "peak" or not self.count else self.total / self.count
        return Peaks(value, self.position, *window_of(self.maps.field, self.position, samples))


class LongMaps:
    """Maps of several layers on clips of any length.

    Args:
        forward_pass: How to run the model.
        layers: Their full names.
        tap: As for `Sonifier.sonify`.
        sample_rate: In hertz.
    """

    def __init__(
        self, forward_pass: ForwardPass, layers: Sequence[str], tap: str, sample_rate: int
    ) -> None:
        self._forward_pass, self._layers, self._tap = forward_pass, tuple(layers), tap
        self._rate = sample_rate
        self._maps = BatchedMaps[LayerMaps](forward_pass, layers, tap)
        self._known: tuple[Tiling, tuple[str, ...]] | None = None

    def tiled(self, clip: LongClip) -> bool:
        """Whether a clip is mined in tiles; else it is run as a whole."""
        # Whatever its layers: as a whole its maps would not fit into memory.
        if clip.seconds > WHOLE_SECONDS:
            return True
        try:
            return not self.of_all_time(clip)
        except (InputError, RuntimeError, ValueError, IndexError):  # it takes clips of one length
            return False

    def of_all_time(self, clip: LongClip) -> tuple[str, ...]:
        """The layers that read all of time: a clip in tiles has no value there."""
        return self._tiling(clip)[1]

    def peaks(self, clip: LongClip, score: str) -> list[Peaks]:
        """What each layer's channels give on a clip.

        Args:
            clip: It is read once.
            score: "peak" or "mean".

        Raises:
            ModelError: If a map is not finite.
        """
        tiling, _ = self._tiling(clip)
        sums: list[_Sum] = []
        samples = 0
        for number, (tile, kept) in enumerate(tiles(clip.blocks(), tiling)):
            found = self._maps([tile])
            sums = sums or [_Sum(maps) for maps in found]
            last = kept.stop == tile.shape[-1]
            for layer, maps in zip(sums, found, strict=True):
                if _is_local(maps):
                    check_finite(maps.maps, maps.layer)
                    layer.add(maps, kept, number * tiling.inner, last=last)
            samples = number * tiling.inner + tile.shape[-1]
        return [layer.peaks(score, samples) for layer in sums]

    def around(
        self, clip: LongClip, windows: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[Stretch, list[int]]]:
        """Stretches of a clip around moments, and which of the moments lie in each.

        A stretch begins at a multiple of all strides, and holds the moment and what is read with
        it: the sonification of the moment is that of the recording as a whole, but for its scale.

        Args:
            clip: It is read once.
            windows: First and last sample that each moment reads.
        """
        if not self.tiled(clip):
            yield Stretch(clip.whole(), None), list(range(len(windows)))
            return
        tiling, _ = self._tiling(clip)
        # Moments near to one another share a stretch, which is run once: stretches begin on a grid.
        step = round(STRETCH_SECONDS * self._rate / 2) // tiling.stride * tiling.stride
        step = max(step, tiling.stride)
        spans: dict[tuple[int, int], list[int]] = {}
        for number, (first, last) in enumerate(windows):
            begin = first // step * step
            end = max(begin + 2 * step, last + 1) + tiling.halo
            spans.setdefault((max(0, begin - tiling.halo), end), []).append(number)
        wanted = sorted(spans)
        for span, samples in zip(wanted, _cut(clip.blocks(), wanted), strict=True):
            yield Stretch(samples, span[0]), spans[span]

    def _tiling(self, clip: LongClip) -> tuple[Tiling, tuple[str, ...]]:
        """How clips are cut, and the layers that read all of time; from the first clip's start."""
        if self._known is None:
            beginning = beginning_of(clip, self._rate)
            captured, names = self._forward_pass.run_through(beginning, self._layers, tap=self._tap)
            found = [
                layer_maps(captured, node, name)
                for node, name in zip(captured.taps, names, strict=True)
                if node is not None
            ]
            fields = captured.receptive_fields.values()
            tiling = _tiling_of(found, total_stride(fields), round(TILE_SECONDS * self._rate))
            self._known = tiling, tuple(maps.layer for maps in found if not _is_local(maps))
        return self._known


def _is_local(maps: LayerMaps) -> bool:
    return maps.field is not None and maps.time is not None


def _tiling_of(found: Iterable[LayerMaps], stride: int, samples: int) -> Tiling:
    """Tiles whose halo holds what any moment reads, to either side of where it begins."""
    # Moment t begins at sample t * hop and reads t * hop + start to t * hop + stop.
    fields = [maps.field for maps in found if maps.field is not None and _is_local(maps)]
    reads = [max(-f.start, f.stop, 0) + f.hop for f in fields]
    halo = _rounded_up(ceil(max(reads, default=1)), stride)
    return Tiling(stride, halo, _rounded_up(max(samples, halo), stride))


def _rounded_up(samples: int, step: int) -> int:
    return -(-samples // step) * step


def _cut(blocks: Iterator[Samples], spans: Sequence[tuple[int, int]]) -> Iterator[Samples]:
    """Spans of a recording that comes in blocks; they are sorted, and may overlap."""
    held, first = np.zeros(0, np.float32), 0
    for start, end in spans:
        while True:
            passed = min(max(start - first, 0), len(held))
            held, first = held[passed:], first + passed
            if first + len(held) >= end or (block := next(blocks, None)) is None:
                break
            held = np.concatenate([held, block])
        yield np.ascontiguousarray(held[: end - first])
