"""Figure 5: how the sonification of a filter changes while the network learns."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deconv1d.measure import log_mel_correlation, spectral_bandwidth, spectral_entropy
from deconv1d.render import plot_spectrograms
from deconv1d.sonification import Sonification
from reference_models.data.index import SAMPLE_RATE
from reference_models.experiments.comparison import differences
from reference_models.experiments.finding import (
    Claim,
    Experiment,
    Finding,
    Row,
    numbers_of,
    over_layers,
    paired,
)
from reference_models.experiments.hearing import heard_clips, listen, sonified, whole_clip
from reference_models.experiments.strongest import TOP_3, strongest
from reference_models.experiments.study import Network, Preset, Study, pretrained, random_states

NAME = "figure-5"
EVOLVING = ("conv2", "conv5", "conv8", "conv10")
MAPS = 2
"""Filters of each layer, at most."""
ENTROPY = "spectral entropy, 0 to 1"
UNITS = {
    "entropy": ENTROPY,
    "input_entropy": ENTROPY,
    "coherence": "coherence",
    "bandwidth_hz": "Hz",
    "peak": "of the map",
    "like_last": "log-mel correlation",
}
HEARD = "conv5"
"""The layer whose first filter can be heard at every checkpoint."""


class Place(NamedTuple):
    """A filter, and the clip that it answers most at the last checkpoint."""

    layer: str
    filter: int
    clip: str

    def __str__(self) -> str:
        return f"{self.layer}, filter {self.filter}"


def networks(preset: Preset) -> Sequence[Network]:
    """Every contrastive network; the first has a series of checkpoints."""
    return [pretrained("contrastive", random_state) for random_state in random_states(preset)]


def figure_5(study: Study) -> Finding:
    """Some filters at every checkpoint, with the clip that wins at the last kept fixed."""
    rows: list[Row] = []
    pictures: dict[str, Tensor] = {}
    sounds: dict[str, tuple[Tensor, int]] = {}
    epochs = study.epochs(pretrained("contrastive"))
    for place in drawn(study):
        series = evolve(study, place)
        rows += numbers(place, series, 0)
        tracks = _tracks(place, series)
        pictures |= tracks
        if place.layer == HEARD and not sounds:
            sounds = {title: (sound, SAMPLE_RATE) for title, sound in tracks.items()}
    for random_state in list(random_states(study.preset))[1:]:
        for place in drawn(study, random_state):
            rows += numbers(place, evolve(study, place, random_state), random_state)
    return Finding(
        rows,
        claims=[claim_r(rows)],
        numbers=numbers_of([r for r in rows if r["checkpoint"]], ("layer", "checkpoint"), UNITS),
        figures={NAME: plot_spectrograms(pictures, SAMPLE_RATE, columns=1 + len(epochs))},
        sounds=sounds,
        n=f"at most {MAPS} filters, drawn at random, of each of layers 2, 5, 8 and 10 of "
        f"{study.preset.runs} contrastive networks; checkpoints of the first after "
        f"{', '.join(map(str, epochs))} epochs, of the others the first and the last",
        differs=f"{differences(study, 'audioset')} "
        "The paper shows pictures and gives no numbers; epoch 0 is the untrained network. "
        "How full a spectrum is says its entropy, 1 for white noise; that of silence counts as 0.",
    )


def drawn(study: Study, random_state: int = 0) -> list[Place]:
    """The filters of a network that are followed, dead ones not left out."""
    draws = torch.Generator().manual_seed(random_state)
    rankings = strongest(study, "contrastive", random_state)
    places = []
    for layer in EVOLVING:
        ranking = rankings[layer]
        for channel in torch.randperm(len(ranking.value), generator=draws)[:MAPS].tolist():
            places.append(Place(layer, channel, str(ranking.clip[channel, 0])))
    return places


def evolve(study: Study, place: Place, random_state: int = 0) -> dict[int, Sonification]:
    """The filter's sonification of its clip after each epoch that has a checkpoint."""
    network, clips = pretrained("contrastive", random_state), heard_clips(study)
    x = whole_clip(clips, clips.ids.index(place.clip))
    return {
        epoch: sonified(listen(study, network, epoch), x, layer=place.layer, channel=place.filter)
        for epoch in study.epochs(network)
    }


def numbers(place: Place, series: Mapping[int, Sonification], random_state: int) -> list[Row]:
    """A row for each checkpoint.

    `entropy` and `input_entropy` say how full the two spectra are, `peak` is the map's largest
    value, `coherence` that of input and sonification, `like_last` the log-mel
    correlation with the last checkpoint's sonification. What a silent sonification has none of is
    left out.
    """
    last = series[max(series)]
    named = {min(series): "first", max(series): "last"}
    rows: list[Row] = []
    for epoch, sonification in series.items():
        heard, sound = sonification.input, sonification.waveform
        sounding = bool(sonification.gain > 0)
        bandwidth = spectral_bandwidth(sound, sample_rate=SAMPLE_RATE)
        like_last = log_mel_correlation(sound, last.waveform, sample_rate=SAMPLE_RATE)
        rows.append(
            {
                "random_state": random_state,
                **place._asdict(),
                "epoch": epoch,
                "checkpoint": named.get(epoch, ""),
                "peak": float(sonification.activation[0, place.filter].max()),
                "silent": int(not sounding),
                "coherence": float(sonification.coherence()) if sounding else None,
                "bandwidth_hz": float(bandwidth) if sounding else None,
                "entropy": float(spectral_entropy(sound)) if sounding else 0.0,
                "input_entropy": float(spectral_entropy(heard)) if heard.any() else 0.0,
                "like_last": float(like_last) if sounding and last.gain > 0 else None,
            }
        )
    return rows


def claim_r(rows: Sequence[Row]) -> Claim:
    """Claim r: at first the spectrum is fuller than at last, and fuller than the input's."""
    first, last = (over_layers(rows, "entropy", checkpoint=name) for name in ("first", "last"))
    heard = over_layers(rows, "input_entropy", checkpoint="first")
    return Claim(
        "r",
        [
            paired("first checkpoint minus last", ENTROPY, first, last),
            paired("first checkpoint minus input", ENTROPY, first, heard),
        ],
    )


def _tracks(place: Place, series: Mapping[int, Sonification]) -> dict[str, Tensor]:
    """The input and the sonification after each epoch, by title."""
    sounds = {f"{place}: epoch {epoch}": each.waveform for epoch, each in series.items()}
    return {f"{place}: input": series[max(series)].input, **sounds}


EVOLUTION = Experiment(
    NAME, "Figure 5: feature evolution in training", networks, figure_5, after=(TOP_3.name,)
)
