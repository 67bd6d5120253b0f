"""Networks and sounds whose channels are known: band-pass filters, and tones in their bands."""

import numpy as np
import scipy.signal
import torch
from torch import nn

RATE = 8000
BANDS = (200, 400), (900, 1200), (2000, 2500), (3000, 3500)
CARRIER, OWN = (100, 300), ((700, 900), (1400, 1700), (2200, 2600), (3000, 3400))


def bank(*bands: tuple[float, float], taps: int = 129) -> nn.Sequential:
    """A layer whose channel k is a band-pass filter for band k, in hertz."""
    filters = [scipy.signal.firwin(taps, band, pass_zero=False, fs=RATE) for band in bands]
    convolution = nn.Conv1d(1, len(bands), taps, padding=taps // 2, bias=False)
    convolution.weight.data = torch.tensor(np.stack(filters))[:, None]
    return nn.Sequential(convolution, nn.ReLU()).double()


def tones(*hertz: float, seconds: float = 0.5) -> torch.Tensor:
    time = torch.arange(int(seconds * RATE), dtype=torch.float64) / RATE
    return sum(torch.sin(2 * torch.pi * f * time) for f in hertz)


def shared_carrier() -> nn.Sequential:
    """A layer whose channels all pass one strong carrier, and a weaker band of their own."""

    def band_pass(band):
        return scipy.signal.firwin(257, band, pass_zero=False, fs=RATE)

    filters = [3 * band_pass(CARRIER) + band_pass(band) for band in OWN]
    convolution = nn.Conv1d(1, len(OWN), 257, padding=128, bias=False)
    convolution.weight.data = torch.tensor(np.stack(filters))[:, None]
    return nn.Sequential(convolution).double()


def random_tower(depth: int, seed: int = 0) -> nn.Sequential:
    """Band-passes, and layers above them that learnt nothing."""
    torch.manual_seed(seed)
    layers = [*bank(*BANDS, (400, 800), (1200, 1800)), nn.MaxPool1d(2)]
    channels = 6
    for _ in range(depth):
        convolution = nn.Conv1d(channels, 16, 5)
        nn.init.kaiming_normal_(convolution.weight)
        nn.init.zeros_(convolution.bias)
        layers += [convolution, nn.ReLU(), nn.MaxPool1d(2)]
        channels = 16
    return nn.Sequential(*layers).double()
