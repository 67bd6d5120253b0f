"""The paper's central claim, heard by a listener that knows nothing of the networks.

"Deep self-supervised layers learn more acoustically discernible representations": if so, somebody
who hears a sonification should be able to tell what was in the clip. Two listeners are asked, both
trained on recordings as they are and never on a sonification: a words network trained from scratch,
and SoundNet-8 with a probe for ESC-10's ten kinds of sound.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconv1d import Sonification, Sonifier
from deconv1d.audio import read_audio
from deconv1d.sounding import to_peak_of
from reference_models.cnn12 import SHORTEST
from reference_models.data import ClipSet
from reference_models.data.index import SAMPLE_RATE
from reference_models.evaluate import Interval, over_runs
from reference_models.experiments.claims import ON_EVENTS, ON_WORDS
from reference_models.experiments.comparison import chance, differences
from reference_models.experiments.control_sounds import audible
from reference_models.experiments.curves import plot_curves
from reference_models.experiments.finding import (
    Claim,
    Experiment,
    Finding,
    Gate,
    Row,
    numbers_of,
    over_layers,
    paired,
    part,
)
from reference_models.experiments.gates import gate_over_clips
from reference_models.experiments.hearing import (
    COMPARED,
    DEEP,
    UNTRAINED,
    every_encoder,
    listen,
    masked,
    network_of,
    sonified,
)
from reference_models.experiments.soundnet import (
    KINDS_OF_ESC10,
    PROBES,
    esc10_paths,
    fitted_probes,
    fold_of,
    probe_features,
    untrained_soundnet,
)
from reference_models.experiments.study import (
    DRAWS,
    LAYERS,
    REGIMES,
    Network,
    Preset,
    Study,
    every_nth,
    finetuned,
    random_states,
    untrained,
    untrained_random_states,
)
from reference_models.soundnet import SoundNet, load_soundnet, soundnet_input

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

WORDS, ESC10 = "discernible-words", "discernible-esc10"
METHODS = {"deconvnet": LAYERS, "mask": DEEP}
"""Ways to sonify that are heard, and in which layers; each adds a claim."""
MASKED = 5
"""One clip in so many of `Preset.clips` is heard through masks, which take ten times as long."""
ORIGINAL = "original"
BATCH = 16

Clip = tuple[Tensor, Callable[[Tensor], bool]]
"""A recording, (1, 1, time) at `SAMPLE_RATE`, and whether the listener names a sound rightly."""
Hear = Callable[[], Sequence[Clip]]
"""Gives the clips with their listener."""


def discernible(
    study: Study, name: str, hear: Hear, on_untrained: Sequence[Hear], least: float
) -> Finding:
    """How often a listener names sonifications rightly, by method, regime, random state and layer.

    Args:
        study: The study.
        name: Of the experiment.
        hear: The listener.
        on_untrained: Probes on untrained features, which the listener must beat on the recordings.
        least: Accuracy of a listener that hears nothing.
    """
    heard = hear()
    originals = part(study, name, ORIGINAL, partial(_as_they_are, lambda: heard))
    untrained_ones = [
        part(study, name, f"{ORIGINAL}-{UNTRAINED}-s{draw}", partial(_as_they_are, one))
        for draw, one in enumerate(on_untrained)
    ]
    few = [heard[n] for n in every_nth(heard, max(study.preset.clips // MASKED, 1))]
    clips = {"deconvnet": heard, "mask": few}
    rows: list[Row] = []
    for method, layers in METHODS.items():
        for regime in COMPARED:
            for random_state in random_states(study.preset):
                network = network_of(regime, random_state)
                compute = partial(accuracies, study, network, layers, method, clips[method])
                place = {"method": method, "regime": regime, "random_state": random_state}
                found = part(study, name, "-".join(map(str, place.values())), compute)
                rows += [
                    {**place, "layer": layer, "accuracy": accuracy}
                    for layer, accuracy in zip(layers, found, strict=True)
                ]
    return Finding(
        rows,
        claims=[central_claim(name, method, rows) for method in METHODS],
        gates=[listener_gate(name, originals, untrained_ones, least)],
        numbers=numbers_of(rows, ("method", "regime", "layer"), {"accuracy": "accuracy"}),
        figures={f"{name}-{m}": _picture(rows, m, fmean(originals)) for m in METHODS},
        n=f"{study.preset.runs} networks of each regime; {len(heard)} clips ({len(few)} through "
        f"masks), the most active map of each; chance {least:.2f}, the recordings themselves "
        f"{fmean(originals):.2f}, by probes on untrained features "
        f"{fmean(map(fmean, untrained_ones)):.2f}",
        differs=f"{differences(study, 'audioset')} The paper's authors listened. The listeners "
        "here were trained on recordings alone. Untrained encoders are those that the networks "
        "started from.",
    )


def _as_they_are(hear: Hear) -> list[bool]:
    """Which of the recordings themselves a listener names rightly."""
    return [right(x) for x, right in hear()]


def accuracies(
    study: Study, network: Network, layers: Sequence[str], method: str, heard: Sequence[Clip]
) -> list[float]:
    """By layer, the share of the clips whose sonification is named rightly; silence is not.

    What lies below 50 Hz, where people hear next to nothing, is taken out before.
    """
    sonifier = listen(study, network)
    named = [
        [_is_named(x, sound, right) for sound in sounds_of(sonifier, x, layers, method)]
        for x, right in heard
    ]
    return [fmean(of_layer) for of_layer in zip(*named, strict=True)]


def sounds_of(
    sonifier: Sonifier, x: Tensor, layers: Sequence[str], method: str
) -> list[Sonification]:
    """The most active map of each layer, made audible."""
    if method == "mask":  # the batch of masks serves all layers
        return masked(sonifier, x, layers=layers, channel="most_active")
    return [
        sonified(sonifier, x, layer=layer, channel="most_active", method=method) for layer in layers
    ]


def _is_named(x: Tensor, sonification: Sonification, right: Callable[[Tensor], bool]) -> bool:
    sound, _ = to_peak_of(x, audible(sonification.waveform, SAMPLE_RATE))
    return bool(sonification.gain > 0) and right(sound)


def central_claim(name: str, method: str, rows: Sequence[Row]) -> Claim:
    """The central claim: layers 8 to 11 of contrastive networks are named more often."""
    deep = {
        regime: over_layers(rows, "accuracy", DEEP, regime=regime, method=method)
        for regime in COMPARED
    }
    contrastive, supervised = (deep[regime] for regime in REGIMES)
    return Claim(
        "central",
        [
            paired("contrastive minus supervised", "accuracy", contrastive, supervised),
            paired("contrastive minus untrained", "accuracy", contrastive, deep[UNTRAINED]),
        ],
        of=f"{LISTENERS[name]}, {method}",
        gates=(*LEARNT[name], f"listener, {LISTENERS[name]}"),
    )


def listener_gate(
    name: str, originals: Sequence[bool], on_untrained: Sequence[Sequence[bool]], least: float
) -> Gate:
    """The listener names the recordings themselves, better than untrained features would."""
    gate, listener = f"listener, {LISTENERS[name]}", f"the listener ({LISTENERS[name]})"
    return gate_over_clips(gate, listener, originals, on_untrained, least)


def _picture(rows: Sequence[Row], method: str, level: float) -> "Figure":
    layers = METHODS[method]

    def curve(regime: str) -> list[Interval]:
        own = [row for row in rows if (row["method"], row["regime"]) == (method, regime)]
        return [over_runs([r["accuracy"] for r in own if r["layer"] == layer]) for layer in layers]

    curves = {regime: curve(regime) for regime in COMPARED}
    return plot_curves({method: curves}, layers, "sonifications named rightly", {method: level})


# --- words ---------------------------------------------------------------------------------------


def words_listener(_: Preset) -> Network:
    """The words network that listens: trained from scratch, on the words as they are."""
    return finetuned("words", None)


def words_probes(preset: Preset) -> list[Network]:
    """Probes on untrained encoders."""
    return [
        finetuned("words", untrained(random_state), frozen=True)
        for random_state in untrained_random_states(preset)
    ]


def _words(study: Study, listener: Network) -> list[Clip]:
    """Test words, spread evenly over the set, at most `Preset.mined`."""
    clips, model = _test_words(study), study.classifier(listener)
    labels = clips.labels().tolist()

    @torch.inference_mode()
    def right(sound: Tensor, label: int) -> bool:
        return int(model(sound).argmax()) == label

    heard = []
    for numbers, x in clips.whole(
        every_nth(clips, study.preset.mined), batch_size=BATCH, shortest=SHORTEST
    ):
        for number, one in zip(numbers.tolist(), x.to(study.device).split(1), strict=True):
            heard.append((one, partial(right, label=labels[number])))
    return heard


def _test_words(study: Study) -> ClipSet:
    return study.clips("words").subset("test")


def _discernible_words(study: Study) -> Finding:
    listener, *others = (
        partial(_words, study, network)
        for network in (words_listener(study.preset), *words_probes(study.preset))
    )
    return discernible(study, WORDS, listener, others, chance(study, "words")["accuracy"])


# --- ESC-10 --------------------------------------------------------------------------------------


def esc10_at_8_khz(path: "Path") -> Tensor:
    """A file of ESC-10 as CNN12 takes it, (1, 1, time), peak 1."""
    import soxr

    waveform, rate = read_audio(path)
    heard = torch.from_numpy(soxr.resample(waveform, rate, SAMPLE_RATE)).float()[None, None]
    return heard / heard.abs().max().clamp(min=torch.finfo().tiny)


def to_soundnet(sound: Tensor) -> Tensor:
    """A sound at `SAMPLE_RATE`, (1, 1, time), as SoundNet takes it."""
    return soundnet_input(sound.flatten().cpu().numpy(), sample_rate=SAMPLE_RATE)


def esc10_clips(study: Study, make: Callable[[], SoundNet]) -> list[Clip]:
    """Files of ESC-10, each with a probe of a SoundNet-8 fitted on the folds it is not in."""
    paths = esc10_paths(study.sources["esc10"])
    chosen = [paths[n] for n in every_nth(paths, study.preset.clips)]
    network = make().to(study.device)

    def load(path: "Path") -> Tensor:
        return to_soundnet(esc10_at_8_khz(path))

    folds = {fold_of(path) for path in chosen}
    probes = fitted_probes(network, paths, folds, study, load=load)

    def right(sound: Tensor, path: "Path") -> bool:
        features = probe_features(network, to_soundnet(sound).to(study.device))[PROBES[0]]
        named = probes[fold_of(path)][PROBES[0]].predict(features.cpu())[0]
        return bool(named == path.parent.name)

    return [(esc10_at_8_khz(path).to(study.device), partial(right, path=path)) for path in chosen]


def _discernible_esc10(study: Study) -> Finding:
    listener, *others = (
        partial(esc10_clips, study, make)
        for make in (load_soundnet, *(partial(untrained_soundnet, draw) for draw in range(DRAWS)))
    )
    return discernible(study, ESC10, listener, others, 1 / KINDS_OF_ESC10)


LISTENERS: Mapping[str, str] = {WORDS: "words network", ESC10: "SoundNet-8"}
LEARNT = {WORDS: ON_WORDS, ESC10: ON_EVENTS}
"""What both regimes must have learnt more of than an untrained encoder: what is listened for."""
DISCERNIBLE = (
    Experiment(
        WORDS,
        "The central claim, heard by a words network",
        lambda preset: [*every_encoder(preset), words_listener(preset), *words_probes(preset)],
        _discernible_words,
    ),
    Experiment(
        ESC10,
        "The central claim, heard by SoundNet-8",
        every_encoder,
        _discernible_esc10,
        needs=("esc10",),
    ),
)
