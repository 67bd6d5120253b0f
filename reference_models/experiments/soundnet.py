"""SoundNet-8, trained on real sound by others: figures 1, 6 and 7, and control cards."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deconv1d import Sonifier
from deconv1d.audio import read_audio
from reference_models.evaluate import Interval, over_runs
from reference_models.experiments.activity import answer, means
from reference_models.experiments.comparison import all_hold
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
from reference_models.experiments.removal import BASELINE, WITHOUT, residuals
from reference_models.experiments.similarity import coherences, fall
from reference_models.experiments.study import Study, every_nth
from reference_models.soundnet import SAMPLE_RATE, SoundNet, load_soundnet, soundnet_input

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "soundnet"
LAYERS = tuple(f"conv{block}" for block in range(1, 8))
PROBES = ("pool5, mean and max over time", "conv7, mean over time")
TEST_FOLD = 5
CLIPS, ACTIVE_CLIPS = 40, 10
"""Clips of which sonifications are removed, and of which many filters are sonified, at the most."""
KINDS = ("Dog bark", "Rooster", "Helicopter")

Answers = dict[str, Any]


@dataclass(frozen=True)
class _Trial:
    """The network, its test clips, and its probes."""

    network: SoundNet
    probes: dict[str, Any]
    test: list[Path]
    study: Study

    @property
    def sonifier(self) -> Sonifier:
        return Sonifier(self.network.features, sample_rate=SAMPLE_RATE)

    def clip(self, path: Path) -> Tensor:
        return esc10_clip(path).to(self.study.device)

    def right(self, sound: Tensor, kind: str) -> list[bool]:
        """Whether each probe names the kind of a sound."""
        features = probe_features(self.network, sound)
        named = (probe.predict(features[name].cpu())[0] for name, probe in self.probes.items())
        return [bool(name == kind) for name in named]


def soundnet(study: Study) -> Finding:
    """All of it, one row a layer."""
    trial = _trial(study)
    baseline = part(study, NAME, BASELINE, partial(_as_it_is, trial))
    removed = {n: part(study, NAME, f"removed-{n}", partial(_removed, trial, n)) for n in LAYERS}
    active = {n: part(study, NAME, f"active-{n}", partial(_active, trial, n)) for n in LAYERS}
    cards = {n: part(study, NAME, f"cards-{n}", partial(_verdicts, trial, n)) for n in LAYERS}
    numbers = {layer: _numbers(removed[layer], baseline) for layer in LAYERS}
    rows = [{"layer": n, **means(active[n]), **numbers[n], **cards[n]} for n in LAYERS]
    return Finding(
        rows=rows,
        claims=[claim_a(baseline, list(removed.values())), claim_b(list(removed.values()))],
        figures={NAME: _picture(rows)},
        n=f"1 network; {len(trial.test)} clips of fold {TEST_FOLD} of ESC-10, on whose other folds "
        f"the probes are fitted; activity and spectra: {len(_few(trial))} of them and at most "
        f"{study.preset.channels} filters a layer",
        differs="SoundNet-8 with its published weights in place of CNN12; accuracy of a ridge "
        "classifier of ESC-10's ten kinds on its features in place of mAP.",
    )


def esc10_paths(folder: Path) -> list[Path]:
    """The files of ESC-10 as published, in order of kind and fold.

    Args:
        folder: Holds `<nnn> - <kind>/<fold>-<clip>-<take>.ogg`.

    Raises:
        FileNotFoundError: `folder` does not hold ESC-10.
    """
    paths = sorted(folder.glob("*/*.ogg"))
    if not paths:
        raise FileNotFoundError(
            f"no ESC-10 in '{folder}': expected '<nnn> - <kind>/<fold>-<clip>-<take>.ogg', found "
            "no such file; give the folder that holds the ten kinds"
        )
    return paths


def fold_of(path: Path) -> int:
    """The fold, 1 to 5, of a file of ESC-10."""
    return int(path.name[0])


def esc10_clip(path: Path) -> Tensor:
    """A file of ESC-10 as SoundNet takes it, (1, 1, time)."""
    waveform, rate = read_audio(path)
    return soundnet_input(waveform, sample_rate=rate)


@torch.inference_mode()
def probe_features(network: SoundNet, waveform: Tensor) -> dict[str, Tensor]:
    """What linear probes classify: statistics over time of two layers, by `PROBES`.

    Args:
        network: In eval mode.
        waveform: (batch, 1, time).

    Returns:
        (batch, features) each.
    """
    after_pool5 = [name for name, _ in network.features.named_children()].index("pool5") + 1
    pool5 = network.features[:after_pool5](waveform)
    conv7 = network.features[after_pool5:](pool5)
    statistics = torch.cat([pool5.mean(dim=-1), pool5.amax(dim=-1)], dim=1)
    return dict(zip(PROBES, (statistics, conv7.mean(dim=-1)), strict=True))


def linear_probe() -> Any:
    """An unfitted ridge classifier of standardised features, one kind against all others."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=100))


def claim_a(baseline: Answers, removed: Sequence[Answers]) -> Claim:
    """Claim a, over clips: of each the mean over layers and probes.

    Args:
        baseline: What was named rightly of the clips as they are.
        removed: The same of each layer without each sound.
    """

    def right(name: str) -> list[float]:
        layers = ([fmean(clip) for clip in layer["right"][name]] for layer in removed)
        return [fmean(clip) for clip in zip(*layers, strict=True)]

    whole = [fmean(clip) for clip in baseline["right"]]
    gaps = {name: difference(right(name), right(SONIFICATION)) for name in CONTROLS}
    compared = "; ".join(f"{name} {gap}" for name, gap in gaps.items())
    return Claim(
        "a",
        all_hold([above(gap) for gap in gaps.values()]),
        "SoundNet-8: accuracy lost without the sonification "
        f"{difference(whole, right(SONIFICATION))}, mean of the layers, N is clips. How much more "
        f"that is than without each control: {compared}.",
    )


def claim_b(removed: Sequence[Answers]) -> Claim:
    """Claim b, over clips."""
    fallen = {name: _falls(removed, name) for name in (SONIFICATION, *CONTROLS)}
    less = {name: difference(fallen[SONIFICATION], fallen[name]) for name in CONTROLS}
    own = over_runs(fallen[SONIFICATION])
    compared = "; ".join(f"minus {name} {interval}" for name, interval in less.items())
    return Claim(
        "b",
        above(own),
        f"SoundNet-8: coherence lost from a layer to the next {own}, N is clips. The same of the "
        f"coherence minus a control's: {compared}.",
    )


def _falls(removed: Sequence[Answers], name: str) -> list[float]:
    """How much each clip's coherence with a sound falls by layer."""
    layers = [layer["coherence"][name] for layer in removed]
    return [fall(clip) for clip in zip(*layers, strict=True)]


def _trial(study: Study) -> _Trial:
    """The network, with probes fitted on the other folds."""
    paths = esc10_paths(study.sources["esc10"])
    train = [path for path in paths if fold_of(path) != TEST_FOLD]
    train = [train[n] for n in every_nth(train, 10 * study.preset.clips)]
    test = [path for path in paths if fold_of(path) == TEST_FOLD]
    test = [test[n] for n in every_nth(test, min(CLIPS, study.preset.clips))]
    network = load_soundnet().to(study.device)
    heard = [probe_features(network, esc10_clip(path).to(study.device)) for path in train]
    kinds = [path.parent.name for path in train]
    probes = {
        name: linear_probe().fit(torch.cat([row[name] for row in heard]).cpu().numpy(), kinds)
        for name in PROBES
    }
    return _Trial(network, probes, test, study)


def _few(trial: _Trial) -> list[Path]:
    return [trial.test[n] for n in every_nth(trial.test, ACTIVE_CLIPS)]


def _as_it_is(trial: _Trial) -> Answers:
    """By clip and probe: whether it is named rightly."""
    return {"right": [trial.right(trial.clip(path), path.parent.name) for path in trial.test]}


def _removed(trial: _Trial, layer: str) -> Answers:
    """By sound and clip: what the probes name without it, and its coherence with the clip."""
    draws = torch.Generator().manual_seed(0)
    sonifier = trial.sonifier
    twin = twin_of(sonifier, draws)
    right: dict[str, list[list[bool]]] = {name: [] for name in WITHOUT}
    coherent: dict[str, list[float]] = {name: [] for name in (SONIFICATION, *CONTROLS)}
    for path in trial.test:
        x = trial.clip(path)
        found = sounds(sonifier, twin, x, layer=layer, draws=draws)
        for name, sound in residuals(x, found).items():
            right[name].append(trial.right(sound, path.parent.name))
        for name, value in coherences(x, found).items():
            coherent[name] += value.tolist()
    return {"right": right, "coherence": coherent}


def _active(trial: _Trial, layer: str) -> list[Answers]:
    """What some clips' filters do, as for figure 1."""
    filters = trial.network.features.get_submodule(layer).out_channels
    channels = every_nth(range(filters), trial.study.preset.channels)
    clips = (trial.clip(path).flatten() for path in _few(trial))
    return [answer(trial.sonifier, x, layer=layer, channels=channels) for x in clips]


def _verdicts(trial: _Trial, layer: str) -> dict[str, str]:
    """The sentence that a control card ends in, for one clip of each kind."""
    paths = esc10_paths(trial.study.sources["esc10"])
    chosen = {kind: next(path for path in paths if kind in path.parent.name) for kind in KINDS}
    clips = {kind: trial.clip(path) for kind, path in chosen.items()}
    return {kind: trial.sonifier.control_card(x, layer=layer).verdict for kind, x in clips.items()}


def _numbers(removed: Answers, baseline: Answers) -> Row:
    """One layer's accuracy without each sound, and coherence minus each control's."""
    right = {BASELINE: baseline["right"], **removed["right"]}
    accuracy = {
        f"accuracy, {probe.partition(',')[0]}, {name}": fmean(clip[n] for clip in clips)
        for n, probe in enumerate(PROBES)
        for name, clips in right.items()
    }
    coherent = {name: fmean(values) for name, values in removed["coherence"].items()}
    less = {f"coherence minus {k}": coherent[SONIFICATION] - coherent[k] for k in CONTROLS}
    return {**accuracy, "coherence": coherent[SONIFICATION], **less}


def _picture(rows: Sequence[Row]) -> "Figure":
    def curve(column: str) -> list[Interval]:
        return [over_runs([row[column]]) for row in rows]

    panels, levels = {}, {}
    for probe in (name.partition(",")[0] for name in PROBES):
        title = f"accuracy from {probe}"
        panels[title] = {name: curve(f"accuracy, {probe}, {name}") for name in WITHOUT}
        levels[title] = rows[0][f"accuracy, {probe}, {BASELINE}"]
    coherent = {f"minus {name}": curve(f"coherence minus {name}") for name in CONTROLS}
    panels["coherence with the input"] = {SONIFICATION: curve("coherence"), **coherent}
    return plot_curves(panels, LAYERS, "accuracy; mean top-5 coherence", levels)


SOUNDNET = Experiment(
    NAME, "SoundNet-8: figures 1, 6 and 7", lambda _: (), soundnet, needs=("esc10",)
)
