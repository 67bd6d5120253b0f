"""The listening test for people: what is drawn, what the page saves, what is made of answers."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("pyarrow")

from reference_models.cnn12 import CNN12
from reference_models.experiments.study import PRESETS, Study
from reference_models.initialisation import initialise
from reference_models.listening_test import CELLS, Sound, answered, drawn, heard, scored
from reference_models.statistics import Verdict, judge

KINDS = ("Dog bark", "Rain", "Clock tick")


@pytest.fixture
def study(recordings, monkeypatch, tmp_path) -> Study:
    torch.manual_seed(3)
    encoder = initialise(CNN12(width=1 / 64)).eval()
    monkeypatch.setattr(Study, "encoder", lambda _, network, epoch=None: encoder)
    return Study(tmp_path, PRESETS["smoke"], {"esc10": recordings / "esc10"})


def files(each: int = 9) -> list[Path]:
    return [
        Path(f"esc10/00{n} - {kind}/1-{clip}-A.ogg")
        for n, kind in enumerate(KINDS)
        for clip in range(each)
    ]


def test_each_kind_is_heard_once_in_each_cell_and_no_clip_twice():
    sounds = drawn(files(), networks=2, listener=1)
    assert len({sound.clip for sound in sounds}) == len(sounds) == len(KINDS) * len(CELLS)
    in_cells = Counter((sound.kind, sound.method, sound.regime) for sound in sounds)
    assert set(in_cells.values()) == {1}
    assert {sound.random_state for sound in sounds if sound.regime} == {0, 1}
    assert sounds == drawn(files(), networks=2, listener=1)
    assert sounds != drawn(files(), networks=2, listener=2)
    # The order tells nothing: neither kinds nor cells come in rows.
    assert [sound.kind for sound in sounds] != sorted(sound.kind for sound in sounds)


@pytest.mark.parametrize("method", ["deconvnet", "mask", "original"])
def test_what_is_played_has_its_recording_s_peak(study, method):
    clip = sorted((study.sources["esc10"]).glob("*/*.ogg"))[0]
    where = {} if method == "original" else {"regime": "contrastive", "layer": "conv8"}
    sound = heard(study, Sound(f"{clip.parent.name}/{clip.name}", "Dog", method, **where))
    assert sound.dim() == 3
    assert float(sound.abs().max()) == pytest.approx(1)


def test_scores_by_hand():
    def sounds(method: str, regime: str, rights: dict[int, list[bool]]):
        return [
            (Sound("", "", method, regime, random_state), right)
            for random_state, given in rights.items()
            for right in given
        ]

    answers = [
        *sounds("original", "", {0: [True, True, False, True]}),
        *sounds("mask", "contrastive", {n: [True, True, n < 2] for n in range(4)}),
        *sounds("mask", "supervised", {n: [False, False, n == 3] for n in range(4)}),
        *sounds("mask", "untrained", {0: [True, False]}),
    ]
    table, comparisons = scored(answers)
    named = {(row.method, row.regime): (row.named.split(" ")[0], row.sounds) for row in table}
    assert named == {
        ("original", ""): ("0.750", 4),
        ("mask", "contrastive"): ("0.833", 12),
        ("mask", "supervised"): ("0.083", 12),
        ("mask", "untrained"): ("0.500", 2),
    }
    over_supervised, over_untrained = comparisons
    assert over_supervised.name == "mask: contrastive minus supervised"
    assert over_supervised.estimate.mean == pytest.approx((1 + 1 + 2 / 3 + 1 / 3) / 4)
    assert judge([over_supervised]) is Verdict.HOLDS
    assert judge([over_untrained]) is Verdict.FEW  # one network was heard of both


def test_answers_to_another_test_are_refused(tmp_path):
    (tmp_path / "one").mkdir()
    sound = {"clip": "", "kind": "Rain", "method": "original"}
    (tmp_path / "one" / "key.json").write_text(json.dumps({"listener": 1, "sounds": [sound]}))
    with pytest.raises(FileNotFoundError, match=r"holds no answers\.json.*move it"):
        list(answered([tmp_path / "one"]))
    (tmp_path / "one" / "answers.json").write_text(
        '{"test": "of others", "answers": {"0": "Rain"}}'
    )
    with pytest.raises(ValueError, match="answers test of others: expected"):
        list(answered([tmp_path / "one"]))
