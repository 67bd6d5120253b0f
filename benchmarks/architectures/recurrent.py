"""Convolutions under LSTM and GRU layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, trained_like

CLASSES = 10


class ConvLSTM(nn.Module):
    """Convolutions, two bidirectional LSTM layers, the mean over time."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.features = _features(width)
        self.lstm = nn.LSTM(width, width, num_layers=2, bidirectional=True, batch_first=True)
        self.post = nn.Conv1d(2 * width, width, 3)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        h, _ = self.lstm(self.features(x).transpose(1, 2))
        return self.head(F.relu(self.post(h.transpose(1, 2))).mean(-1))


class ConvGRU(nn.Module):
    """Convolutions and a GRU, read from its last hidden state (as RawNet2 does)."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.features = _features(width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        _, last = self.gru(self.features(x).transpose(1, 2))
        return self.head(last.squeeze(0))


class StepwiseGRU(nn.Module):
    """A GRU cell and a convolution over its steps: a Python loop over time."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.features = _features(width)
        self.cell = nn.GRUCell(width, width)
        self.post = nn.Conv1d(width, CLASSES, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, time) to (batch, classes)."""
        frames = self.features(x)
        state, states = frames.new_zeros(len(x), self.cell.hidden_size), []
        for frame in frames.unbind(-1):
            state = self.cell(frame, state)
            states.append(state)
        return self.post(torch.stack(states, dim=-1)).amax(-1)


def _features(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(1, width, 25, stride=5),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Conv1d(width, width, 5),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Conv1d(width, width, 3),
        nn.ReLU(),
    )


ARCHITECTURES = (
    Architecture(
        "conv_lstm",
        lambda: trained_like(ConvLSTM()),
        (2, 1, 4000),
        16000,
        ("features.0", "features.4", "post"),
    ),
    Architecture(
        "conv_gru",
        lambda: trained_like(ConvGRU()),
        (2, 1, 4000),
        16000,
        ("features.0", "features.4", "features.8"),
    ),
    Architecture(
        "stepwise_gru",
        lambda: trained_like(StepwiseGRU()),
        (2, 1, 2000),
        16000,
        ("features.0", "features.4", "post"),
    ),
)
