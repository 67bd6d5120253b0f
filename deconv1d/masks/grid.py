"""The cells of a spectrogram: bands of frequency in columns of time, from which masks are made.

A mask has one value in 0..1 for each cell; a recording is heard through it by its STFT:

    frequency |  .  .  1  1  .        x --STFT--> X;  each bin times the value of its cell;
      (mel)   |  .  1  1  1  .        --inverse STFT--> the masked recording
              |  1  .  .  .  .
              +----------------> time, 40 ms a column

The grid is stated in hertz and milliseconds: at another sample rate it has the same columns, and
the same number of bands up to half of that rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from deconv1d.errors import InputError

BANDS = 32
COLUMN_SECONDS = 0.04
WINDOW_SECONDS = 0.032
HOPS = 4
"""In a window: Hann windows at a quarter of their length add up to a constant."""
STEP = 16
"""Samples; windows are a multiple of it, which keeps their Fourier transforms fast."""


@dataclass(frozen=True)
class Grid:
    """Cells of a waveform's spectrogram.

    Attributes:
        sample_rate: In hertz.
        samples: Length of the waveform.
        window_seconds: Of a frame.
    """

    sample_rate: float
    samples: int
    window_seconds: float = WINDOW_SECONDS

    @property
    def window(self) -> int:
        """Samples in a frame, a multiple of `STEP`."""
        return STEP * max(1, round(self.window_seconds * self.sample_rate / STEP))

    @property
    def hop(self) -> int:
        """Samples from frame to frame."""
        return self.window // HOPS

    @cached_property
    def band(self) -> Tensor:
        """The band of each bin of frequency, (bins,): equal parts of the mel scale.

        Bands that would hold no bin, as at low sample rates, are left out.

        Source: O'Shaughnessy, "Speech communication" (1987), for the mel scale.
        """
        hertz = torch.linspace(0, self.sample_rate / 2, self.window // 2 + 1, dtype=torch.float64)
        # The mel scale is 2595 log10(1 + f / 700); the factor cancels in the share of the highest.
        mel = torch.log10(1 + hertz / 700)
        band = (mel / mel[-1] * BANDS).long().clamp(max=BANDS - 1)
        numbers: Tensor = band.unique(return_inverse=True)[1]
        return numbers

    @cached_property
    def column(self) -> Tensor:
        """The column of each frame, (frames,)."""
        # The STFT is centred: frame n lies about sample n * hop, and frame 0 about sample 0.
        start = torch.arange(self.samples // self.hop + 1) * self.hop
        return (start / (COLUMN_SECONDS * self.sample_rate)).long()

    @property
    def shape(self) -> tuple[int, int]:
        """Bands and columns."""
        return int(self.band[-1]) + 1, int(self.column[-1]) + 1

    @property
    def seconds(self) -> float:
        """Length of the waveform."""
        return self.samples / self.sample_rate

    @property
    def hertz(self) -> list[tuple[float, float]]:
        """The lowest and the highest frequency of each band."""
        step = self.sample_rate / self.window
        bins = [(self.band == band).nonzero() * step for band in range(self.shape[0])]
        return [(float(frequencies[0]), float(frequencies[-1])) for frequencies in bins]

    def spectrum(self, x: Tensor) -> Tensor:
        """The STFT of waveforms, (..., time) -> (..., bins, frames)."""
        rows = x.reshape(-1, self.samples)
        # Zeros beyond the ends: reflection, torch's default, needs a waveform of more than half a
        # window, and would let the ends count twice.
        spectra = torch.stft(
            rows,
            self.window,
            self.hop,
            window=self._hann(x),
            pad_mode="constant",
            return_complex=True,
        )
        return spectra.reshape(*x.shape[:-1], *spectra.shape[1:])

    def waveform(self, spectrum: Tensor) -> Tensor:
        """The inverse of `spectrum`, (..., bins, frames) -> (..., time)."""
        rows = spectrum.reshape(-1, *spectrum.shape[-2:])
        window = self._hann(spectrum.real)
        waves = torch.istft(rows, self.window, self.hop, window=window, length=self.samples)
        return waves.reshape(*spectrum.shape[:-2], self.samples)

    def spread(self, masks: Tensor) -> Tensor:
        """The value of each bin's cell, (..., bands, columns) -> (..., bins, frames)."""
        band, column = self.band.to(masks.device), self.column.to(masks.device)
        # Bands to bins, (..., bins, columns), then columns to frames, (..., bins, frames).
        return masks[..., band, :][..., column]

    def summed(self, values: Tensor) -> Tensor:
        """Sums over each cell, (..., bins, frames) -> (..., bands, columns)."""
        bands, columns = self.shape
        rows = values.new_zeros(*values.shape[:-2], bands, values.shape[-1])
        rows.index_add_(-2, self.band.to(values.device), values)
        cells = values.new_zeros(*values.shape[:-2], bands, columns)
        return cells.index_add_(-1, self.column.to(values.device), rows)

    def _hann(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.window, dtype=like.dtype, device=like.device)


def grid_of(sample_rate: float | None, samples: int) -> Grid:
    """The grid of a waveform.

    Raises:
        InputError: If the sample rate is unknown or no positive number.
    """
    if sample_rate is None or not (math.isfinite(sample_rate) and sample_rate > 0):
        raise InputError(
            f"A mask's cells are in hertz and milliseconds: expected a sample rate above 0 Hz, got "
            f"{sample_rate}. Give it once: Sonifier(model, sample_rate=8000)."
        )
    return Grid(sample_rate, samples)
