"""What a model makes of many masked versions of a recording: activations and gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconv1d.channels import means
from deconv1d.errors import SilenceWarning
from deconv1d.layers.axes import Layout
from deconv1d.layers.maps import LayerMaps

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

SAMPLES_AT_ONCE = 2**20
"""In a batch of sounds. Each batch is recorded anew, which costs some 0.1 s: with 2**18 masks cost
a third more on a CPU, although such batches fit its caches better."""


@dataclass(frozen=True)
class Hearing:
    """A model and the layers that are read.

    Attributes:
        sonifier: Of the model.
        layers: Each as for `Sonifier.sonify`.
        tap: As for `Sonifier.sonify`.
        channel_axis: As for `Sonifier.sonify`.
    """

    sonifier: Sonifier
    layers: Sequence[str]
    tap: str
    channel_axis: int | None

    def maps(self, sounds: Tensor) -> list[LayerMaps]:
        """The maps of each layer, (sounds, channels, ...), on sounds of the shape it takes."""
        return self.sonifier.all_maps(sounds, layers=self.layers, tap=self.tap)

    def layout(self, layer_maps: LayerMaps) -> Layout:
        """The axes of a layer's own maps."""
        if self.channel_axis is None:
            return layer_maps.layout
        return Layout(layer_maps.layout.batch, self.channel_axis % layer_maps.maps.dim())

    def activations(self, sounds: Tensor, at_once: int) -> dict[str, Tensor]:
        """The mean activation of every channel, (sounds, channels), by the layer's full name.

        Args:
            sounds: (sounds, ..., time).
            at_once: How many sounds make a batch.
        """
        parts = [
            {maps.layer: self.means(maps) for maps in self.maps(part)}
            for part in sounds.split(at_once)
        ]
        return {layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]}

    def means(self, layer_maps: LayerMaps) -> Tensor:
        """The mean activation of every channel, (sounds, channels)."""
        maps = layer_maps.layout.unsorted(layer_maps.maps)
        return means(self.layout(layer_maps).sorted(maps))

    def gradients(
        self,
        sounds: Tensor,
        layer: str,
        layout: Layout,
        weights: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """The gradient, by each sound, of a weighted sum of its mean activations.

        The weights may depend on the activations, but count as constants.

        Args:
            sounds: (sounds, ..., time).
            layer: As for `Sonifier.sonify`.
            layout: Its axes.
            weights: From activations, (sounds, channels), to weights of that shape.

        Returns:
            The sounds' shape.
        """

        def seed(activation: Tensor) -> Tensor:
            maps = layout.sorted(activation)
            each = weights(means(maps)) / maps[0, 0].numel()
            values = each.reshape(*each.shape, *[1] * (maps.dim() - 2)).expand_as(maps)
            return layout.unsorted(values)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SilenceWarning)  # a gradient may be 0
            return self.sonifier.sonify(
                sounds,
                layer=layer,
                channel=None,
                tap=self.tap,
                seed=seed,
                method="gradient",
                channel_axis=self.channel_axis,
            ).raw


def batch_of(hearing: Hearing, x: Tensor) -> int:
    """How many sounds make a batch: 1 if the model takes no more.

    Args:
        hearing: The model.
        x: (batch, ..., time), as it takes it.
    """
    try:
        taken = all(len(each.maps) == 2 for each in hearing.maps(torch.cat([x[:1], x[:1]])))
    except Exception:  # whatever the model raises on two sounds
        taken = False
    return max(1, SAMPLES_AT_ONCE // x[0].numel()) if taken else 1
