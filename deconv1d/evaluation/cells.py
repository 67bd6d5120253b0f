"""Attributions as masks: a recording in the cells of its spectrogram that an attribution prefers.

A cell is a band of frequencies in a stretch of time (`deconv1d.masks.grid`). Its score is the part
of the attribution that its samples have, `Spectrogram.slopes`: the first-order change of the target
if the cell goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconv1d.evaluation.pointing import Explanation
from deconv1d.masks.grid import grid_of
from deconv1d.masks.spectrogram import Spectrogram, spectrogram_of

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

BUDGET = 0.25


def best_cells(scores: Tensor, energy: Tensor, *, budget: float = BUDGET) -> Tensor:
    """Masks that are 1 in the best cells, of at most `budget` of the energy, and 0 elsewhere.

        scores  4  3  1  0     energy  2  1  4  1     budget a half, 4 of 8: mask  1  1  0  0

    Args:
        scores: (sounds, bands, columns).
        energy: Of each cell, (bands, columns).
        budget: Share of the energy, 0 to 1; at least the best cell is kept.
    """
    order = scores.flatten(1).argsort(dim=1, descending=True, stable=True)
    kept = energy.flatten()[order].cumsum(1) <= budget * energy.sum()
    # The best cell may hold more than the budget; without it the sound would be silent.
    kept[:, 0] = True
    return torch.zeros_like(kept).scatter(1, order, kept).reshape(scores.shape).to(energy)


def in_cells(attribution: Explanation, *, budget: float = BUDGET) -> Explanation:
    """An explanation that plays the input in the cells that an attribution prefers.

    Args:
        attribution: Its waveforms are attributions: their product with the input is a score.
        budget: Share of the input's energy that is kept.
    """

    def explain(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
        spectrogram = clip_spectrogram(sonifier, x)
        scores = spectrogram.slopes(attribution(sonifier, x, layer, channels))
        return spectrogram.masked(best_cells(scores, spectrogram.energy, budget=budget))

    return explain


def random_cells(generator: torch.Generator, *, budget: float = BUDGET) -> Explanation:
    """A control: the input in random cells, other ones for each channel.

    Args:
        generator: On the CPU.
        budget: Share of the input's energy that is kept.
    """

    def explain(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
        spectrogram = clip_spectrogram(sonifier, x)
        scores = torch.rand(len(channels), *spectrogram.grid.shape, generator=generator).to(x)
        return spectrogram.masked(best_cells(scores, spectrogram.energy, budget=budget))

    return explain


def clip_spectrogram(sonifier: Sonifier, x: Tensor) -> Spectrogram:
    """The spectrogram of a clip in the cells of masks at the sonifier's rate.

    Args:
        sonifier: With its sample rate.
        x: (time,).
    """
    return spectrogram_of(x, grid_of(sonifier.sample_rate, x.shape[-1]))
