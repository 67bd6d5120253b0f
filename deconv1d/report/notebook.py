"""What a notebook shows of a sonification: players and pictures, without scripts."""

from __future__ import annotations

from collections.abc import Mapping

from deconv1d.audio import Waveform, as_samples, whole_rate
from deconv1d.errors import InputError
from deconv1d.render import data_uri
from deconv1d.report.sounds import faster, player_sounds, speed_of, wav_of
from deconv1d.templates import rendered


def player_html(waveform: Waveform, sample_rate: int, *, title: str) -> str:
    """Writes the HTML of a titled audio player with the sound inside, as 16-bit WAV.

    A browser plays no rate below 3000 Hz: such a sound is played faster, which the title says.

    Args:
        waveform: Shape (time,) or (channels, time); divided by its peak if that is above 1.
        sample_rate: Samples per second.
        title: Plain text.

    Returns:
        HTML, without scripts.

    Raises:
        InputError: If the waveform or the rate cannot be used.
    """
    rate = whole_rate(sample_rate)
    sound = data_uri("audio/wav", wav_of(as_samples(waveform), rate))
    return rendered("player.html", title=title, sound=sound, faster=faster(speed_of(rate)))


def pair_html(
    waveforms: Mapping[str, Waveform],
    sample_rate: int,
    *,
    title: str,
    facts: Mapping[str, object],
) -> str:
    """Writes the notebook view of a sonification: facts, and each sound with its picture.

    Text has the notebook's own colours, light or dark.

    Args:
        waveforms: Title to waveform, the input first. If any peak is above 1, the players divide
            all of them by the highest, so that their loudness still compares.
        sample_rate: Samples per second.
        title: Plain text.
        facts: Rows of a two-column table, shown as plain text.

    Returns:
        HTML with sounds and pictures inside, without scripts.

    Raises:
        InputError: If there is no waveform, or one of them or the rate cannot be used.
    """
    rate = whole_rate(sample_rate)
    if not waveforms:
        raise InputError("There is nothing to show: expected waveforms, got none. Give one.")
    first = as_samples(next(iter(waveforms.values())))
    return rendered(
        "pair.html",
        title=title,
        facts=facts,
        sounds=player_sounds(waveforms, rate),
        faster=faster(speed_of(rate)),
        seconds=f"{first.shape[-1] / rate:.3g}",
        hertz=f"{rate / 2:g}",
    )
