"""Figures 1, 2, 3 and 5 and section 3.3.2: their numbers by hand, and networks with dead maps."""

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
from reference_models.checkpoint import load_checkpoint, save_checkpoint
from reference_models.experiments.activity import ACTIVITY
from reference_models.experiments.finding import perform, read_rows
from reference_models.experiments.study import (
    LAYERS,
    PRESETS,
    REGIMES,
    Study,
    every_nth,
    pretrained,
)

FIGURES = (ACTIVITY,)
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
    assert found["n"] and found["differs"]
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


# --- figure 1 --------------------------------------------------------------------------------------


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
