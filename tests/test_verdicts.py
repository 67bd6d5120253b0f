"""Gates, verdicts, the report's first page and `results.json`, on planted findings."""

import json
from dataclasses import replace

import pytest

pytest.importorskip("pyarrow")

from reference_models.experiments import gates, report
from reference_models.experiments.claims import CLAIMS
from reference_models.experiments.finding import (
    Claim,
    Experiment,
    Finding,
    Gate,
    Number,
    numbers_of,
    over_layers,
    paired,
    perform,
)
from reference_models.experiments.report import NO_EVIDENCE, write_report
from reference_models.experiments.study import PRESETS, Study, finetuned, pretrained, untrained
from reference_models.experiments.verdicts import judge_claim, takes_of
from reference_models.statistics import Estimate, Verdict, compare, compare_over_clips

SURE, AGAINST = [0.1, 0.11, 0.12, 0.1, 0.13], [-0.1, -0.11, -0.12, -0.1, -0.13]
OPEN, SAME = [0.1, -0.1, 0.2, -0.15, 0.05], [0.001, -0.001, 0.002, 0.0, 0.001]


def passing(name: str, values=SURE, unmet: str = "") -> Gate:
    return Gate(name, f"{name} has learnt", [compare(name, "mAP", values, margin=0)], unmet)


# --- gates ---------------------------------------------------------------------------------------


def test_a_claim_whose_gate_fails_is_not_testable_and_says_what_it_takes():
    claim = Claim("d", [compare("maps", "mAP", SURE)])
    both = {"contrastive": passing("contrastive"), "supervised": passing("supervised")}
    assert judge_claim("figure-1", claim, both).verdict is Verdict.HOLDS
    for values, takes in (
        (AGAINST, "longer training"),
        ([0.1], "more networks"),
        ([0.3, -0.1, 0.2], "about 12 networks"),
    ):
        line = judge_claim("figure-1", claim, both | {"supervised": passing("supervised", values)})
        assert line.verdict is Verdict.UNTESTABLE
        assert takes in line.line
        assert line.gates == {"contrastive": True, "supervised": False}
    few = both | {"supervised": passing("supervised", unmet="160 test clips, expected 300 or more")}
    assert "more than 160 test clips" in judge_claim("figure-1", claim, few).line


def test_a_gate_that_nobody_measured_is_not_passed():
    line = judge_claim("figure-1", Claim("d", [compare("maps", "mAP", SURE)]), {})
    assert line.verdict is Verdict.UNTESTABLE
    assert "the gate 'contrastive' to be measured" in line.takes


def test_what_a_gate_takes_is_enough():
    """With the spread of the networks as it is, so many of them would decide."""
    spread = [0.3, -0.1, 0.2]
    assert takes_of({"one": passing("one", spread)}).startswith("about 12 networks")
    assert passing("one", 4 * spread).passed
    assert not passing("one", 2 * spread).passed


def test_what_several_gates_take_is_said_once():
    few = "160 test clips, expected 300 or more"
    gates = {
        "a": passing("a", [0.3, -0.1, 0.2], few),
        "b": passing("b", [0.2, 0.1, 0.25], few),
        "c": passing("c", AGAINST),
        "d": passing("d"),
        "e": None,
    }
    assert takes_of({"b": gates["b"]}).startswith("more than 160 test clips, about 4 networks")
    assert takes_of(gates) == (
        "the gate 'e' to be measured, more than 160 test clips, about 12 networks of each regime, "
        "longer training, or more clips to learn from"
    )
    assert takes_of({"d": gates["d"]}) == ""
    one_alone = gates | {"a": passing("a", [0.1])}
    assert takes_of(one_alone).endswith(
        "160 test clips, more networks, longer training, or more clips to learn from"
    )


def test_an_order_between_any_gate_and_a_claim_s_own():
    claim = Claim("a", [compare("", "mAP", SURE)], "fonly", ("recogniser, fonly",))
    found = judge_claim("figure-6", claim, {"recogniser, fonly": passing("recogniser, fonly")})
    assert found.verdict is Verdict.HOLDS
    assert found.text == "removing sonifications hurts more than controls do (fonly)"
    free = Claim("b", [compare_over_clips("", "coherence", [0.1, 0.2, 0.3, 0.25])], "x", ())
    assert judge_claim("soundnet", free, {}).said == "holds (over clips of one network)"


@pytest.mark.parametrize(
    ("events", "words", "passed"),
    [(SURE, OPEN, True), (OPEN, SURE, True), (OPEN, OPEN, False), (AGAINST, SAME, False)],
)
def test_gate_1_is_passed_by_either_task(monkeypatch, events, words, passed):
    values = {"fsd50k": events, "words": words}
    monkeypatch.setattr(
        gates,
        "_over_untrained",
        lambda _, regime, data: compare(data, "mAP", values[data], margin=0),
    )
    either, of_events, of_words = gates.gates_1(None, "contrastive")
    assert either.passed is passed
    assert (of_events.passed, of_words.passed) == (events is SURE, words is SURE)
    assert [g.name for g in (either, of_events, of_words)] == [
        "contrastive",
        "contrastive, sound events",
        "contrastive, words",
    ]


def test_gate_2_wants_more_than_untrained_features_three_times_chance_and_300_clips(monkeypatch):
    class Clips:
        multilabel, clips = True, 400

        def subset(self, _):
            return range(self.clips)

    def study(ours: float, theirs: float, clips: int = 400) -> Study:
        def results(_, networks, metric):
            level = {False: ours, True: theirs}[networks[0].start.untrained]
            spread = level / 100  # or there would be none between their differences
            return [level + spread * network.random_state for network in networks]

        monkeypatch.setattr(gates, "results", results)
        monkeypatch.setattr(gates, "chance", lambda *_: {"mAP": 0.1})
        held = Clips()
        held.clips = clips
        monkeypatch.setattr(Study, "clips", lambda *_: held)
        return Study(None, replace(PRESETS["smoke"], runs=3))

    assert gates.gate_2(study(0.5, 0.4), "full").passed
    assert not gates.gate_2(study(0.5, 0.6), "full").passed
    assert not gates.gate_2(study(0.25, 0.1), "full").passed
    assert not gates.gate_2(study(0.5, 0.4, clips=299), "full").passed


def test_what_the_gates_need_is_trained():
    needed = gates.networks(PRESETS["smoke"])
    for random_state in range(2):
        assert finetuned("words", pretrained("supervised", random_state), frozen=True) in needed
        assert finetuned("fsd50k", untrained(random_state), frozen=True) in needed
        assert finetuned("fsd50k", pretrained("contrastive", random_state)) in needed
    assert len({network.name for network in needed}) == len(needed)


# --- rows of networks ----------------------------------------------------------------------------


def test_layers_are_averaged_before_networks_are_counted():
    rows = [
        {
            "random_state": random_state,
            "layer": layer,
            "x": 10 * random_state + n,
            "regime": "supervised",
        }
        for random_state in range(2)
        for n, layer in enumerate(("conv1", "conv2"))
    ]
    assert over_layers(rows, "x", regime="supervised") == [0.5, 10.5]
    assert over_layers(rows, "x", ("conv2",)) == [1, 11]
    (one, two) = numbers_of(rows, ("layer",), {"x": "Hz"})
    assert (one.name, one.unit, one.estimate.n, two.estimate.mean) == ("conv1, x", "Hz", 2, 6)


def test_several_filters_of_a_network_are_one_number():
    rows = [
        {"random_state": random_state, "layer": "conv1", "x": x}
        for random_state, x in ((0, 1), (0, 3), (1, 10))
    ]
    (one,) = numbers_of([*rows, rows[0] | {"x": None}], ("layer",), {"x": "Hz"})
    assert (one.estimate.n, one.estimate.mean) == (2, 6)


def test_chance_has_no_networks():
    assert str(Estimate(0.25, None, None, 0)) == "0.250"
    assert str(paired("maps", "mAP", [float("nan")])) == "maps: no network has a number"


def test_a_network_without_a_number_is_left_out():
    found = paired("", "mAP", [0.5, float("nan"), 0.7], [0.1, 0.2, 0.3])
    assert found.estimate.n == 2
    assert paired("", "mAP", [float("nan")]).estimate.n == 0


# --- the report ----------------------------------------------------------------------------------


def planted(study: Study) -> Finding:
    return Finding(
        [{"layer": "conv1", "x": 1.23456, "paper": 2.144}],
        claims=[
            Claim("b", [compare("supervised", "coherence", SURE)]),
            Claim("c", [compare("fall", "coherence", AGAINST), compare("x", "mAP", SURE)]),
            Claim("d", [compare("maps", "share of the maps", SAME)]),
            Claim("m", [compare("shift", "share of the peak", OPEN)]),
            Claim("a", [compare("lost", "mAP", SURE)], "full", ("recogniser, full",)),
        ],
        gates=[
            passing("contrastive"),
            passing("supervised"),
            passing("recogniser, full", unmet="160 test clips, expected 300 or more"),
        ],
        numbers=[Number("conv1, x", "coherence", Estimate(0.5, 0.4, 0.6, 5), "0.7")],
        n="5 networks <each>",
    )


ONE = Experiment("one", "One <b>", lambda preset: (), planted)


@pytest.fixture
def reported(tmp_path, monkeypatch):
    def write(preset: str) -> Study:
        monkeypatch.setattr(report, "DATA", {})
        study = Study(tmp_path / preset, PRESETS[preset])
        perform(ONE, study)
        write_report(study, [ONE])
        return study

    return write


def test_the_first_page_has_one_short_line_for_each_claim(reported):
    study = reported("small")
    text, page = ((study.folder / f"report.{kind}").read_text() for kind in ("md", "html"))
    first = text[: text.index("## One")]
    for letter, verdict in (
        ("b", "holds"),
        ("c", "fails"),
        ("d", "equal within the margin"),
        ("m", "not enough runs"),
        ("a", "not testable here"),
    ):
        (line,) = [line for line in first.splitlines() if line.startswith(f"| {letter} |")]
        assert f"**{verdict}**" in line
        assert len(line) < 240
    assert "It takes more than 160 test clips." in first
    assert "fall -0.112 coherence (-0.128 to -0.096, 5 networks); one of 2 comparisons" in first
    assert "| the order of table A.2 | not looked at |" in first
    assert (
        "holds 1, equal within the margin 1, fails 1, not enough runs 1, not testable here 1"
        in first
    )
    assert "One &lt;b&gt;" in page
    assert "&lt;each&gt;" in page
    assert "| conv1 | 1.23 | 2.144 |" in text
    assert page.index("not testable here") < page.index("<details>")


def test_the_papers_abbreviations_are_spelled_out_for_readers(tmp_path, monkeypatch):
    def planted(study: Study) -> Finding:
        row = {"trained": "fonly", "share_lost": 0.5, "model": "CNN12 (supervised-fonly)"}
        return Finding([row], n="networks of fonly", gates=[passing("recogniser, full")])

    monkeypatch.setattr(report, "DATA", {})
    study = Study(tmp_path / "small", PRESETS["small"])
    experiment = Experiment("one", "One", lambda preset: (), planted)
    perform(experiment, study)
    write_report(study, [experiment])
    for kind in ("md", "html"):
        text = (study.folder / f"report.{kind}").read_text()
        shown = text.replace("(the paper writes fonly)", "")
        assert "fonly" not in shown
        assert shown.count("head only") >= 3
        assert "share lost" in shown
        assert "share_lost" not in shown
    assert "fonly" in (study.folder / "one" / "numbers.csv").read_text()  # for programs


def test_tables_are_folded_and_figures_come_first(reported):
    page = (reported("small").folder / "report.html").read_text()
    section = page[page.index('<h2 id="one"') :]
    assert section.index("<details>") < section.index("<table>")
    template = (report.Path(report.__file__).parent / "report.html").read_text()
    section = template[template.index("<h2 id") :]
    assert section.index("<img") < section.index("section.claims") < section.index("<details>")


def test_every_number_is_in_results_json(reported):
    study = reported("small")
    text = (study.folder / "results.json").read_text()
    held = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (number,) = held["numbers"]
    assert number["gates"] == {"contrastive": True, "supervised": True, "recogniser, full": False}
    assert number["verdicts"]["a"] == ["not testable here"]
    kept = {name: number[name] for name in ("unit", "mean", "low", "high", "n", "over", "paper")}
    assert kept == {
        "unit": "coherence",
        "mean": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 5,
        "over": "networks",
        "paper": "0.7",
    }
    claims = {claim["letter"]: claim for claim in held["claims"]}
    assert claims["c"]["comparisons"][0]["verdict"] == "fails"
    assert claims["a"]["takes"] == "more than 160 test clips"
    assert [gate["passed"] for gate in held["gates"]] == [True, True, False]


def test_the_smoke_preset_gives_no_verdicts_and_says_why(reported):
    study = reported("smoke")
    for kind in ("md", "html"):
        text = (study.folder / f"report.{kind}").read_text()
        assert NO_EVIDENCE in text
        for verdict in ("**holds**", "**fails**", "not testable", ">holds<", ">fails<"):
            assert verdict not in text.split("How it was made")[0]
        assert "(b)" not in text
    held = json.loads((study.folder / "results.json").read_text())
    assert held["claims"] == []
    assert held["numbers"][0]["verdicts"] == {}


def test_every_claim_says_where_the_paper_makes_it():
    for claim in CLAIMS.values():
        assert len(claim.text) < 100
        assert claim.source
