"""Learning curves: which networks were trained long enough, and what the report says of them."""

import json
from dataclasses import asdict, replace

import pytest
from test_experiments_tables import list_tones, read_tones

from reference_models.data import build_cache
from reference_models.experiments.finding import FINDING, perform, read_rows
from reference_models.experiments.learning import LEARNING
from reference_models.experiments.report import write_report
from reference_models.experiments.settled import RULE, curve_of
from reference_models.experiments.study import PRESETS, Study, pretrained


def history(metric: str, values: list[float]) -> list[dict[str, float]]:
    return [{"loss": 9.0, metric: value, "dprime": 9.0} for value in values]


RISING = history("accuracy", [0.05 * epoch for epoch in range(10)])
FLAT = history("accuracy", [min(0.3, 0.05 * epoch) for epoch in range(10)])
FALLING = history("val_loss", [3 - 0.1 * epoch for epoch in range(10)])


def test_a_run_was_long_enough_if_its_end_brought_nothing():
    assert not curve_of(RISING).settled
    assert curve_of(FLAT).settled
    assert not curve_of(FALLING).settled
    assert curve_of(FALLING + 10 * FALLING[-1:]).settled
    assert not curve_of(FLAT[:1]).settled


def test_what_is_gained_is_the_best_of_the_last_fifth_over_the_best_before():
    assert curve_of(RISING).gained == pytest.approx(0.45 - 0.35)
    assert curve_of(FALLING).gained == pytest.approx(2.3 - 2.1)
    worse = history("mAP", [0.1, 0.5, 0.2, 0.2, 0.4])
    assert curve_of(worse).gained == pytest.approx(-0.1)
    assert curve_of(FLAT[:1]).gained is None


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """Two networks of each kind that are trained; of the supervised ones one was still rising."""
    clips = build_cache(list_tones("events", True), tmp_path / "cache", read=read_tones)
    monkeypatch.setattr(Study, "clips", lambda *_: clips)
    study = Study(tmp_path / "study", replace(PRESETS["smoke"], runs=2))
    for network in LEARNING.networks(study.preset):
        curve = FALLING + 10 * FALLING[-1:] if network.regime == "contrastive" else FLAT
        if network == pretrained("supervised", 1):
            curve = RISING
        folder = study.folder / "networks" / network.name
        folder.mkdir(parents=True)
        result = {"settings": asdict(study.settings(network)), "history": curve}
        (folder / "result.json").write_text(json.dumps(result))
    return study


def test_the_report_names_the_networks_that_were_not(study):
    perform(LEARNING, study)
    folder = study.folder / LEARNING.name
    rows = read_rows(folder / "numbers.csv")
    told = {(row["networks"], row["random_state"]): row["long_enough"] for row in rows}
    assert told == {
        ("contrastive, AudioSet", "0"): "yes",
        ("contrastive, AudioSet", "1"): "yes",
        ("supervised, AudioSet", "0"): "yes",
        ("supervised, AudioSet", "1"): "no",
        ("fine-tuned on FSD50K, from contrastive", "0"): "yes",
        ("fine-tuned on FSD50K, from contrastive", "1"): "yes",
    }
    facts = json.loads((folder / FINDING).read_text())
    assert f"5 of 6 were {RULE}" in facts["n"]
    write_report(replace(study, preset=replace(study.preset, evidence=True)), [LEARNING])
    pages = [(study.folder / f"report.{kind}").read_text() for kind in ("md", "html")]
    for page in pages:
        assert "Of the 6 networks that most of them rest on, 5 were trained long enough" in page
    numbers = {number["name"]: number for number in facts["numbers"]}
    gained = numbers["supervised, AudioSet, gained"]
    assert gained["unit"] == "accuracy"
    assert gained["estimate"]["mean"] == pytest.approx((0.1 + 0) / 2)
    assert numbers["contrastive, AudioSet, last"]["unit"] == "contrastive loss"
    assert (folder / f"{LEARNING.name}.png").read_bytes().startswith(b"\x89PNG")
