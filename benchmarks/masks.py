"""What masks cost, in CPU time, on the words network that ships (width 1/8, 8 kHz).

python -m benchmarks.masks [--rounds N]

A minute; writes MASKS.md beside this file.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.reporting import HERE, table, write_page
from deconv1d import Sonifier
from deconv1d.masks.listen import MASKS, STEPS
from reference_models.cnn12 import demo

SECONDS = 4
RATE = 8000
LAYERS = [f"conv{number}" for number in range(3, 12)]
FEW, MANY = [0], list(range(16))
ABOUT = f"""\
CPU seconds for each second of audio, on one thread: median and least of some turns, on noise of \
{SECONDS} s. The {MASKS} random masks are one cost for a recording; the {STEPS} gradient steps \
are a cost for each channel. The forward pass alone, on as many recordings as there are masks, is \
the floor of the first rows.
"""


def cpu_seconds(run: Callable[[], object], rounds: int) -> list[float]:
    """CPU time of each run, for a second of audio; it runs once before."""
    run()
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        taken.append((time.process_time() - start) / SECONDS)
    return taken


def main() -> None:
    """Writes MASKS.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = demo()
    sonifier = Sonifier(model, sample_rate=RATE)
    x = torch.randn(SECONDS * RATE, generator=torch.Generator().manual_seed(0))
    x = x / x.abs().max()

    def listen(layers: list[str], channels: list[int], steps: int) -> Callable[[], object]:
        return lambda: sonifier.listen(x, layers=layers, channel=channels, steps=steps)

    @torch.no_grad()
    def forward() -> None:
        for _ in range(MASKS // 8):
            model(x.expand(8, 1, -1))

    runs = {
        f"forward pass alone, {MASKS} recordings": forward,
        "random masks, 1 channel of 1 layer": listen(["conv9"], FEW, 0),
        f"random masks, 1 channel of each of {len(LAYERS)} layers": listen(LAYERS, FEW, 0),
        f"random masks, {len(MANY)} channels of 1 layer": listen(["conv9"], MANY, 0),
        f"random masks and gradient steps, {len(MANY)} channels of 1 layer": listen(
            ["conv9"], MANY, STEPS
        ),
    }
    taken = {name: cpu_seconds(run, given.rounds) for name, run in runs.items()}
    rows = [[name, statistics.median(each), min(each)] for name, each in taken.items()]
    *_, (_, *without), (_, *steps) = rows
    each = [(b - a) / len(MANY) for a, b in zip(without, steps, strict=True)]
    rows.append(["gradient steps, each channel", *each])
    write_page(
        HERE / "MASKS.md",
        "What masks cost",
        f"python -m benchmarks.masks --rounds {given.rounds}",
        ABOUT
        + "\n"
        + table(("what", "median", "least"), [[n, *map("{:.3f}".format, v)] for n, *v in rows]),
        ("torch",),
    )


if __name__ == "__main__":
    main()
