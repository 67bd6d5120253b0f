"""Ways to pool, pad, group, frame and reshape along time; normalisations; activations."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, trained_like

CLASSES = 10


def max_pools(width: int = 16) -> nn.Module:
    """Max-pools that overlap, are padded, dilated, rounded up, adaptive."""
    return nn.Sequential(
        nn.Conv1d(1, width, 9, stride=2),
        nn.MaxPool1d(5, stride=2, padding=2),
        nn.Conv1d(width, width, 5),
        nn.MaxPool1d(3, stride=2, padding=1, dilation=2, ceil_mode=True),
        nn.ReLU(),
        nn.Conv1d(width, CLASSES, 3),
        nn.AdaptiveMaxPool1d(7),
    )


def mean_pools(width: int = 16) -> nn.Module:
    """Average, power-average and adaptive pooling."""
    return nn.Sequential(
        nn.Conv1d(1, width, 9, stride=2),
        nn.ReLU(),
        nn.AvgPool1d(5, stride=2, padding=2, count_include_pad=False, ceil_mode=True),
        nn.Conv1d(width, width, 5),
        nn.LPPool1d(2, 3, stride=2),
        nn.Conv1d(width, CLASSES, 3),
        nn.AdaptiveAvgPool1d(7),
    )


def separable(width: int = 16) -> nn.Module:
    """Grouped, dilated, depthwise and pointwise convolutions (Howard et al., MobileNet, 2017)."""
    return nn.Sequential(
        nn.Conv1d(1, width, 10, stride=4, padding=3),
        nn.ReLU6(),
        nn.Conv1d(width, width, 5, padding=4, dilation=2, groups=4),
        nn.ReLU6(),
        nn.Conv1d(width, 2 * width, 7, stride=3, groups=width),
        nn.BatchNorm1d(2 * width),
        nn.ReLU6(),
        nn.Conv1d(2 * width, CLASSES, 1),
    )


def padding_modes(width: int = 16) -> nn.Module:
    """Convolutions that pad with zeros, mirrored, repeated and wrapped-around samples."""
    return nn.Sequential(
        nn.Conv1d(1, width, 10, padding="same"),
        nn.ReLU(),
        nn.Conv1d(width, width, 7, stride=3, padding=3, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv1d(width, width, 5, padding=2, padding_mode="replicate"),
        nn.ReLU(),
        nn.Conv1d(width, width, 5, padding=2, padding_mode="circular"),
        nn.ReLU(),
        nn.ConstantPad1d((3, 5), 0.1),
        nn.Conv1d(width, CLASSES, 3),
    )


def activations(width: int = 12) -> nn.Module:
    """A convolution under every activation that the field uses."""
    kinds = [nn.LeakyReLU(0.1), nn.PReLU(width), nn.RReLU(), nn.ELU(), nn.CELU(0.5), nn.SELU()]
    kinds += [nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Softplus(), nn.Hardswish()]
    kinds += [nn.Hardtanh(0, 4), nn.ReLU6(), nn.Softsign(), nn.Tanh(), nn.LogSigmoid()]
    layers: list[nn.Module] = [nn.Conv1d(1, width, 9, stride=4)]
    for kind in kinds:
        layers += [kind, nn.Conv1d(width, width, 3, padding=1)]
    return nn.Sequential(*layers)


class Normalisations(nn.Module):
    """Batch, group, instance and layer norm one after the other."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.conv1 = nn.Conv1d(1, width, 10, stride=5)
        self.conv2 = nn.Conv1d(width, width, 5)
        self.conv3 = nn.Conv1d(width, CLASSES, 3)
        self.batch = nn.BatchNorm1d(width)
        self.instance = nn.InstanceNorm1d(width, affine=True)
        self.group = nn.GroupNorm(4, width)
        self.layer = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes, frames)."""
        h = F.relu(self.instance(self.batch(self.conv1(x))))
        h = F.relu(self.group(self.conv2(h)))
        return self.conv3(self.layer(h.mT).mT)


class PixelShuffle(nn.Module):
    """Time folded into channels and back instead of strides (as in MelGAN's and SEGAN's kin)."""

    def __init__(self, width: int = 16, factor: int = 4):
        super().__init__()
        self.factor = factor
        self.conv1 = nn.Conv1d(factor, width, 5, padding=2)
        self.conv2 = nn.Conv1d(factor * width, factor * width, 3, padding=1)
        self.conv3 = nn.Conv1d(width, factor, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time), time divisible by factor^2, to the same shape."""
        h = F.relu(self.conv1(self._fold(x)))
        h = F.relu(self.conv2(self._fold(h)))
        return self._unfold(self.conv3(self._unfold(h)))

    def _fold(self, x: Tensor) -> Tensor:
        batch, channels, _ = x.shape
        x = x.view(batch, channels, -1, self.factor).permute(0, 1, 3, 2)
        return x.reshape(batch, channels * self.factor, -1)

    def _unfold(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.factor)).transpose(2, 3).flatten(2)


class SegNet(nn.Module):
    """Max-pools whose indices the model itself reads, to unpool (Badrinarayanan et al., 2017)."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.conv1 = nn.Conv1d(1, width, 7, padding=3)
        self.conv2 = nn.Conv1d(width, width, 7, padding=3)
        self.conv3 = nn.Conv1d(width, 1, 7, padding=3)
        self.pool, self.unpool = nn.MaxPool1d(4, return_indices=True), nn.MaxUnpool1d(4)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to the same shape."""
        pooled, indices = self.pool(F.relu(self.conv1(x)))
        h = F.relu(self.conv2(pooled))
        return self.conv3(self.unpool(h, indices, output_size=x.shape[-1:]))


class Framed(nn.Module):
    """Overlapping windows, a linear layer on each, convolutions over the frames."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.conv0 = nn.Conv1d(1, 1, 3, padding=1)
        self.linear = nn.Linear(200, width)
        self.conv1 = nn.Conv1d(width, width, 3)
        self.conv2 = nn.Conv1d(width, CLASSES, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time) to (batch, classes)."""
        frames = self.conv0(x[:, None]).squeeze(1).unfold(-1, 200, 80)
        h = F.relu(self.linear(frames * torch.hann_window(200).to(x))).mT
        return self.conv2(F.relu(self.conv1(h))).amax(-1)


def _row(
    name: str,
    build: Callable[[], nn.Module],
    layers: tuple[str, str, str],
    input_shape: tuple[int, ...] = (2, 1, 2000),
) -> Architecture:
    return Architecture(name, lambda: trained_like(build()), input_shape, 16000, layers)


ARCHITECTURES = (
    _row("max_pools", max_pools, ("0", "2", "5")),
    _row("mean_pools", mean_pools, ("0", "3", "5")),
    _row("separable", separable, ("0", "4", "7")),
    _row("padding_modes", padding_modes, ("0", "4", "9")),
    _row("activations", activations, ("0", "16", "34")),
    _row("normalisations", Normalisations, ("conv1", "conv2", "conv3")),
    _row("pixel_shuffle", PixelShuffle, ("conv1", "conv2", "conv3")),
    _row("segnet", SegNet, ("conv1", "conv2", "conv3"), (2, 1, 2002)),
    _row("framed", Framed, ("conv0", "conv1", "conv2"), (2, 2000)),
)
