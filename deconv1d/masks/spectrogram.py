"""One recording on a grid of cells: what is heard through masks, and what each cell is worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deconv1d.masks.grid import Grid


@dataclass(frozen=True)
class Spectrogram:
    """The STFT of one recording. All its audio channels are heard through one mask.

    Attributes:
        grid: The cells.
        x: The waveform, (..., time).
        bins: Its STFT, (..., bins, frames).
        energy: Of each cell, (bands, columns), summed over audio channels.
    """

    grid: Grid
    x: Tensor
    bins: Tensor
    energy: Tensor

    def masked(self, masks: Tensor) -> Tensor:
        """The recording through masks, (masks, bands, columns) -> (masks, ..., time)."""
        audio_channels = [1] * (self.x.dim() - 1)
        spread = self.grid.spread(masks)
        # (masks, bins, frames) -> (masks, 1, ..., bins, frames): one mask for all audio channels.
        spread = spread.reshape(len(masks), *audio_channels, *spread.shape[1:])
        return self.grid.waveform(self.bins * spread)

    def loud(self, masks: Tensor) -> Tensor:
        """As `masked`, each at the level of the recording."""
        sounds = self.masked(masks)
        level = sounds.flatten(1).norm(dim=1)
        gain = torch.where(level > 0, self.x.norm() / torch.where(level > 0, level, 1), 0)
        return sounds * gain.reshape(-1, *[1] * self.x.dim())

    def slopes(self, gradients: Tensor) -> Tensor:
        """What a small change of each cell's value does, by gradients at masked recordings.

        The STFT is linear: a cell's derivative is the sum of Re(conj(X) G) over it, X the spectrum
        of the recording and G that of the gradient.

        Args:
            gradients: (masks, ..., time).

        Returns:
            (masks, bands, columns).
        """
        # The factor between spectra and waveforms is left out: `unit` scales the slopes afterwards.
        products = (self.bins.conj() * self.grid.spectrum(gradients)).real
        return _over_audio_channels(self.grid.summed(products), self.x.dim())


def spectrogram_of(x: Tensor, grid: Grid) -> Spectrogram:
    """The STFT of one recording, (..., time)."""
    bins = grid.spectrum(x)
    # |X|^2 as re^2 + im^2: abs() would take a square root that is squared again.
    power = torch.view_as_real(bins).square().sum(-1)
    energy = _over_audio_channels(grid.summed(power)[None], x.dim())[0]
    return Spectrogram(grid, x, bins, energy)


def _over_audio_channels(cells: Tensor, rank: int) -> Tensor:
    """Sums (masks, ..., bands, columns) over the axes of a recording of this rank."""
    # Axes 1 to rank - 1 of the cells are those of the recording before time.
    return cells.flatten(1, rank - 1).sum(1) if rank > 1 else cells
