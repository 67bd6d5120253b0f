"""Means with intervals, from few pairs or clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

WIDER = 1.4
"""What an interval is multiplied by: a recording occurs in several pairs, so that pairs are not
independent draws, and an interval over pairs is too narrow."""


class Mean(NamedTuple):
    """A mean and its 95 % interval; prints as "0.71 [0.65, 0.77]"."""

    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Standard error: the half width over 1.96."""
        return (self.high - self.low) / 2 / 1.96

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def mean_of(scores: Sequence[float], *, random_state: int = 0) -> Mean:
    """The mean of scores, with a bootstrap interval over them, widened by `WIDER`.

    Args:
        scores: One for each pair or clip. None give NaN, one gives an interval without width.
        random_state: Of the resampling.

    Source: Efron & Tibshirani (1993), percentile interval, by `scipy.stats.bootstrap`.
    """
    if not len(scores):
        return Mean(np.nan, np.nan, np.nan)
    values = np.asarray(scores, dtype=float)
    centre = float(values.mean())
    if np.ptp(values) == 0:
        return Mean(centre, centre, centre)
    resampled = bootstrap((values,), np.mean, method="percentile", rng=random_state)
    low, high = (centre + WIDER * (end - centre) for end in resampled.confidence_interval)
    return Mean(centre, float(low), float(high))
