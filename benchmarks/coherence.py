"""Time `deconv1d.measure.coherence` against `scipy.signal.coherence`.

python -m benchmarks.coherence

Half a minute; writes COHERENCE.md beside this file. Expected for 11 pairs of 80,000 samples: at
least 20 times SciPy's speed called pair by pair, and about 15 (float32) or 6 (float64) times that
of one SciPy call for the whole batch.
"""

import numpy as np
import scipy.signal
import torch

from benchmarks.reporting import HERE, interleaved, table, write_page
from deconv1d.measure import coherence

SAMPLES = 80_000  # ten seconds at 8 kHz
ROUNDS = 15
HEAD = (
    "pairs",
    "dtype",
    "SciPy, a call a pair (ms)",
    "SciPy, one call (ms)",
    "deconv1d (ms)",
    "faster than a call a pair",
    "faster than one call",
    "largest difference",
)


def row(pairs: int, dtype: torch.dtype) -> list[str]:
    """One line of the table: times, ratios, and the difference from SciPy in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(pairs, SAMPLES, generator=generator, dtype=dtype)
    y = 0.5 * x + torch.randn(x.shape, generator=generator, dtype=dtype)
    a, b = x.numpy(), y.numpy()
    runs = {
        "a call a pair": lambda: list(map(scipy.signal.coherence, a, b)),
        "one call": lambda: scipy.signal.coherence(a, b),
        "deconv1d": lambda: coherence(x, y),
    }
    single, batched, ours = interleaved(runs, rounds=ROUNDS).values()
    expected = scipy.signal.coherence(a.astype(float), b.astype(float))[1]
    difference = np.abs(coherence(x, y).numpy() - expected).max()
    times = (f"{1000 * seconds:.1f}" for seconds in (single, batched, ours))
    ratios = (f"{seconds / ours:.1f} x" for seconds in (single, batched))
    return [str(pairs), str(dtype), *times, *ratios, f"{difference:.0e}"]


def main() -> None:
    """Writes COHERENCE.md."""
    torch.set_num_threads(1)  # as SciPy
    rows = [row(pairs, dtype) for dtype in (torch.float32, torch.float64) for pairs in (1, 11)]
    body = (
        f"Pairs of {SAMPLES:,} samples; medians of {ROUNDS} interleaved rounds, one thread. SciPy "
        "is called once a pair, as one measures clip by clip, and once for the whole batch. The "
        "difference is from SciPy's values in float64.\n\n" + table(HEAD, rows)
    )
    write_page(
        HERE / "COHERENCE.md",
        "Coherence: time against SciPy",
        "python -m benchmarks.coherence",
        body,
        ("torch", "scipy", "numpy"),
    )


if __name__ == "__main__":
    main()
