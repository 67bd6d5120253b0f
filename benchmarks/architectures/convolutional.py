"""Classifiers made of convolutions alone, as they are used on speech, music and sound events."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, trained_like

CLASSES = 10


class M5(nn.Module):
    """Four convolutions, functional ReLU and pooling (Dai et al., 2017; PyTorch's tutorial)."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(1, width, 80, stride=16), nn.BatchNorm1d(width)
        self.conv2, self.bn2 = nn.Conv1d(width, width, 3), nn.BatchNorm1d(width)
        self.conv3, self.bn3 = nn.Conv1d(width, 2 * width, 3), nn.BatchNorm1d(2 * width)
        self.conv4, self.bn4 = nn.Conv1d(2 * width, 2 * width, 3), nn.BatchNorm1d(2 * width)
        self.fc1 = nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, 1, classes)."""
        x = F.max_pool1d(F.relu(self.bn1(self.conv1(x))), 4)
        x = F.max_pool1d(F.relu(self.bn2(self.conv2(x))), 4)
        x = F.max_pool1d(F.relu(self.bn3(self.conv3(x))), 4)
        x = F.max_pool1d(F.relu(self.bn4(self.conv4(x))), 4)
        x = F.avg_pool1d(x, x.shape[-1]).permute(0, 2, 1)
        return F.log_softmax(self.fc1(x), dim=2)


def sample_cnn(width: int = 16) -> nn.Module:
    """Kernels and strides of 3 down to one frame: 3^8 samples (Lee et al., 2017)."""
    widths = [width * scale for scale in (1, 1, 1, 2, 2, 2, 2, 4)]
    blocks = [_sample_block(1, widths[0], stride=3)]
    blocks += [_sample_block(a, b, pool=3) for a, b in pairwise(widths)]
    last = _sample_block(widths[-1], widths[-1], kernel_size=1)
    head = [nn.Dropout(0.5), nn.Flatten(), nn.Linear(widths[-1], CLASSES), nn.Sigmoid()]
    return nn.Sequential(*blocks, last, *head)


def _sample_block(
    inputs: int, outputs: int, *, kernel_size: int = 3, stride: int = 1, pool: int = 1
) -> nn.Sequential:
    padding = (kernel_size - stride) // 2
    layers = [
        nn.Conv1d(inputs, outputs, kernel_size, stride, padding),
        nn.BatchNorm1d(outputs),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool1d(pool)] if pool > 1 else []))


def audio_net(width: int = 16) -> nn.Module:
    """Six convolutions with overlapping pools, dense layers (Becker et al., AudioMNIST, 2018)."""
    widths = (1, width, width, 2 * width, 2 * width, 2 * width, 2 * width)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv1d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool1d(3, 2)]
    layers.append(nn.Flatten())
    frames = 124  # left of 8000 samples by six pools
    for inputs, outputs in ((widths[-1] * frames, 64), (64, 32)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(32, CLASSES))


class Res1dNet(nn.Module):
    """A residual network on 32 kHz waveforms (Kong et al., PANNs, 2020), three stages of it."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.conv0 = nn.Conv1d(1, width, 11, stride=5, padding=5, bias=False)
        self.bn0 = nn.BatchNorm1d(width)
        self.layer1 = _Res1dBlock(width, width, 1)
        self.layer2 = _Res1dBlock(width, 2 * width, 4)
        self.layer3 = _Res1dBlock(2 * width, 4 * width, 4)
        self.fc = nn.Linear(4 * width, CLASSES)

    def forward(self, waveform: Tensor) -> dict[str, Tensor]:
        """(batch, time) to clipwise_output (batch, classes) and embedding (batch, channels)."""
        h = self.bn0(self.conv0(waveform[:, None]))
        h = self.layer3(self.layer2(self.layer1(h)))
        embedding = F.dropout(h.amax(2) + h.mean(2), 0.5, self.training)
        return {"clipwise_output": torch.sigmoid(self.fc(embedding)), "embedding": embedding}


class _Res1dBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.pool = nn.MaxPool1d(stride)
        self.conv1 = nn.Conv1d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, padding=2, dilation=2, bias=False)
        self.bn2 = nn.BatchNorm1d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(
            nn.AvgPool1d(stride), nn.Conv1d(inputs, outputs, 1, bias=False), nn.BatchNorm1d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(self.pool(x))))
        out = self.bn2(self.conv2(F.dropout(out, 0.1, self.training)))
        out += self.downsample(x)
        return self.relu(out)


class LeeNet(nn.Module):
    """Pairs of convolutions of 3, pools of 3 (Kong et al., PANNs, 2020, LeeNet24), shortened."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.conv_block1 = _LeeBlock(1, width, stride=3)
        self.conv_block2 = _LeeBlock(width, width)
        self.conv_block3 = _LeeBlock(width, 2 * width)
        self.conv_block4 = _LeeBlock(2 * width, 4 * width)
        self.fc1 = nn.Linear(4 * width, 4 * width)
        self.fc_audioset = nn.Linear(4 * width, CLASSES)

    def forward(self, waveform: Tensor) -> dict[str, Tensor]:
        """(batch, time) to clipwise_output (batch, classes) and embedding (batch, channels)."""
        h = self.conv_block1(waveform.unsqueeze(1))
        for block in (self.conv_block2, self.conv_block3, self.conv_block4):
            h = F.dropout(F.max_pool1d(block(h), 3), 0.1, self.training)
        longest, _ = torch.max(h, dim=2)
        embedding = F.relu_(self.fc1(longest + torch.mean(h, dim=2)))
        return {"clipwise_output": self.fc_audioset(embedding).sigmoid(), "embedding": embedding}


class _LeeBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        return F.relu_(self.bn2(self.conv2(x)))


class InceptionTime(nn.Module):
    """Parallel kernels of three lengths and a pooled branch (Ismail Fawaz et al., 2020)."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.module1 = _InceptionModule(1, width)
        self.module2 = _InceptionModule(4 * width, width)
        self.module3 = _InceptionModule(4 * width, width)
        self.shortcut = nn.Sequential(nn.Conv1d(1, 4 * width, 1), nn.BatchNorm1d(4 * width))
        self.head = nn.Linear(4 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        h = self.module3(self.module2(self.module1(x)))
        return self.head(F.relu(h + self.shortcut(x)).mean(-1))


class _InceptionModule(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.bottleneck = nn.Conv1d(inputs, width, 1, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv1d(width, width, kernel_size, padding="same", bias=False)
            for kernel_size in (40, 20, 10)
        )
        self.pooled = nn.Sequential(
            nn.MaxPool1d(3, 1, padding=1), nn.Conv1d(inputs, width, 1, bias=False)
        )
        self.bn = nn.BatchNorm1d(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.bottleneck(x)
        maps = [branch(narrow) for branch in self.branches]
        return F.relu(self.bn(torch.cat([*maps, self.pooled(x)], dim=1)))


class SqueezeExcitation(nn.Module):
    """Maps weighed by gates from their own means (Kim et al., SE-SampleCNN, 2018)."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(1, width, 3, 3), nn.BatchNorm1d(width), nn.ReLU())
        self.block1 = _ExcitedBlock(width, width)
        self.block2 = _ExcitedBlock(width, 2 * width)
        self.block3 = _ExcitedBlock(2 * width, 2 * width)
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        h = self.block3(self.block2(self.block1(self.stem(x))))
        return self.head(h.amax(-1))


class _ExcitedBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 3, padding=1)
        self.bn = nn.BatchNorm1d(outputs)
        self.gate = nn.Sequential(
            nn.Linear(outputs, outputs // 4),
            nn.ReLU(),
            nn.Linear(outputs // 4, outputs),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn(self.conv(x)))
        return F.max_pool1d(h * self.gate(h.mean(-1)).unsqueeze(-1), 3)


class ConvNeXt(nn.Module):
    """Depthwise convolution, layer norm over channels, GELU, layer scale (Liu et al., 2022)."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.stem = nn.Conv1d(1, width, 16, stride=8)
        self.blocks = nn.Sequential(*[_ConvNeXtBlock(width) for _ in range(3)])
        self.head = nn.Conv1d(width, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes, frames)."""
        return self.head(self.blocks(self.stem(x)))


class _ConvNeXtBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.reduce = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).transpose(1, 2))
        h = self.scale * self.reduce(F.gelu(self.expand(h)))
        return x + h.transpose(1, 2)


ARCHITECTURES = (
    Architecture("m5", lambda: trained_like(M5()), (2, 1, 8000), 8000, ("conv1", "conv2", "conv4")),
    Architecture(
        "samplecnn", lambda: trained_like(sample_cnn()), (2, 1, 6561), 22050, ("0.0", "4.0", "8.0")
    ),
    Architecture(
        "audionet", lambda: trained_like(audio_net()), (2, 1, 8000), 8000, ("0", "6", "15")
    ),
    Architecture(
        "res1dnet",
        lambda: trained_like(Res1dNet()),
        (2, 16000),
        32000,
        ("conv0", "layer2.conv1", "layer3.conv2"),
    ),
    Architecture(
        "leenet",
        lambda: trained_like(LeeNet()),
        (2, 8000),
        32000,
        ("conv_block1.conv1", "conv_block3.conv1", "conv_block4.conv2"),
    ),
    Architecture(
        "inception",
        lambda: trained_like(InceptionTime()),
        (2, 1, 4000),
        8000,
        ("module1.bottleneck", "module2.pooled.1", "module3.branches.2"),
    ),
    Architecture(
        "squeeze_excitation",
        lambda: trained_like(SqueezeExcitation()),
        (2, 1, 6561),
        22050,
        ("stem.0", "block2.conv", "block3.conv"),
    ),
    Architecture(
        "convnext",
        lambda: trained_like(ConvNeXt()),
        (2, 1, 8000),
        16000,
        ("stem", "blocks.1.depthwise", "head"),
    ),
)
