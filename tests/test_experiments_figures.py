"""Figures 1, 2, 3 and 5 and section 3.3.2: their numbers by hand, and networks with dead maps."""

import itertools
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

pytest.importorskip("pyarrow")

from deconv1d import Sonifier
from deconv1d.audio import read_audio
from deconv1d.measure import log_mel_correlation, mean_top_coherence, spectral_entropy
from deconv1d.mining.mined import Mined
from reference_models.checkpoint import load_checkpoint, save_checkpoint
from reference_models.experiments import activity, evolution, labels
from reference_models.experiments.activity import ACTIVITY
from reference_models.experiments.evolution import EVOLUTION
from reference_models.experiments.finding import perform, read_rows
from reference_models.experiments.hearing import COMPARED, DEEP, UNTRAINED, beyond_untrained
from reference_models.experiments.labels import LABELS, label_entropy, random_entropy
from reference_models.experiments.pairs import PAIRS, PAIRS_TO_HEAR, best
from reference_models.experiments.strongest import TOP_3, answering, strongest
from reference_models.experiments.study import (
    LAYERS,
    PRESETS,
    REGIMES,
    Study,
    every_nth,
    pretrained,
    untrained,
)
from reference_models.statistics import Verdict, judge

FIGURES = (ACTIVITY, PAIRS_TO_HEAR, TOP_3, LABELS, EVOLUTION)
NETWORKS = (*(pretrained(regime) for regime in REGIMES), untrained())
DEAD = 8
"""From this block on the planted networks have no active map."""


@pytest.fixture(scope="module")
def study(soundfont, tmp_path_factory) -> Study:
    """Both networks at 1/64 of the paper's width, one epoch of training."""
    preset = replace(PRESETS["smoke"], channels=3, runs=1)
    study = Study(tmp_path_factory.mktemp("study"), preset)
    for network in NETWORKS:
        study.train(network)
    return study


@pytest.fixture(scope="module")
def dead(study, tmp_path_factory) -> Study:
    """The same, with networks that are dead from block 8 on, and dead from the first checkpoint."""
    planted = replace(study, folder=tmp_path_factory.mktemp("dead") / "study")
    shutil.copytree(study.folder / "data", planted.folder / "data")
    shutil.copytree(study.folder / "networks", planted.folder / "networks")
    for network in NETWORKS:
        for epoch in planted.epochs(network):
            path = planted.checkpoint(network, epoch)
            tensors, about = load_checkpoint(path)
            for name, tensor in tensors.items():
                if any(f"conv{block}." in name for block in range(DEAD, 12)):
                    tensor.fill_(-1.0 if name.endswith("bias") else 0.0)
            save_checkpoint(path, tensors, about)
    return planted


@pytest.fixture(scope="module")
def of_words(study, tmp_path_factory) -> Study:
    """The same, heard on recordings that have one label each: two words of six speakers."""
    root = tmp_path_factory.mktemp("words")
    noise = np.random.default_rng(0)
    for word in ("cancel", "start"):
        (root / "data" / word).mkdir(parents=True)
        for speaker in range(6):
            path = root / "data" / word / f"{speaker}_nohash_0.wav"
            soundfile.write(path, noise.uniform(-0.5, 0.5, 8000), 8000)
    for name, speakers in (("validation_list.txt", (0,)), ("testing_list.txt", (1, 2, 3))):
        held = [f"{word}/{i}_nohash_0.wav" for word in ("cancel", "start") for i in speakers]
        (root / "data" / name).write_text("\n".join(held))
    shutil.copytree(study.folder / "networks", root / "study" / "networks")
    return replace(study, folder=root / "study", sources={"arabic": root / "data"})


def numbers(study: Study, name: str) -> list[dict[str, str]]:
    return read_rows(study.folder / name / "numbers.csv")


def facts(study: Study, name: str) -> dict:
    return json.loads((study.folder / name / "finding.json").read_text())


@pytest.mark.parametrize("experiment", FIGURES, ids=lambda experiment: experiment.name)
def test_an_experiment_writes_what_it_found(study, experiment):
    assert set(experiment.networks(study.preset)) <= set(NETWORKS)
    perform(experiment, study)
    folder, found = study.folder / experiment.name, facts(study, experiment.name)
    assert numbers(study, experiment.name)
    assert found["n"]
    assert found["differs"]
    for picture in found["figures"]:
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    for sound in found["sounds"].values():
        waveform, rate = read_audio(folder / sound)
        assert rate == 8000
        assert np.isfinite(waveform).all()


@pytest.mark.parametrize("experiment", [ACTIVITY, TOP_3, LABELS], ids=lambda one: one.name)
def test_untrained_encoders_stand_beside_both_regimes(study, experiment):
    perform(experiment, study)
    rows = numbers(study, experiment.name)
    of_regime = [{row["layer"] for row in rows if row["regime"] == name} for name in COMPARED]
    assert of_regime == [set(LAYERS)] * 3


def test_what_training_adds_is_counted_network_by_network():
    levels = {"contrastive": (5, 7), "supervised": (1, 2), UNTRAINED: (4, 3)}
    rows = [
        {"regime": regime, "random_state": random_state, "layer": layer}
        | {"bits": level if layer in DEEP else 99, "none": None}
        for regime, of_networks in levels.items()
        for random_state, level in enumerate(of_networks)
        for layer in LAYERS
    ]
    contrastive, supervised = beyond_untrained(rows, "bits", "bits")
    assert contrastive.name == "contrastive minus untrained, layers 8 to 11, bits"
    assert (contrastive.estimate.mean, contrastive.estimate.n) == ((1 + 4) / 2, 2)
    assert supervised.estimate.mean == (-3 - 1) / 2
    assert [number.estimate.n for number in beyond_untrained(rows, "none", "bits")] == [0, 0]


@pytest.mark.filterwarnings("error::deconv1d.errors.SilenceWarning")
@pytest.mark.parametrize("experiment", FIGURES, ids=lambda experiment: experiment.name)
def test_dead_maps_are_counted_not_an_error(dead, experiment):
    perform(experiment, dead)
    assert "nan" not in (dead.folder / experiment.name / "numbers.csv").read_text().lower()


@pytest.mark.parametrize("experiment", FIGURES, ids=lambda experiment: experiment.name)
def test_recordings_with_one_label_each(of_words, experiment):
    perform(experiment, of_words)
    assert numbers(of_words, experiment.name)
    if experiment is LABELS:
        entropies = [float(row["entropy_bits"]) for row in numbers(of_words, experiment.name)]
        assert 0 < max(entropies) <= 1  # of two words
    if experiment is PAIRS_TO_HEAR:
        assert {row["labels"] for row in numbers(of_words, experiment.name)} <= {"cancel", "start"}


# --- figure 1 ------------------------------------------------------------------------------------


def test_figure_1_by_hand(study):
    perform(ACTIVITY, study)
    found = numbers(study, "figure-1")
    assert len(found) == study.preset.runs * len(LAYERS) * len(COMPARED)
    rows = {(row["layer"], row["regime"]): row for row in found if row["random_state"] == "0"}
    clips = study.clips("audioset").subset("test")
    encoder = study.encoder(pretrained("supervised"))
    active, bandwidths = [], []
    for number in (0, len(clips) - 1):  # two clips, spread evenly
        x = clips.waveform(number)
        with torch.no_grad():
            maps = encoder.features[: 3 * 5](x[None, None])[0]
        active.append(np.mean([float(m.max()) > 0.01 * float(maps.max()) for m in maps]))
        sounds = [
            Sonifier(encoder).sonify(x, layer="conv5", channel=channel).waveform.double().numpy()
            for channel in every_nth(range(len(maps)), 3)
        ]
        bandwidths.append(np.mean([bandwidth(sound) for sound in sounds if sound.any()]))
    row = rows["conv5", "supervised"]
    assert float(row["active_maps"]) == pytest.approx(np.mean(active))
    assert float(row["bandwidth_hz"]) == pytest.approx(np.mean(bandwidths), rel=1e-4)


def bandwidth(sound: np.ndarray) -> float:
    frequencies, power = scipy.signal.welch(sound, 8000, return_onesided=False)
    frequencies, power = np.abs(frequencies[1:129]), power[1:129]
    centroid = power @ frequencies / power.sum()
    return math.sqrt(power @ (frequencies - centroid) ** 2 / power.sum())


def test_dead_layers_are_inactive_and_silent(dead):
    perform(ACTIVITY, dead)
    for row in numbers(dead, "figure-1"):
        lost = int(row["layer"].removeprefix("conv")) >= DEAD
        assert (float(row["active_maps"]) == 0) == lost
        assert (float(row["silent"]) == 1) == lost
        assert (row["bandwidth_hz"] == "") == lost
    active, selective = facts(dead, "figure-1")["claims"]
    assert active["comparisons"][0]["estimate"]["mean"] == 0
    assert selective["comparisons"][1]["estimate"]["n"] == 0  # nothing to hear, nothing to compare


def layered(active, width, runs=3):
    """Rows of figure 1 from `active(regime, random_state)`, of deep maps, and a width in Hz."""
    return [
        {"regime": regime, "random_state": random_state, "layer": layer}
        | {
            "active_maps": active(regime, random_state),
            "bandwidth_hz": width(regime, random_state, number),
        }
        for regime in REGIMES
        for random_state in range(runs)
        for number, layer in enumerate(LAYERS)
    ]


def test_claims_of_figure_1():
    def active(regime, random_state):
        return 0.5 + random_state / 10 + (0.2 + random_state / 100) * (regime == "contrastive")

    def width(regime, random_state, number):
        return (
            800
            + (10 + (regime == "contrastive")) * random_state
            + (400 + random_state) * (regime == "contrastive") * (number > 6)
        )

    rows = layered(active, width)
    assert judge(activity.claim_d(rows).comparisons) is Verdict.HOLDS
    assert judge(activity.claim_s(rows).comparisons) is Verdict.HOLDS
    swapped = [row | {"regime": REGIMES[row["regime"] == REGIMES[0]]} for row in rows]
    assert judge(activity.claim_d(swapped).comparisons) is Verdict.FAILS
    assert judge(activity.claim_s(swapped).comparisons) is Verdict.FAILS
    unlike = layered(active, lambda regime, random_state, n: width(regime, random_state, 10))
    assert judge(activity.claim_s(unlike).comparisons) is Verdict.FAILS  # layer 1 differs too


# --- strongest clips and their labels -----------------------------------------------------------


def test_the_strongest_clips_are_those_with_the_highest_peaks(study):
    perform(TOP_3, study)
    clips = study.clips("audioset").subset("test")
    features = study.encoder(pretrained("contrastive")).features[: 3 * 6]
    with torch.no_grad():
        peaks = torch.stack([features(clips.waveform(i)[None, None])[0].amax(-1) for i in range(6)])
    mined = Mined.read(study.folder / "top-3" / "contrastive-s0.parquet")
    assert sorted(mined.clips) == sorted(clips.ids)
    ranking = strongest(study, "contrastive")["conv6"]
    for channel in range(4):
        expected = peaks[:, channel].topk(3)
        assert ranking.value[channel] == pytest.approx(expected.values.tolist())
        assert list(ranking.clip[channel]) == [clips.ids[i] for i in expected.indices]


def test_clips_are_mined_once(study, monkeypatch):
    strongest(study, "contrastive")
    monkeypatch.setattr(Study, "encoder", None)
    assert len(strongest(study, "contrastive")) == len(LAYERS)


def test_filters_that_answer_fewer_than_three_clips_do_not_count(dead):
    perform(TOP_3, dead)
    for row in numbers(dead, "top-3"):
        lost = int(row["layer"].removeprefix("conv")) >= DEAD
        assert (row["answering"] == "0") == lost
    ranking = strongest(dead, "supervised")["conv4"]
    ranking.value[1] = [1.0, 0.5, 0.0]
    assert answering(ranking) == [0]


def test_label_entropy_by_hand():
    same = [[0, 1, 0]] * 3
    mixed = [[1, 0, 0], [1, 1, 0], [0, 0, 1]]  # of a 1/2, of b 1/6, of c 1/3
    apart = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    unlabelled = [[0, 0, 0], [1, 1, 0], [0, 0, 0]]
    expected = [0, 1 / 2 + math.log2(6) / 6 + math.log2(3) / 3, math.log2(3), 1]
    found = label_entropy(torch.tensor([same, mixed, apart, unlabelled]))
    assert found.tolist() == pytest.approx(expected)


def test_random_entropy_is_that_of_all_triples():
    labels = torch.eye(3)[[0, 0, 1, 1, 2, 2, 2]]
    triples = torch.tensor(list(itertools.combinations(range(7), 3)))
    expected = float(label_entropy(labels[triples]).mean())
    # Five standard errors of 2,000 draws of numbers between 0 and log2(3).
    assert random_entropy(labels, torch.ones(7)) == pytest.approx(expected, abs=0.08)
    only = torch.tensor([1.0, 1, 0, 0, 5, 0, 0])
    assert random_entropy(labels, only) == pytest.approx(float(label_entropy(labels[[0, 1, 4]])))


def test_label_entropy_of_a_layer(study):
    perform(LABELS, study)
    clips = study.clips("audioset").subset("test")
    row = next(
        row
        for row in numbers(study, "label-entropy")
        if (row["layer"], row["regime"]) == ("conv7", "supervised")
    )
    ranking = strongest(study, "supervised")["conv7"]
    heard = [channel for channel in range(8) if min(ranking.value[channel]) > 0]
    expected = []
    for channel in heard:
        shares = np.zeros(len(clips.classes))
        for clip in ranking.clip[channel]:
            labels = clips.labels([clips.ids.index(clip)])[0].numpy()
            shares += labels / labels.sum() / 3
        expected.append(-sum(p * math.log2(p) for p in shares if p))
    assert int(row["filters"]) == len(heard)
    assert float(row["entropy_bits"]) == pytest.approx(np.mean(expected))


def test_claim_k_is_open_where_deep_layers_are_dead(dead):
    perform(LABELS, dead)
    (claim,) = facts(dead, "label-entropy")["claims"]
    assert claim["letter"] == "k"
    assert claim["comparisons"][0]["estimate"]["n"] == 0


def test_claim_k_is_of_networks():
    rows = [
        {"regime": regime, "random_state": random_state, "layer": layer}
        | {
            "entropy_bits": 1
            + random_state / 10
            + (0.5 + random_state / 100) * (regime == "supervised")
        }
        for regime in REGIMES
        for random_state in range(3)
        for layer in LAYERS
    ]
    claim = labels.claim_k(rows)
    assert judge(claim.comparisons) is Verdict.HOLDS
    assert claim.comparisons[0].estimate.mean == pytest.approx(0.51)


# --- figures 2 and 3 ---------------------------------------------------------------------------


def test_a_pair_is_of_the_filter_most_coherent_beyond_the_others(study):
    perform(PAIRS_TO_HEAR, study)
    rows = numbers(study, "figures-2-3")
    assert [(row["regime"], row["layer"]) for row in rows] == [
        (regime, layer) for regime, layers in PAIRS.items() for layer in layers
    ]
    row = next(row for row in rows if row["layer"] == "conv11")
    clips, ranking = study.clips("audioset").subset("test"), strongest(study, "contrastive")
    heard = [channel for channel in range(32) if min(ranking["conv11"].value[channel]) > 0]
    chosen = [heard[0], heard[round((len(heard) - 1) / 2)], heard[-1]]
    sonifier = Sonifier(study.encoder(pretrained("contrastive")))
    scores = {}
    for channel in chosen:
        x = clips.waveform(clips.ids.index(ranking["conv11"].clip[channel, 0]))
        sounds = {c: sonifier.sonify(x, layer="conv11", channel=c).waveform for c in chosen}
        values = {c: float(mean_top_coherence(x, s)) for c, s in sounds.items() if s.any()}
        own = values.pop(channel, 0)
        scores[channel] = own - np.mean(list(values.values()))
    assert int(row["of_filters"]) == 3
    assert int(row["filter"]) == max(scores, key=scores.get)
    assert float(row["coherence"]) - float(row["control"]) == pytest.approx(
        max(scores.values()), abs=1e-5
    )
    number = clips.ids.index(row["clip"])
    assert clips.labels([number]).sum() == len(row["labels"].split("; "))
    assert all(
        clips.labels([number])[0, clips.classes.index(name)] for name in row["labels"].split("; ")
    )


def test_the_best_pair_is_judged_beyond_its_control():
    high = {"coherence": 0.9, "control": 0.8}
    own = {"coherence": 0.6, "control": 0.2}
    assert best([high, own]) is own


def test_a_pair_can_be_heard(study):
    perform(PAIRS_TO_HEAR, study)
    sounds = facts(study, "figures-2-3")["sounds"]
    clips = study.clips("audioset").subset("test")
    row = numbers(study, "figures-2-3")[0]
    title = f"{row['regime']}, {row['layer']}, filter {row['filter']}"
    x = clips.waveform(clips.ids.index(row["clip"]))
    found = Sonifier(study.encoder(pretrained("supervised"))).sonify(
        x, layer=row["layer"], channel=int(row["filter"])
    )
    for kind, expected in (("input", x), ("sonification", found.waveform)):
        heard, _ = read_audio(study.folder / "figures-2-3" / sounds[f"{title}: {kind}"])
        np.testing.assert_allclose(np.squeeze(heard), expected.numpy(), atol=2**-14)


def test_layers_without_an_answering_filter_have_no_pair(dead):
    perform(PAIRS_TO_HEAR, dead)
    rows = {row["layer"]: row for row in numbers(dead, "figures-2-3")}
    assert rows["conv8"]["filter"] == rows["conv11"]["filter"] == ""
    assert rows["conv7"]["filter"] != ""
    assert facts(dead, "figures-2-3")["figures"] == ["figure-2.png"]


# --- figure 5 ----------------------------------------------------------------------------------


def test_figure_5_by_hand(study):
    perform(EVOLUTION, study)
    every = numbers(study, "figure-5")
    rows = [row for row in every if (row["layer"], row["random_state"]) == ("conv8", "0")]
    network, clips = pretrained("contrastive"), study.clips("audioset").subset("test")
    assert [int(row["epoch"]) for row in rows] == study.epochs(network) * 2 == [0, 1] * 2
    assert rows[0]["filter"] != rows[2]["filter"]
    first, last = rows[:2]
    channel, clip = int(first["filter"]), first["clip"]
    assert last["clip"] == clip == strongest(study, "contrastive")["conv8"].clip[channel, 0]
    x = clips.waveform(clips.ids.index(clip))
    sounds = [
        Sonifier(study.encoder(network, epoch)).sonify(x, layer="conv8", channel=channel)
        for epoch in (0, 1)
    ]
    alike = log_mel_correlation(sounds[0].waveform, sounds[1].waveform, sample_rate=8000)
    assert float(first["like_last"]) == pytest.approx(float(alike))
    assert float(first["coherence"]) == pytest.approx(float(sounds[0].coherence()))
    assert float(last["like_last"]) == pytest.approx(1)
    assert [row["checkpoint"] for row in rows] == ["first", "last"] * 2
    assert float(first["entropy"]) == pytest.approx(float(spectral_entropy(sounds[0].waveform)))
    assert float(first["input_entropy"]) == pytest.approx(float(spectral_entropy(x)))
    assert float(first["peak"]) == pytest.approx(float(sounds[0].activation[0, channel].max()))
    expected = bandwidth(sounds[1].waveform.double().numpy())
    assert float(last["bandwidth_hz"]) == pytest.approx(expected, rel=1e-4)


def test_a_sound_for_each_checkpoint(study):
    perform(EVOLUTION, study)
    titles = list(facts(study, "figure-5")["sounds"])
    assert [title.partition(": ")[2] for title in titles] == ["input", "epoch 0", "epoch 1"]


def test_dead_filters_are_followed_too(dead):
    perform(EVOLUTION, dead)
    for row in numbers(dead, "figure-5"):
        lost = row["layer"] in ("conv8", "conv10")
        assert (row["silent"] == "1") == lost
        assert (row["coherence"] == row["bandwidth_hz"] == row["like_last"] == "") == lost
        assert (float(row["entropy"]) == 0) == lost


def test_claim_r_needs_a_fuller_spectrum_than_later_and_than_the_input():
    def rows(first, last, heard):
        return [
            {"random_state": random_state, "layer": "conv5", "checkpoint": name}
            | {"entropy": value + random_state / (100 if name == "first" else 110)}
            | {"input_entropy": heard}
            for random_state in range(3)
            for name, value in (("first", first), ("last", last))
        ]

    assert judge(evolution.claim_r(rows(0.9, 0.5, 0.6)).comparisons) is Verdict.HOLDS
    assert judge(evolution.claim_r(rows(0.9, 0.5, 0.97)).comparisons) is Verdict.FAILS
    assert judge(evolution.claim_r(rows(0.5, 0.5, 0.3)).comparisons) is Verdict.EQUAL
