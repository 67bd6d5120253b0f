"""How far to trust the winners' sonifications: the model hears each of them, and two controls.

A control card of every winner would cost some thirty forward passes each. What is kept of it here
costs three: the model hears the sonification, that of a random map, and that of permuted weights.

    clip --model--> map --mirror--> sonification -+
                     |                            |
             random map --mirror--> control       +-- at the clip's level --model--> activations
    clip --twin---> map --mirror--> control ------+
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconv1d.channels import means
from deconv1d.evaluation.card import EVERYTHING, RANDOM_SEED, as_good, verdict_of
from deconv1d.evaluation.controls import RIVALS
from deconv1d.evaluation.hearing import to_rms
from deconv1d.evaluation.randomisation import shuffle_weights
from deconv1d.layers.maps import LayerMaps
from deconv1d.mining.batches import BatchedMaps
from deconv1d.mining.plan import Plan, at_once

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

CONTROLS = {RANDOM_SEED: "control_margin", EVERYTHING: "permuted_margin"}
"""The controls, and the columns with what the response is above theirs."""


@dataclass(frozen=True)
class LayerSounds:
    """Sounds of some of a layer's channels.

    Attributes:
        channels: Their numbers.
        sonifications: (channels, time).
        controls: By name, each (channels, time).
    """

    channels: Sequence[int]
    sonifications: Tensor
    controls: dict[str, Tensor]

    def stacked(self) -> Tensor:
        """All sounds, (sounds, time): the sonifications, then each control."""
        return torch.cat([self.sonifications, *self.controls.values()])


class Judge:
    """Lets the model hear winners' sounds; made once in each worker.

    Args:
        sonifier: Of the plan's model.
        plan: What is asked for.
    """

    def __init__(self, sonifier: Sonifier, plan: Plan) -> None:
        self._plan = plan
        self._maps = BatchedMaps[LayerMaps](sonifier.forward_pass, plan.layers, plan.tap)

    def __call__(
        self, clip: Tensor, sounds: Mapping[str, LayerSounds]
    ) -> dict[str, list[dict[str, float | str | None]]]:
        """The columns of trust of winners.parquet, a row a channel, by layer.

        Args:
            clip: (time,).
            sounds: By layer.
        """
        on_clip = dict(zip(self._plan.layers, self._heard(clip[None]), strict=True))
        # All at the clip's level: a louder sound activates most channels more, whatever it is.
        level = clip.square().mean().sqrt()
        stacked = torch.cat([each.stacked() for each in sounds.values()])
        owners = [layer for layer, each in sounds.items() for _ in each.stacked()]
        heard = iter(self._own(to_rms(stacked, level), owners))
        found = {}
        for layer, each in sounds.items():
            groups = [[next(heard) for _ in each.channels] for _ in range(1 + len(each.controls))]
            found[layer] = [
                _row(on_clip[layer][0], channel, own, dict(zip(each.controls, others, strict=True)))
                for channel, own, *others in zip(each.channels, *groups, strict=True)
            ]
        return found

    def _own(self, sounds: Tensor, layers: Sequence[str]) -> Iterator[Tensor]:
        """Of each sound the activations of its own layer, (channels,)."""
        size = at_once(self._plan.batch, sounds.shape[-1])
        for part, owners in zip(sounds.split(size), _split(layers, size), strict=True):
            heard = dict(zip(self._plan.layers, self._heard(part), strict=True))
            yield from (heard[layer][place] for place, layer in enumerate(owners))

    def _heard(self, sounds: Tensor) -> list[Tensor]:
        """Mean activation of every channel of each layer, (sounds, channels)."""
        return [means(maps.maps).cpu().double() for maps in self._maps(list(sounds.numpy()))]


def twin_of(sonifier: Sonifier) -> Sonifier:
    """The same network with the values of each weight permuted, by one random state.

    Args:
        sonifier: Of the model, which keeps its weights.
    """
    # One random state for all runs: the table must be the same to the last byte.
    owners = {name.rpartition(".")[0] for name, _ in sonifier.model.named_parameters()}
    return shuffle_weights(sonifier, owners, torch.Generator().manual_seed(0))


def _split(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _row(
    on_clip: Tensor, channel: int, heard: Tensor, controls: Mapping[str, Tensor]
) -> dict[str, float | str | None]:
    """What is said of one sonification; nothing where the channel is not active on the clip.

    Args:
        on_clip: Activations of the layer on the clip, (channels,).
        channel: Its number.
        heard: The same on the sonification.
        controls: The same on each control.
    """
    active = float(on_clip[channel])
    if active <= 0:  # as for a channel that is strong for a moment and negative on the whole
        return {}
    order = on_clip.argsort(descending=True, stable=True).tolist()
    rivals = [other for other in order if other != channel and on_clip[other] > 0][:RIVALS]

    def told(activations: Tensor) -> bool | None:
        others = activations[rivals] / on_clip[rivals]
        return float(activations[channel]) / active > float(others.max()) if rivals else None

    response = float(heard[channel]) / active
    responses = {name: float(each[channel]) / active for name, each in controls.items()}
    own = told(heard)
    margins = {CONTROLS[name]: response - other for name, other in responses.items()}
    sentence = verdict_of(
        response=response,
        place=int((heard > heard[channel]).sum()) + 1,
        place_on_input=int((on_clip > on_clip[channel]).sum()) + 1,
        channels=len(on_clip),
        told=own,
        as_good=[n for n in controls if as_good(responses[n], told(controls[n]), response)],
    )
    # Without controls, as of masks, the sentence would say more than was measured.
    return {
        "response": response,
        "identified": None if own is None else float(own),
        **margins,
        "sentence": sentence if controls else None,
    }
