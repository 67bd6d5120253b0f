"""The mel scale, and the triangular filters that pictures and measures share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


def hertz_to_mel(hertz: float | Array) -> Array:
    """Converts hertz to mel (O'Shaughnessy's formula, as in HTK)."""
    return np.asarray(2595 * np.log10(1 + np.asarray(hertz) / 700))


def mel_to_hertz(mel: float | Array) -> Array:
    """Converts mel to hertz, the inverse of `hertz_to_mel`."""
    return np.asarray(700 * (10 ** (np.asarray(mel) / 2595) - 1))


def triangles(frequencies: Array, corners: Array, *, narrowest: float = 0.0) -> Array:
    """Returns triangular filters between neighbouring corners.

    Band k rises from 0 at corner k to 1 at corner k + 1 and falls to 0 at corner k + 2:

        corner    0   1   2   3
        band 0    0   1   0
        band 1        0   1   0

    Args:
        frequencies: In hertz, those of a spectrum.
        corners: In hertz, rising, two more than there are bands.
        narrowest: A side of a triangle is at least this wide, in hertz. With the spacing of the
            frequencies no band is empty.

    Returns:
        (band, frequency), 0 to 1.
    """
    # A triangle is the smaller of its two sides, cut off at 0.
    low, centre, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising = 1 - (centre - frequencies) / np.maximum(centre - low, narrowest)
    falling = 1 - (frequencies - centre) / np.maximum(high - centre, narrowest)
    return np.maximum(0, np.minimum(rising, falling))
