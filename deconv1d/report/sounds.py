"""Sounds as a page plays them: at a rate that browsers play, with a level and a picture each.

A page's player switches between sounds in place. Their levels are those at which all sounds of one
player are equally loud; a picture shows the spectrogram above the waveform, drawn once.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from deconv1d.audio import Samples, Waveform, as_samples, encode_audio
from deconv1d.render import DYNAMIC_RANGE, data_uri, mel_spectrogram

LOWEST_RATE = 8000
"""In hertz. Browsers refuse rates below 3000 Hz, some of them below 8000 Hz."""
AUDIBLE_RATE = 3000
"""In hertz. A signal of a lower rate has hardly anything that people hear: it is played faster."""
QUIETEST = 0.1
"""A sound is turned down by 20 dB at most, so that a nearly silent one does not silence all."""
ROUNDING = 1e-6
"""Of the largest sample: what is smaller after channels cancelled each other is rounding error."""
PICTURE_COLUMNS, WAVEFORM_ROWS = 480, 28


@dataclass(frozen=True)
class PlayerSound:
    """One of the sounds between which a player switches.

    Attributes:
        name: Plain text.
        file: Its address: a data URI, or a path relative to the page.
        picture: The same for its picture.
        level: What the player multiplies it by, so that all sounds are equally loud; 0 to 1.
        speed: How many times faster than it was it is played, the same for all of one player.
    """

    name: str
    file: str
    picture: str
    level: float
    speed: int = 1


def playable(samples: Samples, rate: int) -> tuple[Samples, int, int]:
    """Returns samples, their rate, and how many times faster than it was they are played.

    Args:
        samples: (time,).
        rate: In hertz. From 8000 Hz on nothing changes. Down to 3000 Hz the sound is resampled to
            8000 Hz. Below, as for a cardiogram of 500 Hz, it is declared to have a power of two
            times its rate, so that it is heard faster and higher.
    """
    if rate >= LOWEST_RATE:
        return samples, rate, 1
    if rate >= AUDIBLE_RATE:
        import soxr  # only signals below the lowest rate need it

        return soxr.resample(samples, rate, LOWEST_RATE), LOWEST_RATE, 1
    speed = 2
    while speed * rate < LOWEST_RATE:
        speed *= 2
    return samples, speed * rate, speed


def speed_of(rate: int) -> int:
    """How many times faster than it was a signal is played, so that people hear it.

    Args:
        rate: In hertz.
    """
    return playable(np.zeros(1), rate)[2]


def faster(speed: int) -> str:
    """What players say of a signal that nobody hears as it is: "played 16 x faster".

    Args:
        speed: As from `speed_of`; at 1 there is nothing to say.
    """
    return f"played {speed} x faster" if speed > 1 else ""


def wav_of(samples: Samples, rate: int) -> bytes:
    """A sound as 16-bit WAV at a rate that browsers play.

    Args:
        samples: (time,) or (channels, time); divided by its peak if that is above 1.
        rate: In hertz.
    """
    channels = [playable(channel, rate) for channel in np.atleast_2d(samples)]
    heard = np.stack([channel for channel, _, _ in channels])
    # 16-bit WAV clips above 1. A quiet sound stays quiet: levels of several players compare.
    heard = heard / max(1.0, float(np.abs(heard).max()))
    return encode_audio(heard, channels[0][1], file_format="WAV", subtype="PCM_16")


def mean_of(waveform: Waveform) -> Samples:
    """The mean of a sound's channels, (time,): what pages play; exact silence where they cancel.

    Args:
        waveform: (time,) or (channels, time).
    """
    channels = as_samples(waveform)
    mean: Samples = channels.mean(0)
    # Pictures are relative to the input's peak: beside rounding error all else would be white.
    heard = np.abs(mean).max() > ROUNDING * np.abs(channels).max()
    return mean if heard else np.zeros_like(mean)


def levels_of(tracks: Mapping[str, Samples]) -> dict[str, float]:
    """What each sound is multiplied by so that all have the root mean square of the quietest.

    Args:
        tracks: By name, each (time,). A silent one has level 1.
    """
    loudness = {name: rms(samples) for name, samples in tracks.items()}
    heard = [value for value in loudness.values() if value > 0]
    if not heard:
        return dict.fromkeys(tracks, 1.0)
    # A player can only turn sounds down: 1 is its loudest.
    quietest = max(min(heard), QUIETEST * max(heard))
    return {name: min(1.0, quietest / value) if value else 1.0 for name, value in loudness.items()}


def rms(samples: Samples) -> float:
    """Root mean square of samples."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def power_peak(samples: Samples, rate: int) -> float:
    """The largest power in a sound's spectrogram: what pictures of one player are relative to."""
    return float(mel_spectrogram(samples, rate, frames=PICTURE_COLUMNS)[0].max())


def picture_png(samples: Samples, rate: int, peak: float | None = None) -> bytes:
    """Draws the mel spectrogram of a sound above its waveform, as the bytes of a PNG picture.

    Its left edge is the first sample and its right edge the last, so that a cursor can be laid over
    it. Rows of the spectrogram go from 0 Hz to half the rate on the mel axis.

    Args:
        samples: (time,).
        rate: In hertz.
        peak: The power that is drawn brightest, as from `power_peak`; None: the sound's own.
    """
    from PIL import Image

    power, _ = mel_spectrogram(samples, rate, frames=PICTURE_COLUMNS)
    reference = (power.max() if peak is None else peak) or 1.0
    floor = 10 ** (-DYNAMIC_RANGE / 10)
    decibels = 10 * np.log10(np.clip(power / reference, floor, 1))
    rows = np.round(255 * (1 + decibels / DYNAMIC_RANGE))[::-1]  # pictures start at the top
    pixels = np.concatenate([rows, _waveform_rows(samples, rows.shape[1])])
    image = Image.fromarray(pixels.astype(np.uint8))
    image.putpalette(_palette())
    content = io.BytesIO()
    image.save(content, format="PNG", compress_level=6)
    return content.getvalue()


@cache
def _palette() -> list[int]:
    """The colours of the spectrogram, 256 times red, green and blue."""
    from matplotlib import colormaps

    colours = colormaps["magma"](np.arange(256))[:, :3]
    return [int(value) for value in np.round(255 * colours).flatten()]


def _waveform_rows(samples: Samples, columns: int) -> Samples:
    """The waveform as rows of pixels: in each column from its lowest to its highest sample."""
    edges = np.linspace(0, len(samples), columns + 1).astype(int)[:-1]
    edges = np.minimum(edges, len(samples) - 1)
    top = max(float(np.abs(samples).max()), 1e-12)
    low = np.minimum.reduceat(samples, edges) / top
    high = np.maximum.reduceat(samples, edges) / top
    # Row 0 is amplitude 1 and the last row -1.
    heights = np.linspace(1, -1, WAVEFORM_ROWS)[:, None]
    half_a_row = 1 / WAVEFORM_ROWS
    inside = (heights <= high + half_a_row) & (heights >= low - half_a_row)
    return np.where(inside, 200, 0)


def player_sounds(waveforms: Mapping[str, Waveform], sample_rate: int) -> list[PlayerSound]:
    """The sounds of a player in a page of one file: sounds and pictures are inside as data URIs.

    Args:
        waveforms: By name, the input first, each (time,) or (channels, time), of which the mean is
            taken. If any peak is above 1, all are divided by the highest.
        sample_rate: In hertz.
    """
    tracks = {name: mean_of(waveform) for name, waveform in waveforms.items()}
    peak = max(1.0, *(float(np.abs(samples).max()) for samples in tracks.values()))
    levels = levels_of(tracks)
    reference = power_peak(next(iter(tracks.values())), sample_rate)
    return [
        PlayerSound(
            name,
            data_uri("audio/wav", wav_of(samples / peak, sample_rate)),
            data_uri("image/png", picture_png(samples, sample_rate, reference or None)),
            levels[name],
            speed_of(sample_rate),
        )
        for name, samples in tracks.items()
    ]
