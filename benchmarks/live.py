"""How soon the live page sounds: python -m benchmarks.live; writes the table in docs/listen.md.

What is timed is all that the program does for a request, pictures and sound files included: the
browser adds a few milliseconds. Times are of one thread; the share of other programs is taken out
by counting processor time.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.pointing import put_between
from benchmarks.reporting import HERE, made_with, peak_memory, table
from deconv1d import Sonifier
from deconv1d.explore import Studio
from reference_models.cnn12 import demo

RATE, SECONDS, ROUNDS = 8000, 5, 3
LAYERS, MASKED = ("conv1", "conv6", "conv11"), "conv6"
WALK = 30
"""Channels that a reader asks for one after the other."""


def clip() -> bytes:
    """A sound file of noise."""
    content = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, SECONDS * RATE)
    soundfile.write(content, noise, RATE, format="WAV")
    return content.getvalue()


def seconds(run: Callable[[], Any]) -> float:
    """Median processor time of a few runs."""
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return median(taken)


def prepared(studio: Studio) -> None:
    """Takes a clip, and does what is done while the reader listens to its first sound."""
    work_ahead(studio, studio.take(clip())["clip"])


def work_ahead(studio: Studio, key: str) -> None:
    """Does what all masks of a clip share."""
    while studio.prepare(key):
        pass


def walk(studio: Studio, taken: dict[str, Any], method: str) -> list[float]:
    """Processor time of each answer as a reader walks over layers and channels."""
    drawn, times = np.random.default_rng(0), []
    for number in range(WALK):
        layer = taken["layers"][number % len(taken["layers"])]
        channel = int(drawn.integers(len(layer["activations"])))
        asked = {"clip": taken["clip"], "layer": layer["name"], "channel": channel}
        start = time.process_time()
        studio.hear(asked | {"method": method, "contrast": True})
        times.append(time.process_time() - start)
    return times


def main() -> None:
    """Writes the table."""
    torch.set_num_threads(1)
    model, studio = demo(), Studio(Sonifier(demo(), sample_rate=RATE))
    taken = studio.take(clip())
    names = [layer["name"] for layer in taken["layers"]]
    x = torch.zeros(1, 1, SECONDS * RATE)
    with torch.inference_mode():
        forward = seconds(partial(model, x))
    rows = [
        ("the clip and all its layers", partial(studio.take, clip())),
        ("the same, and what all masks of the clip share", partial(prepared, studio)),
    ]
    work_ahead(studio, taken["clip"])
    for layer in LAYERS:
        name = next(name for name in names if name.endswith(layer))
        asked = {"clip": taken["clip"], "layer": name, "channel": 0, "contrast": True}
        for method in ("deconvnet", "mask") if layer == MASKED else ("deconvnet",):
            rows.append((f"{layer}, {method}", partial(studio.hear, asked | {"method": method})))
    lines = [("the bare forward pass", f"{forward:.3f} s", "1")]
    for name, run in rows:
        found = seconds(run)
        lines.append((name, f"{found:.2f} s", f"{found / forward:.0f}"))
    walk(studio, taken, "mask")  # programs and mirrors that are kept are made here
    before = peak_memory()
    for method in ("deconvnet", "mask"):
        answers = walk(studio, taken, method)
        name = f"{WALK} channels of all layers in a row, {method}: the median, and the longest"
        both = (median(answers), max(answers))
        times = ", ".join(f"{each:.2f} s" for each in both)
        lines.append((name, times, ", ".join(f"{each / forward:.0f}" for each in both)))
    grown = peak_memory() - before
    body = table(("what, of a clip of 5 s", "processor time", "forward passes"), lines)
    print(body)
    body += f"\n\nMemory grew by {grown:.0f} MiB in these {2 * WALK} answers."
    body += f" {made_with(('torch',))}\n"
    put_between(HERE.parent / "docs" / "listen.md", "live", body)


if __name__ == "__main__":
    main()
