"""Networks whose first step is no plain convolution: filters of a formula, spectra, resolutions."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, trained_like

CLASSES = 10


class SincNet(nn.Module):
    """Band-pass filters computed in forward from two cut-offs each (Ravanelli & Bengio, 2018)."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.sinc = _SincConvolution(width, kernel_size=101, sample_rate=16000)
        self.norm0 = nn.LayerNorm([width, 1033])
        self.conv1 = nn.Conv1d(width, 2 * width, 5)
        self.norm1 = nn.LayerNorm([2 * width, 343])
        self.conv2 = nn.Conv1d(2 * width, 2 * width, 5)
        self.norm2 = nn.LayerNorm([2 * width, 113])
        self.head = nn.Linear(2 * width * 113, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3200) to (batch, classes) log-probabilities."""
        h = F.max_pool1d(self.sinc(x[:, None]).abs(), 3)
        h = F.leaky_relu(self.norm0(h), 0.2)
        h = F.leaky_relu(self.norm1(F.max_pool1d(self.conv1(h), 3)), 0.2)
        h = F.leaky_relu(self.norm2(F.max_pool1d(self.conv2(h), 3)), 0.2)
        return F.log_softmax(self.head(h.flatten(1)), dim=1)


class _SincConvolution(nn.Module):
    def __init__(self, filters: int, kernel_size: int, sample_rate: int):
        super().__init__()
        edges = torch.linspace(30, sample_rate / 2 - 100, filters + 1) / sample_rate
        self.low = nn.Parameter(edges[:-1, None])
        self.band = nn.Parameter(edges.diff()[:, None])
        times = torch.arange(kernel_size) - kernel_size // 2
        self.register_buffer("times", times.to(edges)[None])
        self.register_buffer("window", torch.hamming_window(kernel_size, periodic=False))

    def forward(self, x: Tensor) -> Tensor:
        low = self.low.abs()
        high = (low + self.band.abs()).clamp(max=0.5)
        band_pass = _low_pass(high, self.times) - _low_pass(low, self.times)
        filters = self.window * band_pass / (2 * self.band.abs())
        return F.conv1d(x, filters[:, None], stride=1)


def _low_pass(cutoff: Tensor, times: Tensor) -> Tensor:
    return 2 * cutoff * torch.sinc(2 * cutoff * times)


class GaborEnvelopes(nn.Module):
    """Complex Gabor filters, squared modulus, low-pass, log (Zeghidour et al., LEAF, 2021)."""

    def __init__(self, width: int = 16, kernel_size: int = 101):
        super().__init__()
        self.centre = nn.Parameter(torch.linspace(0.1, 2.9, width)[:, None])  # radians a sample
        self.deviation = nn.Parameter(torch.full((width, 1), 12.0))  # samples
        self.register_buffer("times", torch.arange(kernel_size)[None] - kernel_size / 2)
        self.low_pass = nn.Conv1d(width, width, kernel_size, stride=40, groups=width, bias=False)
        self.conv1 = nn.Conv1d(width, 2 * width, 3)
        self.conv2 = nn.Conv1d(2 * width, CLASSES, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time) to (batch, classes)."""
        envelope = torch.exp(-0.5 * (self.times / self.deviation) ** 2)
        filters = torch.polar(envelope, self.centre * self.times)[:, None]
        analytic = F.conv1d(x[:, None].to(filters.dtype), filters, padding="same")
        power = analytic.real**2 + analytic.imag**2
        h = torch.log1p(self.low_pass(power).abs())
        return self.conv2(F.relu(self.conv1(h))).mean(-1)


class LogSpectrogram(nn.Module):
    """A complex short-time spectrum, its log-magnitude, convolutions over time."""

    def __init__(self, width: int = 16, window_size: int = 128):
        super().__init__()
        self.register_buffer("window", torch.hann_window(window_size))
        self.norm = nn.BatchNorm1d(window_size // 2 + 1)
        self.conv1 = nn.Conv1d(window_size // 2 + 1, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, padding=1)
        self.conv3 = nn.Conv1d(width, CLASSES, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time) to (batch, classes)."""
        size = len(self.window)
        spectrum = torch.stft(x, size, size // 4, window=self.window, return_complex=True)
        h = self.norm(torch.log(spectrum.abs() + 1e-3))
        h = F.max_pool1d(F.relu(self.conv1(h)), 2)
        return self.conv3(F.relu(self.conv2(h))).mean(-1)


class PeriodDiscriminator(nn.Module):
    """The waveform folded into rows of one period, for Conv2d (Kong et al., HiFi-GAN, 2020)."""

    def __init__(self, period: int = 3, width: int = 8):
        super().__init__()
        self.period = period
        widths = (1, width, 2 * width, 4 * width)
        self.convs = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), padding=(2, 0)))
            for a, b in pairwise(widths)
        )
        self.conv_post = nn.utils.parametrizations.weight_norm(
            nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(batch, 1, time) to scores (batch, frames) and the maps of every layer."""
        batch, channels, time = x.shape
        x = F.pad(x, (0, -time % self.period), "reflect")
        h, maps = x.view(batch, channels, -1, self.period), []
        for conv in self.convs:
            h = F.leaky_relu(conv(h), 0.1)
            maps.append(h)
        return self.conv_post(h).flatten(1), maps


class MultiResolution(nn.Module):
    """The waveform at three rates, its maps brought to one length by pooling and stretching."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.fine = nn.Conv1d(1, width, 9, stride=2)
        self.medium = nn.Conv1d(1, width, 9, stride=2)
        self.coarse = nn.Conv1d(1, width, 9, stride=2)
        self.fuse = nn.Conv1d(3 * width, width, 3, padding=1)
        self.head = nn.Linear(8 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        fine = F.adaptive_max_pool1d(F.relu(self.fine(x)), 300)
        half = F.interpolate(x, scale_factor=0.5, mode="linear", align_corners=False)
        medium = F.adaptive_avg_pool1d(F.relu(self.medium(half)), 300)
        coarse = F.interpolate(F.relu(self.coarse(F.avg_pool1d(x, 8))), size=300, mode="nearest")
        h = F.relu(self.fuse(torch.cat([fine, medium, coarse], dim=1)))
        return self.head(F.adaptive_avg_pool1d(h, 8).flatten(1))


class StateSpace(nn.Module):
    """Diagonal state-space layers run as long convolutions by FFT (Gu et al., S4D, 2022)."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.stem = nn.Conv1d(1, width, 8, stride=4)
        self.layers = nn.ModuleList(_StateSpaceLayer(width) for _ in range(2))
        self.head = nn.Conv1d(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        h = self.stem(x)
        for layer in self.layers:
            h = h + layer(h)
        return self.head(h).mean(-1)


class _StateSpaceLayer(nn.Module):
    def __init__(self, width: int, states: int = 8):
        super().__init__()
        self.decay = nn.Parameter(torch.rand(width, states) * 0.1)
        self.frequency = nn.Parameter(torch.rand(width, states) * math.pi)  # radians a frame
        self.weight = nn.Parameter(torch.randn(width, states) / states)
        self.mix = nn.Conv1d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        time = x.shape[-1]
        rates = torch.complex(-self.decay.exp() * 0.05, self.frequency)
        powers = torch.exp(rates[..., None] * torch.arange(time))
        kernel = (self.weight[..., None] * powers).sum(1).real
        spectrum = torch.fft.rfft(x, 2 * time) * torch.fft.rfft(kernel, 2 * time)
        h = torch.fft.irfft(spectrum, 2 * time)[..., :time]
        return F.glu(self.mix(F.gelu(h)), dim=1)


ARCHITECTURES = (
    Architecture(
        "sincnet", lambda: trained_like(SincNet()), (2, 3200), 16000, ("sinc", "conv1", "conv2")
    ),
    Architecture(
        "gabor_envelopes",
        lambda: trained_like(GaborEnvelopes()),
        (2, 4000),
        16000,
        ("low_pass", "conv1", "conv2"),
    ),
    Architecture(
        "log_spectrogram",
        lambda: trained_like(LogSpectrogram()),
        (2, 4000),
        16000,
        ("conv1", "conv2", "conv3"),
    ),
    Architecture(
        "period_discriminator",
        lambda: trained_like(PeriodDiscriminator()),
        (2, 1, 4000),
        22050,
        ("convs.0", "convs.1", "conv_post"),
    ),
    Architecture(
        "multi_resolution",
        lambda: trained_like(MultiResolution()),
        (2, 1, 4000),
        16000,
        ("fine", "coarse", "fuse"),
    ),
    Architecture(
        "state_space",
        lambda: trained_like(StateSpace()),
        (2, 1, 4000),
        16000,
        ("stem", "layers.0.mix", "head"),
    ),
)
