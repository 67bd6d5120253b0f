"""Networks that are called, answer or remember in ways of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Architecture, trained_like

CLASSES = 10
WIDTH = 16


def _features() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(1, WIDTH, 16, stride=4),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(WIDTH, WIDTH, 5),
        nn.ReLU(),
    )


@dataclass
class Events:
    """What an event detector answers."""

    maps: Tensor
    logits: Tensor
    label: str


class Answering(nn.Module):
    """A classifier that packs its maps and logits as `pack` says."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]):
        super().__init__()
        self.features = _features()
        self.last = nn.Conv1d(WIDTH, CLASSES, 3)
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        """(batch, 1, time) to maps (batch, classes, frames) and logits (batch, classes), packed."""
        maps = self.last(self.features(x))
        return self.pack(maps, maps.mean(-1))


class DictInput(Answering):
    """A classifier that takes {"waveform": (batch, time), "lengths": (batch,)}."""

    def forward(self, batch: dict[str, Tensor]) -> Any:
        """To logits (batch, classes), zero after the end of each clip."""
        maps = self.last(self.features(batch["waveform"].unsqueeze(1)))
        frames = batch["lengths"] // 8
        valid = torch.arange(maps.shape[-1]) < frames[:, None]
        return self.pack(maps, (maps * valid[:, None]).sum(-1) / frames[:, None])


class SpeakerConditioned(nn.Module):
    """A waveform and a speaker embedding that scales and shifts the maps (FiLM)."""

    def __init__(self):
        super().__init__()
        self.features = _features()
        self.film = nn.Linear(8, 2 * WIDTH)
        self.last = nn.Conv1d(WIDTH, CLASSES, 3)

    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        """(batch, 1, time) and (batch, 8) to (batch, classes)."""
        scale, shift = self.film(speaker).unsqueeze(-1).chunk(2, dim=1)
        return self.last(F.relu(self.features(x) * (1 + scale) + shift)).mean(-1)


class VoiceActivity(nn.Module):
    """Takes the sample rate, keeps its LSTM's state as an attribute (as Silero's detector does)."""

    def __init__(self):
        super().__init__()
        self.features = _features()
        self.lstm = nn.LSTMCell(WIDTH, WIDTH)
        self.last = nn.Conv1d(WIDTH, 1, 1)
        self.state: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, sample_rate: int) -> Tensor:
        """(batch, time) to probabilities of speech (batch, 1)."""
        if sample_rate not in (8000, 16000):
            raise ValueError(f"VoiceActivity takes 8000 or 16000 Hz, got {sample_rate}")
        h = self.features(x[:, None, :: sample_rate // 8000]).mean(-1)
        hidden, cell = self.lstm(h, self.state)
        self.state = hidden.detach(), cell.detach()
        return torch.sigmoid(self.last(F.relu(hidden).unsqueeze(-1))).squeeze(-1)


class Streaming(nn.Module):
    """Causal convolutions that keep the end of each chunk in buffers, for the next."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(1, WIDTH, 9)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 9)
        self.conv3 = nn.Conv1d(WIDTH, CLASSES, 1)
        self.register_buffer("past1", torch.zeros(1, 1, 8))
        self.register_buffer("past2", torch.zeros(1, WIDTH, 8))
        self.register_buffer("chunks", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """(1, 1, time) to (1, classes, time)."""
        h = F.relu(self.conv1(self._continued(x, self.past1)))
        h = F.relu(self.conv2(self._continued(h, self.past2)))
        self.chunks += 1
        return self.conv3(h)

    def _continued(self, x: Tensor, past: Tensor) -> Tensor:
        x = torch.cat([past, x], dim=-1)
        past.copy_(x[..., -past.shape[-1] :].detach())
        return x


class Noisy(Answering):
    """Noise and dropout that stay on in eval (Monte Carlo dropout)."""

    def forward(self, x: Tensor) -> Any:
        """(batch, 1, time) to logits (batch, classes)."""
        h = self.features(x + 0.01 * torch.randn_like(x))
        h = F.dropout(h, 0.2, training=True) * torch.empty(len(x), 1, 1).uniform_(0.9, 1.1).to(x)
        maps = self.last(h)
        return self.pack(maps, maps.mean(-1))


class OwnNoGrad(Answering):
    """A forward that switches gradients off for itself."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        """(batch, 1, time) to maps and logits, packed."""
        return super().forward(x)


def _logits(maps: Tensor, logits: Tensor) -> Tensor:
    return logits


def _row(
    name: str,
    build: Callable[[], nn.Module],
    input_shape: tuple[int, ...] = (2, 1, 2000),
    forward: Callable[[nn.Module, Tensor], Any] | None = None,
    layers: tuple[str, str, str] = ("features.0", "features.3", "last"),
) -> Architecture:
    return Architecture(name, lambda: trained_like(build()), input_shape, 8000, layers, forward)


def _call_with_lengths(model: nn.Module, x: Tensor) -> Any:
    return model({"waveform": x, "lengths": torch.tensor([1600, 800])})


def _call_with_speaker(model: nn.Module, x: Tensor) -> Any:
    return model(x, torch.linspace(-1, 1, 8).expand(len(x), 8).to(x))


ARCHITECTURES = (
    _row("tuple_output", lambda: Answering(lambda maps, logits: (logits, [maps]))),
    _row("dict_output", lambda: Answering(lambda maps, logits: {"logits": logits, "maps": maps})),
    _row("dataclass_output", lambda: Answering(lambda maps, logits: Events(maps, logits, "event"))),
    _row("dict_input", lambda: DictInput(_logits), (2, 2000), _call_with_lengths),
    _row("two_inputs", SpeakerConditioned, forward=_call_with_speaker),
    _row("voice_activity", VoiceActivity, (2, 512), lambda model, x: model(x, 16000)),
    _row("streaming", Streaming, (1, 1, 512), layers=("conv1", "conv2", "conv3")),
    _row("noisy", lambda: Noisy(_logits)),
    _row("own_no_grad", lambda: OwnNoGrad(_logits)),
)
