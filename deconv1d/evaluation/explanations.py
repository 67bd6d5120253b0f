"""What is put to the test: explanations of channels as sounds, and controls that must not point."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deconv1d.errors import SilenceWarning
from deconv1d.evaluation.hearing import hear
from deconv1d.evaluation.identity import strongest
from deconv1d.evaluation.pointing import Explanation
from deconv1d.redraw import random_seed, shuffled
from deconv1d.sonify import Sonifier

STEPS = 10
RIVALS = 8


def sonified(**options: Any) -> Explanation:
    """What `Sonifier.sonify` makes, with options of its own.

    Args:
        options: As for `Sonifier.sonify`: `method`, `seed` and so on.
    """

    def explain(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SilenceWarning)
            return sonifier.sonify(x, layer=layer, channel=list(channels), **options).raw

    return explain


def randomly_seeded(draws: torch.Generator) -> Explanation:
    """A control: deconvnets of random maps, positive, with the energy and support of the own map.

    Args:
        draws: On the CPU.
    """
    return sonified(seed=lambda activation: random_seed(activation, draws))


def shuffled_twin(sonifier: Sonifier, draws: torch.Generator) -> Explanation:
    """A control: the model's own maps, carried back through a twin with shuffled weights.

    Args:
        sonifier: Of the model.
        draws: On the CPU.
    """
    own = {k: w for k, w in sonifier.model.named_parameters() if w.is_floating_point()}
    twin = sonifier.with_weights({name: shuffled(w, draws) for name, w in own.items()})

    def explain(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
        own = sonifier.sonify(x, layer=layer, channel=list(channels[:1])).activation
        return sonified(seed=lambda _: own)(twin, x, layer, channels)

    return explain


def gated(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
    """A control: the input times the channel's own map, as a curve over time."""
    maps = sonifier.maps(x, layer=layer)[0, list(channels)]
    curves = maps.reshape(len(channels), -1, maps.shape[-1]).mean(1)
    curve = torch.nn.functional.interpolate(
        curves[:, None].to(x), x.shape[-1], mode="linear", align_corners=False
    )
    return x * curve[:, 0]


def itself(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
    """The input, whatever the channel; in cells: those with the most energy."""
    return x.expand(len(channels), -1)


def integrated_gradients(*, steps: int = STEPS, rivals: int = 0) -> Explanation:
    """Mean gradient of the channel's mean activation on the way from silence to the input.

    Args:
        steps: How many levels of the input, evenly spaced.
        rivals: How many of the most active other channels the channel is contrasted with: from its
            activation the mean of theirs goes off, each relative to that on the input.

    Source: Sundararajan et al., "Axiomatic attribution for deep networks" (2017).
    """

    def gradients(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
        levels = (torch.arange(steps) + 0.5) / steps
        found = [
            sonified(method="gradient", seed="ones")(sonifier, float(level) * x, layer, channels)
            for level in levels
        ]
        return torch.stack(found).mean(0)

    def explain(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
        if not rivals:
            return gradients(sonifier, x, layer, channels)
        ((heard,),) = hear(sonifier, x[None], [layer])
        most = strongest(heard, rivals + 1)
        wanted = list(dict.fromkeys([*channels, *most]))
        level = heard[wanted].clamp(min=torch.finfo(heard.dtype).tiny)[:, None]
        relative = dict(zip(wanted, gradients(sonifier, x, layer, wanted) / level, strict=True))
        return torch.stack([_less(relative, c, most, rivals) for c in channels])

    return explain


def _less(relative: dict[int, Tensor], channel: int, most: Sequence[int], count: int) -> Tensor:
    """A channel's gradient minus the mean of its rivals'."""
    others = [relative[c] for c in most if c != channel][:count]
    return relative[channel] - torch.stack(others).mean(0) if others else relative[channel]


def captum(method: str) -> Explanation:
    """A method of Captum's, for the channel's whole map.

    Args:
        method: Out of `deconv1d.compare.captum_methods.CAPTUM`.
    """

    def explain(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
        from deconv1d.compare.captum_methods import CaptumTarget

        sounds = []
        for channel in channels:
            found = sonifier.sonify(x, layer=layer, channel=channel)
            target = CaptumTarget(sonifier, found, channel)
            sounds.append(target.attribute(method, target.found.activation))
        return torch.stack(sounds)

    return explain
