"""The demo: a page on what each layer of two small trained networks responds to in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import torch
from torch import Tensor

from deconv1d.audio import as_samples, read_audio, write_audio, write_whole
from deconv1d.channels import means
from deconv1d.layers.table import LayerRow
from deconv1d.report import PAGE, LayerEntry, Recording, render_page, whole_folder
from deconv1d.report.sounds import PlayerSound, levels_of, picture_png, power_peak
from deconv1d.sonify import Sonifier
from deconv1d.sounding import to_peak_of

if TYPE_CHECKING:
    from reference_models.clips import SpokenWord

Regime = Literal["supervised", "contrastive"]
WORDS = ("marvin", "seven", "happy")
REGIMES: tuple[Regime, ...] = ("supervised", "contrastive")
SAMPLE_RATE = 8000
LEVEL = 0.5
"""Peak of the input as the page plays it; the residual's is at most twice that."""
SOUNDS = ("input", "sonification", "masked", "residual")
FILES = (PAGE, *(f"{sound}{ending}" for sound in SOUNDS for ending in (".wav", ".png")))

TITLE = "What a network hears in a word"
PARAGRAPHS = (
    "CNN12 reads raw waveforms; these two, an eighth as wide as the paper’s, were trained in "
    "different ways. The supervised one learned to tell 35 spoken words apart. The contrastive one "
    "learned, without any label, to tell which two excerpts are of one clip of sound events "
    "(instruments and effects); it never heard speech. For each of their convolutions this page "
    "takes the one map, or channel, that is most active on a recording and carries it back to the "
    "waveform: its sonification is what reaches that map. The residual is the input without the "
    "sonification.",
    "There are two ways to listen here. The sonification is the paper’s deconvnet: it is made from "
    "the map, and need not be in the recording. Masked is the recording itself, heard through the "
    "cells of its spectrogram that keep this channel active and its rivals less so. In a test with "
    "a known answer, mixtures of two recordings, the masked recording lies where the one is that "
    "drives the channel; in these networks’ middle and late layers the deconvnet’s sonification "
    "does so hardly more than that of a network with shuffled weights. Beside each layer stands "
    "the channel’s place among all of its layer when the network hears the one or the other.",
    "The hop is the time from one value of the map to the next; each value reads the given stretch "
    "of the recording. Every sonification is scaled to its input’s peak, and the files have half "
    "that level, so that no residual is clipped; the player makes the sounds of a layer equally "
    "loud until you tell it not to. Pictures show frequency (mel) upwards over the waveform, in "
    "decibels re the loudest point of the recording.",
    "A sonification that resembles its input need not say much about its channel: compare channels "
    "and layers before you conclude. The words are synthetic speech (eSpeak NG), in voices that "
    "neither network was trained on.",
)


def write_demo(folder: str | Path) -> Path:
    """Writes a page about the networks that ship with the package, and its sounds and pictures.

    Args:
        folder: Where; an older demo there is replaced.

    Returns:
        The page.

    Raises:
        FileError: If the folder cannot be written or holds something else.
    """
    from reference_models.clips import spoken_words
    from reference_models.cnn12 import demo

    networks = {r: Sonifier(demo(regime=r), sample_rate=SAMPLE_RATE) for r in REGIMES}
    spoken = [spoken for spoken in spoken_words() if spoken.word in WORDS]
    # Everything is written into `part`, which takes the folder's name when the page is complete.
    with whole_folder(folder, names=FILES) as part:
        recordings = [_recording(networks[r], r, word, part) for word in spoken for r in REGIMES]
        write_whole(part / PAGE, render_page(TITLE, PARAGRAPHS, recordings).encode())
    return Path(folder) / PAGE


def _recording(sonifier: Sonifier, regime: Regime, spoken: SpokenWord, part: Path) -> Recording:
    from tqdm import tqdm

    waveform = torch.from_numpy(read_audio(spoken.path, SAMPLE_RATE)[0])
    folder = part / f"{spoken.word}-{regime}"
    folder.mkdir()
    # The page has one row of sounds for each convolution; linear layers have no time axis to hear.
    rows = [row for row in sonifier.layers(waveform) if row.type == "Conv1d"]
    bar = tqdm(rows, desc=folder.name, unit="layer", disable=None)
    known = _recognised(sonifier, waveform) if regime == "supervised" else "It knows no words."
    return Recording(
        title=f"{spoken.word}, {regime}",
        about=f"Voice {spoken.voice}. {known}",
        layers=[
            _layer(sonifier, waveform, row, masked, folder)
            for row, masked in zip(bar, _masked(sonifier, waveform, rows), strict=True)
        ],
    )


def _recognised(sonifier: Sonifier, waveform: Tensor) -> str:
    from reference_models.data.layouts import WORDS as classes

    with torch.inference_mode():
        probabilities = sonifier.model(waveform[None, None]).softmax(-1)[0]
    best = int(probabilities.argmax())
    return f"The network takes it for “{classes[best]}” ({probabilities[best]:.0%})."


def _masked(sonifier: Sonifier, waveform: Tensor, rows: Sequence[LayerRow]) -> list[Tensor]:
    """Returns the masked recording of each layer's most active channel, at the recording's peak."""
    names = [row.name for row in rows]
    sonifications = sonifier.listen(waveform, layers=names, channel="most_active")
    return [to_peak_of(waveform, own.waveform)[0] for own in sonifications]


def _layer(
    sonifier: Sonifier, waveform: Tensor, row: LayerRow, masked: Tensor, folder: Path
) -> LayerEntry:
    """Writes a layer's sounds and pictures into its own folder in the word's."""
    name = row.name.rpartition(".")[2]
    place = folder / name
    place.mkdir()
    sonification = sonifier.sonify(waveform, layer=row.name, channel="most_active")
    channel = sonification.channel
    assert isinstance(channel, int)
    tracks = {
        "input": waveform,
        "sonification": sonification.waveform,
        "masked": masked,
        "residual": sonification.residual,
    }
    return LayerEntry(
        name=name,
        facts={
            **_facts(row, channel),
            "place on its sonification": _place(sonifier, sonification.waveform, row, channel),
            "place on masked": _place(sonifier, masked, row, channel),
            "verified (value, signal)": str(sonification.verified),
        },
        sounds=_sounds(tracks, folder, name),
        seconds=len(waveform) / SAMPLE_RATE,
    )


def _sounds(tracks: Mapping[str, Tensor], folder: Path, layer: str) -> list[PlayerSound]:
    """Writes a layer's sounds and their pictures; the input lies beside all layers."""
    samples = {name: as_samples(LEVEL * sound)[0] for name, sound in tracks.items()}
    levels, peak = levels_of(samples), power_peak(samples["input"], SAMPLE_RATE)
    sounds = []
    for name, own in samples.items():
        stem = Path(name) if name == "input" else Path(layer, name)
        if not (folder / f"{stem}.png").exists():
            write_audio(folder / f"{stem}.wav", own, SAMPLE_RATE, subtype="PCM_16")
            write_whole(folder / f"{stem}.png", picture_png(own, SAMPLE_RATE, peak))
        address = quote(f"{folder.name}/{stem.as_posix()}")
        sounds.append(PlayerSound(name, f"{address}.wav", f"{address}.png", levels[name]))
    return sounds


def _place(sonifier: Sonifier, sound: Tensor, row: LayerRow, channel: int) -> str:
    """Returns the channel's place among the layer's on a sound, 1 the most active."""
    (heard,) = means(sonifier.maps(sound, layer=row.name))
    return f"{int((heard > heard[channel]).sum()) + 1} of {row.channels}"


def _facts(row: LayerRow, channel: int) -> dict[str, str]:
    """Returns what the page says of a layer, beside its name."""
    assert row.hop is not None
    assert row.receptive_field is not None
    return {
        "maps": str(row.channels),
        "channel": str(channel),
        "hop": _duration(int(row.hop)),
        "reads": _duration(row.receptive_field),
    }


def _duration(samples: int) -> str:
    return f"{1000 * samples / SAMPLE_RATE:.3g} ms"
