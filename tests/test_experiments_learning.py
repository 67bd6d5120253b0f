"""Learning curves: which networks were trained long enough, and what the report says of them."""

import json
from dataclasses import asdict, replace

import pytest
from test_experiments_tables import CLASSES, list_tones, read_tones

from reference_models.data import build_cache
from reference_models.evaluate import metrics
from reference_models.experiments.finding import FINDING, perform, read_rows
from reference_models.experiments.learning import LEARNING
from reference_models.experiments.report import write_report
from reference_models.experiments.settled import (
    PROBE,
    RULE,
    Curve,
    history_curve,
    probed_curve,
    settled_curve,
)
from reference_models.experiments.study import PRESETS, Study, pretrained
from reference_models.probe import choose_probe
from reference_models.probing import block_means


def history(metric: str, values: list[float]) -> list[dict[str, float]]:
    return [{"loss": 9.0, metric: value, "dprime": 9.0} for value in values]


RISING = history("accuracy", [0.05 * epoch for epoch in range(10)])
FLAT = history("accuracy", [min(0.3, 0.05 * epoch) for epoch in range(10)])
FALLING = history("val_loss", [3 - 0.1 * epoch for epoch in range(10)])


def test_a_run_was_long_enough_if_its_end_brought_nothing():
    assert not history_curve(RISING).settled
    assert history_curve(FLAT).settled
    assert not history_curve(FALLING).settled
    assert history_curve(FALLING + 10 * FALLING[-1:]).settled
    assert not history_curve(FLAT[:1]).settled


def test_what_is_gained_is_the_best_of_the_last_fifth_over_the_best_before():
    assert history_curve(RISING).gained == pytest.approx(0.45 - 0.35)
    assert history_curve(FALLING).gained == pytest.approx(2.3 - 2.1)
    worse = history("mAP", [0.1, 0.5, 0.2, 0.2, 0.4])
    assert history_curve(worse).gained == pytest.approx(-0.1)
    assert history_curve(FLAT[:1]).gained is None


@pytest.mark.parametrize(
    ("values", "gained"),
    [
        (
            {7: 0.3, 14: 0.5, 21: 0.6, 28: 0.58, 30: 0.59},
            -0.01,
        ),  # 24 is where the last fifth begins
        ({6: 0.3, 24: 0.5, 30: 0.6}, 0.1),
        ({25: 0.5, 30: 0.6}, None),
    ],
)
def test_of_some_epochs_those_in_the_last_fifth_are_its_end(values, gained):
    curve = Curve("accuracy", list(values.values()), list(values))
    assert curve.gained == (gained if gained is None else pytest.approx(gained))


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    """Two networks of each kind that are trained; of both regimes one was still rising.

    The loss of the contrastive ones goes on falling.
    """
    clips = build_cache(list_tones("events", True), tmp_path / "cache", read=read_tones)
    monkeypatch.setattr(Study, "clips", lambda *_: clips)
    study = Study(tmp_path / "study", replace(PRESETS["smoke"], runs=2))
    for network in LEARNING.networks(study.preset):
        curve = FALLING if network.regime == "contrastive" else FLAT
        if network == pretrained("supervised", 1):
            curve = RISING
        folder = study.folder / "networks" / network.name
        folder.mkdir(parents=True)
        if network.regime == "contrastive":
            values = [0.3, 0.3 + 0.2 * network.random_state]
            probed = {"metric": "mAP", "values": values, "epochs": [5, 10]}
            (folder / "probed.json").write_text(json.dumps(probed))
        result = {"settings": asdict(study.settings(network)), "history": curve}
        (folder / "result.json").write_text(json.dumps(result))
    return study


def test_the_report_names_the_networks_that_were_not(study):
    perform(LEARNING, study)
    folder = study.folder / LEARNING.name
    rows = read_rows(folder / "numbers.csv")
    told = {(row["networks"], row["random_state"]): row["long_enough"] for row in rows}
    assert told == {
        ("contrastive, AudioSet", "0"): "",
        ("contrastive, AudioSet", "1"): "",
        (f"contrastive, AudioSet, {PROBE}", "0"): "yes",
        (f"contrastive, AudioSet, {PROBE}", "1"): "no",
        ("supervised, AudioSet", "0"): "yes",
        ("supervised, AudioSet", "1"): "no",
        ("fine-tuned on FSD50K, from contrastive", "0"): "yes",
        ("fine-tuned on FSD50K, from contrastive", "1"): "yes",
    }
    facts = json.loads((folder / FINDING).read_text())
    assert f"4 of 6 were {RULE}" in facts["n"]
    write_report(replace(study, preset=replace(study.preset, evidence=True)), [LEARNING])
    pages = [(study.folder / f"report.{kind}").read_text() for kind in ("md", "html")]
    for page in pages:
        assert "Of the 6 networks that most of them rest on, 4 were trained long enough" in page
    numbers = {number["name"]: number for number in facts["numbers"]}
    gained = numbers["supervised, AudioSet, gained"]
    assert gained["unit"] == "accuracy"
    assert gained["estimate"]["mean"] == pytest.approx((0.1 + 0) / 2)
    assert numbers["contrastive, AudioSet, last"]["unit"] == "contrastive loss"
    assert numbers[f"contrastive, AudioSet, {PROBE}, gained"]["unit"] == "mAP"
    assert (folder / f"{LEARNING.name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_contrastive_network_is_probed_after_some_of_its_epochs_once(tmp_path, monkeypatch):
    clips = build_cache(list_tones("events", True), tmp_path / "cache", read=read_tones)
    monkeypatch.setattr(Study, "clips", lambda *_: clips)
    preset = PRESETS["smoke"]
    settings = replace(preset.contrastive, epochs=7, warmup_epochs=1, keep_every=1)
    study = Study(tmp_path / "study", replace(preset, contrastive=settings))
    network = pretrained("contrastive", 1)
    study.train(network)
    curve = probed_curve(study, network)
    assert list(curve.epochs) == [1, 3, 4, 5, 7]  # of 7, without the first weights
    training, held_out = (clips.subset(split) for split in ("train", "val"))
    for epoch, value in zip(curve.epochs, curve.values, strict=True):
        encoder = study.encoder(network, epoch)
        ours, theirs = (block_means(encoder, some)[11] for some in (training, held_out))
        probe = choose_probe(ours, training.labels(), theirs, held_out.labels(), classes=CLASSES)
        assert value == metrics(probe.head(theirs).detach(), held_out.labels())["mAP"]
    for path in study.checkpoint(network).parent.glob("*.safetensors"):
        path.unlink()
    assert settled_curve(study, network) == curve
