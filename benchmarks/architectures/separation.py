"""Waveform in, waveforms out: U-Nets, masks over a learned basis, dilated stacks."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, trained_like

SOURCES = 2


class UNet(nn.Module):
    """Strided convolutions down, transposed convolutions up, skips by concatenation."""

    def __init__(self, width: int = 8):
        super().__init__()
        widths = (1, width, 2 * width, 4 * width)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Conv1d(a, b, 8, stride=4, padding=2) for a, b in pairs)
        self.up = nn.ModuleList(
            nn.ConvTranspose1d(2 * b, a, 8, stride=4, padding=2, output_padding=1)
            for a, b in reversed(pairs)
        )
        self.bottom = nn.Conv1d(widths[-1], widths[-1], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, 1, nearly as much time)."""
        h, skips = x, []
        for conv in self.down:
            h = F.relu(conv(h))
            skips.append(h)
        h = self.bottom(h)
        for conv in self.up:
            skip = skips.pop()
            h = conv(F.relu(torch.cat([h[..., : skip.shape[-1]], skip], dim=1)))
        return h


class WaveUNet(nn.Module):
    """Every second sample kept on the way down, linear interpolation up (Stoller et al., 2018)."""

    def __init__(self, width: int = 8, levels: int = 4):
        super().__init__()
        widths = [1] + [width * (level + 1) for level in range(levels)]
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Conv1d(a, b, 15, padding=7) for a, b in pairs)
        self.bottom = nn.Conv1d(widths[-1], widths[-1], 15, padding=7)
        self.up = nn.ModuleList(
            nn.Conv1d(2 * b, max(a, width), 5, padding=2) for a, b in reversed(pairs)
        )
        self.out = nn.Conv1d(width + 1, SOURCES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, sources, time)."""
        h, skips = x, []
        for conv in self.down:
            h = F.leaky_relu(conv(h))
            skips.append(h)
            h = h[..., ::2]
        h = F.leaky_relu(self.bottom(h))
        for conv in self.up:
            skip = skips.pop()
            h = F.interpolate(h, skip.shape[-1], mode="linear", align_corners=True)
            h = F.leaky_relu(conv(torch.cat([h, skip], dim=1)))
        return torch.tanh(self.out(torch.cat([h, x], dim=1)))


class ConvTasNet(nn.Module):
    """Masks over a learned basis from dilated depthwise blocks (Luo & Mesgarani, 2019)."""

    def __init__(self, basis: int = 32, width: int = 16, blocks: int = 4):
        super().__init__()
        self.encoder = nn.Conv1d(1, basis, 16, stride=8, bias=False)
        self.norm, self.bottleneck = nn.GroupNorm(1, basis), nn.Conv1d(basis, width, 1)
        self.blocks = nn.ModuleList(_SeparationBlock(width, 2**block) for block in range(blocks))
        self.mask = nn.Sequential(nn.PReLU(), nn.Conv1d(width, SOURCES * basis, 1))
        self.decoder = nn.ConvTranspose1d(basis, 1, 16, stride=8, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        """(batch, time) to (batch, sources, time)."""
        encoded = F.relu(self.encoder(mixture.unsqueeze(1)))
        h, skips = self.bottleneck(self.norm(encoded)), 0.0
        for block in self.blocks:
            residual, skip = block(h)
            h, skips = h + residual, skips + skip
        masks = torch.sigmoid(self.mask(skips)).unflatten(1, (SOURCES, -1))
        sources = (masks * encoded.unsqueeze(1)).flatten(0, 1)
        return self.decoder(sources).view(len(mixture), SOURCES, -1)


class _SeparationBlock(nn.Module):
    def __init__(self, width: int, dilation: int):
        super().__init__()
        hidden = 2 * width
        self.body = nn.Sequential(
            nn.Conv1d(width, hidden, 1),
            nn.PReLU(),
            GlobalLayerNorm(hidden),
            nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden),
            nn.PReLU(),
            GlobalLayerNorm(hidden),
        )
        self.residual, self.skip = nn.Conv1d(hidden, width, 1), nn.Conv1d(hidden, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.residual(h), self.skip(h)


class GlobalLayerNorm(nn.Module):
    """Mean and variance over channels and time, written out as Conv-TasNet's code does."""

    def __init__(self, channels: int):
        super().__init__()
        self.gain = nn.Parameter(1 + 0.1 * torch.randn(channels, 1))
        self.offset = nn.Parameter(0.1 * torch.randn(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, time), unchanged in shape."""
        centred = x - x.mean((1, 2), keepdim=True)
        variance = centred.pow(2).mean((1, 2), keepdim=True)
        return self.gain * centred / (variance + 1e-8).sqrt() + self.offset


class Demucs(nn.Module):
    """GLU convolutions around an LSTM, skips by addition (Défossez et al., 2019)."""

    def __init__(self, width: int = 8):
        super().__init__()
        pairs = ((1, width), (width, 2 * width), (2 * width, 4 * width))
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Conv1d(a, b, 8, 4), nn.ReLU(), nn.Conv1d(b, 2 * b, 1), nn.GLU(1))
            for a, b in pairs
        )
        self.lstm = nn.LSTM(4 * width, 4 * width, num_layers=2, bidirectional=True)
        self.linear = nn.Linear(8 * width, 4 * width)
        self.decoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(b, 2 * b, 3),
                nn.GLU(1),
                nn.ConvTranspose1d(b, a, 8, 4),
                nn.ReLU() if a > 1 else nn.Identity(),
            )
            for a, b in reversed(pairs)
        )

    def forward(self, mixture: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, 1, a little less time)."""
        scale = mixture.std(-1, keepdim=True) + 1e-3
        h, skips = mixture / scale, []
        for layer in self.encoder:
            h = layer(h)
            skips.append(h)
        recurrent, _ = self.lstm(h.permute(2, 0, 1))
        h = self.linear(recurrent).permute(1, 2, 0)
        for layer in self.decoder:
            h = layer(h + _centre(skips.pop(), h.shape[-1]))
        return h * scale


def _centre(x: Tensor, time: int) -> Tensor:
    spare = x.shape[-1] - time
    return x[..., spare // 2 : spare // 2 + time]


class WaveNet(nn.Module):
    """Causal dilated convolutions with tanh-sigmoid gates and skips (van den Oord et al., 2016)."""

    def __init__(self, width: int = 16, blocks: int = 5):
        super().__init__()
        self.stem = nn.Conv1d(1, width, 2)
        self.gated = nn.ModuleList(
            nn.Conv1d(width, 2 * width, 2, dilation=2**block) for block in range(blocks)
        )
        self.residual = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(blocks))
        self.skip = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(blocks))
        self.post1, self.post2 = nn.Conv1d(width, width, 1), nn.Conv1d(width, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to logits (batch, levels, time) of the next sample."""
        h, skips = self.stem(F.pad(x, (1, 0))), []
        for gated, residual, skip in zip(self.gated, self.residual, self.skip, strict=True):
            signal, gate = gated(F.pad(h, (gated.dilation[0], 0))).chunk(2, dim=1)
            z = torch.tanh(signal) * torch.sigmoid(gate)
            skips.append(skip(z))
            h = h + residual(z)
        return self.post2(F.relu(self.post1(F.relu(torch.stack(skips).sum(0)))))


class TCN(nn.Module):
    """Causal pairs of weight-normed convolutions, cut at the end (Bai et al., 2018)."""

    def __init__(self, width: int = 16, levels: int = 4):
        super().__init__()
        widths = [1] + [width] * levels
        self.network = nn.Sequential(
            *[_TemporalBlock(widths[level], width, 2**level) for level in range(levels)]
        )
        self.linear = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes), read off the last sample."""
        return self.linear(self.network(x)[:, :, -1])


class _TemporalBlock(nn.Module):
    def __init__(self, inputs: int, width: int, dilation: int, kernel_size: int = 5):
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (inputs, width):
            padding = (kernel_size - 1) * dilation
            conv = nn.Conv1d(channels, width, kernel_size, padding=padding, dilation=dilation)
            layers += [
                nn.utils.parametrizations.weight_norm(conv),
                _Chomp(padding),
                nn.ReLU(),
                nn.Dropout(0.2),
            ]
        self.net = nn.Sequential(*layers)
        self.downsample = nn.Conv1d(inputs, width, 1) if inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.net(x) + shortcut)


class _Chomp(nn.Module):
    def __init__(self, samples: int):
        super().__init__()
        self.samples = samples

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.samples].contiguous()


ARCHITECTURES = (
    Architecture(
        "unet", lambda: trained_like(UNet()), (2, 1, 4099), 16000, ("down.0", "bottom", "up.2")
    ),
    Architecture(
        "wave_unet",
        lambda: trained_like(WaveUNet()),
        (2, 1, 2051),
        22050,
        ("down.0", "bottom", "out"),
    ),
    Architecture(
        "conv_tasnet",
        lambda: trained_like(ConvTasNet()),
        (2, 4000),
        8000,
        ("encoder", "blocks.2.body.3", "decoder"),
    ),
    Architecture(
        "demucs",
        lambda: trained_like(Demucs()),
        (2, 1, 4000),
        16000,
        ("encoder.0.0", "encoder.2.2", "decoder.2.2"),
    ),
    Architecture(
        "wavenet",
        lambda: trained_like(WaveNet()),
        (2, 1, 2000),
        16000,
        ("stem", "gated.3", "post2"),
    ),
    Architecture(
        "tcn",
        lambda: trained_like(TCN()),
        (2, 1, 2000),
        8000,
        ("network.0.net.0", "network.1.net.4", "network.3.net.4"),
    ),
)
