"""What mining costs in memory and time as clips become many, tiny or long; the merge of shards.

Each row runs in a process of its own, whose largest memory is what the system says of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.pointing import put_between
from benchmarks.reporting import HERE, made_with, peak_memory, table
from deconv1d import Sonifier
from deconv1d.mining.mined import Ranking, merge
from deconv1d.mining.plan import Plan
from deconv1d.mining.run import mine_into
from deconv1d.mining.shards import Shard, encoded, read_shard
from reference_models.cnn12 import demo

RATE = 8000
CONVOLUTIONS = [f"conv{number}" for number in range(1, 12)]
CHANNELS = 5008
"""So many channels a synthetic shard has; the top 3 of each are a row."""
PLAN = Plan("0", RATE, ("all",), 3, "peak", "block", "deconvnet", "activation", 16, 1, 0, "0", 64)


class Small(torch.nn.Module):
    """A network whose forward pass costs next to nothing: what is left is the mining."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(1, 4, 9, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 1, time) -> (batch, 4, frames)."""
        return torch.relu(self.conv(x))


def small() -> Sonifier:
    """The network of the rows on tiny clips."""
    torch.manual_seed(0)
    return Sonifier(Small(), sample_rate=RATE)


def words_net() -> Sonifier:
    """The shipped network, an eighth as wide as the paper's."""
    return Sonifier(demo(), sample_rate=RATE)


def noise(path: Path, seconds: float, number: int) -> None:
    """Writes noise, a minute at a time."""
    drawn = np.random.default_rng(number)
    with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as file:
        left = round(seconds * RATE)
        while left > 0:
            file.write(drawn.uniform(-0.5, 0.5, min(left, 60 * RATE)).astype(np.float32))
            left -= 60 * RATE


def many(count: int, seconds: float) -> dict[str, Any]:
    """Mines so many tiny clips."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        for number in range(count):
            path = data / f"{number // 1000:03d}" / f"{number:06d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise(path, seconds, number)
        return timed(partial(mine_into, Path(folder, "out"), [str(data)], small))


def long(minutes: float) -> dict[str, Any]:
    """Mines one long file and a short one: all convolutions of the shipped network."""
    with tempfile.TemporaryDirectory() as folder:
        for number, seconds in enumerate((60 * minutes, 5)):
            noise(Path(folder, f"{number}.wav"), seconds, number)
        out = Path(folder, "out")
        return timed(
            partial(mine_into, out, [f"{folder}/*.wav"], words_net, layers=CONVOLUTIONS, top=1)
        )


def options(**chosen: bool) -> dict[str, Any]:
    """Mines sixty clips of two seconds with what may be made of the winners."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(60):
            noise(Path(folder, f"{number}.wav"), 2, number)
        out = Path(folder, "out")
        layers = ["conv3", "conv6", "conv9"]
        run = partial(mine_into, out, [f"{folder}/*.wav"], words_net, layers=layers, **chosen)
        return timed(run)


def merged(rows: int) -> dict[str, Any]:
    """Reads and merges synthetic shards of so many rows in all."""
    drawn = np.random.default_rng(0)
    shards = -(-rows // (3 * CHANNELS))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(shards):
            value = -np.sort(-drawn.gumbel(size=(CHANNELS, 3)), axis=1)
            clip = np.array([f"clip {n}" for n in drawn.integers(0, 10**6, value.size)], object)
            places = drawn.integers(0, 80_000, (3, *value.shape))
            ranking = Ranking(value, clip.reshape(value.shape), *places)
            content = encoded(Shard({"all": ranking}, 4096), PLAN, number)
            Path(folder, f"{number}").write_bytes(content)
        return timed(partial(_merge, Path(folder), shards))


def _merge(folder: Path, shards: int) -> None:
    best = None
    for number in range(shards):
        shard = read_shard(folder / f"{number}", PLAN, number)
        assert shard is not None
        best = merge(best, shard.rankings["all"], 3)


def timed(run: Any) -> dict[str, Any]:
    """Seconds of a run, of all that this process computed, and its largest memory so far."""
    start, busy = time.perf_counter(), time.process_time()
    run()
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - busy,
        "MiB": peak_memory(),
    }


ROWS: dict[str, Any] = {
    "nothing: the program alone": partial(timed, words_net),
    "500 clips of 0.5 s": partial(many, 500, 0.5),
    "5,000 clips of 0.5 s": partial(many, 5000, 0.5),
    "100,000 clips of 0.05 s": partial(many, 100_000, 0.05),
    "one clip of 5 minutes, 11 layers": partial(long, 5),
    "one clip of 30 minutes, 11 layers": partial(long, 30),
    "merge of 10^6 rows": partial(merged, 10**6),
    "60 clips of 2 s, 3 layers": partial(options),
    "the same with --trust": partial(options, trust=True),
    "the same with --mask": partial(options, mask=True),
}


def in_a_process(name: str) -> dict[str, Any]:
    """Runs a row in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.mining", "--row", name]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    print(name, found, flush=True)
    return found


def main() -> None:
    """Writes the table into docs/scale.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=ROWS, help="run one row in this process, and print it")
    chosen = parser.parse_args().row
    torch.set_num_threads(1)
    if chosen is not None:
        print(json.dumps(ROWS[chosen]()))
        return
    found = {name: in_a_process(name) for name in ROWS}
    lines = [(name, f"{row['cpu']:.1f} s", f"{row['MiB']:.0f} MiB") for name, row in found.items()]
    body = table(("what", "processor time", "largest memory"), lines)
    body += f"\n\n{made_with(('torch', 'pyarrow', 'soundfile'))}\n"
    put_between(HERE.parent / "docs" / "scale.md", "mining", body)


if __name__ == "__main__":
    main()
