"""Attributions as masks: a recording in the cells of its spectrogram that an attribution prefers.

A cell is a band of frequencies in a stretch of time. Its score is the part of the attribution that
its samples have: the STFT is linear, so that the sum over a cell of Re(conj(X) G), X the spectrum
of the input and G that of a gradient, is the first-order change of the target if the cell goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconv1d.evaluation.pointing import Explanation, window_of

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

BANDS = 32
CELL_SECONDS = 0.04
BUDGET = 0.25
HOPS = 4  # in a window


class Cells:
    """The grid of one recording.

    Args:
        x: (time,).
        sample_rate: In hertz.
    """

    def __init__(self, x: Tensor, sample_rate: float) -> None:
        self._x, self._window = x, window_of(sample_rate) // 2
        self._hann = torch.hann_window(self._window, dtype=x.dtype, device=x.device)
        self._spectrum = self._stft(x)
        frequencies, frames = self._spectrum.shape
        mel = 2595 * torch.log10(1 + torch.linspace(0, sample_rate / 2, frequencies) / 700)
        band = (mel / mel[-1] * BANDS).long().clamp(max=BANDS - 1)
        step = CELL_SECONDS * sample_rate * HOPS / self._window
        column = (torch.arange(frames) / step).long()
        # The number of each bin's cell, (frequencies, frames): band * columns + column.
        self._cell = (band[:, None] * (int(column[-1]) + 1) + column).to(x.device)
        self._count = BANDS * (int(column[-1]) + 1)
        self._energy = self._summed(torch.view_as_real(self._spectrum).square().sum(-1)[None])[0]

    def scores(self, attribution: Tensor) -> Tensor:
        """Each cell's part of attributions, (sounds, time) -> (sounds, cells)."""
        return self._summed((self._spectrum.conj() * self._stft(attribution)).real)

    def random(self, count: int, generator: torch.Generator) -> Tensor:
        """Random scores, (count, cells); the generator is on the CPU."""
        return torch.rand(count, self._count, generator=generator).to(self._x)

    def masked(self, scores: Tensor, budget: float = BUDGET) -> Tensor:
        """The recording in its best cells, of at most `budget` of its energy.

        Args:
            scores: (sounds, cells).
            budget: Share of the energy, 0 to 1; at least the best cell is kept.

        Returns:
            (sounds, time).
        """
        order = scores.argsort(dim=1, descending=True, stable=True)
        spent = self._energy[order].cumsum(1)
        kept = spent <= budget * self._energy.sum()
        # The best cell may hold more than the budget; without it the sound would be silent.
        kept[:, 0] = True
        mask = torch.zeros_like(kept).scatter(1, order, kept)
        return torch.istft(
            self._spectrum * mask[:, self._cell],
            self._window,
            self._window // HOPS,
            window=self._hann,
            length=self._x.shape[-1],
        )

    def _stft(self, x: Tensor) -> Tensor:
        return torch.stft(
            x,
            self._window,
            self._window // HOPS,
            window=self._hann,
            pad_mode="constant",
            return_complex=True,
        )

    def _summed(self, values: Tensor) -> Tensor:
        """(sounds, frequency, frame) -> (sounds, cells)."""
        sums = values.new_zeros(len(values), self._count)
        return sums.index_add_(1, self._cell.flatten(), values.flatten(1))


def in_cells(attribution: Explanation, *, budget: float = BUDGET) -> Explanation:
    """An explanation that plays the input in the cells that an attribution prefers.

    Args:
        attribution: Its waveforms are attributions: their product with the input is a score.
        budget: Share of the input's energy that is kept.
    """

    def explain(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
        cells = Cells(x, sonifier.sample_rate or 0)
        scores = cells.scores(attribution(sonifier, x, layer, channels))
        return cells.masked(scores, budget)

    return explain


def random_cells(generator: torch.Generator, *, budget: float = BUDGET) -> Explanation:
    """A control: the input in random cells, other ones for each channel.

    Args:
        generator: On the CPU.
        budget: Share of the input's energy that is kept.
    """

    def explain(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
        cells = Cells(x, sonifier.sample_rate or 0)
        return cells.masked(cells.random(len(channels), generator), budget)

    return explain
