"""Train small CNN12s from scratch and from the weights that ship, and test them on held-out clips.

python -m benchmarks.accuracy --speech-commands DIR --fsd50k DIR --work DIR

About an hour on two cores, and safe to kill: it goes on where it was. Writes ACCURACY.md beside
this file. `--fsd50k` takes any data set in FSD50K's layout; the rendered events, group B, come by
themselves.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.reporting import HERE, table, write_page
from reference_models import supervised
from reference_models.checkpoint import load_classifier
from reference_models.data import (
    ClipIndex,
    ClipSet,
    build_cache,
    fsd50k,
    open_cache,
    rendered_events,
    speech_commands,
)
from reference_models.evaluate import metrics, over_clips, predict

WEIGHTS = Path(supervised.__file__).parent / "weights"
WORDS = {"encoder": str(WEIGHTS / "cnn12-w8-words.safetensors")}
EVENTS = {"encoder": str(WEIGHTS / "cnn12-w8-events.safetensors")}
STARTS = {
    "scratch": {},
    "words (supervised)": WORDS,
    "words, frozen": WORDS | {"frozen": True},
    "events A (contrastive)": EVENTS,
    "events A, frozen": EVENTS | {"frozen": True},
}


def settings_of(preset: str, epochs: int) -> supervised.Settings:
    """A preset for so many epochs, a fifth of them warm-up."""
    return replace(
        supervised.PRESETS[preset],
        epochs=epochs,
        warmup_epochs=epochs / 5,
        keep_every=epochs,
        sonify_every=0,
    )


def row(clips: ClipSet, settings: supervised.Settings, start: str, folder: Path) -> list[Any]:
    """Trains one network and returns its line of the table."""
    result = supervised.train(clips, replace(settings, **STARTS[start]), folder)
    model = load_classifier(folder / f"epoch-{settings.epochs:03d}.safetensors")
    test = clips.subset("test")
    scores, labels = predict(model, test), test.labels()
    name = "mAP" if clips.multilabel else "accuracy"
    low, high = over_clips(lambda s, y: metrics(s, y)[name], scores, labels, draws=300)
    found = result["test"]
    more = f"mAUC {found['mAUC']:.3f}, d' {found['dprime']:.2f}" if clips.multilabel else ""
    measured = f"{name} {found[name]:.3f} ({low:.3f} to {high:.3f})"
    return [
        clips.index.name,
        start,
        measured,
        more,
        found["clips"],
        f"{result['seconds'] / 60:.0f}",
    ]


def data_of(clips: ClipSet) -> str:
    """What the data are called: in FSD50K's layout others come as well."""
    name, classes = clips.index.name, len(clips.classes)
    return name if name != "FSD50K" or classes == 200 else f"{classes} kinds in FSD50K's layout"


def summary(clips: ClipSet) -> str:
    """What the data are, in a sentence."""
    facts = clips.index.summary()
    splits = ", ".join(f"{sum(n.values())} {split}" for split, n in facts["splits"].items())
    return (
        f"{data_of(clips)}: {facts['classes']} classes, {facts['clips']} clips ({splits}), "
        f"clip hash {facts['clip_hash']}."
    )


def read(layout: Callable[[], ClipIndex] | None, cache: Path) -> ClipSet:
    """The clips of a cache, which is built unless it is there; without a layout rendered events."""
    if (cache / "index.parquet").exists():
        return open_cache(cache)
    return build_cache(layout(), cache) if layout else rendered_events(cache, group="B")


def main() -> None:
    """Writes ACCURACY.md."""
    parser = argparse.ArgumentParser(description="Train, and test on held-out clips.")
    parser.add_argument("--speech-commands", metavar="DIR", required=True)
    parser.add_argument("--fsd50k", metavar="DIR", required=True)
    parser.add_argument("--work", metavar="DIR", type=Path, required=True)
    given = parser.parse_args()
    data = {
        "words": (lambda: speech_commands(given.speech_commands), settings_of("words", 40)),
        "events": (lambda: fsd50k(given.fsd50k), settings_of("events", 60)),
        "rendered": (None, settings_of("events", 20)),
    }
    rows, facts = [], []
    for name, (layout, settings) in data.items():
        clips = read(layout, given.work / f"cache-{name}")
        facts.append(summary(clips))
        for number, start in enumerate(STARTS):
            rows.append(row(clips, settings, start, given.work / f"{name}-{number}"))
    head = ("data", "encoder from", "test (95 % interval over clips)", "", "N", "minutes")
    body = (
        "CNN12 at width 1/8, one run each. The test clips are of other speakers (Speech Commands), "
        "of other recordings (FSD50K), of other presets and pitches (rendered events). Frozen: a "
        "linear head on the encoder's embeddings. The weights are those that ship: words of "
        "synthetic speech, and rendered events of group A.\n\n"
        + table(head, rows)
        + "\n\n"
        + "\n".join(f"- {fact}" for fact in facts)
    )
    write_page(
        HERE / "ACCURACY.md",
        "Accuracy on held-out clips",
        "python -m benchmarks.accuracy",
        body,
        ("torch", "numpy"),
    )


if __name__ == "__main__":
    main()
