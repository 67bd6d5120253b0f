"""Figures 2 and 3: selected pairs of input and sonification, to see and hear."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from deconv1d import Sonifier
from deconv1d.render import plot_spectrograms
from reference_models.data import ClipSet
from reference_models.data.index import SAMPLE_RATE
from reference_models.experiments.comparison import differences
from reference_models.experiments.finding import Experiment, Finding, Number, Row, part
from reference_models.experiments.hearing import (
    first_networks,
    heard_clips,
    listen,
    sonified,
    whole_clip,
)
from reference_models.experiments.strongest import TOP_3, answering, strongest
from reference_models.experiments.study import Regime, Study, every_nth, pretrained
from reference_models.statistics import Estimate

NAME = "figures-2-3"
PAIRS: dict[Regime, tuple[str, ...]] = {
    "supervised": ("conv3", "conv4", "conv5", "conv6", "conv7"),
    "contrastive": ("conv8", "conv11"),
}
FIGURE: dict[Regime, str] = {"supervised": "figure-2", "contrastive": "figure-3"}
CANDIDATES = 16
"""Filters of a layer that are compared, at most."""

Candidate = dict[str, Any]


def figures_2_3(study: Study) -> Finding:
    """The best pair of each layer that the paper shows one of."""
    clips = heard_clips(study)
    rows, figures, sounds = [], {}, {}
    for regime, layers in PAIRS.items():
        sonifier, pairs = listen(study, pretrained(regime)), {}
        for layer in layers:
            compute = partial(candidates, study, regime, layer)
            found = part(study, NAME, f"{regime}-{layer}", compute)
            rows.append(_row(regime, layer, found, clips))
            if found:
                pairs |= _pair(sonifier, clips, layer, best(found))
        sounds |= {f"{regime}, {title}": (sound, SAMPLE_RATE) for title, sound in pairs.items()}
        if pairs:
            figures[FIGURE[regime]] = plot_spectrograms(pairs, SAMPLE_RATE, columns=2)
    return Finding(
        rows,
        numbers=[
            Number(
                f"{row['regime']}, {row['layer']}, {name}",
                "coherence",
                Estimate(row[name], None, None, 1),
            )
            for row in rows
            if row["of_filters"]
            for name in ("coherence", "control")
        ],
        figures=figures,
        sounds=sounds,
        n=f"of each layer at most {min(CANDIDATES, study.preset.channels)} filters, each with the "
        "test clip it answers most",
        differs=f"{differences(study, 'audioset')} "
        "The paper's pairs were picked by ear. Here of each layer the filter is picked "
        "whose sonification of its own strongest clip is the most coherent with the clip, beyond "
        "the mean of the other filters' sonifications of it.",
    )


def candidates(study: Study, regime: Regime, layer: str) -> list[Candidate]:
    """Filters of a layer, spread evenly over those that answer, with what they are chosen by.

    Returns:
        Of each filter its number, its strongest clip's id, the mean of the five highest coherences
        of clip and sonification, and as control the mean of the same number over the other
        filters' sonifications of that clip that are not silent.
    """
    ranking, clips = strongest(study, regime)[layer], heard_clips(study)
    kept = answering(ranking)
    chosen = [kept[n] for n in every_nth(kept, min(CANDIDATES, study.preset.channels))]
    sonifier = listen(study, pretrained(regime))
    found = []
    for place, channel in enumerate(chosen):
        clip = str(ranking.clip[channel, 0])
        x = whole_clip(clips, clips.ids.index(clip))
        own, control = coherences(sonifier, x, layer, chosen, place)
        found.append({"filter": channel, "clip": clip, "coherence": own, "control": control})
    return found


def coherences(
    sonifier: Sonifier, x: Tensor, layer: str, channels: Sequence[int], place: int
) -> tuple[float, float]:
    """Coherence of one filter's sonification with a clip, and the mean of the other filters'."""
    found = sonified(sonifier, x, layer=layer, channel=list(channels))
    values, sounding = found.coherence(), found.gain > 0
    sounding[place] = False
    others = values[sounding]
    return float(values[place]), float(others.mean()) if len(others) else 0.0


def best(found: Sequence[Candidate]) -> Candidate:
    """The candidate with the highest coherence beyond its control."""
    return max(found, key=lambda candidate: candidate["coherence"] - candidate["control"])


def _row(regime: str, layer: str, found: Sequence[Candidate], clips: ClipSet) -> Row:
    """The chosen filter; nothing where no filter answers."""
    chosen = best(found) if found else dict.fromkeys(("filter", "clip", "coherence", "control"))
    labels = _labels(clips, chosen["clip"]) if found else None
    return {"regime": regime, "layer": layer, "of_filters": len(found), **chosen, "labels": labels}


def _labels(clips: ClipSet, clip: str) -> str:
    """The names of a clip's classes."""
    held = clips.multi_hot([clips.ids.index(clip)])[0]
    return "; ".join(clips.classes[number] for number in held.nonzero()[:, 0].tolist())


def _pair(sonifier: Sonifier, clips: ClipSet, layer: str, chosen: Candidate) -> dict[str, Tensor]:
    """Input and sonification, by title."""
    x = whole_clip(clips, clips.ids.index(chosen["clip"]))
    found = sonified(sonifier, x, layer=layer, channel=chosen["filter"])
    title = f"{layer}, filter {chosen['filter']}"
    return {f"{title}: input": x, f"{title}: sonification": found.waveform}


PAIRS_TO_HEAR = Experiment(
    NAME, "Figures 2 and 3: selected pairs", first_networks, figures_2_3, after=(TOP_3.name,)
)
