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
from reference_models.evaluate import event_metrics, over_runs
from reference_models.experiments.comparison import all_hold, differences
from reference_models.experiments.curves import plot_curves
from reference_models.experiments.equal_energy import CONTROLS, SONIFICATION, sounds, twin_of
from reference_models.experiments.finding import (
    Claim,
    Experiment,
    Finding,
    Row,
    above,
    difference,
    part,
)
from reference_models.experiments.hearing import listen
from reference_models.experiments.study import (
    LAYERS,
    Network,
    Preset,
    Study,
    every_nth,
    finetuned,
    pretrained,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "figure-6"
MODES = {"fonly": True, "full": False}
BASELINE, LOUD = "baseline", "sonification, re-normalised"
WITHOUT = (SONIFICATION, LOUD, *CONTROLS)
BATCH = 8

Change = Callable[[Tensor], Mapping[str, Tensor]]


def tuned(seed: int, mode: str) -> Network:
    """The classifier of FSD50K that is listened to, from contrastive weights."""
    return finetuned("fsd50k", pretrained("contrastive", seed), frozen=MODES[mode])


def networks(preset: Preset) -> list[Network]:
    """Each mode's network of every run."""
    return [tuned(seed, mode) for seed in range(preset.runs) for mode in MODES]


def figure_6(study: Study) -> Finding:
    """The mAP without each layer's sonifications, and without as much of four other sounds."""
    runs = range(study.preset.runs)
    rows = [_row(study, seed, mode, layer) for seed in runs for mode in MODES for layer in LAYERS]
    clips = len(_chosen(study)[1])
    return Finding(
        rows=rows,
        claims=[claim_a(rows), claim_g(rows)],
        figures={NAME: _picture(rows)},
        n=f"{len(runs)} runs; {clips} test clips, whole; mAP is the mean over the classes that "
        "some of them have and others have not",
        differs=f"{differences(study, 'audioset', 'fsd50k')} The paper has no controls and does "
        "not say whether the residual is re-normalised: the sonification's curve is without, a "
        "second one with it. Every control has the energy of the sonification in its clip.",
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


def residuals(x: Tensor, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The clips without each of `equal_energy.sounds`; without the sonification also at their peak.

    Args:
        x: The clips, (batch, 1, time).
        found: What `sounds` returns.
    """
    left = {name: x - sound for name, sound in found.items()}
    return {**left, LOUD: to_peak_of(x, left[SONIFICATION])[0]}


def claim_a(rows: Sequence[Row]) -> Claim:
    """Claim a, over the layers of all networks."""
    gaps = {
        name: difference(*([row[k] for row in rows] for k in (name, SONIFICATION)))
        for name in CONTROLS
    }
    drop = difference(*([row[k] for row in rows] for k in (BASELINE, SONIFICATION)))
    compared = "; ".join(f"{name} {gap}" for name, gap in gaps.items())
    return Claim(
        "a",
        all_hold([above(gap) for gap in gaps.values()]),
        f"mAP lost without the sonification {drop}, N counting every layer of every network. How "
        f"much more that is than without each control: {compared}.",
    )


def claim_g(rows: Sequence[Row]) -> Claim:
    """Claim g, over runs."""
    drops = {mode: _drops([row for row in rows if row["mode"] == mode]) for mode in MODES}
    spread = difference(*(list(map(stdev, drops[mode])) for mode in ("full", "fonly")))
    mean = difference(*(list(map(fmean, drops[mode])) for mode in ("fonly", "full")))
    return Claim(
        "g",
        all_hold([above(spread), above(mean)]),
        f"Standard deviation over the layers of the mAP lost, full minus fonly: {spread}; mean "
        f"mAP lost, fonly minus full: {mean}; N is runs.",
    )


def _drops(rows: Sequence[Row]) -> list[list[float]]:
    """The mAP lost without the sonification, by run and layer."""
    seeds = sorted({row["seed"] for row in rows})
    return [[r[BASELINE] - r[SONIFICATION] for r in rows if r["seed"] == seed] for seed in seeds]


def _row(study: Study, seed: int, mode: str, layer: str) -> Row:
    """One layer of one network: mAP on the clips, and without each sound."""
    run = f"{mode}-s{seed}"
    whole = part(study, NAME, run, lambda: _mean_precision(study, seed, mode, _as_it_is))
    found = part(study, NAME, f"{run}-{layer}", partial(_without, study, seed, mode, layer))
    return {"mode": mode, "seed": seed, "layer": layer, **whole, **found}


def _without(study: Study, seed: int, mode: str, layer: str) -> dict[str, float]:
    draws = torch.Generator().manual_seed(seed)
    sonifier = listen(study, tuned(seed, mode))
    twin = twin_of(sonifier, draws)

    def change(x: Tensor) -> dict[str, Tensor]:
        return residuals(x, sounds(sonifier, twin, x, layer=layer, draws=draws))

    found = _mean_precision(study, seed, mode, change)
    return {name: found[name] for name in WITHOUT}


def _mean_precision(study: Study, seed: int, mode: str, change: Change) -> dict[str, float]:
    """The mAP of a network on changed clips, by the change's name."""
    clips, numbers = _chosen(study)
    outputs = scores(study.classifier(tuned(seed, mode)), clips, numbers, change)
    labels = clips.labels(numbers)
    return {name: event_metrics(heard, labels)["mAP"] for name, heard in outputs.items()}


def _as_it_is(x: Tensor) -> dict[str, Tensor]:
    return {BASELINE: x}


def _chosen(study: Study) -> tuple[ClipSet, list[int]]:
    """The test clips and the numbers of those that are heard."""
    clips = study.clips("fsd50k").subset("test")
    return clips, every_nth(clips, study.preset.clips)


def _picture(rows: Sequence[Row]) -> "Figure":
    panels, levels = {}, {}
    for mode in MODES:
        own = [row for row in rows if row["mode"] == mode]
        panels[mode] = {
            name: [over_runs([r[name] for r in own if r["layer"] == layer]) for layer in LAYERS]
            for name in WITHOUT
        }
        levels[mode] = fmean(row[BASELINE] for row in own)
    return plot_curves(panels, LAYERS, "mAP", levels)


REMOVAL = Experiment(
    NAME, "Figure 6: recognition without the sonifications of each layer", networks, figure_6
)
