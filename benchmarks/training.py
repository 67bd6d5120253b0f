"""Time the training programs against bare loops: the same steps on a batch that lies in memory.

python -m benchmarks.training

Five minutes; writes TRAINING.md beside this file. Expected: at least 0.9 of a bare loop's speed.
"""

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reporting import HERE, interleaved, table, write_page
from reference_models import simclr, supervised
from reference_models.augment import augment, mixup
from reference_models.cnn12 import CNN12, classifier, projection_head
from reference_models.data import SAMPLE_RATE, Clip, ClipIndex, ClipSet, build_cache
from reference_models.initialisation import initialise
from reference_models.nt_xent import nt_xent

STEPS = 24
ROUNDS = 7
CLIP_SECONDS = 10
CLASSES = 35


def read_noise(clip: Clip) -> np.ndarray:
    """Ten seconds of noise."""
    draws = np.random.default_rng(int(clip.id))
    return draws.standard_normal(CLIP_SECONDS * SAMPLE_RATE).astype(np.float32)


def noises(folder: Path, batch_size: int) -> ClipSet:
    """A cache with one epoch of `STEPS` steps, and as little to score as there can be."""
    splits = ["train"] * STEPS * batch_size + ["val", "test"]
    clips = (
        Clip(str(n), "", 0, 0, 0, (n % CLASSES,), split, "unread") for n, split in enumerate(splits)
    )
    classes = tuple(map(str, range(CLASSES)))
    return build_cache(ClipIndex("noise", classes, False, tuple(clips)), folder, read=read_noise)


def bare_loop(model: nn.Module, loss: Callable[[torch.Generator], Tensor]) -> None:
    """`STEPS` steps and nothing else."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        value = loss(generator)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def bare_supervised(settings: supervised.Settings) -> None:
    """The supervised loop on one batch."""
    model = classifier(initialise(CNN12(width=settings.width)), classes=CLASSES).train()
    batch = torch.randn(settings.batch_size, 1, round(settings.seconds * SAMPLE_RATE))
    labels = F.one_hot(torch.arange(settings.batch_size) % CLASSES, CLASSES).float()

    def loss(generator: torch.Generator) -> Tensor:
        waveforms = augment(batch, settings.augmentations, generator=generator)
        mixed = mixup(waveforms, labels, generator=generator, alpha=settings.mixup)
        return F.cross_entropy(model(mixed[0]), mixed[1])

    bare_loop(model, loss)


def bare_simclr(settings: simclr.Settings) -> None:
    """The contrastive loop on one batch."""
    model = nn.Sequential(initialise(CNN12(width=settings.width)), projection_head()).train()
    shape = (settings.batch_size, 1, round(settings.seconds * SAMPLE_RATE))
    crops = torch.randn(shape), torch.randn(shape)

    def loss(generator: torch.Generator) -> Tensor:
        views = [augment(crop, settings.augmentations, generator=generator) for crop in crops]
        one, two = model(torch.cat(views)).chunk(2)
        return nt_xent(one, two, temperature=settings.temperature)

    bare_loop(model, loss)


def row(name: str, program, settings, bare: Callable) -> list[str]:
    """One line of the table: steps a second of the program and of the bare loop."""
    with tempfile.TemporaryDirectory() as folder:
        clips = noises(Path(folder, "cache"), settings.batch_size)
        number = itertools.count()
        runs = {
            "program": lambda: program.train(clips, settings, Path(folder, str(next(number)))),
            "bare": lambda: bare(settings),
        }
        ours, theirs = (STEPS / seconds for seconds in interleaved(runs, rounds=ROUNDS).values())
    shape = f"{settings.batch_size} x {settings.seconds} s"
    return [name, shape, f"{theirs:.2f}", f"{ours:.2f}", f"{ours / theirs:.2f}"]


def main() -> None:
    """Writes TRAINING.md."""
    once = {"epochs": 1, "warmup_epochs": 0, "sonify_every": 0}
    words = replace(supervised.PRESETS["words"], **once)
    events = replace(simclr.PRESETS["events"], **once)
    rows = [
        row("supervised, words", supervised, words, bare_supervised),
        row("simclr, events", simclr, events, bare_simclr),
    ]
    head = ("program", "batch", "bare loop (steps/s)", "program (steps/s)", "program / bare loop")
    body = (
        f"CNN12 at width 1/8. A bare loop takes its steps on one batch in memory, with the same "
        f"augmentations; the program draws its crops from a cache of ten-second clips, and writes "
        f"its checkpoints and scores two clips at the end of its epoch of {STEPS} steps. On a CPU "
        f"the program computes CNN12 channels last (`reference_models.channels_last`), the bare "
        f"loop as it is written. Medians of {ROUNDS} interleaved runs.\n\n" + table(head, rows)
    )
    packages = ("torch", "numpy")
    write_page(
        HERE / "TRAINING.md",
        "Training: speed beside a bare loop",
        "python -m benchmarks.training",
        body,
        packages,
    )


if __name__ == "__main__":
    main()
