"""Figure 1: how active a layer's maps are, and how broad the sounds are that they let through."""

from collections.abc import Sequence
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deconv1d import Sonifier
from deconv1d.measure import spectral_bandwidth, spectral_centroid, spectral_entropy
from deconv1d.render import plot_spectrograms
from reference_models.data.index import SAMPLE_RATE
from reference_models.evaluate import over_runs
from reference_models.experiments.finding import (
    Claim,
    Experiment,
    Finding,
    Row,
    above,
    difference,
    part,
)
from reference_models.experiments.hearing import (
    DEEP,
    filters,
    first_networks,
    heard_clips,
    listen,
    sonified,
    whole_clip,
)
from reference_models.experiments.study import (
    LAYERS,
    REGIMES,
    Regime,
    Study,
    every_nth,
    pretrained,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "figure-1"
ACTIVE = 0.01
"""A map is active where it is above this part of the layer's largest value on the same clip."""
PICTURED = ("conv1", "conv8", "conv9")
SPECTRA = ("bandwidth_hz", "centroid_hz", "entropy")

Answer = dict[str, Any]


def figure_1(study: Study) -> Finding:
    """Activity and spectra of every layer of both regimes, and what figure 1 shows."""
    answers = {
        (layer, regime): part(
            study, NAME, f"{regime}-{layer}", partial(_heard, study, regime, layer)
        )
        for layer in LAYERS
        for regime in REGIMES
    }
    clips = len(next(iter(answers.values())))
    return Finding(
        rows=[_row(*place, clips) for place, clips in answers.items()],
        claims=[_claim(answers)],
        figures={NAME: _picture(study)},
        n=f"{clips} test clips; of each layer at most {study.preset.channels} filters, spread "
        "evenly over it, are sonified; activity is of all filters",
        differs="The paper shows pictures and gives no numbers. A map counts as active if it "
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
    found = sonified(sonifier, x, layer=layer, channel=list(channels))
    active = found.activation[0] > ACTIVE * found.activation.max()
    sounding = found.gain > 0
    sounds, rate = found.waveform[sounding], sonifier.sample_rate
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


def _heard(study: Study, regime: Regime, layer: str) -> list[Answer]:
    """The layer's answer to every clip."""
    clips, sonifier = heard_clips(study), listen(study, pretrained(regime))
    channels = every_nth(range(filters(sonifier, layer)), study.preset.channels)
    return [
        answer(sonifier, whole_clip(clips, number), layer=layer, channels=channels)
        for number in every_nth(clips, study.preset.clips)
    ]


def means(answers: Sequence[Answer]) -> dict[str, float | None]:
    """Means over the clips of what `answer` returns, with 95 % intervals; None for nothing."""
    row: dict[str, float | None] = {}
    for name in answers[0]:
        values = [clip[name] for clip in answers if clip[name] is not None]
        interval = over_runs(values) if values else None
        row[name] = interval and interval.mean
        row[f"{name}_ci"] = interval and interval.half_width
    return row


def _row(layer: str, regime: str, answers: Sequence[Answer]) -> Row:
    return {"layer": layer, "regime": regime, "clips": len(answers), **means(answers)}


def _claim(answers: dict[tuple[str, str], list[Answer]]) -> Claim:
    """Claim d, over clips."""
    maps = [_deep(answers, regime, "active_maps") for regime in REGIMES]
    moments = [_deep(answers, regime, "active_moments") for regime in REGIMES]
    gap = difference(*maps)
    return Claim(
        "d",
        above(gap),
        f"Share of active maps, mean of layers 8 to 11: contrastive {mean(maps[0]):.3f}, "
        f"supervised {mean(maps[1]):.3f}; difference over clips {gap}. Share of active moments: "
        f"contrastive {mean(moments[0]):.3f}, supervised {mean(moments[1]):.3f}; difference "
        f"{difference(*moments)}.",
    )


def _deep(answers: dict[tuple[str, str], list[Answer]], regime: str, name: str) -> list[float]:
    """A number of each clip, averaged over the deep layers."""
    layers = zip(*(answers[layer, regime] for layer in DEEP), strict=True)
    return [mean(answer[name] for answer in clip) for clip in layers]


def _picture(study: Study) -> "Figure":
    """The first clip and what the most active filters of three layers make of it."""
    x = whole_clip(heard_clips(study), 0)
    sounds = {}
    for regime in REGIMES:
        sonifier = listen(study, pretrained(regime))
        sounds[f"{regime}: input"] = x
        for layer in PICTURED:
            found = sonified(sonifier, x, layer=layer, channel="most_active")
            title = f"{regime}: {layer}, filter {int(found.channel)}"
            sounds[title] = found.waveform
    return plot_spectrograms(sounds, SAMPLE_RATE, columns=1 + len(PICTURED))


ACTIVITY = Experiment(NAME, "Figure 1: band selectivity and map activity", first_networks, figure_1)
