"""How time and memory grow: with length, channels, ops, calls; what capture costs a small net.

The first three double a size: twice the time is linear, four times quadratic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
import torch
from torch import nn

from benchmarks.jobs import LAYER, RATE, cnn12, noise
from benchmarks.reporting import in_a_process, interleaved, peak_memory, table
from deconv1d import Sonifier
from deconv1d.record.capture import capture
from deconv1d.record.request import TapRequest


def small_net(ops: int) -> nn.Module:
    """Convolutions, batch norms and ReLUs, `ops` in all."""
    torch.manual_seed(0)
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.Conv1d(4, 4, 3, padding=1),
        lambda: nn.BatchNorm1d(4),
        nn.ReLU,
    ]
    layers = [nn.Conv1d(1, 4, 3, padding=1), *(kinds[n % 3]() for n in range(1, ops))]
    return nn.Sequential(*layers).eval()


class Pointwise(nn.Module):
    """A convolution, then a chain of ops that each cost little."""

    def __init__(self, ops: int) -> None:
        super().__init__()
        self.conv, self.ops = nn.Conv1d(1, 4, 5), ops

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 1, time) to (batch, 4, time - 4)."""
        x = self.conv(x)
        for n in range(self.ops):
            x = torch.relu(x) if n % 2 else x + 0.1
        return x


def small_capture(*, ops: int = 30, rounds: int = 61) -> str:
    """What recording costs over the plain forward pass of a small network."""
    model, x = small_net(ops), noise(0.1, "cpu")

    def plain() -> None:
        with torch.no_grad():
            model(x)

    record = partial(capture, model, x, target=TapRequest(f"{ops - 3}#1"))
    times = interleaved({"plain": plain, "capture": record}, rounds=rounds)
    over = 1e3 * (times["capture"] - times["plain"])
    cells = [f"{1e3 * times[name]:.2f}" for name in ("plain", "capture")]
    head = ["capture", "plain forward, ms", "recorded", "over it", "bar"]
    return table(head, [[f"a net of {ops} ops", *cells, f"{over:.2f}", "2"]])


def _grown(what: str, runs: Mapping[int, Callable[[], object]], rounds: int) -> list[str]:
    times = interleaved({str(size): run for size, run in runs.items()}, rounds=rounds)
    taken = [times[str(size)] for size in runs]
    cells = [f"{size:,}: {1e3 * time:.0f} ms" for size, time in zip(runs, taken, strict=True)]
    factors = [f"{two / one:.2f}" for one, two in pairwise(taken)]
    return [what, ", ".join(cells), ", ".join(factors)]


def growth(*, scale: int = 1, ops: int = 375, rounds: int = 7) -> str:
    """Times of sizes that double.

    Args:
        scale: The smallest number of seconds; of channels it is 8 times as many.
        ops: The smallest number of ops, times `scale`.
        rounds: Of each.
    """
    doubled = [scale, 2 * scale, 4 * scale, 8 * scale]
    sonifier = Sonifier(cnn12(1 / 8, "cpu"), sample_rate=RATE, verify=False)
    rows = [
        _grown(
            "seconds of audio",
            {n: partial(sonifier.sonify, noise(n, "cpu"), LAYER) for n in doubled},
            rounds,
        )
    ]
    x, first = noise(1, "cpu"), 8 * scale
    loudest = int(sonifier.sonify(x, LAYER).channel)  # dead maps would cost nothing
    channels = {
        n: partial(sonifier.sonify, x, LAYER, channel=[loudest] * n)
        for n in (first, 2 * first, 4 * first, 8 * first)
    }
    rows.append(_grown("channels", channels, rounds))
    chains = {}
    for count in (ops * n for n in doubled):
        chain = Sonifier(Pointwise(count), verify=False)
        chains[count] = partial(chain.sonify, noise(0.05, "cpu"), "conv", tap="output", channel=1)
    rows.append(_grown("ops of the network", chains, max(3, rounds // 2)))
    deep = {}
    for count in (ops * n for n in doubled):
        chain = Sonifier(Pointwise(count), verify=False)
        last = f"relu#{count // 2}"
        deep[count] = partial(chain.sonify, noise(0.05, "cpu"), last, channel=1)
    rows.append(_grown("ops on the way", deep, max(3, rounds // 2)))
    return table(["sonify", "times", "each is the one before times"], rows)


def _calls(results: Any, counts: tuple[int, int]) -> None:
    model, x = small_net(12), noise(0.2, "cpu")
    sonifier, peaks = Sonifier(model), []
    for number in range(1, counts[1] + 1):
        sonifier.sonify(x, "9", channel=1)
        if number in counts:
            peaks.append(peak_memory())
    results.put(peaks)


def calls(*, counts: tuple[int, int] = (100, 1000)) -> str:
    """Peak memory of a process after some calls and after many."""
    some, many = in_a_process(_calls, counts)
    head = ["resident, MiB", f"after {counts[0]:,} calls", f"after {counts[1]:,}", "more"]
    return table(head, [["`sonify`", f"{some:.1f}", f"{many:.1f}", f"{many - some:.1f}"]])


# --- an hour -------------------------------------------------------------------------------------


def _long(results: Any, width: float, seconds: int, short: int) -> None:
    sonifier = Sonifier(cnn12(width, "cpu"), sample_rate=RATE, verify=False)
    with TemporaryDirectory() as folder:
        long, brief = Path(folder, "long.wav"), Path(folder, "brief.wav")
        generator = np.random.default_rng(0)
        for path, length in ((long, seconds), (brief, short)):
            with soundfile.SoundFile(path, "w", RATE, 1, "FLOAT") as file:
                for _ in range(0, length, short):
                    file.write(0.1 * generator.standard_normal(short * RATE).astype(np.float32))
        x = torch.from_numpy(soundfile.read(brief, dtype="float32")[0])
        program = sonifier.prepare(x, LAYER)
        channel = int(program(x).channel)  # the most active one
        streamed = partial(sonifier.stream, long, LAYER, channel=channel, out=f"{folder}/out.wav")
        brief_time = interleaved({"short": partial(program, x, channel=channel)}, rounds=9)["short"]
        started = time.perf_counter()
        streamed()  # takes too long to be repeated
        long_time = time.perf_counter() - started
        peak = peak_memory()
        # Three tiles of what was read above, beside the whole of it.
        piece = Path(folder, "piece.wav")
        samples = soundfile.read(long, frames=6 * short * RATE, dtype="float32")[0]
        soundfile.write(piece, samples, RATE, subtype="FLOAT")
        whole = sonifier.sonify(torch.from_numpy(samples), LAYER, channel=channel).raw
        sonifier.stream(piece, LAYER, channel=channel, out=Path(folder, "tiles.wav"), gain=1.0)
        tiles = torch.from_numpy(soundfile.read(Path(folder, "tiles.wav"), dtype="float32")[0])
        error = float((tiles - whole).abs().max() / whole.abs().max())
        results.put((peak, short / brief_time, seconds / long_time, error))


def long_recording(*, width: float = 1, seconds: int = 3600, short: int = 10) -> str:
    """A long recording streamed, in its own process: memory, speed, difference to the whole."""
    peak, brief, long, error = in_a_process(_long, width, seconds, short)
    head = [
        "streamed, one channel",
        "resident, MiB",
        "bar",
        "s of audio in a second",
        f"a program on {short} s",
        "ratio",
        "bar",
        f"difference to the whole, on {6 * short} s",
        "bar",
    ]
    row = [
        f"CNN12, width {width:g}, {seconds:,} s",
        f"{peak:.0f}",
        "1536",
        f"{long:.0f}",
        f"{brief:.0f}",
        f"{long / brief:.2f}",
        "0.8",
        f"{error:.0e}",
        "1e-05",
    ]
    return table(head, [row])
