"""Waveforms that are no sound: hearts (12 leads), earthquakes (3 components), brains (22)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, trained_like


class ECGResNet(nn.Module):
    """Residual blocks on 12 leads at 400 Hz, two paths carried along (Ribeiro et al., 2020)."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(12, width, 17, padding=8, bias=False), nn.BatchNorm1d(width), nn.ReLU()
        )
        self.block1 = _ECGBlock(width, 2 * width)
        self.block2 = _ECGBlock(2 * width, 3 * width)
        self.head = nn.Linear(3 * width * 64, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 12, 1024) to (batch, 6) probabilities."""
        h = self.stem(x)
        h, path = self.block1(h, h)
        h, _ = self.block2(h, path)
        return self.head(h.flatten(1)).sigmoid()


class _ECGBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, 17, padding=8, bias=False)
        self.bn1 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, 17, stride=4, padding=8, bias=False)
        self.shortcut = nn.Sequential(nn.MaxPool1d(4), nn.Conv1d(inputs, outputs, 1, bias=False))
        self.bn2 = nn.BatchNorm1d(outputs)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
        h = self.conv2(self.dropout(F.relu(self.bn1(self.conv1(x)))))
        h = h + self.shortcut(path)
        return self.dropout(F.relu(self.bn2(h))), h


class PhaseNet(nn.Module):
    """A U-Net that marks P and S arrivals in three components at 100 Hz (Zhu & Beroza, 2019)."""

    def __init__(self, width: int = 8):
        super().__init__()
        widths = (width, 2 * width, 3 * width)
        pairs = list(pairwise(widths))
        self.stem = _conv_block(3, width)
        self.down = nn.ModuleList(_conv_block(a, b, stride=4) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose1d(b, a, 7, 4) for a, b in reversed(pairs))
        self.merge = nn.ModuleList(_conv_block(2 * a, a) for a, _ in reversed(pairs))
        self.out = nn.Conv1d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, time) to probabilities (batch, 3, time) of noise, P and S."""
        maps = [self.stem(x)]
        for down in self.down:
            maps.append(down(maps[-1]))
        h = maps.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            skip = maps.pop()
            h = merge(torch.cat([skip, up(h)[..., 1 : 1 + skip.shape[-1]]], dim=1))
        return torch.softmax(self.out(h), dim=1)


def _conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv1d(inputs, outputs, 7, stride, padding=3, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(outputs), nn.ReLU())


class EEGNet(nn.Module):
    """Temporal, then spatial, then separable Conv2d on 22 electrodes (Lawhern et al., 2018)."""

    def __init__(self, width: int = 8, depth: int = 2):
        super().__init__()
        self.temporal = nn.Conv2d(1, width, (1, 64), padding="same", bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.spatial = nn.Conv2d(width, depth * width, (22, 1), groups=width, bias=False)
        self.bn2 = nn.BatchNorm2d(depth * width)
        self.separable = nn.Sequential(
            nn.Conv2d(
                depth * width,
                depth * width,
                (1, 16),
                padding="same",
                groups=depth * width,
                bias=False,
            ),
            nn.Conv2d(depth * width, depth * width, 1, bias=False),
        )
        self.bn3 = nn.BatchNorm2d(depth * width)
        self.dropout = nn.Dropout(0.25)
        self.classifier = nn.Linear(depth * width * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 22, 512) to (batch, 4)."""
        h = self.bn1(self.temporal(x.unsqueeze(1)))
        h = self.dropout(F.avg_pool2d(F.elu(self.bn2(self.spatial(h))), (1, 4)))
        h = self.dropout(F.avg_pool2d(F.elu(self.bn3(self.separable(h))), (1, 8)))
        return self.classifier(h.flatten(1))


class ShallowEEG(nn.Module):
    """Power of filtered, mixed electrodes: square, mean, logarithm (Schirrmeister et al., 2017)."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.temporal = nn.Conv2d(1, width, (1, 25))
        self.spatial = nn.Conv2d(width, width, (22, 1), bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.classifier = nn.Conv2d(width, 4, (1, 20))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, 22, time) to (batch, 4, frames)."""
        h = self.bn(self.spatial(self.temporal(x)))
        h = F.avg_pool2d(h * h, (1, 75), stride=(1, 15))
        return self.classifier(torch.log(h.clamp(min=1e-6))).squeeze(2)


ARCHITECTURES = (
    Architecture(
        "ecg_resnet",
        lambda: trained_like(ECGResNet()),
        (2, 12, 1024),
        400,
        ("stem.0", "block1.conv2", "block2.conv2"),
    ),
    Architecture(
        "phasenet", lambda: trained_like(PhaseNet()), (2, 3, 1001), 100, ("stem.0", "up.0", "out")
    ),
    Architecture(
        "eegnet",
        lambda: trained_like(EEGNet()),
        (2, 22, 512),
        128,
        ("temporal", "spatial", "separable.1"),
    ),
    Architecture(
        "shallow_eeg",
        lambda: trained_like(ShallowEEG()),
        (2, 1, 22, 512),
        128,
        ("temporal", "spatial", "classifier"),
    ),
)
