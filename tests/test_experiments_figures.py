"""Figures 1, 2, 3 and 5 and section 3.3.2: their numbers by hand, and networks with dead maps."""

import itertools
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import scipy.signal
import torch

pytest.importorskip("pyarrow")

from deconv1d import Sonifier
from deconv1d.audio import read_audio
from deconv1d.mined import Mined
from reference_models.checkpoint import load_checkpoint, save_checkpoint
from reference_models.experiments.activity import ACTIVITY
from reference_models.experiments.finding import perform, read_rows
from reference_models.experiments.labels import LABELS, label_entropy, random_entropy
from reference_models.experiments.strongest import TOP_3, answering, strongest
from reference_models.experiments.study import (
    LAYERS,
    PRESETS,
    REGIMES,
    Study,
    every_nth,
    pretrained,
)

FIGURES = (ACTIVITY, TOP_3, LABELS)
DEAD = 8
"""From this block on the planted networks have no active map."""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Both networks at 1/64 of the paper's width, one epoch of training."""
    preset = replace(PRESETS["smoke"], channels=3)
    study = Study(tmp_path_factory.mktemp("study"), preset)
    for regime in REGIMES:
        study.train(pretrained(regime))
    return study


@pytest.fixture(scope="module")
def dead(study, tmp_path_factory) -> Study:
    """The same, with networks that are dead from block 8 on, and dead from the first checkpoint."""
    planted = replace(study, folder=tmp_path_factory.mktemp("dead") / "study")
    shutil.copytree(study.folder / "data", planted.folder / "data")
    shutil.copytree(study.folder / "networks", planted.folder / "networks")
    for regime in REGIMES:
        for epoch in planted.epochs(pretrained(regime)):
            path = planted.checkpoint(pretrained(regime), epoch)
            tensors, about = load_checkpoint(path)
            for name, tensor in tensors.items():
                if any(f"conv{block}." in name for block in range(DEAD, 12)):
                    tensor.fill_(-1.0 if name.endswith("bias") else 0.0)
            save_checkpoint(path, tensors, about)
    return planted


def numbers(study: Study, name: str) -> list[dict[str, str]]:
    return read_rows(study.folder / name / "numbers.csv")


def facts(study: Study, name: str) -> dict:
    return json.loads((study.folder / name / "finding.json").read_text())


@pytest.mark.parametrize("experiment", FIGURES, ids=lambda experiment: experiment.name)
def test_an_experiment_writes_what_it_found(study, experiment):
    assert set(experiment.networks(study.preset)) <= {pretrained(regime) for regime in REGIMES}
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


@pytest.mark.filterwarnings("error::deconv1d.errors.SilenceWarning")
@pytest.mark.parametrize("experiment", FIGURES, ids=lambda experiment: experiment.name)
def test_dead_maps_are_counted_not_an_error(dead, experiment):
    perform(experiment, dead)
    assert "nan" not in (dead.folder / experiment.name / "numbers.csv").read_text().lower()


# --- figure 1 ------------------------------------------------------------------------------------


def test_figure_1_by_hand(study):
    perform(ACTIVITY, study)
    rows = {(row["layer"], row["regime"]): row for row in numbers(study, "figure-1")}
    assert set(rows) == {(layer, regime) for layer in LAYERS for regime in REGIMES}
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
    # The 97.5th percentile of Student's t with one degree of freedom is 12.706.
    half_width = 12.7062 * np.std(bandwidths, ddof=1) / math.sqrt(2)
    assert float(row["bandwidth_hz_ci"]) == pytest.approx(half_width, rel=1e-3)


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
    (claim,) = facts(dead, "figure-1")["claims"]
    assert claim["holds"] is None


def test_more_active_deep_layers_make_claim_d_hold(dead, study, tmp_path):
    mixed = replace(study, folder=tmp_path / "study")
    for regime, source in zip(REGIMES, (study, dead), strict=True):
        network = f"networks/{pretrained(regime).name}"
        shutil.copytree(source.folder / network, mixed.folder / network)
    shutil.copytree(study.folder / "data", mixed.folder / "data")
    perform(ACTIVITY, mixed)
    (claim,) = facts(mixed, "figure-1")["claims"]
    assert claim["letter"] == "d"
    assert claim["holds"] is True


# --- strongest clips and their labels -----------------------------------------------------------


def test_the_strongest_clips_are_those_with_the_highest_peaks(study):
    perform(TOP_3, study)
    clips = study.clips("audioset").subset("test")
    features = study.encoder(pretrained("contrastive")).features[: 3 * 6]
    with torch.no_grad():
        peaks = torch.stack([features(clips.waveform(i)[None, None])[0].amax(-1) for i in range(6)])
    mined = Mined.read(study.folder / "top-3" / "contrastive.parquet")
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
    assert claim["holds"] is None
