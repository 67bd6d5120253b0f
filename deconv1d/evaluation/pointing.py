"""Does a channel's sound point to the part of a mixture that drives the channel?

A mixture has a known answer. Two recordings A and B of different classes, of equal RMS, are mixed.
A channel that is active on A and not on B hears A in the mixture; an explanation of this channel
that is worth hearing therefore lies where A is:

    frequency | A A . . .             a channel driven by A:  its sound under A's mask  -> near 1
              | A A . B B             a channel driven by B:  its sound under B's mask  -> near 1
              | . . . B B  -> time    one sound for both:     p and 1 - p               -> 0.5

Both directions are averaged, so that whatever does not depend on the channel scores exactly 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconv1d.errors import InputError
from deconv1d.evaluation.hearing import hear, to_rms
from deconv1d.evaluation.intervals import Mean, mean_of
from deconv1d.progress import bar
from deconv1d.table import Table

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

Explanation = Callable[["Sonifier", Tensor, str, Sequence[int]], Tensor]
"""What is tested: (sonifier, waveform (time,), layer, channels) -> sounds (channels, time).

The level of a sound does not matter. An explanation that draws at random holds its own generator.
"""

WINDOW_SECONDS = 0.064
"""Of the spectra under which energy is counted: twice the window of the masks in `cells`, so that
a mask is not judged on its own grid."""
FLOOR = 1e-6
"""Of the mixture's largest power in a bin: a bin with less holds neither stem."""
DRIVEN, HEARD, KEPT = 3.0, 0.25, 0.25
"""When a channel is selective; see `selective`."""
CHANNELS = 2
LOUD_SECONDS = 0.25
TRIES = 10
OWN = 0.9
ORACLE = "the driver's own bins (oracle)"


@dataclass(frozen=True)
class Pair:
    """Two sounds of different classes, to be mixed.

    Attributes:
        stems: (2, time), of equal RMS.
        names: Their classes.
    """

    stems: Tensor
    names: tuple[str, str] = ("A", "B")

    @property
    def mixture(self) -> Tensor:
        """Their sum, (time,)."""
        return self.stems.sum(0)


@dataclass(frozen=True)
class Pointing:
    """How well one explanation points in one layer.

    Attributes:
        layer: The layer, as it was asked for.
        explanation: The explanation's name.
        pairs: Over how many pairs the means are.
        pointing: Share of a sound's energy under its driver's mask; 0.5: does not depend on the
            channel; 1: the driver alone.
        within_frames: `pointing` minus the share that the mixture itself has in the same frames
            of time; 0: a time gate does as well.
    """

    layer: str
    explanation: str
    pairs: int
    pointing: Mean
    within_frames: Mean


@dataclass(frozen=True)
class Game:
    """The scores of a pointing game.

    Attributes:
        scores: By layer and explanation: (pairs, 2), `Pointing.pointing` and `within_frames`.
    """

    scores: Mapping[str, Mapping[str, Tensor]]

    @property
    def table(self) -> Table[Pointing]:
        """One row for each layer and explanation, with intervals."""
        rows = []
        for layer, by_name in self.scores.items():
            for name, scores in by_name.items():
                pointing, within = (mean_of(column) for column in scores.T.tolist())
                rows.append(Pointing(layer, name, len(scores), pointing, within))
        return Table(rows, title="Mixture pointing game")

    def advantage(self, layer: str, explanation: str, control: str) -> Mean:
        """How much better one explanation points than another, on the same pairs."""
        ours, theirs = (self.scores[layer][name][:, 0] for name in (explanation, control))
        return mean_of((ours - theirs).tolist())


def pointing_game(
    sonifier: Sonifier,
    layers: Sequence[str],
    pairs: Iterable[Pair],
    explanations: Mapping[str, Explanation],
    *,
    count: int = 24,
    channels: int = CHANNELS,
    sample_rate: int | None = None,
    progress: bool = False,
) -> Game:
    """Plays the game in some layers, with some explanations.

    A pair counts in a layer if each of its stems drives a selective channel there (`selective`).
    Its score is the mean of both directions. The oracle, the mixture in the bins where the driver
    has at least 0.9 of the power, is always played too.

    Args:
        sonifier: Of the model; it is applied to single clips, (time,).
        layers: Each as for `Sonifier.sonify`.
        pairs: As from `draw_pairs`; at most `TRIES * count` are taken.
        explanations: By name.
        count: How many pairs that count are played in each layer; fewer if there are not so many.
        channels: How many selective channels each stem has at most, the most active first.
        sample_rate: In hertz; None: the sonifier's.
        progress: Whether to show a bar; off a terminal it is lines.

    Raises:
        InputError: If the sample rate is unknown, or an explanation returns another shape.

    Source:
        The pointing game of Zhang et al., "Top-down neural attention by excitation backprop"
        (2016), and the grid pointing game of Böhle et al., "Convolutional dynamic alignment
        networks" (2021), with a mixture of two sounds for a grid of images and a channel for a
        class. The ideal ratio mask is that of Narayanan & Wang (2013), with exponent 1.
    """
    window = window_of(sample_rate or sonifier.sample_rate)
    scores: dict[str, dict[str, list[list[float]]]] = {
        layer: {name: [] for name in (*explanations, ORACLE)} for layer in layers
    }
    total = count * len(layers)
    with bar(total=total, desc="pointing", unit="pairs", shown=progress) as played:
        # The range first: the other way round zip would draw one more pair and lose it.
        for _, pair in zip(range(TRIES * count), pairs, strict=False):
            wanting = [layer for layer in layers if len(scores[layer][ORACLE]) < count]
            if not wanting:
                break
            for layer, (one, two) in _counting(sonifier, wanting, pair, channels).items():
                for name, explain in explanations.items():
                    sounds = sounds_of(explain, name, sonifier, pair.mixture, layer, one + two)
                    scores[layer][name].append(_score(pair, sounds, len(one), window))
                scores[layer][ORACLE].append(_score(pair, oracle(pair, window), 1, window))
                played.update()
    tensors = {
        layer: {name: torch.tensor(rows).reshape(-1, 2) for name, rows in by_name.items()}
        for layer, by_name in scores.items()
    }
    return Game(tensors)


def draw_pairs(
    recordings: Mapping[str, Sequence[Tensor]],
    *,
    seconds: float,
    sample_rate: int,
    aligned: bool = False,
    random_state: int = 0,
) -> Iterator[Pair]:
    """Endless pairs of stems: two recordings of different classes, each in a clip of one length.

    Args:
        recordings: By class, each (time,), at the sample rate.
        seconds: Length of the mixtures.
        sample_rate: In hertz.
        aligned: False: each recording lies at a random place; a longer one is cut so that its
            loudest stretch is inside. True, the harder form: the loudest stretches of both lie in
            the middle, so that both stems are loud at once and time alone tells nothing.
        random_state: Of the draws.

    Raises:
        InputError: If there are not two classes, or a recording is silent.
    """
    classes = list(recordings)
    if len(classes) < 2:
        raise InputError(
            f"Pairs need sounds of different classes: expected recordings of 2 or more, got "
            f"{len(classes)}. Give one list of recordings for each class."
        )
    generator = torch.Generator().manual_seed(random_state)
    samples, loud = round(seconds * sample_rate), round(LOUD_SECONDS * sample_rate)
    while True:
        names = [classes[i] for i in torch.randperm(len(classes), generator=generator)[:2].tolist()]
        stems = []
        for name in names:
            recording = recordings[name][_below(len(recordings[name]), generator)]
            offset = _offset(recording, samples, loud, aligned, generator)
            stems.append(to_rms(_placed(recording, samples, offset, name), 0.1))
        yield Pair(torch.stack(stems), (names[0], names[1]))


def selective(driver: Tensor, other: Tensor, mixture: Tensor) -> Tensor:
    """Which channels a stem drives, (channels,), from mean activations, (channels,) each.

    The channel's activation on its driver is at least 3 times that on the other stem and above
    0.25 of the layer's mean on the driver, and the mixture keeps 0.25 of it.

    Args:
        driver: On the stem alone.
        other: On the other stem alone.
        mixture: On both.
    """
    driven = (driver > 0) & (driver >= DRIVEN * other)
    return driven & (driver > HEARD * driver.mean()) & (mixture >= KEPT * driver)


def pointed(sounds: Tensor, driver: Tensor, other: Tensor, *, window: int) -> Tensor:
    """Share of each sound's energy under the driver's ideal ratio mask, and its within-frame part.

    Args:
        sounds: (..., time). Silence says nothing: 0.5 and 0.
        driver: (time,).
        other: (time,).
        window: Samples in a frame.

    Returns:
        (..., 2), as `Pointing.pointing` and `Pointing.within_frames`.
    """
    one, two, both = (_power(x, window) for x in (driver, other, driver + other))
    total = one + two
    mask = torch.where(total > FLOOR * total.max(), one / total.clamp(min=1e-30), 0.5)
    # Axis -2 is frequency, axis -1 frames. `gate` is what the sound would score if it had the
    # mixture's own spectrum in each frame: a gate that is open in time can reach as much.
    frames = _quotient((both * mask).sum(-2), both.sum(-2), 0.5)  # (frame,), the mixture's share
    energy = _power(sounds, window)
    total_energy = energy.sum((-2, -1))
    share = _quotient((energy * mask).sum((-2, -1)), total_energy, 0.5)
    gate = _quotient((energy.sum(-2) * frames).sum(-1), total_energy, 0.5)
    return torch.stack([share, share - gate], -1)


def oracle(pair: Pair, window: int) -> Tensor:
    """The mixture in the bins where each of its stems has most of the power, (2, time)."""
    hann = torch.hann_window(window, dtype=pair.stems.dtype, device=pair.stems.device)
    power = _power(pair.stems, window)
    masked = _stft(pair.mixture, window) * (power > OWN * power.sum(0))
    samples = pair.stems.shape[-1]
    return torch.istft(masked, window, window // 4, window=hann, length=samples)


def sounds_of(
    explain: Explanation,
    name: str,
    sonifier: Sonifier,
    x: Tensor,
    layer: str,
    channels: Sequence[int],
) -> Tensor:
    """What an explanation makes of some channels, checked.

    Args:
        explain: The explanation.
        name: What it is called.
        sonifier: As the explanation takes it.
        x: (time,).
        layer: As the explanation takes it.
        channels: As the explanation takes them.

    Raises:
        InputError: If it returns another shape than (channels, time).
    """
    sounds = explain(sonifier, x, layer, channels)
    expected = (len(channels), *x.shape)
    got = tuple(sounds.shape) if isinstance(sounds, Tensor) else type(sounds).__name__
    if got != expected:
        raise InputError(
            f"The explanation {name!r} cannot be tested in layer {layer!r}: expected a waveform "
            f"for each channel, of shape {expected}, got {got}. Return what is to be heard."
        )
    return sounds.detach().to(x)


def window_of(sample_rate: float | None) -> int:
    """Samples in `WINDOW_SECONDS`, a multiple of 4.

    Raises:
        InputError: If the sample rate is unknown.
    """
    if sample_rate is None:
        raise InputError(
            "A spectrum needs a sample rate: expected a number in hertz, got None. Give it once: "
            "Sonifier(model, sample_rate=8000)."
        )
    return 4 * max(1, round(WINDOW_SECONDS * sample_rate / 4))


def _counting(
    sonifier: Sonifier, layers: Sequence[str], pair: Pair, channels: int
) -> dict[str, tuple[list[int], list[int]]]:
    """The selective channels of both stems, by layer, where there are some both ways."""
    sounds = torch.cat([pair.stems, pair.mixture[None]])
    selective_channels = {}
    for layer, (one, two, both) in zip(layers, hear(sonifier, sounds, layers), strict=True):
        sides = _strongest(one, two, both, channels), _strongest(two, one, both, channels)
        if all(sides):
            selective_channels[layer] = sides
    return selective_channels


def _strongest(driver: Tensor, other: Tensor, mixture: Tensor, count: int) -> list[int]:
    """The selective channels that the driver activates most."""
    driven = torch.where(selective(driver, other, mixture), driver, -math.inf)
    best = driven.argsort(descending=True, stable=True)[:count]
    return [int(channel) for channel in best if driven[channel] > -math.inf]


def _score(pair: Pair, sounds: Tensor, first: int, window: int) -> list[float]:
    """Mean over both directions; the first stem drives the `first` sounds, the second the rest."""
    one, two = pair.stems
    sides = (
        pointed(sounds[:first], one, two, window=window),
        pointed(sounds[first:], two, one, window=window),
    )
    score: list[float] = torch.stack([side.mean(0) for side in sides]).mean(0).tolist()
    return score


def _offset(
    recording: Tensor, samples: int, loud: int, aligned: bool, generator: torch.Generator
) -> int:
    """Where in the clip a recording begins; below 0 if its beginning is cut off."""
    length = recording.shape[-1]
    loudest = min(loud, length, samples)
    # energy[n] is that of the first n samples, so a difference is the energy of a stretch.
    energy = torch.cat([recording.new_zeros(1), recording.square().cumsum(-1)])
    start = int((energy[loudest:] - energy[:-loudest]).argmax())
    if aligned:
        return (samples - loudest) // 2 - start
    if length <= samples:
        return _below(samples - length + 1, generator)
    return _below(samples - loudest + 1, generator) - start


def _placed(recording: Tensor, samples: int, offset: int, name: str) -> Tensor:
    """The recording in a clip, with silence where it does not reach."""
    clip = recording.new_zeros(samples)
    # offset < 0: so many samples of the beginning are cut off; > 0: so many of silence come first.
    part = recording[max(0, -offset) : samples - offset]
    clip[max(0, offset) : max(0, offset) + len(part)] = part
    if not clip.any():
        raise InputError(
            f"A recording of class {name!r} cannot be a stem: expected sound, got silence. "
            f"Leave the recording out."
        )
    return clip


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _stft(x: Tensor, window: int) -> Tensor:
    """(..., frequency, frame)."""
    hann = torch.hann_window(window, dtype=x.dtype, device=x.device)
    rows = x.reshape(-1, x.shape[-1])
    spectra = torch.stft(
        rows, window, window // 4, window=hann, pad_mode="constant", return_complex=True
    )
    return spectra.reshape(*x.shape[:-1], *spectra.shape[1:])


def _power(x: Tensor, window: int) -> Tensor:
    return torch.view_as_real(_stft(x, window)).square().sum(-1)


def _quotient(numerator: Tensor, denominator: Tensor, otherwise: float) -> Tensor:
    """The quotient, or `otherwise` where nothing is divided by nothing."""
    return torch.where(
        denominator > 0, numerator / torch.where(denominator > 0, denominator, 1), otherwise
    )
