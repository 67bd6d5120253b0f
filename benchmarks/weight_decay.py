"""What Adam's L2 penalty does to supervised training on few recordings.

python -m benchmarks.weight_decay --data DIR --runs runs/weight-decay

CNN12 at width 1/8 is trained from scratch with the paper's penalty and without, three networks of
each, on one thread: on mixtures of ESC-10 (`esc10_as_fsd50k`, several labels a clip, binary cross
entropy) and on Speech Commands (one label, cross entropy). Writes WEIGHT_DECAY.md beside this file.
A network that is trained is not trained again, and one that was interrupted goes on.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch

from benchmarks.reporting import HERE, table, write_page
from reference_models import supervised
from reference_models.checkpoint import load_classifier
from reference_models.data import ClipSet, build_cache, fsd50k, speech_commands
from reference_models.probing import BLOCKS, block_means
from reference_models.statistics import compare, over_networks

PENALTIES = (1e-3, 0.0)
RANDOM_STATES = range(3)
DATA = {
    "ESC-10 mixtures": ("esc10_as_fsd50k", fsd50k, supervised.PRESETS["esc10"], "mAP"),
    "Speech Commands": (
        "speech_commands",
        speech_commands,
        supervised.PRESETS["small-speech-commands"],
        "accuracy",
    ),
}


def main() -> None:
    """Trains what is not trained, and writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weight_decay")
    parser.add_argument("--data", required=True, type=Path, help="folder of the recordings")
    parser.add_argument("--runs", required=True, type=Path, help="where runs and caches go")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in DATA for row in compared(name, given.data, given.runs)]
    write_page(
        HERE / "WEIGHT_DECAY.md",
        "L2 penalty in supervised training",
        "python -m benchmarks.weight_decay",
        page(rows),
        ["torch", "numpy"],
    )


def compared(name: str, data: Path, runs: Path) -> Iterator[list[str]]:
    """The rows of a data set: each penalty, and what is gained without it."""
    folder, layout, preset, metric = DATA[name]
    clips = build_cache(layout(data / folder), runs / folder / "cache")
    reached: dict[float, list[float]] = {}
    for penalty in PENALTIES:
        found, dead = [], []
        for random_state in RANDOM_STATES:
            settings = replace(preset, weight_decay=penalty, random_state=random_state)
            run = runs / folder / f"{penalty:g}-s{random_state}"
            found.append(supervised.train(clips, settings, run)["test"][metric])
            last = run / f"epoch-{settings.epochs:03d}.safetensors"
            dead.append(silent(last, clips.subset("test")))
        reached[penalty] = found
        cells = [f"{penalty:g}", str(over_networks(found)), f"{fmean(dead):.2f}"]
        yield [f"{name}, {metric}", *cells]
    with_it, without = (reached[penalty] for penalty in PENALTIES)
    gained = compare("without", metric, without, with_it, margin=0)
    yield [f"{name}, {metric}", "without minus with", str(gained.estimate), ""]


def silent(checkpoint: Path, clips: ClipSet) -> float:
    """The share of the last block's filters that answer no clip at all."""
    features = block_means(load_classifier(checkpoint).encoder, clips)[BLOCKS[-1]]
    return float((features == 0).all(dim=0).double().mean())


def page(rows: list[list[str]]) -> str:
    """The table and what it is of."""
    head = ["data, metric on test clips", "weight decay", "mean, 95 % interval", "silent filters"]
    return (
        "CNN12 at width 1/8 from scratch, by `supervised.PRESETS` but for the penalty, of which "
        "1e-3 is the paper's. Silent filters: the share of the last block's that answer none of "
        f"the test clips.\n\n{table(head, rows)}"
    )


if __name__ == "__main__":
    main()
