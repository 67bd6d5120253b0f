"""What one row of the model table is, and how random weights are made to act like trained ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.ConvTranspose1d)


@dataclass(frozen=True)
class Architecture:
    """One kind of waveform network, small enough to run in a moment on one core.

    Attributes:
        name: Unique; what tests and tables call it.
        build: Makes the network, float32 and in eval mode, from torch's global random numbers: seed
            them first.
        input_shape: Shape of the waveforms it takes, batch first.
        sample_rate: Of these waveforms, in hertz.
        layers: Its first, middle and last convolution on a path from the waveform: module paths,
            with "#n" for the n-th call of a module called more than once. Inside TorchScript, whose
            modules take no hooks, the n-th convolution that ran is "convolution#n".
        forward: Calls the network where `model(x)` does not.
        requires: The package without which it cannot be built.
    """

    name: str
    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    sample_rate: int
    layers: tuple[str, str, str]
    forward: Callable[[nn.Module, Tensor], Any] | None = None
    requires: str | None = None

    @property
    def installed(self) -> bool:
        """Whether `build` has all it needs. Imports nothing."""
        return self.requires is None or importlib.util.find_spec(self.requires) is not None

    def run(self, model: nn.Module, x: Tensor) -> Any:
        """Returns what `model`, built here, makes of the waveforms `x`."""
        return self.forward(model, x) if self.forward else model(x)


def trained_like(model: nn.Module) -> nn.Module:
    """Returns `model` itself in eval mode, its weights drawn anew as training could have left them.

    Weights keep the signal's level through any depth (He et al., 2015; torch's default weights lose
    a factor of 2.4 per ReLU layer, and then the biases drown the waveform), and no normalisation is
    the identity.
    """
    for module in model.modules():
        if isinstance(module, WEIGHTED) and isinstance(module.weight, nn.Parameter):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(getattr(module, "running_var", None), Tensor):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)):
            for parameter, centre in ((module.weight, 1.0), (module.bias, 0.0)):
                if parameter is not None:
                    nn.init.normal_(parameter, centre, 0.1)
    return model.eval()
