"""SoundNet-8, trained on real sound by others: figures 1, 6 and 7, and control cards."""

from collections.abc import Callable, Collection, Mapping, Sequence
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
from reference_models.experiments.activity import UNITS, answer, held, means
from reference_models.experiments.control_sounds import CONTROLS, SONIFICATION, sounds, twin_of
from reference_models.experiments.curves import plot_curves
from reference_models.experiments.finding import (
    Claim,
    Experiment,
    Finding,
    Gate,
    Number,
    Row,
    part,
)
from reference_models.experiments.gates import gate_over_clips
from reference_models.experiments.removal import BASELINE, WITHOUT, residuals
from reference_models.experiments.similarity import coherences, fall
from reference_models.experiments.study import DRAWS, Study, every_nth
from reference_models.initialisation import initialise
from reference_models.soundnet import SAMPLE_RATE, SoundNet, load_soundnet, soundnet_input
from reference_models.statistics import compare_over_clips, mean_over_clips

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "soundnet"
LAYERS = tuple(f"conv{block}" for block in range(1, 8))
PROBES = ("pool5, mean and max over time", "conv7, mean over time")
ACTIVE_CLIPS = 10
"""Clips of which many filters are sonified, at the most."""
GATE = "SoundNet-8"
KINDS_OF_ESC10 = 10
KINDS = ("Dog bark", "Rooster", "Helicopter")

Answers = dict[str, Any]


@dataclass(frozen=True)
class _Trial:
    """The network, its test clips, and its probes."""

    network: SoundNet
    probes: dict[int, dict[str, Any]]
    test: list[Path]
    study: Study

    @property
    def sonifier(self) -> Sonifier:
        return Sonifier(self.network.features, sample_rate=SAMPLE_RATE)

    def clip(self, path: Path) -> Tensor:
        return esc10_clip(path).to(self.study.device)

    def right(self, sound: Tensor, path: Path) -> list[bool]:
        """Whether each probe names the kind of a file, by a sound made of it."""
        features = probe_features(self.network, sound)
        probes = self.probes[fold_of(path)]
        named = (probe.predict(features[name].cpu())[0] for name, probe in probes.items())
        return [bool(name == path.parent.name) for name in named]


def soundnet(study: Study) -> Finding:
    """All of it, one row a layer."""
    trial = _trial(study, load_soundnet())
    baseline = part(study, NAME, BASELINE, partial(_as_it_is, trial))
    untrained = [
        part(
            study,
            NAME,
            f"untrained-s{draw}",
            lambda d=draw: _as_it_is(_trial(study, untrained_soundnet(d))),
        )
        for draw in range(DRAWS)
    ]
    removed = {n: part(study, NAME, f"removed-{n}", partial(_removed, trial, n)) for n in LAYERS}
    active = {n: part(study, NAME, f"active-{n}", partial(_active, trial, n)) for n in LAYERS}
    cards = {n: part(study, NAME, f"cards-{n}", partial(_verdicts, trial, n)) for n in LAYERS}
    numbers = {layer: _numbers(removed[layer], baseline) for layer in LAYERS}
    rows = [{"layer": n, **means(active[n]), **numbers[n], **cards[n]} for n in LAYERS]
    return Finding(
        rows=rows,
        claims=[claim_a(list(removed.values())), claim_b(list(removed.values()))],
        gates=[gate_of(baseline, untrained)],
        numbers=[*_as_they_are(baseline, untrained), *_over_clips(removed, active)],
        figures={NAME: _picture(rows)},
        n=f"1 network; {len(trial.test)} clips of ESC-10, each heard by probes fitted on the folds "
        f"that it is not in; activity and spectra: {len(_few(trial))} of them and at most "
        f"{study.preset.channels} filters a layer",
        differs="SoundNet-8 with its published weights in place of CNN12; accuracy of a ridge "
        "classifier of ESC-10's ten kinds on its features in place of mAP. Untrained features are "
        f"those of {DRAWS} networks with first weights, with the same probes.",
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


def untrained_soundnet(draw: int) -> SoundNet:
    """SoundNet-8 with first weights, in eval mode; equal numbers give equal weights."""
    torch.manual_seed(draw)
    return initialise(SoundNet()).eval()


def gate_of(baseline: Answers, untrained: Sequence[Answers]) -> Gate:
    """Gate 2 for SoundNet-8, of each clip the mean over probes.

    Args:
        baseline: What is named rightly of the recordings as they are.
        untrained: The same on untrained features, by draw.
    """
    right, *others = (_named(answers) for answers in (baseline, *untrained))
    return gate_over_clips(GATE, "SoundNet-8 with its probes", right, others, 1 / KINDS_OF_ESC10)


def _named(answers: Answers) -> list[float]:
    """How much of each clip is named rightly, the mean over probes."""
    return [fmean(clip) for clip in answers["right"]]


def claim_a(removed: Sequence[Answers]) -> Claim:
    """Claim a, over clips: of each the mean over layers and probes.

    Args:
        removed: What was named rightly of each layer without each sound.
    """

    def right(name: str) -> list[float]:
        layers = ([fmean(clip) for clip in layer["right"][name]] for layer in removed)
        return [fmean(clip) for clip in zip(*layers, strict=True)]

    return Claim(
        "a",
        [
            compare_over_clips(f"lost beyond {name}", "accuracy", right(name), right(SONIFICATION))
            for name in CONTROLS
        ],
        of=GATE,
        gates=(GATE,),
    )


def claim_b(removed: Sequence[Answers]) -> Claim:
    """Claim b, over clips."""
    layers = [layer["coherence"][SONIFICATION] for layer in removed]
    falls = [fall(clip) for clip in zip(*layers, strict=True)]
    return Claim(
        "b",
        [compare_over_clips("from layer 1 to 7", "coherence", falls)],
        of=GATE,
        gates=(),
    )


def _as_they_are(baseline: Answers, untrained: Sequence[Answers]) -> list[Number]:
    """Accuracy of the recordings themselves, by SoundNet-8's features and by untrained ones."""
    right, *others = (_named(answers) for answers in (baseline, *untrained))
    accuracies = {BASELINE: right, "untrained": [fmean(clip) for clip in zip(*others, strict=True)]}
    return [
        Number(name, "accuracy", mean_over_clips(values)) for name, values in accuracies.items()
    ]


def _over_clips(
    removed: Mapping[str, Answers], active: Mapping[str, Sequence[Answers]]
) -> list[Number]:
    """Accuracy without each sound, coherence with it, activity, spectra: by layer, over clips."""

    def number(name: str, unit: str, values: Sequence[float]) -> Number:
        return Number(name, unit, mean_over_clips(values))

    numbers = []
    for layer, answers in removed.items():
        for name, right in answers["right"].items():
            numbers.append(number(f"{layer}, {name}", "accuracy", [fmean(c) for c in right]))
        for name, coherent in answers["coherence"].items():
            numbers.append(number(f"{layer}, {name}", "coherence", coherent))
        numbers += [
            number(f"{layer}, {name}", unit, values)
            for name, unit in UNITS.items()
            if (values := held(active[layer], name))
        ]
    return numbers


def _trial(study: Study, network: SoundNet) -> _Trial:
    """The network, with the probes of the folds that test clips are in."""
    paths = esc10_paths(study.sources["esc10"])
    test = [paths[n] for n in every_nth(paths, study.preset.clips)]
    network = network.to(study.device)
    folds = {fold_of(path) for path in test}
    return _Trial(network, fitted_probes(network, paths, folds, study), test, study)


def fitted_probes(
    network: SoundNet,
    paths: Sequence[Path],
    folds: Collection[int],
    study: Study,
    load: Callable[[Path], Tensor] = esc10_clip,
) -> dict[int, dict[str, Any]]:
    """By fold the probes that are fitted on the other folds.

    Args:
        network: SoundNet-8.
        paths: The files of ESC-10.
        folds: For which folds.
        study: Its preset says how many files are enough to fit on.
        load: Makes of a file what SoundNet takes.
    """
    chosen = [paths[n] for n in every_nth(paths, 12 * study.preset.clips)]
    heard = [probe_features(network, load(path).to(study.device)) for path in chosen]
    probes: dict[int, dict[str, Any]] = {}
    for fold in folds:
        kept = [n for n, path in enumerate(chosen) if fold_of(path) != fold]
        kinds = [chosen[n].parent.name for n in kept]
        probes[fold] = {
            name: linear_probe().fit(torch.cat([heard[n][name] for n in kept]).cpu().numpy(), kinds)
            for name in PROBES
        }
    return probes


def _few(trial: _Trial) -> list[Path]:
    return [trial.test[n] for n in every_nth(trial.test, ACTIVE_CLIPS)]


def _as_it_is(trial: _Trial) -> Answers:
    """By clip and probe: whether it is named rightly."""
    return {"right": [trial.right(trial.clip(path), path) for path in trial.test]}


def _removed(trial: _Trial, layer: str) -> Answers:
    """By sound and clip: what the probes name without it, and its coherence with the clip."""
    draws = torch.Generator().manual_seed(0)
    sonifier = trial.sonifier
    twin = twin_of(sonifier, draws)
    right: dict[str, list[list[bool]]] = {name: [] for name in WITHOUT}
    coherent: dict[str, list[float]] = {name: [] for name in (SONIFICATION, *CONTROLS)}
    for path in trial.test:
        x = trial.clip(path)
        named_sounds = sounds(sonifier, twin, x, layer=layer, draws=draws)
        for name, sound in residuals(x, named_sounds, SAMPLE_RATE).items():
            right[name].append(trial.right(sound, path))
        for name, value in coherences(x, named_sounds).items():
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
