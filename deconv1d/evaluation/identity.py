"""Is a channel's sound told from those of its rivals, by the model itself?

Of the most active channels of a clip each has a sound; the model hears all of them, at one level.
A sound is *identified* if of these channels its own has the largest activation on it, each
relative to its activation on the clip. If all sounds are alike, the same channel is the largest
on each of them, and one sound out of nine is identified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconv1d.evaluation.hearing import hear, to_rms
from deconv1d.evaluation.intervals import Mean, mean_of
from deconv1d.evaluation.pointing import Explanation, sounds_of
from deconv1d.progress import bar
from deconv1d.table import Table

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

MOST = 9
NOTHING = 1e-4
"""Of the clip's level: what is left below it is rounding."""


@dataclass(frozen=True)
class Identity:
    """How well one explanation's sounds are told apart in one layer.

    Attributes:
        layer: The layer, as it was asked for.
        explanation: The explanation's name.
        clips: Over how many clips the means are.
        identified: Share of the sounds on which their own channel is the most active of the clip's
            nine, relative to the clip; 0.11 by chance.
        answer: The channel's activation on its sound, over that on the clip.
        in_minus_out: `answer` minus the same on what the sound leaves of the clip; a sound that
            leaves nothing has all of the clip, and its `answer` minus 1 then.
    """

    layer: str
    explanation: str
    clips: int
    identified: Mean
    answer: Mean
    in_minus_out: Mean


@dataclass(frozen=True)
class Identities:
    """The scores of a self-identification.

    Attributes:
        scores: By layer and explanation: (clips, 3), `Identity.identified`, `answer` and
            `in_minus_out`.
    """

    scores: Mapping[str, Mapping[str, Tensor]]

    @property
    def table(self) -> Table[Identity]:
        """One row for each layer and explanation, with intervals."""
        return Table(
            [
                Identity(layer, name, len(scores), *map(mean_of, scores.T.tolist()))
                for layer, by_name in self.scores.items()
                for name, scores in by_name.items()
            ],
            title="Strict self-identification",
        )


def self_identification(
    sonifier: Sonifier,
    layers: Sequence[str],
    clips: Iterable[Tensor],
    explanations: Mapping[str, Explanation],
    *,
    most: int = MOST,
    disturb: Callable[[Tensor], Tensor] | None = None,
    progress: bool = False,
) -> Identities:
    """Lets the model hear the sounds of each clip's most active channels.

    Args:
        sonifier: Of the model; it is applied to single clips, (time,).
        layers: Each as for `Sonifier.sonify`.
        clips: Each (time,).
        explanations: By name.
        most: How many channels a clip has; a clip with fewer active ones counts with those.
        disturb: What is done to the sounds, (sounds, time), before the model hears them: a shift
            or some noise shows whether an explanation is an adversarial example.
        progress: Whether to show a bar; off a terminal it is lines.

    Raises:
        InputError: If an explanation returns another shape.

    Source:
        Mask-in and mask-out as in Paissan et al., "Listenable maps for audio classifiers" (2024).
    """
    scores: dict[str, dict[str, list[list[float]]]] = {
        layer: {name: [] for name in explanations} for layer in layers
    }
    for clip in bar(clips, desc="hearing sounds", unit="clips", shown=progress):
        for layer, heard in zip(layers, hear(sonifier, clip[None], layers), strict=True):
            channels = strongest(heard[0], most)
            for name, explain in explanations.items():
                # A single active channel has no rival to be told from.
                if len(channels) > 1:
                    sounds = sounds_of(explain, name, sonifier, clip, layer, channels)
                    answers = answers_of(sonifier, clip, layer, channels, sounds, disturb=disturb)
                    scores[layer][name].append(answers.summary)
    tensors = {
        layer: {name: torch.tensor(rows).reshape(-1, 3) for name, rows in by_name.items()}
        for layer, by_name in scores.items()
    }
    return Identities(tensors)


@dataclass(frozen=True)
class Answers:
    """Activations of some channels on each other's sounds, relative to those on the clip.

    Attributes:
        kept: (sounds, channels), on the sounds: row i is channel i's sound.
        left: (sounds, channels), on what the sounds leave of the clip.
    """

    kept: Tensor
    left: Tensor

    @property
    def identified(self) -> Tensor:
        """Whether each sound's own channel is the most active on it, (sounds,)."""
        answers = self.kept.diagonal()
        # -inf on the diagonal: the maximum of a row is then that of the other channels.
        others = self.kept - torch.diag(torch.full_like(answers, torch.inf))
        return answers > others.amax(1)

    @property
    def places(self) -> Tensor:
        """The own channel's place on each sound, 1 the most active, (sounds,)."""
        return (self.kept > self.kept.diagonal()[:, None]).sum(1) + 1

    @property
    def summary(self) -> list[float]:
        """Means over the sounds: identified, answer, in minus out."""
        answer, left = self.kept.diagonal(), self.left.diagonal()
        shares = self.identified.to(answer).mean(), answer.mean(), (answer - left).mean()
        return [float(value) for value in shares]


def answers_of(
    sonifier: Sonifier,
    clip: Tensor,
    layer: str,
    channels: Sequence[int],
    sounds: Tensor,
    *,
    disturb: Callable[[Tensor], Tensor] | None = None,
) -> Answers:
    """Lets the model hear sounds, and what each leaves of the clip, all at the clip's RMS.

    What a sound leaves is the clip minus the sound at the level at which this is the least: the
    level of a sound does not matter.

    Args:
        sonifier: Of the model.
        clip: (time,).
        layer: As for `Sonifier.sonify`.
        channels: Which are compared; they are active on the clip.
        sounds: One for each channel, (channels, time).
        disturb: As for `self_identification`.
    """
    level = clip.square().mean().sqrt()
    rest = clip - _best_level(sounds, clip) * sounds
    # If a sound leaves nothing but rounding, that would be scaled up to the clip's level and
    # heard as noise. The clip is heard in its place, so that leaving nothing is no advantage.
    nothing = rest.square().mean(-1, keepdim=True).sqrt() < NOTHING * level
    both = to_rms(torch.cat([sounds, torch.where(nothing, clip, rest)]), level)
    both = both if disturb is None else disturb(both)
    (heard,) = hear(sonifier, torch.cat([clip[None], both]), [layer])
    # Row 0 is the clip; then come the sounds, and then what each of them leaves.
    kept, left = (heard[1:, channels] / heard[0, channels]).chunk(2)
    return Answers(kept, left)


def _best_level(sounds: Tensor, clip: Tensor) -> Tensor:
    """(sounds, 1), what to multiply each sound by to leave the least of the clip."""
    # |clip - a sound|^2 is least for a = <sound, clip> / |sound|^2; a silent sound gets a = 0.
    energy = sounds.square().sum(-1, keepdim=True)
    return (sounds @ clip)[:, None] / torch.where(energy > 0, energy, 1)


def strongest(activation: Tensor, count: int) -> list[int]:
    """The most active channels of (channels,), best first, of those that are active."""
    ranked: list[int] = activation.argsort(descending=True, stable=True)[:count].tolist()
    return [channel for channel in ranked if activation[channel] > 0]
