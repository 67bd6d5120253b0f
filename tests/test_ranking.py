"""The top clips of many channels at once, in groups: as by a sort of all clips."""

from fractions import Fraction

import numpy as np
import pytest

from deconv1d.mining.ranking import Scores, ranked

FACTS = np.array([[1, 1, 4, -3, 9], [3, 2, 1, 0, 5], [1, 1, 0, 0, 2**62]])
"""Of three channels: values a moment, unit, hop, start and stop of what it reads."""
SAMPLES = 40


def window(channel, position):
    """First sample and the one after the last, by fractions."""
    unit, hop, start, stop = (int(n) for n in FACTS[channel, 1:])
    first = -(-Fraction(position * hop + start, unit) // 1)
    end = Fraction(position * hop + stop, unit) // 1 + 1
    return min(max(first, 0), SAMPLES), min(max(end, 0), SAMPLES)


@pytest.mark.parametrize("levels", [1, 3, 1000])
@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("group", [1, 5, 33])
def test_in_groups_it_is_as_by_a_sort_of_all(group, k, levels):
    drawn = np.random.default_rng(levels)
    values = drawn.integers(0, levels, (3, 33)).astype(float)
    strongest = drawn.integers(0, 30, (3, 33))
    ids, best = drawn.permutation(100)[:33], None
    for start in range(0, 33, group):
        here = slice(start, start + group)
        scores = Scores(values[:, here], strongest[:, here], FACTS, SAMPLES)
        best = ranked(best, scores, ids[here], k)
    for channel in range(3):
        positions = strongest[channel] // FACTS[channel, 0]
        places = sorted(zip(-values[channel], ids, positions, strict=True))[:k]
        expected = [(-v, n, p, *window(channel, int(p))) for v, n, p in places]
        got = zip(*(column[channel] for column in best.columns()), strict=True)
        assert list(got) == expected
