"""Sonifications and channels in the form that Quantus' metrics take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deconv1d.evaluation.faithfulness import activations
from deconv1d.sonify import Sonifier

Explain = Callable[..., npt.NDArray[Any]]


class ChannelModel(nn.Module):
    """A layer's channels as the outputs of a model: their mean activations, (batch, channels).

    Quantus' metrics ask a model for its answer to a target. A copy of this one, also with weights
    redrawn, is explained as itself.

    Args:
        sonifier: Of the model.
        layer: As for `Sonifier.sonify`.
        tap: As for `Sonifier.sonify`.
    """

    def __init__(self, sonifier: Sonifier, layer: str, *, tap: str = "block") -> None:
        super().__init__()
        self.model, self.sonifier, self._layer, self._tap = sonifier.model, sonifier, layer, tap

    def forward(self, x: Tensor) -> Tensor:
        """Returns the mean activation of every channel on a batch of waveforms."""
        return activations(self.sonifier, x, layer=self._layer, tap=self._tap)


def quantus_explain(
    sonifier: Sonifier, layer: str, *, tap: str = "block", method: str = "deconvnet"
) -> Explain:
    """Makes an `explain_func` for Quantus, whose targets are channels.

    Give it to a metric together with `ChannelModel(sonifier, layer)`:

        quantus.Sparseness()(
            model=ChannelModel(sonifier, layer), x_batch=x, y_batch=channels, a_batch=None,
            explain_func=quantus_explain(sonifier, layer),
        )

    Args:
        sonifier: Of the model.
        layer: As for `Sonifier.sonify`.
        tap: As for `Sonifier.sonify`.
        method: As for `Sonifier.sonify`.

    Returns:
        `explain(model, inputs, targets)`: the raw sonification of each example's channel, of the
        shape of the inputs.

    Source: Hedström et al., "Quantus" (2023).
    """

    def explain(
        model: nn.Module, inputs: Any, targets: Any, **_device_and_more: Any
    ) -> npt.NDArray[Any]:
        own = model.sonifier if isinstance(model, ChannelModel) else sonifier
        x, channels = torch.as_tensor(inputs), np.asarray(targets).reshape(-1)
        # Filled channel by channel, in the order of the examples.
        raw = torch.zeros_like(x)
        # Quantus gives one target for each example; examples with the same channel run together.
        for channel in np.unique(channels):
            mine = torch.from_numpy(channels == channel)
            raw[mine] = own.programs.sonify(
                x[mine], layer=layer, channel=int(channel), tap=tap, method=method
            ).raw
        return raw.numpy(force=True)

    return explain
