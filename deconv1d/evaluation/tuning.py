"""What a channel is tuned to: its response to pure tones and to bands of noise.

For a filter that works on the waveform itself the magnitude response is exact. A deeper channel is
no linear filter: here it is played tones (or bands of noise) of many frequencies and levels, and
its mean activation is what is drawn, as for a cell of the auditory nerve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deconv1d.audio import whole_rate
from deconv1d.channels import check_channels, means
from deconv1d.errors import InputError, check_word
from deconv1d.layers.axes import layout_of
from deconv1d.layers.maps import layer_maps
from deconv1d.mirror import mirror
from deconv1d.rules.op import shape_of
from deconv1d.sonification import channels_in_words, needed_rate
from deconv1d.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from deconv1d.forward import ForwardPass
    from deconv1d.sonify import Sonifier

STIMULI = ("tones", "noise")
LOWEST_HERTZ = 40.0
FADE_SECONDS = 0.01
"""A tone that begins at once is a click, which has all frequencies."""
BAND_OCTAVES = 1 / 3
BATCH_SECONDS = 32

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TuningRow:
    """What one channel is tuned to.

    Attributes:
        channel: Its number.
        centre_hertz: The frequency that it responds to most, at its best level; None: to none.
        bandwidth_hertz: Width of the band around it in which the response is half as large or more.
        q: Centre over bandwidth.
        best_level_db: The level at which it responds most, in decibels re a full-scale sine.
        response: Its mean activation there, above that to silence.
    """

    channel: int
    centre_hertz: float | None = field(metadata={"none": "-"})
    bandwidth_hertz: float | None = field(metadata={"none": "-"})
    q: float | None = field(metadata={"none": "-"})
    best_level_db: float | None = field(metadata={"none": "-"})
    response: float

    @property
    def sentence(self) -> str:
        """The row in plain words."""
        if self.centre_hertz is None:
            return "No tone or band of noise that was played raises its activation above silence."
        return (
            f"It responds most to {self.centre_hertz:.0f} Hz at {self.best_level_db:g} dB; in a "
            f"band of {self.bandwidth_hertz:.0f} Hz around that the response is half as large or "
            f"more (Q {self.q:.2g})."
        )


@dataclass(frozen=True)
class Filter:
    """The exact magnitude response of a layer that is a linear filter of the waveform.

    Attributes:
        frequencies: In hertz, from 0 to half the sample rate, (bins,).
        magnitude: Of each channel, (channels, bins); statistics of a norm before it are held.
    """

    frequencies: Array
    magnitude: Array


@dataclass(frozen=True)
class Tuning:
    """Tuning curves of a layer's channels.

    Attributes:
        layer: Its full name.
        stimuli: "tones" or "noise".
        frequencies: In hertz, (frequencies,).
        levels: In decibels re a full-scale sine of the same RMS, (levels,).
        activation: Mean activation, (channels, levels, frequencies).
        silence: Mean activation on silence, (channels,).
        filter: The exact response, if the layer is a linear filter of the waveform; else None.
        channels: Which channels these are.
    """

    layer: str
    stimuli: str
    frequencies: Array
    levels: Array
    activation: Array
    silence: Array
    filter: Filter | None
    channels: tuple[int, ...]

    @property
    def rows(self) -> Table[TuningRow]:
        """Centre, bandwidth, Q and best level of each channel."""
        above = self.activation - self.silence[:, None, None]
        return Table(
            [
                _row(channel, curves, self.frequencies, self.levels)
                for channel, curves in zip(self.channels, above, strict=True)
            ]
        )

    def __repr__(self) -> str:
        return (
            f"Tuning(layer {self.layer!r}, {channels_in_words(list(self.channels))}, "
            f"{self.stimuli}, {len(self.frequencies)} frequencies, {len(self.levels)} levels)"
        )

    def __str__(self) -> str:
        return str(self.rows)

    def _repr_html_(self) -> str:
        return self.rows._repr_html_()

    def csv(self) -> str:
        """The curves as comma-separated values: a line for each channel, level and frequency."""
        lines = ["layer,channel,stimuli,level_db,hertz,activation_above_silence"]
        above = self.activation - self.silence[:, None, None]
        for channel, curves in zip(self.channels, above, strict=True):
            for level, curve in zip(self.levels, curves, strict=True):
                start = f'"{self.layer}",{channel},{self.stimuli},{level:g}'
                points = zip(self.frequencies, curve, strict=True)
                lines += [f"{start},{hertz:.6g},{value:.6g}" for hertz, value in points]
        return "\n".join(lines) + "\n"

    def plot(self, channel: int | None = None) -> Figure:
        """Draws one channel's curves, a line for each level.

        Args:
            channel: Its number; None: the first.

        Raises:
            InputError: If the channel was not measured.
        """
        from deconv1d.render import figure_class

        channel = self.channels[0] if channel is None else channel
        if channel not in self.channels:
            raise InputError(
                f"Channel {channel} was not measured: expected one of {self.channels}. Ask for it "
                f"in sonifier.tuning."
            )
        place = self.channels.index(channel)
        figure = figure_class()(figsize=(7, 3.5), layout="constrained")
        axes = figure.subplots()
        for level, curve in zip(self.levels, self.activation[place], strict=True):
            axes.plot(self.frequencies, curve - self.silence[place], label=f"{level:g} dB")
        axes.set(
            xscale="log",
            xlabel="Hz",
            ylabel="mean activation above silence",
            title=f"{self.layer}, channel {channel}, {self.stimuli}",
        )
        axes.legend(fontsize="small")
        if self.filter is not None:
            exact = axes.twinx()
            exact.plot(self.filter.frequencies[1:], self.filter.magnitude[place, 1:], "k:", lw=1)
            exact.set_ylabel("exact magnitude (dotted)")
        return figure


def tuning(
    sonifier: Sonifier,
    forward_pass: ForwardPass,
    layer: str,
    *,
    channel: int | Sequence[int] | str = "all",
    tap: str = "block",
    stimuli: str = "tones",
    per_octave: int = 4,
    levels: Sequence[float] = (-40, -30, -20, -10, 0),
    seconds: float = 1.0,
    random_state: int = 0,
) -> Tuning:
    """Tuning curves; see `Sonifier.tuning`."""
    check_word("stimuli", stimuli, STIMULI)
    rate = whole_rate(needed_rate(sonifier.sample_rate, "tuning curves"))
    frequencies = _frequencies(rate, per_octave)
    generator = torch.Generator().manual_seed(random_state)
    samples = ceil(seconds * rate)
    probe = torch.zeros(samples)
    seen = forward_pass.run_through(probe, [layer], tap=tap)
    shape = shape_of(seen.captured.x)
    name = seen.layers[0]
    assert seen.captured.tap is not None
    count = layer_maps(seen.captured, seen.captured.tap, name).maps.shape[1]
    numbers = check_channels(channel, count, name)
    if not isinstance(numbers, list):
        raise InputError(
            f"The channel {channel!r} has no tuning curve: expected a number, a list of them or "
            f'"all". Give one of these.'
        )
    sounds = torch.stack([_sound(stimuli, f, samples, rate, generator) for f in frequencies])
    amplitudes = torch.tensor([10 ** (level / 20) for level in levels], dtype=sounds.dtype)
    played = (amplitudes[:, None, None] * sounds).flatten(0, 1)  # all frequencies, level by level
    measured = _activations(sonifier, torch.cat([probe[None].to(played), played]), shape, name, tap)
    curves = measured[1:, numbers].reshape(len(levels), len(frequencies), -1).movedim(-1, 0)
    return Tuning(
        layer=name,
        stimuli=stimuli,
        frequencies=np.asarray(frequencies),
        levels=np.asarray(levels, dtype=float),
        activation=curves.numpy(),
        silence=measured[0, numbers].numpy(),
        filter=_filter(forward_pass, name, samples, rate, numbers),
        channels=tuple(numbers),
    )


def _activations(
    sonifier: Sonifier, sounds: Tensor, shape: tuple[int, ...], layer: str, tap: str
) -> Tensor:
    """Mean activation of every channel on every sound, (sounds, channels)."""
    at_once = max(1, int(BATCH_SECONDS * whole_rate(sonifier.sample_rate or 1) / sounds.shape[-1]))
    batches = sounds.reshape(len(sounds), *shape[1:]).split(at_once)
    return torch.cat(
        [means(sonifier.maps(batch, layer=layer, tap=tap)).double().cpu() for batch in batches]
    )


def _filter(
    forward_pass: ForwardPass, layer: str, samples: int, rate: int, channels: list[int]
) -> Filter | None:
    """The spectrum of the weights of one moment on the waveform, if no input changes them."""
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(0))
    captured = forward_pass.run_to(noise, layer, tap="output").captured
    deconvnet = mirror(captured, rules=captured.rules)
    # With these rules alone the layer is a linear filter: a seed of 1 at one moment gives its
    # taps, reversed in time, which does not change the magnitude of their spectrum.
    if any(step.rule.kind not in ("adjoint", "hold", "pass") for step in deconvnet.steps):
        return None
    assert captured.tap is not None
    layout = layout_of(captured, captured.tap)
    seeds = torch.zeros(len(channels), *deconvnet.map_shape, dtype=deconvnet.map_dtype)
    for seed, channel in zip(seeds, channels, strict=True):
        one = layout.sorted(seed)[0, channel]
        one[tuple(size // 2 for size in one.shape)] = 1  # the moment in the middle
    weights = deconvnet(seeds).reshape(len(channels), -1, samples).double().cpu()
    magnitude = torch.fft.rfft(weights).abs().square().sum(1).sqrt()
    return Filter(np.fft.rfftfreq(samples, 1 / rate), magnitude.numpy())


# --- stimuli -------------------------------------------------------------------------------------


def _frequencies(rate: int, per_octave: int) -> list[float]:
    """From 40 Hz (or what the rate allows) up to just below half the sample rate."""
    highest = 0.95 * rate / 2
    lowest = min(LOWEST_HERTZ, highest / 8)
    steps = int(per_octave * np.log2(highest / lowest))
    return [float(lowest * 2 ** (step / per_octave)) for step in range(steps + 1)]


def _sound(
    stimuli: str, hertz: float, samples: int, rate: int, generator: torch.Generator
) -> Tensor:
    """A tone of amplitude 1, or a band of noise as loud, faded in and out; (samples,)."""
    time = torch.arange(samples, dtype=torch.float64) / rate
    if stimuli == "tones":
        sound = torch.sin(2 * torch.pi * hertz * time)
    else:
        sound = _band_of_noise(hertz, samples, rate, generator)
    edge = max(1, round(FADE_SECONDS * rate))
    ramp = torch.sin(torch.linspace(0, torch.pi / 2, edge, dtype=torch.float64)).square()
    envelope = torch.ones(samples, dtype=torch.float64)
    envelope[:edge], envelope[-edge:] = ramp[:samples], ramp.flip(0)[-samples:]
    faded: Tensor = (sound * envelope).float()
    return faded


def _band_of_noise(hertz: float, samples: int, rate: int, generator: torch.Generator) -> Tensor:
    """White noise without what lies further than a sixth of an octave from a frequency."""
    noise = torch.randn(samples, generator=generator, dtype=torch.float64)
    frequencies = torch.fft.rfftfreq(samples, 1 / rate, dtype=torch.float64)
    distance = (frequencies.clamp(min=1e-9) / hertz).log2().abs()
    inside = distance <= BAND_OCTAVES / 2
    inside[distance.argmin()] = True  # a short sound may have no bin so near
    band: Tensor = torch.fft.irfft(torch.fft.rfft(noise) * inside, samples)
    # 0.5 is the mean square of a sine of amplitude 1.
    return band * (0.5 / band.square().mean()).sqrt()


# --- curves in numbers ---------------------------------------------------------------------------


def _row(channel: int, above: Array, frequencies: Array, levels: Array) -> TuningRow:
    """Centre, band and level from one channel's responses, (levels, frequencies)."""
    level, place = np.unravel_index(int(above.argmax()), above.shape)
    peak = float(above[level, place])
    if peak <= 0:
        return TuningRow(channel, None, None, None, None, peak)
    curve, centre = above[level], float(frequencies[place])
    # Both searches start at the peak: one goes down in frequency and one up.
    low = _crossing(frequencies[place::-1], curve[place::-1], peak / 2)
    high = _crossing(frequencies[place:], curve[place:], peak / 2)
    return TuningRow(channel, centre, high - low, centre / (high - low), float(levels[level]), peak)


def _crossing(frequencies: Array, curve: Array, half: float) -> float:
    """Where a curve that starts at its peak first falls to half of it, on a log frequency axis."""
    below = np.flatnonzero(curve < half)
    if not len(below):
        return float(frequencies[-1])
    after = int(below[0])
    share = (curve[after - 1] - half) / (curve[after - 1] - curve[after])
    octaves = np.log2(frequencies[after] / frequencies[after - 1])
    return float(frequencies[after - 1] * 2 ** (share * octaves))
