"""Figure 6: how much worse a network hears without what its most active maps respond to."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deconv1d.sounding import to_peak_of
from reference_models.cnn12 import SHORTEST
from reference_models.data import ClipSet
from reference_models.data.index import SAMPLE_RATE
from reference_models.evaluate import metrics, over_runs
from reference_models.experiments.comparison import NAMES, differences, metric_of, spelled_out
from reference_models.experiments.control_sounds import (
    CONTROLS,
    SONIFICATION,
    sounds,
    twin_of,
    without,
)
from reference_models.experiments.curves import plot_curves
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
from reference_models.experiments.gates import MODES, recogniser, recognisers
from reference_models.experiments.hearing import listen
from reference_models.experiments.study import (
    LAYERS,
    Network,
    Preset,
    Study,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "figure-6"
BASELINE = "baseline"
PAPER, LOUD = "as in the paper", "as in the paper, re-normalised"
WITHOUT = (SONIFICATION, *CONTROLS, PAPER, LOUD)
BATCH = 8

Change = Callable[[Tensor], Mapping[str, Tensor]]


def networks(preset: Preset) -> list[Network]:
    """Each mode's network of every run."""
    return [network for mode in MODES for network in recognisers(preset, mode)]


def figure_6(study: Study) -> Finding:
    """Recognition without each layer's sonifications, and without as much of four other sounds."""
    runs = range(study.preset.runs)
    rows = [
        _row(study, random_state, mode, layer)
        for random_state in runs
        for mode in MODES
        for layer in LAYERS
    ]
    data = study.preset.recognised
    clips, unit = len(_test(study)), metric_of(study, data)
    other = f"The paper's networks are of FSD50K, these of {NAMES[data]}. "
    return Finding(
        rows=rows,
        claims=[*claims_a(rows, unit), *claims_l(rows, unit), claim_g(rows, unit)],
        numbers=numbers_of(rows, ("mode", "layer"), dict.fromkeys((BASELINE, *WITHOUT), unit)),
        figures={NAME: _picture(rows, unit)},
        n=f"{len(runs)} networks of each mode; all {clips} test clips, whole; an mAP is the mean "
        "over the classes that some of them have and others have not",
        differs=f"{differences(study, 'audioset', data)} {'' if data == 'fsd50k' else other}"
        "The paper subtracts sonifications at the input's peak and has no controls: its way is "
        f"'{PAPER}', and with the residual at the input's peak again '{LOUD}'. In the other curves "
        "sounds are subtracted above 50 Hz by least squares, every control as strongly as the "
        "sonification, and all rests of a clip are equally loud.",
    )


def scores(
    model: nn.Module, clips: ClipSet, numbers: Sequence[int], change: Change
) -> dict[str, Tensor]:
    """A model's outputs for changed clips, by the change's name, (clips, classes), as numbered.

    Args:
        model: Waveforms (batch, 1, time) to outputs.
        clips: The clips; each is changed and heard whole, with others of its length.
        numbers: Which of them, rising.
        change: From waveforms, (batch, 1, time), to what the model hears instead, by name.
    """
    device = next(model.parameters()).device
    order, heard = [], []
    for batch, x in clips.whole(numbers, batch_size=BATCH, shortest=SHORTEST):
        changed = change(x.to(device))
        with torch.no_grad():
            heard.append({name: model(sound).cpu() for name, sound in changed.items()})
        order.append(batch)
    ranked = torch.cat(order).argsort()
    return {name: torch.cat([outputs[name] for outputs in heard])[ranked] for name in heard[0]}


def residuals(
    x: Tensor, named_sounds: Mapping[str, Tensor], sample_rate: float
) -> dict[str, Tensor]:
    """The clips without each of `control_sounds.sounds`, and without sonification in its own way.

    Args:
        x: The clips, (batch, 1, time).
        named_sounds: What `sounds` returns.
        sample_rate: Of the clips, in hertz.

    Returns:
        By the names of `WITHOUT`.
    """
    rest = x - named_sounds[SONIFICATION]
    return {**without(x, named_sounds, sample_rate), PAPER: rest, LOUD: to_peak_of(x, rest)[0]}


def claims_a(rows: Sequence[Row], unit: str) -> list[Claim]:
    """Claim a: the sonification's rest is recognised less than every control's, in either mode."""
    return [
        Claim(
            "a",
            [
                paired(
                    f"lost beyond {name}",
                    unit,
                    *(over_layers(rows, k, mode=mode) for k in (name, SONIFICATION)),
                )
                for name in CONTROLS
            ],
            of=mode,
            gates=(f"recogniser, {mode}",),
        )
        for mode in MODES
    ]


def claims_l(rows: Sequence[Row], unit: str) -> list[Claim]:
    """Claim l: how much is lost in the paper's way, mean of the layers."""
    return [
        Claim(
            "l",
            [paired("lost", unit, *(over_layers(rows, k, mode=mode) for k in (BASELINE, PAPER)))],
            of=mode,
            gates=(f"recogniser, {mode}",),
        )
        for mode in MODES
    ]


def claim_g(rows: Sequence[Row], unit: str) -> Claim:
    """Claim g: in the paper's way the loss varies less over layers for fonly; full loses less."""
    drops = {mode: _drops([row for row in rows if row["mode"] == mode]) for mode in MODES}
    spread = (list(map(stdev, drops[mode])) for mode in ("full", "fonly"))
    mean = (list(map(fmean, drops[mode])) for mode in ("fonly", "full"))
    return Claim(
        "g",
        [
            paired("deviation over the layers, full minus fonly", unit, *spread),
            paired("lost, fonly minus full", unit, *mean),
        ],
    )


def _drops(rows: Sequence[Row]) -> list[list[float]]:
    """What is lost without the sonification in the paper's way, by run and layer."""
    random_states = sorted({row["random_state"] for row in rows})
    return [
        [r[BASELINE] - r[PAPER] for r in rows if r["random_state"] == random_state]
        for random_state in random_states
    ]


def _row(study: Study, random_state: int, mode: str, layer: str) -> Row:
    """One layer of one network: recognition of the clips, and without each sound."""
    run = f"{mode}-s{random_state}"
    place = study, random_state, mode
    unchanged = part(study, NAME, run, lambda: _metric(*place, _as_it_is))
    without = part(study, NAME, f"{run}-{layer}", partial(_without, *place, layer))
    return {"mode": mode, "random_state": random_state, "layer": layer, **unchanged, **without}


def _without(study: Study, random_state: int, mode: str, layer: str) -> dict[str, float]:
    draws = torch.Generator().manual_seed(random_state)
    sonifier = listen(study, recogniser(study.preset, random_state, mode))
    twin = twin_of(sonifier, draws)

    def change(x: Tensor) -> dict[str, Tensor]:
        return residuals(x, sounds(sonifier, twin, x, layer=layer, draws=draws), SAMPLE_RATE)

    metrics_found = _metric(study, random_state, mode, change)
    return {name: metrics_found[name] for name in WITHOUT}


def _metric(study: Study, random_state: int, mode: str, change: Change) -> dict[str, float]:
    """The metric of a network on changed clips, by the change's name."""
    clips, metric = _test(study), metric_of(study, study.preset.recognised)
    network = recogniser(study.preset, random_state, mode)
    outputs = scores(study.classifier(network), clips, range(len(clips)), change)
    labels = clips.labels()
    return {name: metrics(heard, labels)[metric] for name, heard in outputs.items()}


def _as_it_is(x: Tensor) -> dict[str, Tensor]:
    return {BASELINE: x}


def _test(study: Study) -> ClipSet:
    return study.clips(study.preset.recognised).subset("test")


def _picture(rows: Sequence[Row], unit: str) -> "Figure":
    panels, levels = {}, {}
    for mode in MODES:
        own = [row for row in rows if row["mode"] == mode]
        title = spelled_out(mode)
        panels[title] = {
            name: [over_runs([r[name] for r in own if r["layer"] == layer]) for layer in LAYERS]
            for name in WITHOUT
        }
        levels[title] = fmean(row[BASELINE] for row in own)
    return plot_curves(panels, LAYERS, unit, levels)


REMOVAL = Experiment(
    NAME, "Figure 6: recognition without the sonifications of each layer", networks, figure_6
)
