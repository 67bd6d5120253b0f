"""Tables A.1 to A.6 and figure 4: the networks they ask for, their numbers, their claims."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

pytest.importorskip("pyarrow")

from reference_models.cnn12 import CNN12, FILTERS, KERNEL_SIZES, probe
from reference_models.data import Clip, ClipIndex, build_cache
from reference_models.evaluate import resample, word_metrics
from reference_models.experiments import comparison, tables, transfer
from reference_models.experiments.comparison import (
    Bootstrap,
    Difference,
    all_hold,
    bootstrap,
    differences,
)
from reference_models.experiments.finding import FINDING, perform, read_rows
from reference_models.experiments.study import PRESETS, Study, finetuned, pretrained
from reference_models.experiments.tables import TABLES
from reference_models.experiments.transfer import TRANSFER, probe_scores
from reference_models.probing import BlockMeans

CLASSES = 4
SPLITS = ["train"] * 32 + ["val"] * 12 + ["test"] * 16
AHEAD, BEHIND, OPEN = (Difference(m, m - 0.1, m + 0.1, 50) for m in (0.3, -0.3, 0.05))


def read_tones(clip: Clip) -> np.ndarray:
    """A tone for each class, and noise."""
    noise = np.random.default_rng(int(clip.id)).normal(size=2400 + 600 * (int(clip.id) % 2))
    time = np.arange(len(noise))
    return 0.3 * noise + sum(np.sin(0.2 * (1 + 2 * label) * time) for label in clip.labels)


def list_tones(name: str, multilabel: bool) -> ClipIndex:
    labels = [
        tuple(sorted({i % CLASSES, i * i % CLASSES})) if multilabel else (i % CLASSES,)
        for i in range(len(SPLITS))
    ]
    clips = tuple(
        Clip(str(i), "", 0, 0, 0, label, split, "unread")
        for i, (label, split) in enumerate(zip(labels, SPLITS, strict=True))
    )
    return ClipIndex(name, tuple("abcd"[:CLASSES]), multilabel, clips)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study whose data sets are a few tones."""
    folder = tmp_path_factory.mktemp("study")
    events = build_cache(list_tones("events", True), folder / "data" / "events", read=read_tones)
    words = build_cache(list_tones("words", False), folder / "data" / "words", read=read_tones)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "clips", lambda _, data: words if data == "words" else events)
        patch.setattr(comparison, "DRAWS", 50)
        yield Study(folder, PRESETS["smoke"])


def finish(study: Study, experiment) -> tuple[list[dict[str, str]], dict]:
    """The rows and the facts of an experiment, its networks trained first."""
    for network in experiment.networks(study.preset):
        study.train(network)
    perform(experiment, study)
    folder = study.folder / experiment.name
    return read_rows(folder / "numbers.csv"), json.loads((folder / FINDING).read_text())


def result_file(study: Study, name: str) -> dict:
    return json.loads((study.folder / "networks" / name / "result.json").read_text())


# --- networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_a_folder_belongs_to_one_network(preset):
    held = {}
    for experiment in (*TABLES, *TRANSFER):
        asked = experiment.networks(preset)
        assert len(set(asked)) == len(asked)
        for network in asked:
            while network:
                assert held.setdefault(network.name, network) == network
                network = network.start


def test_the_networks_of_the_tables():
    a1, a2, a3, a4, a5, a6 = (set(table.networks(PRESETS["small"])) for table in TABLES)
    assert [len(a) for a in (a1, a2, a3, a4, a5, a6)] == [14, 10, 4, 17, 6, 15]
    assert a3 < a2
    assert a5 < a4
    assert {pretrained("supervised", seed) for seed in range(3)} < a2  # the scratch row
    assert finetuned("words", pretrained("supervised", 2), frozen=True) in a6
    for network in a1 | a2 | a4 | a6:
        assert network.start is None or network.start.seed == network.seed
    taus = sorted((n.start.temperature, n.start.augmentations, n.start.wider) for n in a1)
    pairs = [(0.1, 1, 1), (0.1, 2, 1), (0.1, 3, 1), (0.1, 4, 1), (0.1, 4, 2), (0.2, 4, 1)]
    assert taus == sorted(2 * [*pairs, (0.3, 4, 1)])


def test_figure_4_trains_what_the_tables_do_not():
    figure = set(TRANSFER[0].networks(PRESETS["small"]))
    left = figure - {n for table in TABLES for n in table.networks(PRESETS["small"])}
    assert len(figure) == 20
    assert sorted(n.layers for n in left) == sorted(4 * [2, 6, 11])


# --- tables --------------------------------------------------------------------------------------


def test_table_a1_by_hand(study):
    rows, facts = finish(study, TABLES[0])
    assert len(rows) == 14
    row = rows[2]
    assert (row["setting"], row["tau"], row["trained"]) == ("+ gaussiannoise", "0.1", "fonly")
    assert (row["metric"], row["paper"]) == ("mAP", "0.142 ± 0.001")
    name = "balanced-supervised-from-(audioset-contrastive-aug2-s0)-frozen-s0"
    by_hand = result_file(study, name)["test"]["mAP"]
    assert float(row["mean"]) == by_hand
    assert (row["runs"], row["half_width"]) == ("1", "")
    assert float(row["low"]) <= by_hand <= float(row["high"])
    assert row["ours"].startswith(f"{by_hand:.3f}")
    (claim,) = facts["claims"]
    assert claim["letter"] == "j"
    step = "fonly: + gaussiannoise (tau 0.1) over CNN12 with randomgain (tau 0.1)"
    gain = by_hand - float(rows[0]["mean"])
    assert f"{step} {gain:+.3f} (" in claim["evidence"]
    assert claim["evidence"].count("16 clips") == 10
    assert "rendered events of group A (60 clips) in place of AudioSet" in facts["differs"]


def test_table_a2_by_hand(study):
    rows, facts = finish(study, TABLES[1])
    assert [row["metric"] for row in rows] == 4 * ["mAP", "mAUC", "dprime"]
    one, two = (result_file(study, f"audioset-supervised-s{s}")["test"]["mAUC"] for s in (0, 1))
    row = rows[1]
    assert (row["model"], row["pretraining"], row["fonly"]) == ("CNN12", "False", "NA")
    assert row["paper"] == "0.954 ± 0.000"
    mean = (one + two) / 2
    half_width = 12.706204736 * abs(one - two) / 2  # of the t distribution with one degree
    assert float(row["mean"]) == pytest.approx(mean, abs=1e-12)
    assert float(row["half_width"]) == pytest.approx(half_width, rel=1e-9)
    assert row["ours"] == f"{mean:.3f} ± {half_width:.3f} (N=2)"
    assert (row["low"], rows[-1]["runs"], rows[-1]["half_width"]) == ("", "1", "")
    assert rows[-1]["model"] == "CNN12_x2"
    assert facts["n"].startswith("1 or 2 runs a row, 16 test clips")


@pytest.mark.parametrize("number", [3, 5])
def test_tables_beside_others_networks(study, number):
    rows, _ = finish(study, TABLES[number - 1])
    cited = [row for row in rows if not row["model"].startswith("CNN12")]
    assert all(row["ours"] == row["mean"] == row["parameters"] == "" for row in cited)
    ours = [row for row in rows if row not in cited]
    filters = [f // 64 for f in FILTERS]
    weights = sum(
        k * a * b for k, (a, b) in zip(KERNEL_SIZES, pairwise([1, *filters]), strict=True)
    )
    parameters = weights + sum(filters) + (filters[-1] + 1) * 512 + 513 * CLASSES
    assert int(ours[0]["parameters"]) == parameters
    assert ours[0]["parameters in the paper"] == "14M"
    assert all(row["ours"] for row in ours)


@pytest.mark.parametrize(("number", "count", "metric"), [(4, 21, "mAP"), (6, 7, "accuracy")])
def test_tables_of_transfer(study, number, count, metric):
    rows, _ = finish(study, TABLES[number - 1])
    assert len(rows) == count
    data = {"mAP": "fsd50k", "accuracy": "words"}[metric]
    names = (f"{data}-supervised-from-(audioset-supervised-s{s})-frozen-s{s}" for s in (0, 1))
    mean = np.mean([result_file(study, name)["test"][metric] for name in names])
    (row,) = (r for r in rows if r["paper"] in ("0.463 ± 0.002", "36.0 ± 1.4 %"))
    assert float(row["mean"]) == pytest.approx(mean, abs=1e-12)


# --- figure 4 ------------------------------------------------------------------------------------


def test_one_pass_gives_what_every_probe_sees():
    torch.manual_seed(0)
    encoder = CNN12(width=1 / 64).double().eval()
    means = BlockMeans(encoder)
    waveforms = torch.randn(2, 1, 3001, dtype=torch.float64)
    parts = means(waveforms).split(means.sizes, dim=1)
    assert len(parts) == 12
    for block, held in enumerate(parts[:11], 1):
        alone = probe(encoder, layers=block, classes=CLASSES)[:-1](waveforms)
        torch.testing.assert_close(held, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts[11], encoder(waveforms), rtol=0, atol=1e-12)


@pytest.mark.parametrize("block", [1, 8, 11])
def test_a_probe_is_what_training_makes_of_it(study, block):
    start = pretrained("contrastive")
    frozen = finetuned("words", start, frozen=True)
    trained = study.train(finetuned("words", start, frozen=True, layers=block))
    study.train(frozen)
    scores = probe_scores(study, start, "words")
    labels = study.clips("words").subset("val").labels()
    assert word_metrics(scores[block], labels) == trained["val"]
    assert word_metrics(scores[transfer.WHOLE], labels) == study.result(frozen)["val"]


def test_figure_4(study, monkeypatch):
    rows, facts = finish(study, TRANSFER[0])
    assert len(rows) == 2 * 2 * (12 + 4)
    assert [claim["letter"] for claim in facts["claims"]] == ["e", "h", "i"]
    full = next(
        row
        for row in rows
        if (row["data"], row["trained"], row["pretraining"], row["blocks"])
        == ("words", "full", "supervised", "6")
    )
    name = "words-supervised-from-(audioset-supervised-s0)-blocks6-s0"
    assert float(full["value"]) == result_file(study, name)["val"]["accuracy"]
    early = [
        np.mean(
            [
                float(row["value"])
                for row in rows
                if (row["data"], row["trained"], row["pretraining"]) == ("fsd50k", "fonly", regime)
                and row["blocks"] in ("1", "2", "3", "4")
            ]
        )
        for regime in ("contrastive", "supervised")
    ]
    assert f"sound events {early[0] - early[1]:+.3f} (" in facts["claims"][0]["evidence"]
    assert (study.folder / "figure-4" / "figure-4.png").stat().st_size > 10_000

    def fail(*_):
        raise AssertionError("probes were measured again")

    monkeypatch.setattr(transfer, "measure_probes", fail)
    (study.folder / "figure-4" / FINDING).unlink()  # as if killed before the mark
    assert finish(study, TRANSFER[0]) == (rows, facts)


def test_figure_4_has_each_network_at_its_block(study, monkeypatch):
    def result(_, network):
        return {"val": {"mAP": network.layers + 0.5 * (network.start.regime == "supervised")}}

    monkeypatch.setattr(Study, "result", result)
    values = {f"{regime} {k}": -k for regime in ("contrastive", "supervised") for k in range(1, 13)}
    planted = Bootstrap(values, {name: [v - 1, v + 1] for name, v in values.items()}, 12)
    rows = transfer.rows_of(study, "fsd50k", planted)
    frozen, full = rows[:24], rows[24:]
    assert [(row["pretraining"], row["blocks"], row["value"]) for row in full] == [
        (regime, block, layers + extra)
        for regime, extra in (("contrastive", 0), ("supervised", 0.5))
        for block, layers in ((2, 2), (6, 6), (11, 11), ("whole", 0))
    ]
    assert {row["trained"] for row in frozen} == {"fonly"}
    assert [row["blocks"] for row in frozen] == 2 * [*range(1, 12), "whole"]
    assert [-row["value"] for row in frozen] == 2 * list(range(1, 13))
    assert all(row["low"] < row["value"] < row["high"] for row in frozen)
    panel = transfer.draw([row | {"data": data} for data in transfer.METRICS for row in rows]).axes[
        0
    ]
    curves = {line.get_label(): list(line.get_ydata()) for line in panel.get_lines()}
    assert curves["supervised, full"] == [2.5, 6.5, 11.5]
    assert curves["supervised, full, whole encoder"] == [0.5, 0.5]
    dashes = {line.get_label(): line.get_linestyle() for line in panel.get_lines()}
    assert dashes["contrastive, full, whole encoder"] == "--"
    assert dashes["contrastive, fonly, whole encoder"] == ":"
    assert curves["contrastive, fonly"] == [-k for k in range(1, 12)]


# --- claims --------------------------------------------------------------------------------------


def test_a_claim_of_several_parts():
    assert all_hold([True, True]) is True
    assert all_hold([True, None]) is None
    assert all_hold([None, False, True]) is False


@pytest.mark.parametrize(
    ("events", "words", "holds"),
    [(AHEAD, AHEAD, True), (AHEAD, OPEN, None), (OPEN, BEHIND, False)],
)
def test_claim_e(events, words, holds):
    claim = transfer.claim_e({"fsd50k": {"early": events}, "words": {"early": words}})
    assert (claim.letter, claim.holds) == ("e", holds)
    assert str(events) in claim.evidence
    assert str(words) in claim.evidence


@pytest.mark.parametrize(
    ("early", "deep", "holds"),
    [
        (AHEAD, AHEAD, True),
        (OPEN, AHEAD, True),
        (AHEAD, OPEN, None),
        (AHEAD, BEHIND, False),
        (BEHIND, AHEAD, False),  # ahead from the start is not to overtake
    ],
)
def test_claim_h(early, deep, holds):
    claim = transfer.claim_h({"fsd50k": {"early": early, "deep": deep}})
    assert (claim.letter, claim.holds) == ("h", holds)


@pytest.mark.parametrize(("last", "holds"), [(AHEAD, True), (OPEN, None), (BEHIND, False)])
def test_claim_i(last, holds):
    gains = {"contrastive, over block 11": AHEAD, "supervised, over block 11": last, "deep": OPEN}
    claim = transfer.claim_i({"words": gains})
    assert (claim.letter, claim.holds) == ("i", holds)


@pytest.mark.parametrize(("last", "holds"), [(AHEAD, True), (OPEN, None), (BEHIND, False)])
def test_claim_j(monkeypatch, last, holds):
    def planted(self, ours, theirs):
        return last if "tau0.2" in ours[0] and "tau0.3" in theirs[0] else AHEAD

    monkeypatch.setattr(Bootstrap, "difference", planted)
    claim = tables.claim_j(tables._a1(PRESETS["smoke"]), {"mAP": Bootstrap({}, {}, 50)})
    assert (claim.letter, claim.holds) == ("j", holds)
    assert claim.evidence.count("50 clips") == 10


def test_what_the_claims_of_figure_4_compare():
    values = {
        f"{regime} {k}": 0.0 for regime in ("contrastive", "supervised") for k in range(1, 13)
    }
    values |= {f"contrastive {k}": 0.1 * k for k in range(1, 13)}
    values |= {"contrastive 12": 0.2, "supervised 6": 0.7, "supervised 10": 6.0}
    found = transfer.gains(Bootstrap(values, {k: [v] for k, v in values.items()}, 9))
    assert {name: round(gain.mean, 9) for name, gain in found.items()} == {
        "early": 0.25,
        "deep": 1.0,
        "contrastive, over block 11": -0.5,
        "contrastive, over the whole encoder": 0.4,
        "supervised, over block 11": 0.7,
        "supervised, over the whole encoder": 0.7,
    }


# --- comparisons ---------------------------------------------------------------------------------


def test_networks_are_compared_on_the_same_samples(monkeypatch):
    monkeypatch.setattr(comparison, "DRAWS", 1000)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (60,), generator=generator)
    one, two, three = torch.randn(3, 60, 3, generator=generator)
    held = bootstrap("accuracy", {"one": one, "two": two, "three": three, "again": one}, labels)
    assert held.difference(["one"], ["again"]) == Difference(0.0, 0.0, 0.0, 60)
    # Right or wrong of each clip is a number: the interval is that of their mean.
    right = [(scores.argmax(dim=1) == labels).double() for scores in (one, two, three)]

    def of_the_mean(each: torch.Tensor) -> tuple[float, float]:
        means = resample(lambda scores, _: scores.mean().item(), each[:, None], labels)
        low, high = np.percentile(means, [2.5, 97.5])
        return low, high

    assert held.interval("two") == pytest.approx(of_the_mean(right[1]), abs=1e-12)
    each = (right[0] + right[1]) / 2 - right[2]
    got = held.difference(["one", "two"], ["three"])
    assert got.mean == pytest.approx(each.mean().item(), abs=1e-12)
    assert (got.low, got.high) == pytest.approx(of_the_mean(each), abs=1e-12)
    assert got.high - got.low == pytest.approx(
        2 * 1.96 * each.std().item() / math.sqrt(60), rel=0.1
    )


def test_what_a_difference_says():
    assert str(Difference(0.0214, 0.003, 0.0404, 160)) == "+0.021 (+0.003 to +0.040, 160 clips)"
    assert [d.above for d in (AHEAD, BEHIND, OPEN)] == [True, False, None]
    assert Difference(-0.05, -0.15, 0.05, 50).above is None
    assert Difference(0.0, 0.0, 0.1, 50).above is None


def test_what_sets_a_study_apart(study):
    given = Study(study.folder, study.preset, {"words": study.folder / "speech"})
    said = differences(given, "balanced", "words")
    assert said == (
        "A share of the rendered events of group A (60 clips) in place of AudioSet's balanced "
        "list; Speech Commands is what lies in 'speech' (60 clips); networks of width 0.015625 "
        "after 1 epochs."
    )
