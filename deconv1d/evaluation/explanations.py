"""What is put to the test: explanations of channels as sounds, and controls that must not point."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deconv1d.channels import means
from deconv1d.errors import SilenceWarning
from deconv1d.evaluation.hearing import SAMPLES_AT_ONCE
from deconv1d.evaluation.identity import strongest
from deconv1d.evaluation.pointing import Explanation
from deconv1d.evaluation.randomisation import random_seed, shuffled

if TYPE_CHECKING:
    from deconv1d.sonification import Sonification
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


def randomly_seeded(generator: torch.Generator) -> Explanation:
    """A control: deconvnets of random maps, positive, of each map's energy and support.

    Args:
        generator: On the CPU.
    """
    return sonified(seed=lambda activation: random_seed(activation, generator))


def shuffled_twin(sonifier: Sonifier, generator: torch.Generator) -> Explanation:
    """A control: the model's own maps, carried back through a twin with shuffled weights.

    Args:
        sonifier: Of the model.
        generator: On the CPU.
    """
    weights = {k: w for k, w in sonifier.model.named_parameters() if w.is_floating_point()}
    twin = sonifier.with_weights({name: shuffled(w, generator) for name, w in weights.items()})

    def explain(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
        # One channel is enough: `activation` holds the maps of all of them.
        maps = sonifier.sonify(x, layer=layer, channel=list(channels[:1])).activation
        return sonified(seed=lambda _: maps)(twin, x, layer, channels)

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

    def explain(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SilenceWarning)
            sonification = sonifier.sonify(x, layer=layer, channel=channels[0])
        weights = _contrasts(
            means(sonification.layout.sorted(sonification.activation))[0], channels, rivals
        )
        # The midpoint rule for the integral from silence to x. The paper's last factor, x, is left
        # to `in_cells`, which multiplies an attribution by the input.
        levels = (torch.arange(steps).to(x)[:, None] + 0.5) / steps * x
        parts = levels.split(max(1, SAMPLES_AT_ONCE // len(x)))
        return (
            sum((_gradients(sonifier, part, sonification, weights) for part in parts), 0 * x)
            / steps
        )

    return explain


def _gradients(
    sonifier: Sonifier, clips: Tensor, sonification: Sonification, weights: Tensor
) -> Tensor:
    """Gradients of weighted sums of a layer's maps, summed over clips, (weights, time).

    Args:
        sonifier: Of the model.
        clips: (clips, time); a batch where the model takes batches, else one by one.
        sonification: Of one clip: what the maps look like.
        weights: (weights, channels).
    """

    def of(batch: Tensor, count: int) -> Tensor:
        maps = sonification.layout.sorted(sonification.activation)
        shape = len(weights), 1, maps.shape[1], *[1] * (maps.dim() - 2)
        wanted = weights.reshape(shape).expand(-1, count, -1, *maps.shape[2:])
        seeds = torch.stack([sonification.layout.unsorted(each) for each in wanted])
        raw = sonifier.deconvnet(batch, sonification.layer, method="gradient")(seeds)
        return raw.reshape(len(weights), count, -1).sum(1).to(clips)

    if len(clips) > 1:
        for batch in (clips[:, None], clips):
            with contextlib.suppress(Exception):  # the model's own, where it takes no such shape
                return of(batch, len(clips))
    return torch.stack([of(clip, 1) for clip in clips]).sum(0)


def _contrasts(heard: Tensor, channels: Sequence[int], rivals: int) -> Tensor:
    """(channels, all channels): what each channel's activation counts, and its rivals'.

    Args:
        heard: Mean activations on the input, (all channels,).
        channels: Whose contrasts.
        rivals: How many of the most active others a channel has; 0: none.
    """
    weights = torch.zeros(len(channels), len(heard)).to(heard)
    # One more than the rivals, since the channel itself may be among the most active.
    most = strongest(heard, rivals + 1) if rivals else []
    for row, channel in zip(weights, channels, strict=True):
        others = [c for c in most if c != channel][:rivals]
        row[channel] = 1 / heard[channel] if others and heard[channel] > 0 else 1
        if others:
            row[others] = -1 / heard[others] / len(others)
    return weights


def captum(method: str) -> Explanation:
    """A method of Captum's, for the channel's whole map.

    Args:
        method: Out of `deconv1d.compare.captum_methods.CAPTUM`.
    """

    def explain(sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
        from deconv1d.compare.captum_methods import CaptumTarget

        sounds = []
        for channel in channels:
            sonification = sonifier.sonify(x, layer=layer, channel=channel)
            target = CaptumTarget(sonifier, sonification, channel)
            sounds.append(target.attribute(method, target.sonification.activation))
        return torch.stack(sounds)

    return explain
