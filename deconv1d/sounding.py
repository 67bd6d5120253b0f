"""From a map that a forward pass reached to its sonification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deconv1d.channels import (
    HALF,
    Channel,
    carry_back,
    carry_leveled,
    check_channels,
    most_active,
    one_form,
    only,
)
from deconv1d.errors import ModelError, SilenceWarning, warn
from deconv1d.layers.axes import Layout
from deconv1d.low_cut import cut_lows
from deconv1d.record.waveform import Waveform
from deconv1d.seeds import Seed, seed_of
from deconv1d.sonification import Sonification

if TYPE_CHECKING:
    from deconv1d.checks.verification import Verified
    from deconv1d.mirror import Step


UNKNOWN = "nothing of the map gets to the waveform"


@dataclass(frozen=True)
class ReachedMap:
    """A layer's map on one waveform, and the way back from there.

    Attributes:
        layer: The layer's full name.
        tap: "block" or "output".
        waveform: What the model was run on.
        activation: The whole map, as the model has it.
        layout: Its axes.
        carry_back: Carries seeds, of the map's shape or with a leading axis, to raw sonifications.
        steps: The ops that they pass.
        chunk: How many channels to carry at a time.
        verified: How far the forward pass is from the model itself; None: it was not verified.
        why_silent: Says why a seed that is not zero gave silence, or raises PathError.
    """

    layer: str
    tap: str
    waveform: Waveform
    activation: Tensor
    layout: Layout
    carry_back: Callable[[Tensor], Tensor]
    steps: Sequence[Step]
    chunk: int
    verified: Verified | None = None
    why_silent: Callable[[Tensor], str] | None = None


def sonify_map(
    reached: ReachedMap,
    *,
    channel: Any,
    seed: Seed,
    sample_rate: int | None,
    low_cut: float | None = None,
) -> Sonification:
    """Makes the sonification of one or more channels of a map.

    Args:
        reached: The map.
        channel: As for `Sonifier.sonify`.
        seed: As for `Sonifier.sonify`.
        sample_rate: In hertz, if known.
        low_cut: As for `Sonifier.sonify`.

    Raises:
        ChannelError: If the layer has no such channel.
        InputError: If the channel, the seed or low_cut cannot be used.
        ModelError: If the sonification is not finite.
    """
    activation, layout = reached.activation, reached.layout
    if isinstance(channel, np.ndarray | Tensor):
        channel = channel.tolist()
    chosen = check_channels(channel, layout.channels(activation), reached.layer)
    # The whole map may be needed to make a seed, also where one channel is carried back.
    values = seed_of(activation, seed, layout)
    heard: list[int] | int | None = None
    silent = None
    if chosen is None:
        raw, level = carry_leveled(reached.carry_back, layout.unsorted(values)[None], layout)
        raw, level = raw[0], level[0]
        silent = _silent_seed(lambda: values, raw)
    else:
        maps = layout.sorted(activation)
        # "most_active" is another channel for each example: a tensor of numbers, (batch,).
        channels: list[Channel] = [*chosen] if isinstance(chosen, list) else [most_active(maps)]
        carry = partial(carry_back, reached.carry_back, values, layout, chunk=reached.chunk)
        raw, level = carry(channels)
        sounds = zip(channels, raw, strict=True)
        lost = (_silent_seed(partial(only, values, c), sound) for c, sound in sounds)
        silent = next((s for s in lost if s is not None), None)
        # One channel was asked for, not a list of one: its sound has no leading axis.
        if isinstance(chosen, str):
            raw, level, heard = raw[0], level[0], one_form(torch.as_tensor(channels[0]).tolist())
        elif isinstance(channel, Sequence):
            heard = chosen
        else:
            raw, level, heard = raw[0], level[0], chosen[0]
    why = "the map is dead"
    if silent is not None and reached.waveform.given.any():
        tell = reached.why_silent
        why = UNKNOWN if tell is None else tell(layout.unsorted(silent))
    several = chosen is not None and not isinstance(chosen, str) and heard is chosen
    leading = raw.shape[:1] if several else ()
    return _finish(reached, raw, level, heard, leading, sample_rate, low_cut, why)


def _silent_seed(make_seed: Callable[[], Tensor], raw: Tensor) -> Tensor | None:
    """The part of a seed that is not zero and gave silence: of some examples, batch first."""
    # The seed is made only where something is silent.
    dead = ~raw.reshape(len(raw), -1).any(1)
    if not dead.any():
        return None
    seed = make_seed()
    if len(seed) != len(raw) or not (lost := seed[dead]).any():
        return None
    return torch.zeros_like(seed).masked_scatter(_like(dead, seed), lost)


def _like(examples: Tensor, seed: Tensor) -> Tensor:
    return examples.reshape(-1, *[1] * (seed.dim() - 1)).expand_as(seed)


def _finish(
    reached: ReachedMap,
    raw: Tensor,
    level: Tensor,
    channel: int | list[int] | None,
    leading: tuple[int, ...],
    sample_rate: int | None,
    low_cut: float | None,
    why: str,
) -> Sonification:
    given = reached.waveform.given
    # At least float32: the peak of a raw sonification can be beyond what half precision holds.
    wide = torch.promote_types(given.dtype, torch.float32)
    raw = raw.to(given.device, wide)
    if reached.activation.dtype in HALF:
        raw = raw * level.to(given.device)
    raw = raw.reshape(*leading, *given.shape)
    axes = _within_a_clip(given)
    raw_peak = _peak(raw, axes)
    if not isfinite(raw_peak.to(given).max()):
        raise ModelError(
            f"The sonification of layer {reached.layer!r} is not finite: expected numbers within "
            f"{given.dtype}'s range. Give the waveform in float32, or "
            f"Sonifier(model, dtype=torch.float32)."
        )
    if low_cut is not None:
        raw = cut_lows(raw, low_cut, sample_rate)
        raw_peak = _peak(raw, axes)
    scaled, gain = _scaled(raw, raw_peak, _peak(given.to(wide), axes))
    gain = gain.squeeze(axes)
    if (gain == 0).any():
        warn(_silence(reached.layer, gain, channel, given, why), SilenceWarning)
    return Sonification(
        waveform=scaled.to(given),
        raw=raw.to(given),
        input=given,
        activation=reached.activation.to(given.device, _kind_of(reached.activation, given.dtype)),
        gain=gain.to(given),
        layer=reached.layer,
        channel=channel,
        sample_rate=sample_rate,
        layout=reached.layout,
        tap=reached.tap,
        flagged=sum(step.rule.flagged for step in reached.steps) / max(len(reached.steps), 1),
        verified=reached.verified,
    )


def _silence(
    layer: str, gain: Tensor, channel: int | list[int] | None, given: Tensor, why: str
) -> str:
    """Says that sounds are silent: how many of several, which is the first, and why."""
    examples = 1 if given.dim() == 1 else len(given)
    # "most_active" of several examples has a channel for each; a list has all of them for each.
    asked = channel if isinstance(channel, list) and gain.numel() > examples else [channel]
    silent = (gain.reshape(-1, examples) == 0).nonzero().tolist()
    # A silent input beside others: for it alone nothing else has to be found out.
    quiet = ~given.reshape(examples, -1).any(1)
    if all(quiet[example] for _, example in silent):
        why = "the input is silent"
    if gain.numel() == 1:
        return f"The sonification of layer {layer!r} is silent: {why}."
    number, example = silent[0]
    of = asked[number]
    of = of[example] if isinstance(of, list) else of
    places = [] if of is None else [f"channel {of}"]
    places += [f"example {example}"] if examples > 1 else []
    return (
        f"{len(silent)} of {gain.numel()} sonifications of layer {layer!r} are silent, the first "
        f"that of {', '.join(places)}: {why}."
    )


def _kind_of(values: Tensor, dtype: torch.dtype) -> torch.dtype:
    """A dtype in its complex form if the values are complex."""
    return dtype.to_complex() if values.is_complex() else dtype


def to_peak_of(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Scales each raw sonification to its input's peak.

    Args:
        x: Waveforms, batch first; or one clip, (time,).
        raw: The same shape, or with a leading axis.

    Returns:
        The scaled sonification, and what it was multiplied by, (batch,) (with that leading axis);
        both exactly 0 where either is silent.

    Source: paper, section 3.2 (4).
    """
    axes = _within_a_clip(x)
    scaled, gain = _scaled(raw, _peak(raw, axes), _peak(x, axes))
    return scaled, gain.squeeze(axes)


def _scaled(raw: Tensor, raw_peak: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
    """Raw sonifications scaled from their own peaks to others, and what they were multiplied by."""
    # Of silence the quotient is infinite or NaN. So it may be of a peak that is nearly 0, which is
    # silent, too.
    gain = (peak / raw_peak).nan_to_num_(0, 0, 0)
    silent, fits = gain == 0, gain == 1
    # Divided first: the largest sample is then the input's peak exactly; and as it is where it has
    # that peak already. All in one new tensor: many channels' sounds fill much of the memory.
    scaled = raw / raw_peak.masked_fill(silent | fits, 1)
    scaled *= peak.masked_fill(fits, 1)
    scaled.masked_fill_(silent, 0)
    return scaled, gain


def _within_a_clip(x: Tensor) -> list[int]:
    """All axes but the batch, from the end, so that a leading axis for channels is none of them."""
    return list(range(-(x.dim() - 1 or 1), 0))


def _peak(x: Tensor, axes: list[int]) -> Tensor:
    """The largest magnitude along some axes, which stay; NaN if one is NaN."""
    return torch.maximum(x.amax(axes, keepdim=True), -x.amin(axes, keepdim=True))
