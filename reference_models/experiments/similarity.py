"""Figure 7: how much of the input a layer's sonifications keep, beside what controls keep of it."""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import linear_regression
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconv1d.measure import mean_top_coherence
from reference_models.cnn12 import SHORTEST
from reference_models.evaluate import Interval, over_runs
from reference_models.experiments.comparison import differences
from reference_models.experiments.control_sounds import CONTROLS, SONIFICATION, sounds, twin_of
from reference_models.experiments.curves import plot_curves
from reference_models.experiments.finding import (
    Claim,
    Experiment,
    Finding,
    Number,
    Row,
    numbers_of,
    paired,
    part,
)
from reference_models.experiments.hearing import (
    COMPARED,
    UNTRAINED,
    every_encoder,
    heard_clips,
    listen,
    network_of,
)
from reference_models.experiments.study import (
    LAYERS,
    REGIMES,
    Study,
    every_nth,
)
from reference_models.statistics import over_networks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "figure-7"
MINUS = {name: f"minus {name}" for name in CONTROLS}
MEASURES = (SONIFICATION, *MINUS.values())
BATCH = 4


def figure_7(study: Study) -> Finding:
    """Coherence of sonifications with the input by layer and regime, and minus its controls.

    Beside both regimes stand the encoders that they started from: what falls there too is the
    architecture's.
    """
    runs = range(study.preset.runs)
    rows = [
        _row(study, regime, random_state, layer)
        for regime in COMPARED
        for random_state in runs
        for layer in LAYERS
    ]
    clips = len(every_nth(heard_clips(study), study.preset.clips))
    return Finding(
        rows=rows,
        claims=[claim_b(rows), claim_c(rows)],
        numbers=[
            *numbers_of(rows, ("regime", "layer"), dict.fromkeys(MEASURES, "coherence")),
            *numbers_of_falls(rows),
        ],
        figures={NAME: _picture(rows)},
        n=f"{len(runs)} networks of each regime, and the untrained encoders that they started "
        f"from; {clips} test clips, whole",
        differs=f"{differences(study, 'audioset')} The paper has no controls, and no untrained "
        "encoders. A silent sonification has coherence 0.",
    )


def coherences(x: Tensor, named_sounds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean of the five highest coherences of each clip and each of its sounds, (batch,), by name.

    Args:
        x: The clips, (batch, 1, time).
        named_sounds: What `control_sounds.sounds` returns.
    """
    return {name: mean_top_coherence(x, sound)[:, 0] for name, sound in named_sounds.items()}


def falls(rows: Sequence[Row], regime: str, measure: str) -> list[float]:
    """The `fall` of a measure in each run."""
    of_regime = [row for row in rows if row["regime"] == regime]
    random_states = sorted({row["random_state"] for row in of_regime})
    return [
        fall([row[measure] for row in of_regime if row["random_state"] == random_state])
        for random_state in random_states
    ]


def fall(values: Sequence[float]) -> float:
    """How much values fall from the first layer to the last, by least squares."""
    steps = len(values) - 1
    return -linear_regression(range(len(values)), values).slope * steps


def claim_b(rows: Sequence[Row]) -> Claim:
    """Claim b: how much coherence falls from layer 1 to layer 11, in either regime."""
    return Claim(
        "b",
        [
            paired(f"{regime}, from layer 1 to 11", "coherence", falls(rows, regime, SONIFICATION))
            for regime in REGIMES
        ],
    )


def claim_c(rows: Sequence[Row]) -> Claim:
    """Claim c: how much more it falls in supervised than in contrastive networks."""
    sides = (falls(rows, regime, SONIFICATION) for regime in ("supervised", "contrastive"))
    return Claim("c", [paired("fall, supervised minus contrastive", "coherence", *sides)])


def numbers_of_falls(rows: Sequence[Row]) -> list[Number]:
    """How much coherence falls, and how much more than in the encoder that a network was."""
    by_regime = {regime: falls(rows, regime, SONIFICATION) for regime in COMPARED}
    beyond = {
        f"{regime} minus {UNTRAINED}": [
            ours - theirs
            for ours, theirs in zip(by_regime[regime], by_regime[UNTRAINED], strict=True)
        ]
        for regime in REGIMES
    }
    return [
        Number(f"{name}, fall from layer 1 to 11", "coherence", over_networks(values))
        for name, values in (by_regime | beyond).items()
    ]


def _row(study: Study, regime: str, random_state: int, layer: str) -> Row:
    key = f"{regime}-s{random_state}-{layer}"
    means = part(study, NAME, key, partial(_mean_coherences, study, regime, random_state, layer))
    own, silent = means[SONIFICATION], means["silent"]
    less = {column: own - means[name] for name, column in MINUS.items()}
    place = {"regime": regime, "random_state": random_state, "layer": layer}
    return {**place, SONIFICATION: own, **less, "silent": silent}


def _mean_coherences(study: Study, regime: str, random_state: int, layer: str) -> dict[str, float]:
    """Means over the clips, and the share of the clips whose sonification is silent."""
    draws = torch.Generator().manual_seed(random_state)
    sonifier, clips = listen(study, network_of(regime, random_state)), heard_clips(study)
    twin, chosen = twin_of(sonifier, draws), every_nth(clips, study.preset.clips)
    batches = []
    for _, x in clips.whole(chosen, batch_size=BATCH, shortest=SHORTEST):
        x = x.to(study.device)
        named_sounds = sounds(sonifier, twin, x, layer=layer, draws=draws)
        batches.append(coherences(x, named_sounds))
    every = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    silent = (every[SONIFICATION] == 0).double().mean().item()
    return {**{name: values.mean().item() for name, values in every.items()}, "silent": silent}


def _picture(rows: Sequence[Row]) -> "Figure":
    def curve(regime: str, measure: str) -> list[Interval]:
        of_regime = [row for row in rows if row["regime"] == regime]
        return [
            over_runs([r[measure] for r in of_regime if r["layer"] == layer]) for layer in LAYERS
        ]

    panels = {
        measure: {regime: curve(regime, measure) for regime in COMPARED} for measure in MEASURES
    }
    return plot_curves(panels, LAYERS, "mean top-5 coherence with the input")


SIMILARITY = Experiment(
    NAME, "Figure 7: coherence of input and sonification", every_encoder, figure_7
)
