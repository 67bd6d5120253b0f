"""Verdicts: by hand, against SciPy, and on simulated studies whose truth is known."""

import json
import math

import numpy as np
import pytest
import scipy.stats
import torch

from reference_models import statistics
from reference_models.evaluate import event_metrics
from reference_models.experiments.finding import Claim, Gate
from reference_models.experiments.verdicts import judge_claim
from reference_models.statistics import (
    MARGINS,
    Comparison,
    Estimate,
    Verdict,
    compare,
    compare_over_clips,
    holm,
    judge,
    over_clips,
    over_networks,
)

NETWORKS = 5
STUDIES = 400
SLACK = 2.6 * np.sqrt(0.05 * 0.95 / STUDIES)


# --- one comparison ------------------------------------------------------------------------------


def test_networks_are_compared_in_pairs():
    ours, theirs = [0.41, 0.44, 0.40, 0.43, 0.42], [0.38, 0.41, 0.39, 0.38, 0.40]
    found = compare("events", "mAP", ours, theirs)
    expected = scipy.stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert found.p_differs == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.estimate.low, found.estimate.high) == pytest.approx(
        (interval.low, interval.high), abs=1e-12
    )
    assert str(found) == "events +0.028 mAP (0.010 to 0.046, 5 networks)"


def test_equality_is_two_one_sided_tests():
    gaps = [0.004, -0.003, 0.006, 0.001, 0.002]
    found = compare("", "mAP", gaps)
    margin = MARGINS["mAP"]
    above = scipy.stats.ttest_1samp(gaps, -margin, alternative="greater").pvalue
    below = scipy.stats.ttest_1samp(gaps, margin, alternative="less").pvalue
    assert found.p_equal == pytest.approx(max(above, below), rel=1e-9)
    assert judge([found]) is Verdict.EQUAL
    assert judge([compare("", "mAP", gaps, claimed="equal")]) is Verdict.HOLDS


def test_one_network_decides_nothing():
    assert judge([compare("", "mAP", [0.9], [0.1])]) is Verdict.FEW
    assert str(over_networks([0.9])) == "0.900 (1 network)"
    assert judge([]) is Verdict.FEW


@pytest.mark.parametrize(
    ("gaps", "claimed", "verdict"),
    [
        ([0.1] * 6, "above", Verdict.HOLDS),
        ([-0.1] * 6, "above", Verdict.FAILS),
        ([0.0] * 6, "above", Verdict.EQUAL),
        ([0.0] * 6, "equal", Verdict.HOLDS),
        ([0.1] * 6, "equal", Verdict.FAILS),
        ([0.1, 0.1], "above", Verdict.FEW),
        ([0.0, 0.0], "equal", Verdict.FEW),
        ([0.1, -0.1], "above", Verdict.FEW),
        ([0.1, -0.1], "equal", Verdict.FEW),
    ],
)
def test_of_networks_that_agree_exactly_it_counts_how_many_there_are(gaps, claimed, verdict):
    """Accuracies are of whole clips: two networks may have the same one by chance."""
    assert judge([compare("", "mAP", gaps, claimed=claimed)]) is verdict


@pytest.mark.parametrize("gap", [0.1, -0.1])
def test_without_spread_p_values_are_those_of_a_sign_test(gap):
    expected = scipy.stats.binomtest(6, 6).pvalue
    assert compare("", "mAP", [gap] * 6).p_differs == pytest.approx(expected)
    assert compare_over_clips("", "mAP", [gap] * 6).p_differs == pytest.approx(expected)


@pytest.mark.parametrize("unknown", [math.nan, math.inf])
def test_a_network_that_diverged_gives_no_verdict(unknown):
    with pytest.raises(ValueError, match="cannot compare 'words': 1 of 3 differences"):
        compare("words", "accuracy", [0.05, unknown, 0.2])


def test_without_a_margin_nothing_is_equal():
    assert judge([compare("", "steps", [0.001] * 6, margin=0)]) is Verdict.HOLDS
    assert judge([compare("", "steps", [0.0] * 6, margin=0)]) is Verdict.FEW


def test_sides_without_partners_are_an_error():
    with pytest.raises(ValueError, match="'events': 2 numbers on one side and 1 on the other"):
        compare("events", "mAP", [0.1, 0.2], [0.1])


# --- several comparisons -------------------------------------------------------------------------


def test_holm_by_hand():
    # 0.01 * 4, 0.02 * 3, then 0.03 * 2 = 0.06 again, and 0.04 that may not fall below it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]


def planted(mean: float, p: float, equal: float = 1.0) -> Comparison:
    return Comparison("", "mAP", Estimate(mean, None, None, 5), "above", 0.02, p, equal)


def test_a_claim_of_several_parts():
    sure, open_, against = planted(0.1, 1e-4), planted(0.1, 0.3), planted(-0.1, 1e-4)
    same = planted(0.001, 0.4, 1e-4)
    assert judge([sure, sure]) is Verdict.HOLDS
    assert judge([sure, open_]) is Verdict.FEW
    assert judge([sure, open_, against]) is Verdict.FAILS
    assert judge([sure, same]) is Verdict.EQUAL
    assert judge([same, open_]) is Verdict.FEW


def test_chance_negatives_among_ten_do_not_make_a_claim_fail():
    assert judge([planted(-0.1, 0.03)]) is Verdict.FAILS
    assert judge([planted(-0.1, 0.03), *[planted(0.1, 0.2)] * 9]) is Verdict.FEW


# --- clips of one network ------------------------------------------------------------------------


def test_clips_of_one_network_are_labelled_so():
    gaps = np.random.default_rng(0).normal(0.3, 0.4, 40)
    found = compare_over_clips("SoundNet", "accuracy", gaps)
    expected = scipy.stats.bootstrap(
        (gaps,), np.mean, n_resamples=statistics.DRAWS, rng=np.random.default_rng(0)
    ).confidence_interval
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(expected))
    assert str(found).endswith("40 clips of one network)")
    assert judge([found]) is Verdict.HOLDS


def test_clips_that_all_say_the_same_are_many_all_the_same():
    """A listener that names every clip rightly, or a control that is the sonification itself."""
    assert judge([compare_over_clips("", "accuracy", [0.7] * 300, margin=0)]) is Verdict.HOLDS
    assert judge([compare_over_clips("", "accuracy", [0.0] * 300)]) is Verdict.EQUAL
    assert judge([compare_over_clips("", "accuracy", [0.2] * 3)]) is Verdict.FEW


@pytest.mark.parametrize("mean", [0.05, 0.12, 0.2])
def test_the_p_value_of_clips_agrees_with_their_interval(mean):
    gaps = np.random.default_rng(1).normal(0, 0.4, 40)
    found = compare_over_clips("", "accuracy", gaps - gaps.mean() + mean)
    estimate = found.estimate
    assert (found.p_differs < 0.05) == (not estimate.low <= 0 <= estimate.high)
    expected = scipy.stats.ttest_1samp(gaps, gaps.mean() - mean).pvalue
    assert found.p_differs == pytest.approx(expected, abs=0.04)


def test_a_mean_average_precision_lies_inside_its_interval(monkeypatch):
    """Percentiles of the draws are biased upwards; BCa takes the bias out."""
    monkeypatch.setattr(statistics, "DRAWS", 300)
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(150, 4, generator=generator) < 0.15).float()
    scores = torch.randn(150, 4, generator=generator) + labels

    def metric(scores: torch.Tensor, labels: torch.Tensor) -> float:
        return event_metrics(scores, labels)["mAP"]

    found = over_clips(metric, scores, labels)
    assert found.mean == metric(scores, labels)
    place = (found.mean - found.low) / (found.high - found.low)
    assert 0.3 < place < 0.75
    assert found.n == 150


def test_an_accuracy_s_interval_over_clips_is_the_binomial_s(monkeypatch):
    monkeypatch.setattr(statistics, "GROUPS", 60)
    right = torch.zeros(300, 1)
    right[:240] = 1
    found = over_clips(lambda scores, _: float(scores.mean()), right, right)
    error = 1.96 * np.sqrt(0.8 * 0.2 / 300)
    assert (found.low, found.high) == pytest.approx((0.8 - error, 0.8 + error), abs=0.02)
    assert (found.mean, found.n) == (pytest.approx(0.8), 300)


# --- studies whose truth is known ----------------------------------------------------------------
#
# A study trains five networks of either regime. Networks of one regime differ (deviation 0.03),
# each is heard on 300 clips (deviation 0.4 of a clip), and partners share their seed's luck.

CLIPS = 300


def networks(draws: np.random.Generator, gap: float, parts: int) -> np.ndarray:
    """What the networks really are: (parts, 2 regimes, networks); the first is better by `gap`."""
    seed = draws.normal(0.5, 0.02, (parts, 1, NETWORKS))
    return seed + draws.normal(0, 0.03, (parts, 2, NETWORKS)) + [[[gap], [0.0]]]


def measured(draws: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """The mean of each network over the clips that it is heard on."""
    return truth + draws.normal(0, 0.4 / np.sqrt(CLIPS), truth.shape)


def parts_of(draws: np.random.Generator, gap: float, parts: int) -> list[Comparison]:
    sides = measured(draws, networks(draws, gap, parts))
    return [compare("", "mAP", *regimes) for regimes in sides]


def verdicts(gap: float, parts: int, seed: int) -> dict[Verdict, float]:
    """How often each verdict is given on a claim of some parts that all have the same truth."""
    draws = np.random.default_rng(seed)
    found = [judge(parts_of(draws, gap, parts)) for _ in range(STUDIES)]
    return {verdict: found.count(verdict) / STUDIES for verdict in Verdict}


@pytest.mark.parametrize("parts", [1, 4, 10])
def test_false_alarms_are_as_rare_as_stated(parts):
    """Networks that do not differ: at most 5 % of the claims hold or fail, however many parts."""
    rates = verdicts(0.0, parts, seed=parts)
    assert rates[Verdict.HOLDS] + rates[Verdict.FAILS] < 0.05 + SLACK


@pytest.mark.parametrize("parts", [1, 4])
def test_networks_that_differ_by_construction_are_found(parts):
    rates = verdicts(0.2, parts, seed=10 + parts)
    assert rates[Verdict.HOLDS] > 0.9
    assert rates[Verdict.FAILS] == rates[Verdict.EQUAL] == 0
    rates = verdicts(-0.2, parts, seed=20 + parts)
    assert rates[Verdict.FAILS] > 0.95
    assert rates[Verdict.HOLDS] == 0


@pytest.mark.parametrize("gap", [0.02, 0.05, 0.1])
def test_small_differences_are_found_as_often_as_the_t_test_s_power_says(gap):
    deviation = np.sqrt(2 * (0.03**2 + 0.4**2 / CLIPS))
    threshold = scipy.stats.t.ppf(0.975, NETWORKS - 1)
    effect = gap * np.sqrt(NETWORKS) / deviation
    power = scipy.stats.nct.sf(threshold, NETWORKS - 1, effect)
    wrong_way = scipy.stats.nct.cdf(-threshold, NETWORKS - 1, effect)
    rates = verdicts(gap, 1, seed=60)
    assert rates[Verdict.HOLDS] == pytest.approx(
        power, abs=2.6 * np.sqrt(power * (1 - power) / STUDIES)
    )
    assert rates[Verdict.FAILS] < wrong_way + SLACK / 2


@pytest.mark.parametrize(("gap", "least", "most"), [(0.0, 0, 0.05), (0.25, 0.9, 1)])
def test_clips_of_one_network_alarm_as_seldom_and_find_as_surely(monkeypatch, gap, least, most):
    """A published network: what it names rightly of a hundred clips, with and without something."""
    monkeypatch.setattr(statistics, "DRAWS", 300)
    draws, studies, decided = np.random.default_rng(70), 150, 0
    for _ in range(studies):
        ours, theirs = (draws.random((2, 100)) < [[0.5 + gap], [0.5]]).astype(float).tolist()
        verdict = judge([compare_over_clips("", "accuracy", ours, theirs)])
        assert not (gap and verdict is Verdict.FAILS)
        decided += verdict in (Verdict.HOLDS, Verdict.FAILS)
    slack = 2.6 * np.sqrt(0.05 * 0.95 / studies)
    assert least <= decided / studies < most + slack


@pytest.mark.parametrize(("learnt", "least", "most"), [(0.0, 0.95, 1), (0.2, 0, 0.05)])
def test_networks_that_have_learnt_nothing_are_no_test(learnt, least, most):
    """The gate is a probe on each network beside one on the encoder that it started from."""
    draws, closed = np.random.default_rng(80), 0
    for _ in range(STUDIES):
        trained, untrained = measured(draws, networks(draws, learnt, 1))[0]
        gate = Gate("d", "has learnt", [compare("", "mAP", trained, untrained, margin=0)])
        claim = Claim("d", parts_of(draws, 0.2, 1), gates=("d",))
        closed += judge_claim("", claim, {"d": gate}).verdict is Verdict.UNTESTABLE
    assert least - SLACK < closed / STUDIES < most + SLACK


def test_what_lies_at_the_margin_is_seldom_called_equal():
    assert verdicts(MARGINS["mAP"], 1, seed=30)[Verdict.EQUAL] < 0.05 + SLACK


def test_counting_clips_as_runs_would_raise_false_alarms():
    """Why the network is the unit: pooled clips of equal regimes differ far too often."""
    draws, alarms = np.random.default_rng(40), 0
    for _ in range(200):
        truth = networks(draws, 0.0, 1)[0][..., None]
        ours, theirs = (truth + draws.normal(0, 0.4, (2, NETWORKS, CLIPS))).reshape(2, -1)
        alarms += scipy.stats.ttest_rel(ours, theirs).pvalue < 0.05
    assert alarms / 200 > 0.12


def test_any_negative_part_would_fail_claims_too_often():
    """Why Holm: of ten parts without any truth one is negative in every fifth study."""
    draws, alarms = np.random.default_rng(50), 0
    for _ in range(200):
        found = parts_of(draws, 0.0, 10)
        alarms += any(c.p_differs < 0.05 and c.estimate.mean < 0 for c in found)
    assert alarms / 200 > 0.12


def test_a_comparison_survives_json():
    from dataclasses import asdict

    found = compare("events", "mAP", [0.1, 0.2], [0.05, 0.1])
    held = json.loads(json.dumps(asdict(found)))
    assert Comparison(**held | {"estimate": Estimate(**held["estimate"])}) == found
