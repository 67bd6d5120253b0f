"""Verdicts on claims: paired differences over networks, their intervals, and what they decide.

The network (one random state of the whole training) is the unit. What is measured on many clips,
layers or filters of one network is averaged to one number of that network first:

    contrastive   networks 0..4    .41 .44 .40 .43 .42
    supervised    networks 0..4    .38 .41 .39 .38 .40
    difference                     .03 .03 .01 .05 .02    five numbers, one t interval

Clips are the unit only where there is a single network; such an interval says so wherever it is
printed ("over clips of one network"), and it speaks of that network alone.

A comparison has a margin, stated in `MARGINS` before anything is measured: a difference that is
surely smaller is of no interest. A claim rests on one comparison or on several; Holm's correction
is over all comparisons of the claim.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import scipy.special
import scipy.stats

LEVEL = 0.05
DRAWS = 2000
"""Bootstrap samples of the clips."""
GROUPS = 1000
"""Units that a bootstrap of a slow metric draws, at the most."""

MARGINS: Mapping[str, float] = {
    "mAP": 0.02,
    "accuracy": 0.02,
    "coherence": 0.02,
    "share of the maps": 0.02,
    "share of the band": 0.02,
    "spectral entropy, 0 to 1": 0.02,
    "share of the peak": 0.02,
    "bits": 0.1,
}
"""By unit the difference below which two sides count as equal. Stated before looking."""


class Verdict(StrEnum):
    """What can be said of a claim."""

    HOLDS = "holds"
    EQUAL = "equal within the margin"
    FAILS = "fails"
    FEW = "not enough runs"
    UNTESTABLE = "not testable here"


Over = Literal["networks", "clips of one network"]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    Attributes:
        mean: The mean.
        low: Lower end of the interval; None where there is none (a single network).
        high: Its upper end.
        n: Number of units; 0 for a number that is no measurement, such as chance.
        over: What the units are.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    over: Over = "networks"

    def __str__(self) -> str:
        """As reports print it: "0.031 (0.011 to 0.052, 5 networks)"."""
        if not self.n:
            return f"{self.mean:.3f}"
        units = "1 network" if (self.over, self.n) == ("networks", 1) else f"{self.n} {self.over}"
        if self.low is None or self.high is None:
            return f"{self.mean:.3f} ({units})"
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f}, {units})"


@dataclass(frozen=True)
class Comparison:
    """One comparison that a claim rests on: a difference, and how sure it is.

    Attributes:
        name: What is compared, as reports print it.
        unit: Of the difference.
        estimate: The mean difference.
        claimed: "above": the claim says that the difference is above 0; "equal": that it is 0.
        margin: Two sides count as equal below this; 0 for a comparison without a margin.
        p_differs: Two-sided p value of a difference of 0, or, where equality is claimed, of a
            difference of at most the margin. 1 where there is one network.
        p_equal: p value of a difference of the margin or more (two one-sided tests).
    """

    name: str
    unit: str
    estimate: Estimate
    claimed: Literal["above", "equal"]
    margin: float
    p_differs: float
    p_equal: float

    def __str__(self) -> str:
        """As reports print it: "events 0.031 mAP (0.011 to 0.052, 5 networks)"."""
        if not self.estimate.n:
            return f"{self.name}: no network has a number"
        mean, rest = str(self.estimate).split(" ", 1)
        sign = "+" if self.claimed == "above" and self.estimate.mean >= 0 else ""
        return f"{self.name} {sign}{mean} {self.unit} {rest}"


def over_networks(values: Sequence[float]) -> Estimate:
    """Mean and 95 % t interval of one number of each network."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Estimate(mean, None, None, n)
    half_width = _quantile(n, LEVEL / 2) * _error(values)
    return Estimate(mean, mean - half_width, mean + half_width, n)


def compare(
    name: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float] | float = 0.0,
    *,
    claimed: Literal["above", "equal"] = "above",
    margin: float | None = None,
) -> Comparison:
    """Compares two sides, network by network.

    Args:
        name: What is compared.
        unit: Of `MARGINS`, or any other with a `margin`.
        ours: One number of each network.
        theirs: The same of its partner (same random state, same data), or one number for all.
        claimed: What the claim says of ours minus theirs.
        margin: None takes that of `MARGINS`.

    Raises:
        ValueError: The sides differ in length, or are empty.
        KeyError: The unit has no margin.
    """
    differences = _paired(name, ours, theirs)
    margin = MARGINS[unit] if margin is None else margin
    estimate, n = over_networks(differences), len(differences)
    if n < 2:
        return Comparison(name, unit, estimate, claimed, margin, 1.0, 1.0)

    def tails(threshold: float) -> tuple[float, float]:
        gap, error = estimate.mean - threshold, _error(differences)
        if error == 0:
            return _sign_test(gap, n)
        below = float(scipy.special.stdtr(n - 1, gap / error))
        return 1 - below, below

    return _comparison(name, unit, estimate, claimed, margin, tails)


def compare_over_clips(
    name: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float] | float = 0.0,
    *,
    claimed: Literal["above", "equal"] = "above",
    margin: float | None = None,
) -> Comparison:
    """Compares two sides of one network, clip by clip, by the BCa bootstrap.

    Only for a claim about the very network at hand (published weights); what it finds need not
    hold for another training of the same network.

    Args:
        name: As for `compare`.
        unit: As for `compare`.
        ours: One number of each clip.
        theirs: The same of the same clips, or one number for all.
        claimed: As for `compare`.
        margin: As for `compare`.
    """
    differences = np.asarray(_paired(name, ours, theirs))
    margin = MARGINS[unit] if margin is None else margin
    estimate = mean_over_clips(differences)
    if estimate.n < 2:
        return Comparison(name, unit, estimate, claimed, margin, 1.0, 1.0)
    drawn = None if estimate.low is None else _bootstrap(differences, np.mean, vectorized=True)

    def tails(threshold: float) -> tuple[float, float]:
        if drawn is None:
            return _sign_test(estimate.mean - threshold, estimate.n)
        at_most = _bootstrap_p(differences, drawn, threshold)
        return at_most, 1 - at_most

    return _comparison(name, unit, estimate, claimed, margin, tails)


def mean_over_clips(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean and 95 % BCa interval of one number of each clip of one network.

    Where all clips have the same number there is no interval.
    """
    held, n = np.asarray(values, dtype=float), len(values)
    mean = float(held.mean())
    if n < 2 or np.ptp(held) == 0:
        return Estimate(mean, None, None, n, "clips of one network")
    low, high = _bootstrap(held, np.mean, vectorized=True).confidence_interval
    return Estimate(mean, float(low), float(high), n, "clips of one network")


def over_clips(
    metric: Callable[[Any, Any], float], scores: Any, labels: Any, *, draws: int = DRAWS
) -> Estimate:
    """A metric of one network with its 95 % BCa interval over the clips.

    BCa and not percentiles: on bootstrap samples a mean average precision is biased upwards (clips
    drawn twice support each other), so that it would sit near the low end of its own interval.

    Args:
        metric: Scores and labels to a number.
        scores: (clips, classes).
        labels: Of the same clips. More than `GROUPS` clips are drawn in that many random groups:
            BCa measures once without each unit.
        draws: Bootstrap samples.
    """
    clips = len(scores)
    shuffled = np.random.default_rng(0).permutation(clips)
    groups = np.array_split(shuffled, min(clips, GROUPS))

    def measured(numbers: np.ndarray) -> float:
        drawn = np.concatenate([groups[number] for number in numbers.astype(int)])
        return metric(scores[drawn], labels[drawn])

    drawn = _bootstrap(np.arange(len(groups)), measured, vectorized=False, draws=draws)
    low, high = drawn.confidence_interval
    mean = metric(scores, labels)
    if not np.isfinite([low, high]).all():  # every clip says the same
        low, high = mean, mean
    return Estimate(float(mean), float(low), float(high), clips, "clips of one network")


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (1979): the k-th smallest of m, times m - k + 1, never falling."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.minimum(1, factors * np.asarray(p_values)[order]))
    return adjusted.tolist()


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one claim with Holm's adjusted p values."""
    differs = holm([c.p_differs for c in comparisons])
    equal = holm([c.p_equal for c in comparisons])
    return [
        replace(c, p_differs=one, p_equal=other)
        for c, one, other in zip(comparisons, differs, equal, strict=True)
    ]


def verdict_of(comparison: Comparison) -> Verdict:
    """What one comparison, its p values corrected, says.

    A difference that is surely inside the margin is "equal within the margin" even if it is surely
    not 0.
    """
    if comparison.margin and comparison.p_equal < LEVEL:
        return Verdict.HOLDS if comparison.claimed == "equal" else Verdict.EQUAL
    if comparison.p_differs < LEVEL:
        above = comparison.claimed == "above" and comparison.estimate.mean > 0
        return Verdict.HOLDS if above else Verdict.FAILS
    return Verdict.FEW


def judge(comparisons: Sequence[Comparison]) -> Verdict:
    """The verdict on a claim that says all of these at once.

    It fails with one comparison; else it is open while one is open; else it is only equal within
    the margin if one is; else it holds. None at all: not enough runs.
    """
    verdicts = {verdict_of(comparison) for comparison in corrected(comparisons)}
    ranked = (Verdict.FAILS, Verdict.FEW, Verdict.EQUAL, Verdict.HOLDS)
    return next((verdict for verdict in ranked if verdict in verdicts), Verdict.FEW)


def networks_needed(comparison: Comparison) -> int | None:
    """How many networks would decide a difference like this one, at this spread between networks.

    Returns:
        The smallest number whose t interval would not reach 0; None where the difference is not
        above 0, or a single network shows no spread.
    """
    estimate = comparison.estimate
    if estimate.mean <= 0 or estimate.low is None or estimate.over != "networks":
        return None
    deviation = (estimate.mean - estimate.low) / _quantile(estimate.n, LEVEL / 2)
    deviation *= np.sqrt(estimate.n)
    enough = (
        n
        for n in range(2, 1000)
        if _quantile(n, LEVEL / 2) * deviation < estimate.mean * np.sqrt(n)
    )
    return next(enough, 1000)


def _comparison(
    name: str,
    unit: str,
    estimate: Estimate,
    claimed: Literal["above", "equal"],
    margin: float,
    tails: Callable[[float], tuple[float, float]],
) -> Comparison:
    """A comparison with its p values.

    tails(t) are the p values of "the mean is at most t" and of "the mean is at least t".
    """
    inside = max(tails(-margin)[0], tails(margin)[1])
    edge = margin if claimed == "equal" else 0.0
    outside = min(1.0, 2 * min(tails(edge)[0], tails(-edge)[1]))
    return Comparison(name, unit, estimate, claimed, margin, outside, inside)


def _paired(name: str, ours: Sequence[float], theirs: Sequence[float] | float) -> list[float]:
    others = [theirs] * len(ours) if isinstance(theirs, int | float) else theirs
    if len(ours) != len(others) or not len(ours):
        raise ValueError(
            f"cannot compare {name!r}: {len(ours)} numbers on one side and {len(others)} on the "
            "other, expected pairs, at least one; give each network's number beside its partner's"
        )
    differences = [float(a) - float(b) for a, b in zip(ours, others, strict=True)]
    if unknown := sum(not math.isfinite(difference) for difference in differences):
        raise ValueError(
            f"cannot compare {name!r}: {unknown} of {len(differences)} differences are not finite, "
            "expected a number on both sides; a network has diverged: leave it out, or train it "
            "with a lower rate"
        )
    return differences


def _sign_test(gap: float, n: int) -> tuple[float, float]:
    """The tails of n units that all have one and the same number, so far above a threshold.

    Without any spread there is neither a t statistic nor a bootstrap; were units as likely to lie
    below the threshold as above it, n of them would be on one side by a chance of 2^-n.
    """
    chance = 0.5**n
    return (chance if gap > 0 else 1.0), (chance if gap < 0 else 1.0)


def _error(values: Sequence[float]) -> float:
    """Standard error of the mean; 0 where the values differ by rounding alone."""
    deviation = float(np.std(values, ddof=1))
    rounding = 1e-12 * float(np.max(np.abs(values)))
    return deviation / np.sqrt(len(values)) if deviation > rounding else 0.0


def _quantile(n: int, tail: float) -> float:
    return -float(scipy.special.stdtrit(n - 1, tail))


def _bootstrap(values: np.ndarray, statistic: Any, *, vectorized: bool, draws: int = DRAWS) -> Any:
    """SciPy's BCa bootstrap of one sample, always with the same draws."""
    return scipy.stats.bootstrap(
        (values,),
        statistic,
        n_resamples=draws,
        confidence_level=1 - LEVEL,
        method="BCa",
        rng=np.random.default_rng(0),
        vectorized=vectorized,
    )


def _bootstrap_p(values: np.ndarray, drawn: Any, threshold: float) -> float:
    """The one-sided p value of "the mean is at most the threshold".

    It is the level at which the lower end of the BCa interval meets the threshold, found by
    bisection on the same draws; beyond what the draws can tell it is 0 or 1.
    """
    if threshold < drawn.bootstrap_distribution.min():
        return 0.0
    if threshold > drawn.bootstrap_distribution.max():
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(12):
        tail = (low + high) / 2
        # One side of the interval is enough: SciPy takes a one-sided alternative.
        end = scipy.stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=0,
            confidence_level=1 - tail,
            alternative="greater",
            method="BCa",
            bootstrap_result=drawn,
        ).confidence_interval.low
        low, high = (tail, high) if end < threshold else (low, tail)
    return (low + high) / 2
