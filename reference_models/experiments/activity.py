"""Figure 1: how active a layer's maps are, and how broad the sounds are that they let through."""

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from deconv1d import Sonifier
from deconv1d.measure import spectral_bandwidth, spectral_centroid, spectral_entropy
from deconv1d.render import plot_spectrograms
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
    part,
)
from reference_models.experiments.hearing import (
    COMPARED,
    DEEP,
    beyond_untrained,
    every_encoder,
    filters,
    heard_clips,
    listen,
    network_of,
    sonified,
    whole_clip,
)
from reference_models.experiments.study import (
    LAYERS,
    REGIMES,
    Study,
    every_nth,
    pretrained,
    random_states,
)
from reference_models.statistics import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "figure-1"
ACTIVE = 0.01
"""A map is active where it is above this part of the layer's largest value on the same clip."""
PICTURED = ("conv1", "conv8", "conv9")
SPECTRA = ("bandwidth_hz", "centroid_hz", "entropy")
UNITS = {
    "active_maps": "share of the maps",
    "active_moments": "share of the moments",
    "silent": "share of the sonifications",
    "bandwidth_hz": "Hz",
    "centroid_hz": "Hz",
    "entropy": "spectral entropy, 0 to 1",
}
BAND = SAMPLE_RATE / 2

Answer = dict[str, Any]


def figure_1(study: Study) -> Finding:
    """Activity and spectra of every layer of both regimes, and what figure 1 shows.

    Beside both stand the encoders that they started from.
    """
    rows = [
        _row(study, regime, random_state, layer)
        for regime in COMPARED
        for random_state in random_states(study.preset)
        for layer in LAYERS
    ]
    clips = len(every_nth(heard_clips(study), study.preset.clips))
    return Finding(
        rows=rows,
        claims=[claim_d(rows), claim_s(rows)],
        numbers=[
            *numbers_of(rows, ("regime", "layer"), UNITS),
            *beyond_untrained(rows, "active_maps", UNITS["active_maps"]),
            *beyond_untrained(rows, "bandwidth_hz", UNITS["bandwidth_hz"]),
        ],
        figures={NAME: _picture(study)},
        n=f"{study.preset.runs} networks of each regime, and the untrained encoders that they "
        f"started from; {clips} test clips; of each layer at most {study.preset.channels} "
        "filters, spread evenly over it, are sonified; activity is of all filters",
        differs=f"{differences(study, 'audioset')} The paper shows pictures and gives no numbers, "
        "and has no untrained encoders. "
        "A map counts as active if it "
        f"anywhere exceeds {ACTIVE:.0%} of the layer's largest value on the clip; bandwidth, "
        "centroid and entropy are those of the sonifications that are not silent.",
    )


def answer(sonifier: Sonifier, x: Tensor, *, layer: str, channels: Sequence[int]) -> Answer:
    """What a layer makes of a clip.

    Args:
        sonifier: Of an encoder, with its sample rate.
        x: The clip, (samples,).
        layer: The layer.
        channels: Filters that are sonified.

    Returns:
        Shares of the maps and of their moments that are active, the share of the sonifications
        that are silent, and means over the others of bandwidth and centroid in hertz and of
        spectral entropy: None if all are silent.
    """
    sonification = sonified(sonifier, x, layer=layer, channel=list(channels))
    active = sonification.activation[0] > ACTIVE * sonification.activation.max()
    sounding = sonification.gain > 0
    sounds, rate = sonification.waveform[sounding], sonifier.sample_rate
    spectra: dict[str, float | None] = dict.fromkeys(SPECTRA)
    if len(sounds):
        spectra = {
            "bandwidth_hz": spectral_bandwidth(sounds, sample_rate=rate).mean().item(),
            "centroid_hz": spectral_centroid(sounds, sample_rate=rate).mean().item(),
            "entropy": spectral_entropy(sounds).mean().item(),
        }
    return {
        "active_maps": active.any(-1).double().mean().item(),
        "active_moments": active.double().mean().item(),
        "silent": 1 - sounding.double().mean().item(),
        **spectra,
    }


def _heard(study: Study, regime: str, random_state: int, layer: str) -> list[Answer]:
    """The layer's answer to every clip."""
    clips, sonifier = heard_clips(study), listen(study, network_of(regime, random_state))
    channels = every_nth(range(filters(sonifier, layer)), study.preset.channels)
    return [
        answer(sonifier, whole_clip(clips, number), layer=layer, channels=channels)
        for number in every_nth(clips, study.preset.clips)
    ]


def means(answers: Sequence[Answer]) -> dict[str, float | None]:
    """Means over the clips of what `answer` returns; None where no clip has a number."""
    return {name: fmean(found) if (found := held(answers, name)) else None for name in UNITS}


def held(answers: Sequence[Answer], name: str) -> list[float]:
    """One of the numbers that `answer` returns, of the clips that have it."""
    return [clip[name] for clip in answers if clip[name] is not None]


def _row(study: Study, regime: str, random_state: int, layer: str) -> Row:
    """One network's layer: means over the clips."""
    key = f"{regime}-s{random_state}-{layer}"
    answers = part(study, NAME, key, partial(_heard, study, regime, random_state, layer))
    place = {"regime": regime, "random_state": random_state, "layer": layer, "clips": len(answers)}
    return {**place, **means(answers)}


def claim_d(rows: Sequence[Row]) -> Claim:
    """Claim d: the share of active maps in layers 8 to 11, contrastive minus supervised."""
    sides = (over_layers(rows, "active_maps", DEEP, regime=regime) for regime in REGIMES)
    return Claim("d", [paired("active maps, layers 8 to 11", "share of the maps", *sides)])


def claim_s(rows: Sequence[Row]) -> Claim:
    """Claim s: how broad sonifications are, contrastive minus supervised, in layer 1 and deep."""

    def gap(name: str, layers: Sequence[str], claimed: Literal["above", "equal"]) -> Comparison:
        sides = (
            [width / BAND for width in over_layers(rows, "bandwidth_hz", layers, regime=regime)]
            for regime in REGIMES
        )
        return paired(f"bandwidth, {name}", "share of the band", *sides, claimed=claimed)

    return Claim("s", [gap("layer 1", LAYERS[:1], "equal"), gap("layers 8 to 11", DEEP, "above")])


def _picture(study: Study) -> "Figure":
    """The first clip and what the most active filters of three layers make of it."""
    x = whole_clip(heard_clips(study), 0)
    sounds = {}
    for regime in REGIMES:
        sonifier = listen(study, pretrained(regime))
        sounds[f"{regime}: input"] = x
        for layer in PICTURED:
            sonification = sonified(sonifier, x, layer=layer, channel="most_active")
            title = f"{regime}: {layer}, filter {int(sonification.channel)}"
            sounds[title] = sonification.waveform
    return plot_spectrograms(sounds, SAMPLE_RATE, columns=1 + len(PICTURED))


ACTIVITY = Experiment(NAME, "Figure 1: band selectivity and map activity", every_encoder, figure_1)
