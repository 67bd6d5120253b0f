"""Tests a sonification by the model: is the channel active on it, and not on the residual?

A channel's activation here is the mean of its map over time. Its *share* is that activation out of
all channels' of the layer, each rectified: a number from 0 to 1 that plays the part of the class
probability in the definitions of L-MAC.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deconv1d.channels import means
from deconv1d.errors import InputError
from deconv1d.sonification import Sonification

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

SEGMENTS = 50
STEPS = 10


@dataclass(frozen=True)
class Faithfulness:
    """A channel's activation on its own sonification; shapes are those of `Sonification.gain`.

    Attributes:
        activation: Of the channel, when the model hears the input.
        mask_in: When it hears the sonification.
        mask_out: When it hears the residual.
        rank_in: The channel's rank among all channels on the sonification, 1 the most active.
        rank_out: The same on the residual.
        selectivity: `mask_in` over the median of the other channels' activations on the
            sonification; infinite where that is not above 0 (and in a layer of one channel).
        increase: 1 where the share on the sonification is above that on the input, else 0 (AI).
        drop: How much of the share is lost on the sonification, 0 to 1 (AD).
        average_gain: How much of what the share lacks to 1 is gained on the sonification, 0 to 1
            (AG).
        removed: Share on the input minus share on the residual.

    Source:
        Paissan et al., "Listenable maps for audio classifiers" (2024), section 4: AI, AD, AG and
        FF (`removed`), there of a class probability and in percent over a data set: average here.
    """

    activation: Tensor
    mask_in: Tensor
    mask_out: Tensor
    rank_in: Tensor
    rank_out: Tensor
    selectivity: Tensor
    increase: Tensor
    drop: Tensor
    average_gain: Tensor
    removed: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Returns the numbers as lists, for JSON."""
        return {name: value.tolist() for name, value in vars(self).items()}


@dataclass(frozen=True)
class Curves:
    """The channel's activation while parts of the input are deleted or inserted, as a ratio.

    Attributes:
        fraction: Of the clip that is deleted or inserted, (steps + 1,), 0 to 1.
        deletion: Activation over that on the unchanged input, (steps + 1,): the parts where the
            sonification is strongest are deleted first.
        insertion: The same when these parts are inserted first, into silence.
        random_deletion: Mean of `deletion` over random orders of the parts.
        random_insertion: Mean of `insertion` over random orders.

    Source: Petsiuk et al., "RISE" (2018), section 4.2, with segments of time for pixels.
    """

    fraction: Tensor
    deletion: Tensor
    insertion: Tensor
    random_deletion: Tensor
    random_insertion: Tensor

    @property
    def deletion_area(self) -> float:
        """Area under `deletion`, minus that of the random orders: below 0 is better than chance."""
        return float(torch.trapezoid(self.deletion - self.random_deletion, self.fraction))

    @property
    def insertion_area(self) -> float:
        """Area under `insertion`, minus that of the random orders: above 0 beats chance."""
        return float(torch.trapezoid(self.insertion - self.random_insertion, self.fraction))


def activations(
    sonifier: Sonifier, x: Any, *, layer: str, tap: str = "block", channel_axis: int | None = None
) -> Tensor:
    """Measures the mean activation of every channel of a layer.

    Args:
        sonifier: Of the model.
        x: Waveform, as for `Sonifier.sonify`.
        layer: As for `Sonifier.sonify`.
        tap: As for `Sonifier.sonify`.
        channel_axis: As for `Sonifier.sonify`.

    Returns:
        (batch, channels).

    Raises:
        InputError, LayerError: As for `Sonifier.sonify`.
    """
    return means(sonifier.maps(x, layer=layer, tap=tap, channel_axis=channel_axis))


def faithfulness(sonifier: Sonifier, sonification: Sonification) -> Faithfulness:
    """Runs the model on a sonification and on its residual, and measures the channel's activation.

    Args:
        sonifier: The one that made the sonification.
        sonification: Of one channel, several, or the most active one of each example.

    Raises:
        InputError: If the sonification is of all maps at once (`channel=None`).
    """
    on_input = _heard(sonifier, sonification.input, sonification)
    rows = []
    # The model runs once on the input, and on each sound and on what is left without it.
    for sound, channels in _sounds(sonification, len(on_input)):
        on_sound, on_rest = (
            _heard(sonifier, x, sonification) for x in (sound, sonification.input - sound)
        )
        rows.append(_numbers(on_input, on_sound, on_rest, channels))
    if not sonification.several:
        return Faithfulness(**rows[0])
    return Faithfulness(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def gain_by_percentile(
    sonifier: Sonifier, sonification: Sonification, clips: Sequence[Any]
) -> Tensor:
    """Average gain (AG) with the channel's place among clips for its probability, 0 to 1.

    A channel's share of its layer is about 1 / channels, so that `Faithfulness.average_gain` is
    near 0 whatever the sonification. Here p is the share of other clips on which the channel is
    less active than on a sound: gain is (p on the sonification - p on the input) / (1 - p on the
    input), and at least 0. A sound counts as one more clip, so that p stays below 1.

    Args:
        sonifier: The one that made the sonification.
        sonification: Of one channel and one clip.
        clips: Waveforms of the input's kind, as many as can be: the smallest step is 1 / clips.

    Raises:
        InputError: If the sonification is of several channels or clips, or there are no clips.
    """
    one = isinstance(sonification.channel, int) and sonification.gain.numel() == 1
    if not one or not len(clips):
        raise InputError(
            f"The gain by percentile needs one channel, one clip and others to compare with: got "
            f"channel {sonification.channel}, waveform {tuple(sonification.input.shape)} and "
            f"{len(clips)} clips. Sonify one channel of one clip, and give clips."
        )
    channel = sonification.channel

    def heard(x: Any) -> Tensor:
        return activations(sonifier, x, layer=sonification.layer, tap=sonification.tap)[0, channel]

    others = torch.stack([heard(clip) for clip in clips])
    before, after = (
        (others < heard(x)).to(others).sum() / (len(clips) + 1)
        for x in (sonification.input, sonification.waveform)
    )
    return (after - before).clamp(min=0) / (1 - before)


def deletion_and_insertion(
    sonifier: Sonifier,
    sonification: Sonification,
    *,
    steps: int = STEPS,
    segments: int = SEGMENTS,
    orders: int = 3,
    random_state: int = 0,
) -> Curves:
    """Deletes and inserts parts of the input, in the order of the sonification's energy.

    Args:
        sonifier: The one that made the sonification.
        sonification: Of one channel and one clip.
        steps: Points of each curve, but for its first.
        segments: Stretches of equal length into which the clip is cut.
        orders: Random orders to compare with.
        random_state: Of the random orders.

    Raises:
        InputError: If the sonification is of several clips or channels, or the clip has fewer
            samples than segments.
    """
    x, sound = sonification.input, sonification.waveform
    clips = 1 if x.dim() == 1 else len(x)
    if (
        sonification.channel is None
        or isinstance(sonification.channel, list)
        or clips > 1
        or x.shape[-1] < segments
    ):
        raise InputError(
            f"Deletion and insertion need one channel, one clip and {segments} samples: got "
            f"channel {sonification.channel} and waveform {tuple(x.shape)}. Sonify one channel of "
            f"one clip."
        )
    channel = sonification.channel
    # Sample n lies in part floor(n * segments / samples). Parts, not samples, are deleted: a clip
    # with holes of one sample is a sound that no model was trained on.
    place = torch.arange(x.shape[-1], device=x.device) * segments // x.shape[-1]
    energy = sound.square().reshape(-1, x.shape[-1]).sum(0)
    by_energy = energy.new_zeros(segments).index_add(0, place, energy)
    ranked = _orders(by_energy, orders, random_state)
    # How many parts are deleted at each point of the curve, from none to all.
    counts = [round(step * segments / steps) for step in range(steps + 1)]

    def activation(kept: Tensor) -> Tensor:
        masked = torch.where(kept[place], x, 0)
        return _heard(sonifier, masked, sonification)[0, channel]

    curves = []
    for order in ranked:
        # order lists parts from first to last; its argsort gives each part its place in that list.
        position = order.argsort()
        deleted = torch.stack([activation(position >= count) for count in counts])
        inserted = torch.stack([activation(position < count) for count in counts])
        curves.append(torch.stack([deleted, inserted]))
    unchanged = curves[0][0, 0]
    curves = [_ratio(curve, unchanged) for curve in curves]
    deletion, insertion = curves[0]
    random_deletion, random_insertion = torch.stack(curves[1:]).mean(0)
    fraction = torch.tensor(counts, dtype=deletion.dtype, device=x.device) / segments
    return Curves(fraction, deletion, insertion, random_deletion, random_insertion)


def _orders(energy: Tensor, count: int, random_state: int) -> list[Tensor]:
    """Returns orders of the parts: by falling energy, then `count` random ones."""
    draws = torch.Generator().manual_seed(random_state)
    # Random orders show what is lost by deleting anything: a curve means little without them.
    drawn = [torch.randperm(len(energy), generator=draws).to(energy.device) for _ in range(count)]
    return [energy.argsort(descending=True, stable=True), *drawn]


def _heard(sonifier: Sonifier, x: Tensor, sonification: Sonification) -> Tensor:
    """Measures activations on another sound, at the tap of a sonification."""
    return activations(
        sonifier,
        x,
        layer=sonification.layer,
        tap=sonification.tap,
        channel_axis=sonification.layout.channel,
    )


def _sounds(sonification: Sonification, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Gives each sonification, of the input's shape, with each example's channel, (batch,)."""
    if sonification.channel is None:
        raise InputError(
            "The faithfulness of all maps at once is not defined: expected a sonification of "
            "single channels, got channel=None. Sonify channels by number."
        )
    if sonification.several and isinstance(sonification.channel, list):
        for sound, channel in zip(sonification.waveform, sonification.channel, strict=True):
            yield sound, torch.full((batch,), channel)
    else:
        yield sonification.waveform, torch.as_tensor(sonification.channel).expand(batch)


def _numbers(
    on_input: Tensor, on_sound: Tensor, on_rest: Tensor, channels: Tensor
) -> dict[str, Tensor]:
    """Computes the numbers of `Faithfulness` from activations, (batch, channels) each."""
    # gather wants an index for each example: (batch, 1), here the channel of that example.
    chosen = channels.to(on_input.device)[:, None]
    of_input, of_sound, of_rest = (a.gather(1, chosen)[:, 0] for a in (on_input, on_sound, on_rest))
    before, after, without = (
        _share(a).gather(1, chosen)[:, 0] for a in (on_input, on_sound, on_rest)
    )
    return {
        "activation": of_input,
        "mask_in": of_sound,
        "mask_out": of_rest,
        "rank_in": (on_sound > of_sound[:, None]).sum(1) + 1,
        "rank_out": (on_rest > of_rest[:, None]).sum(1) + 1,
        "selectivity": _selectivity(on_sound, chosen),
        "increase": (after > before).to(of_input),
        "drop": _ratio((before - after).clamp(min=0), before),
        "average_gain": _ratio((after - before).clamp(min=0), 1 - before),
        "removed": before - without,
    }


def _share(activation: Tensor) -> Tensor:
    """Returns each channel's part of a layer's rectified activation, (batch, channels)."""
    rectified = activation.clamp(min=0)
    return _ratio(rectified, rectified.sum(1, keepdim=True))


def _selectivity(activation: Tensor, chosen: Tensor) -> Tensor:
    """Divides a channel's activation by the median of the other channels', (batch,)."""
    # Without the channel itself, whose activation would count for its own comparison.
    others = torch.ones_like(activation, dtype=torch.bool).scatter(1, chosen, False)
    rest = activation[others].reshape(len(activation), activation.shape[1] - 1)
    heard = activation.gather(1, chosen)[:, 0]
    median = rest.quantile(0.5, dim=1) if rest.shape[1] else torch.zeros_like(heard)
    alone = torch.where(heard > 0, torch.inf, 0.0).to(heard)
    return torch.where(median > 0, heard / torch.where(median > 0, median, 1), alone)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Returns the quotient, 0 where nothing is divided by nothing."""
    return torch.where(
        denominator != 0, numerator / torch.where(denominator != 0, denominator, 1), 0
    )
