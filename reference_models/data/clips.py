"""`ClipSet`: waveforms and labels of a cache, by number."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reference_models.data.index import ClipIndex

FULL_SCALE = 32767  # the int16 value that stands for 1.0

Indices = Sequence[int] | np.ndarray | torch.Tensor


class ClipSet:
    """The usable clips of a cache, numbered 0..len-1 in the order of the index.

    Every waveform is mono, 8 kHz and of unit peak. Nothing is decoded and nothing is loaded ahead:
    a clip is a slice of a memory map. Clips that are not "ok" stay in `index`, without a number.
    A `ClipSet` is also a map-style data set for `torch.utils.data.DataLoader`, with any number of
    workers: `clips[i]` is the pair (waveform of shape (1, samples), label).

    Args:
        index: The index of a cache; its ok clips name the shard (`path`) that holds them.
        folder: The folder of that cache.

    Attributes:
        index: The index, with clips of every status.
        classes: Names of the classes; labels are positions in it.
        multilabel: Whether a clip may have several labels.
        ids: Clip ids by number.
        frames: Length of each clip in samples, an int64 array.

    Example:
        ```python
        train = open_cache("cache/speech_commands").subset("train")
        for numbers in torch.randperm(len(train), generator=generator).split(128):
            waveforms = train.crops(numbers, 8000, generator=generator)  # (batch, 1, 8000)
            loss = cross_entropy(model(waveforms), train.labels(numbers))
        ```
    """

    def __init__(self, index: ClipIndex, folder: str | Path):
        clips = [clip for clip in index.clips if clip.status == "ok"]
        self.index = index
        self.classes = index.classes
        self.multilabel = index.multilabel
        self.ids = [clip.id for clip in clips]
        self.frames = np.array([clip.frames for clip in clips], dtype=np.int64)
        self._folder = Path(folder)
        self._places = [(clip.path, clip.start) for clip in clips]
        self._labels = [list(clip.labels) for clip in clips]
        self._shards: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        """Number of usable clips."""
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Waveform of shape (1, samples) and label of clip i."""
        return self.waveform(i)[None], self.labels([i])[0]

    def __getstate__(self) -> dict[str, Any]:
        """All but the open memory maps, which another process opens for itself."""
        return self.__dict__ | {"_shards": {}}

    def subset(self, *splits: str) -> ClipSet:
        """The clips of some splits ("train", "val", "test").

        Example:
            `clips.subset("train", "val")` is everything one may train on in the end.

        Raises:
            ValueError: If the data set has no such split.
        """
        return ClipSet(self.index.select(*splits), self._folder)

    def speakers(self) -> tuple[str, ...]:
        """Who speaks in each clip, by the file names of Speech Commands: `<speaker>_nohash_<n>`.

        Raises:
            ValueError: If the data set's ids do not name speakers.
        """
        names = [re.search(r"([^/]+)_nohash_\d+$", id) for id in self.ids]
        if None in names:
            raise ValueError(
                f"{self.index.name}: clip {self.ids[names.index(None)]!r} names no speaker, "
                f"expected an id such as 'yes/004ae714_nohash_0'; mix all clips in a batch instead"
            )
        return tuple(name[1] for name in names if name)

    def labels(self, indices: Indices | None = None) -> torch.Tensor:
        """Labels of some clips (default: all).

        Returns:
            For a multi-label set multi-hot rows, float32, (batch, classes); else class numbers,
            int64, (batch,).
        """
        if self.multilabel:
            return self.multi_hot(indices)
        chosen = [self._labels[i] for i in self._numbers(indices)]
        return torch.tensor([label for (label,) in chosen], dtype=torch.int64)

    def multi_hot(self, indices: Indices | None = None) -> torch.Tensor:
        """Labels of some clips (default: all), whether a clip may have several or has one.

        Returns:
            float32, (batch, classes), 1 where a clip has the class, else 0.
        """
        chosen = [self._labels[i] for i in self._numbers(indices)]
        rows = np.zeros((len(chosen), len(self.classes)), dtype=np.float32)
        for row, labels in zip(rows, chosen, strict=True):
            row[labels] = 1.0
        return torch.from_numpy(rows)

    def waveform(self, i: int) -> torch.Tensor:
        """The whole clip, float32, (samples,), peak 1."""
        return self._windows([i], [0], int(self.frames[i]))[0, 0]

    def crops(self, indices: Indices, samples: int, *, generator: torch.Generator) -> torch.Tensor:
        """One random crop of each clip; shorter clips are zero-padded at the end.

        Args:
            indices: Clip numbers, (batch,).
            samples: Length of a crop.
            generator: Draws the starts, uniform over every place where the crop fits; on the CPU.

        Returns:
            float32, (batch, 1, samples), on the CPU.
        """
        numbers = self._numbers(indices)
        return self._windows(numbers, _draw(self.frames[numbers] - samples, generator), samples)

    def two_crops(
        self,
        indices: Indices,
        samples: int = 20_000,
        *,
        gap: int = 2_000,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Two crops of each clip that lie apart, for contrastive learning.

        A clip shorter than `2 * samples + gap` has no such pair: its two crops are then drawn
        independently and may overlap, and are zero-padded if it is shorter than one crop.

        Args:
            indices: Clip numbers, (batch,).
            samples: Length of a crop (2.5 s by default, the paper's).
            gap: Samples between the end of one crop and the start of the other, at the least
                (250 ms by default). Below 0 crops may overlap by as much, so that their starts are
                at least `samples + gap` apart.
            generator: Draws the places, and with them which crop comes first; on the CPU.

        Returns:
            Two tensors, float32, (batch, 1, samples) each, on the CPU.

        Raises:
            ValueError: `gap` is below `-samples`, so that the order of the starts is lost.

        Source:
            Section 3.1 ("non-overlapping patches ... 2.5 seconds each"). The gap and what happens
            to short clips are not in the paper.
        """
        if gap < -samples:
            raise ValueError(
                f"cannot draw two crops of {samples} samples with a gap of {gap}: expected at "
                f"least {-samples}, where both may start at once; use longer crops or a larger gap"
            )
        numbers = self._numbers(indices)
        # Take both crops and the gap out of the clip: two places on the rest are the two starts,
        # once the later of them is moved on by what was taken out before it.
        rest = self.frames[numbers] - (2 * samples + gap)
        apart = rest >= 0
        spare = np.where(apart, rest, self.frames[numbers] - samples)
        one, two = _draw(spare, generator), _draw(spare, generator)
        one_is_later = one > two
        one = one + (samples + gap) * (apart & one_is_later)
        two = two + (samples + gap) * (apart & ~one_is_later)
        return self._windows(numbers, one, samples), self._windows(numbers, two, samples)

    def whole(
        self, indices: Indices | None = None, *, batch_size: int = 32, shortest: int = 1
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Whole clips for evaluation, each batched with others of exactly its length.

        No clip is cut and none is padded, except up to `shortest`, so an average over time is that
        of the clip alone. Every clip comes exactly once, the shortest first.

        Args:
            indices: Clip numbers (default: all).
            batch_size: Clips in a batch, at the most.
            shortest: Clips of fewer samples are zero-padded to it at the end.

        Yields:
            Clip numbers, int64, (batch,), and waveforms, float32, (batch, 1, samples).
        """
        numbers = self._numbers(indices)
        lengths = np.maximum(self.frames[numbers], shortest)
        for length in np.unique(lengths):
            alike = numbers[lengths == length]
            for first in range(0, len(alike), batch_size):
                batch = alike[first : first + batch_size]
                starts = np.zeros(len(batch), dtype=np.int64)
                yield torch.from_numpy(batch), self._windows(batch, starts, int(length))

    def _numbers(self, indices: Indices | None) -> np.ndarray:
        if indices is None:
            return np.arange(len(self))
        return np.asarray(indices, dtype=np.int64)

    def _windows(self, numbers: Indices, starts: Sequence[int] | np.ndarray, samples: int):
        """`samples` samples of each clip from its start on, with zeros after its end."""
        windows = np.zeros((len(numbers), 1, samples), dtype=np.float32)
        for window, i, start in zip(windows, numbers, starts, strict=True):
            shard, first = self._places[i]
            held = min(samples, self.frames[i] - start)
            window[0, :held] = self._shard(shard)[first + start : first + start + held]
        # Not by torch: called from a second thread it starts a second team of threads, which then
        # wait at the expense of the first; training would be a third slower on two cores.
        windows /= FULL_SCALE
        return torch.from_numpy(windows)

    def _shard(self, name: str) -> np.ndarray:
        """The samples of a shard, mapped on first use."""
        if name not in self._shards:
            mapped = np.memmap(self._folder / name, dtype="<i2", mode="r")
            self._shards[name] = mapped.view(np.ndarray)  # slices several times faster
        return self._shards[name]


def _draw(spare: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Uniform integers 0..spare, one each; 0 where nothing is to spare."""
    uniform = torch.rand(len(spare), generator=generator, dtype=torch.float64).numpy()
    return (uniform * (np.maximum(spare, 0) + 1)).astype(np.int64)
