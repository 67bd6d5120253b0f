"""The recording heard through the masks that channels earn: `sonify(..., method="mask")`.

random masks --model--> activations of all channels of all layers      one batch a recording
                            |  ridge regression, minus the rivals'
                            v
                   scores of the cells  --gradient steps-->  mask --> waveform
                                           one batch a step for the channels of a layer
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconv1d.channels import check_channels, one_form
from deconv1d.errors import SilenceWarning, warn
from deconv1d.layers.axes import Layout
from deconv1d.layers.maps import LayerMaps
from deconv1d.masks.effects import effects
from deconv1d.masks.hearing import Hearing
from deconv1d.masks.options import BUDGET, MASK, RIVALS, check_mask_options
from deconv1d.masks.refine import refined
from deconv1d.masks.spectrogram import Spectrogram
from deconv1d.masks.survey import MASKS, Survey, surveys_of
from deconv1d.masks.target import Target, target_of
from deconv1d.progress import bar
from deconv1d.record.waveform import as_waveform
from deconv1d.sonification import Sonification

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

STEPS = 8
BAR_AFTER_SECONDS = 2.0


def listen(
    sonifier: Sonifier,
    x: Any,
    *,
    layers: Sequence[str],
    channel: Any,
    tap: str = "block",
    budget: float = BUDGET,
    rivals: int | None = RIVALS,
    generator: torch.Generator | None = None,
    channel_axis: int | None = None,
    masks: int = MASKS,
    steps: int = STEPS,
    progress: bool | None = None,
    surveys: Sequence[Survey] | None = None,
) -> list[Sonification]:
    """Masked recordings of the same channels of several layers.

    The random masks cost one batch for a recording, whatever the channels and layers; the gradient
    steps cost one forward and one backward pass a step and channel.

    Example:
        >>> import torch
        >>> from deconv1d import Sonifier
        >>> from deconv1d.masks.listen import listen
        >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 9), torch.nn.ReLU())
        >>> sonifier = Sonifier(model, sample_rate=8000)
        >>> [found] = listen(sonifier, torch.randn(800), layers=["0"], channel=[0, 3])
        >>> found.waveform.shape, found.mask.shape
        (torch.Size([2, 800]), torch.Size([2, 32, 3]))

    Args:
        sonifier: Of the model; it needs its sample rate.
        x: As for `Sonifier.sonify`.
        layers: Each as for `Sonifier.sonify`.
        channel: As for `Sonifier.sonify`, of each layer; or by a layer's full name its own.
        tap: As for `Sonifier.sonify`.
        budget: Share of the recording's energy that a mask may keep, above 0 to 1.
        rivals: How many of the most active other channels each channel is contrasted with; None:
            none.
        generator: Of the random masks, on the CPU; None: a new one with seed 0. Torch's own random
            state is not used.
        channel_axis: As for `Sonifier.sonify`.
        masks: How many random masks, even.
        steps: How many gradient steps; 0: none.
        progress: Whether to say how far it is; None: only by a bar on a terminal.
        surveys: From `surveys_of`, with `generator` and `masks`, of the same recordings, and these
            layers among others: their batch is then not run again. None: made here.

    Returns:
        One for each layer.

    Raises:
        InputError: If the sample rate is unknown, or an argument cannot be used.
        LayerError, ChannelError, PathError: As for `Sonifier.sonify`.

    Source:
        RISE (Petsiuk et al. 2018) on cells of a spectrogram, with rivals, antithetic masks, ridge
        regression and gradient steps: see `draws`, `effects`, `target` and `refine`.
    """
    check_mask_options(budget, rivals, masks)
    waveform = as_waveform(x, sonifier.sample_rate)
    hearing = Hearing(sonifier, layers, tap, channel_axis)
    x = sonifier.as_taken(x)
    all_maps = hearing.maps(x)
    waveform = waveform.read_as(tuple(x.shape))
    if surveys is None:
        surveys = surveys_of(hearing, x, masks=masks, generator=generator)
    own = channel if isinstance(channel, Mapping) else {}
    wanted = [_Wanted.of(hearing, maps, own.get(maps.layer, channel)) for maps in all_maps]
    search = _Search(hearing, budget, rivals, steps, at_once=surveys[0].at_once, progress=progress)
    with search.bar(surveys, wanted) as steps_done:
        rows = [search.masks_of(s, n, wanted, steps_done) for n, s in enumerate(surveys)]
    recordings = [survey.recording for survey in surveys]
    return [
        _finished(
            sonifier, waveform.given, recordings, torch.stack(layer_masks, 1), each, tap, budget
        )
        for each, layer_masks in zip(wanted, zip(*rows, strict=True), strict=True)
    ]


@dataclass(frozen=True)
class _Wanted:
    """The channels that are asked for in one layer.

    Attributes:
        layer_maps: The layer's maps of the recordings.
        layout: Their axes in the model's own order.
        heard: Activations on the recordings, (batch, channels).
        channels: A number for each recording, (asked, batch); -1: all channels at once.
        channel: As `Sonification.channel`.
        several: As `Sonification.several`.
    """

    layer_maps: LayerMaps
    layout: Layout
    heard: Tensor
    channels: Tensor
    channel: Any
    several: bool

    @classmethod
    def of(cls, hearing: Hearing, layer_maps: LayerMaps, channel: Any) -> _Wanted:
        """The channels of a layer that `Sonifier.sonify` was asked for."""
        heard = hearing.means(layer_maps)
        if isinstance(channel, np.ndarray | Tensor):
            channel = channel.tolist()
        chosen: Any = check_channels(channel, heard.shape[1], layer_maps.layer)
        several = False
        if chosen is None:
            numbers = [[-1] * len(heard)]
        elif isinstance(chosen, str):
            numbers = [heard.argmax(1).tolist()]
            chosen = one_form(numbers[0])
        else:
            numbers = [[number] * len(heard) for number in chosen]
            several = isinstance(channel, Sequence)
            chosen = chosen if several else chosen[0]
        layout = hearing.layout(layer_maps)
        return cls(layer_maps, layout, heard, torch.tensor(numbers), chosen, several)


@dataclass(frozen=True)
class _Search:
    """How masks are found; the arguments of `listen`.

    Attributes:
        at_once: How many sounds make a batch.
        progress: As for `listen`.
    """

    hearing: Hearing
    budget: float
    rivals: int | None
    steps: int
    at_once: int
    progress: bool | None

    def bar(self, surveys: Sequence[Survey], wanted: Sequence[_Wanted]) -> Any:
        """A progress bar that counts batches."""
        asked = sum(-(-len(each.channels) // self.at_once) for each in wanted)
        total = sum(survey.left + asked * self.steps for survey in surveys)
        if self.progress is not None:
            return bar(total=total, desc="masks", unit="batches", shown=self.progress)
        # Nobody asked: a bar on a terminal, if it takes long, and no lines elsewhere.
        shown, delay = sys.stderr.isatty(), BAR_AFTER_SECONDS
        return bar(total=total, desc="masks", unit="batches", shown=shown, delay=delay)

    def masks_of(
        self, survey: Survey, number: int, wanted: Sequence[_Wanted], bar: Any
    ) -> list[Tensor]:
        """The masks of one recording in each layer, (asked, bands, columns)."""
        while survey.step():
            bar.update()
        masks = []
        for each in wanted:
            activations = survey.activations(each.layer_maps.layer)
            on_recording = each.heard[number].to(activations)
            signed = bool((activations < 0).any() or (on_recording < 0).any())
            target = target_of(on_recording, each.channels[:, number], self.rivals, signed=signed)
            scores = effects(survey.masks, activations @ target.even().T)
            masks.append(self._refined(scores, survey.recording, each, target, bar))
        return masks

    def _refined(
        self, scores: Tensor, recording: Spectrogram, wanted: _Wanted, target: Target, bar: Any
    ) -> Tensor:
        """Masks of scores, (asked, bands, columns), some channels at a time."""
        parts = []
        for some in torch.arange(len(scores), device=scores.device).split(self.at_once):
            weights = target.of(some).hard

            # Bound as a default: a closure would see the weights of whatever round the loop is in.
            def gradients(sounds: Tensor, weights: Any = weights) -> Tensor:
                bar.update()
                layer = wanted.layer_maps.layer
                return self.hearing.gradients(sounds, layer, wanted.layout, weights)

            parts.append(
                refined(scores[some], recording, gradients, budget=self.budget, steps=self.steps)
            )
        return torch.cat(parts)


def _finished(
    sonifier: Sonifier,
    given: Tensor,
    recordings: Sequence[Spectrogram],
    masks: Tensor,
    wanted: _Wanted,
    tap: str,
    budget: float,
) -> Sonification:
    """The record of one layer, from masks (asked, batch, bands, columns)."""
    # (asked, batch, ..., time), and then each in the shape in which the recording was given.
    sounds = torch.stack([r.masked(masks[:, n]) for n, r in enumerate(recordings)], 1)
    sounds = sounds.to(given).reshape(len(masks), *given.shape)
    gain = sounds.reshape(*masks.shape[:2], -1).any(-1).to(given)
    if not gain.all():
        what = "the input is silent" if not given.any() else "no cell serves the channel"
        warn(
            f"The masked recording of layer {wanted.layer_maps.layer!r} is silent: {what}.",
            SilenceWarning,
        )
    if given.dim() == 1:
        masks = masks[:, 0]
    if not wanted.several:
        sounds, gain, masks = sounds[0], gain[0], masks[0]
    return Sonification(
        waveform=sounds,
        raw=sounds,
        input=given,
        activation=wanted.layer_maps.layout.unsorted(wanted.layer_maps.maps).to(given),
        gain=gain,
        layer=wanted.layer_maps.layer,
        channel=wanted.channel,
        sample_rate=sonifier.sample_rate,
        flagged=0.0,
        layout=wanted.layout,
        tap=tap,
        method=MASK,
        mask=masks.to(given),
        budget=budget,
    )
