"""Neural audio codecs: encoder, residual vector quantiser, decoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from .architecture import Architecture, trained_like


class SEANet(nn.Module):
    """ELU, weight norm, reflect padding, an LSTM (Défossez et al., EnCodec, 2022).

    The decoder sees code words alone: no derivative leads from it to the waveform.
    """

    def __init__(self, width: int = 8, strides: tuple[int, ...] = (2, 4, 5)):
        super().__init__()
        widths = [width * 2**level for level in range(len(strides) + 1)]
        levels = list(zip(widths, widths[1:], strides, strict=False))
        self.encoder = nn.Sequential(
            _ReflectConv(1, width, 7), *[_EncoderLevel(*level) for level in levels]
        )
        self.lstm = nn.LSTM(widths[-1], widths[-1], batch_first=True)
        self.project = _ReflectConv(widths[-1], widths[-1], 7)
        self.quantizer = ResidualQuantizer(widths[-1])
        self.decoder = nn.Sequential(
            *[_DecoderLevel(*level) for level in reversed(levels)],
            nn.ELU(),
            _ReflectConv(width, 1, 7),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time), time divisible by all strides, to the same shape."""
        h = self.encoder(x).transpose(1, 2)
        h = (h + self.lstm(h)[0]).transpose(1, 2)
        return self.decoder(self.quantizer(self.project(F.elu(h))))


class _ReflectConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1):
        super().__init__()
        self.conv = weight_norm(nn.Conv1d(inputs, outputs, kernel_size, stride))
        spare = kernel_size - stride
        self.padding = (spare - spare // 2, spare // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding, mode="reflect"))


class _EncoderLevel(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.ELU(),
            _ReflectConv(inputs, inputs // 2, 3),
            nn.ELU(),
            _ReflectConv(inputs // 2, inputs, 1),
        )
        self.shortcut = _ReflectConv(inputs, inputs, 1)
        self.down = nn.Sequential(nn.ELU(), _ReflectConv(inputs, outputs, 2 * stride, stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.shortcut(x) + self.body(x))


class _DecoderLevel(nn.Module):
    def __init__(self, outputs: int, inputs: int, stride: int):
        super().__init__()
        self.up = weight_norm(nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride))
        self.time_per_frame = stride

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(F.elu(x))
        start = self.time_per_frame // 2
        return h[..., start : start + x.shape[-1] * self.time_per_frame]


class ResidualQuantizer(nn.Module):
    """Nearest code words, each codebook coding what the ones before it left."""

    def __init__(self, width: int, codebooks: int = 2, words: int = 16):
        super().__init__()
        self.codebooks = nn.ModuleList(nn.Embedding(words, width) for _ in range(codebooks))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, frames), unchanged in shape."""
        residual = x.transpose(1, 2)
        total = torch.zeros_like(residual)
        for codebook in self.codebooks:
            nearest = torch.cdist(residual, codebook.weight[None]).argmin(-1)
            total = total + codebook(nearest)
            residual = residual - codebook(nearest)
        return total.transpose(1, 2)


class SnakeCodec(nn.Module):
    """Snake activations and weight norm (Kumar et al., Descript Audio Codec, 2023).

    The quantiser is straight-through, x + (q - x).detach(), so that the decoder has a derivative at
    the waveform. Weight norm is the older hook, which sets `weight` before each call.
    """

    def __init__(self, width: int = 8, strides: tuple[int, ...] = (2, 4)):
        super().__init__()
        widths = [width * 2**level for level in range(len(strides) + 1)]
        levels = list(zip(widths, widths[1:], strides, strict=False))
        self.encoder = nn.Sequential(
            _normed(nn.Conv1d(1, width, 7, padding=3)),
            *[_encoder_block(*level) for level in levels],
            Snake(widths[-1]),
            _normed(nn.Conv1d(widths[-1], widths[-1], 3, padding=1)),
        )
        self.quantizer = ResidualQuantizer(widths[-1])
        self.decoder = nn.Sequential(
            _normed(nn.Conv1d(widths[-1], widths[-1], 7, padding=3)),
            *[_decoder_block(*level) for level in reversed(levels)],
            Snake(width),
            _normed(nn.Conv1d(width, 1, 7, padding=3)),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(batch, 1, time) to audio, a little shorter, and latents z (batch, channels, frames)."""
        z = self.encoder(x)
        z = z + (self.quantizer(z) - z).detach()
        return {"audio": self.decoder(z), "z": z}


class Snake(nn.Module):
    """x + sin^2(a x) / a, a period per channel (Ziyin et al., 2020)."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(1, channels, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, time), unchanged in shape."""
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)


class _ResidualUnit(nn.Module):
    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.block = nn.Sequential(
            Snake(width),
            _normed(nn.Conv1d(width, width, 7, dilation=dilation)),
            Snake(width),
            _normed(nn.Conv1d(width, width, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.block(x)
        lost = (x.shape[-1] - h.shape[-1]) // 2
        return x[..., lost:-lost] + h


def _encoder_block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    down = nn.Conv1d(inputs, outputs, 2 * stride, stride, padding=math.ceil(stride / 2))
    units = [_ResidualUnit(inputs, dilation) for dilation in (1, 3)]
    return nn.Sequential(*units, Snake(inputs), _normed(down))


def _decoder_block(outputs: int, inputs: int, stride: int) -> nn.Sequential:
    up = nn.ConvTranspose1d(inputs, outputs, 2 * stride, stride, padding=math.ceil(stride / 2))
    units = [_ResidualUnit(outputs, dilation) for dilation in (1, 3)]
    return nn.Sequential(Snake(inputs), _normed(up), *units)


def _normed(conv: nn.Module) -> nn.Module:
    return nn.utils.weight_norm(conv)


ARCHITECTURES = (
    Architecture(
        "seanet",
        lambda: trained_like(SEANet()),
        (2, 1, 4000),
        24000,
        ("encoder.0.conv", "encoder.2.body.1.conv", "project.conv"),
    ),
    Architecture(
        "snake_codec",
        lambda: trained_like(SnakeCodec()),
        (2, 1, 2000),
        44100,
        ("encoder.0", "encoder.4", "decoder.4"),
    ),
)
