"""Train small CNN12s on real recordings, from scratch and from the weights that ship.

python -m benchmarks.real_recordings --speech-commands DIR --fsd50k DIR --work DIR

About an hour on two cores, and safe to kill: it goes on where it was. Writes REAL_RECORDINGS.md
beside this file. `--fsd50k` takes any data set in FSD50K's layout.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.reporting import HERE, table, write_page
from reference_models import supervised
from reference_models.checkpoint import load_classifier
from reference_models.data import ClipSet, build_cache, fsd50k, open_cache, speech_commands
from reference_models.evaluate import metrics, over_clips, predict

WEIGHTS = Path(supervised.__file__).parent / "weights"
STARTS = {
    "scratch": {},
    "words (supervised)": {"encoder": str(WEIGHTS / "cnn12-w8-words.safetensors")},
    "words, frozen": {"encoder": str(WEIGHTS / "cnn12-w8-words.safetensors"), "frozen": True},
    "events (contrastive)": {"encoder": str(WEIGHTS / "cnn12-w8-events.safetensors")},
    "events, frozen": {
        "encoder": str(WEIGHTS / "cnn12-w8-events.safetensors"),
        "frozen": True,
    },
}
EPOCHS = {"words": 40, "events": 60}
SETTINGS = {
    preset: replace(
        supervised.PRESETS[preset],
        epochs=epochs,
        warmup_epochs=epochs / 5,
        keep_every=epochs,
        sonify_every=0,
    )
    for preset, epochs in EPOCHS.items()
}


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


def summary(clips: ClipSet) -> str:
    """What the data are, in a sentence."""
    facts = clips.index.summary()
    splits = ", ".join(f"{sum(n.values())} {split}" for split, n in facts["splits"].items())
    return (
        f"{facts['name']}: {facts['classes']} classes, {facts['clips']} clips ({splits}), "
        f"clip hash {facts['clip_hash']}."
    )


def main() -> None:
    """Writes REAL_RECORDINGS.md."""
    parser = argparse.ArgumentParser(description="Train on real recordings.")
    parser.add_argument("--speech-commands", metavar="DIR", required=True)
    parser.add_argument("--fsd50k", metavar="DIR", required=True)
    parser.add_argument("--work", metavar="DIR", type=Path, required=True)
    given = parser.parse_args()
    sources = {
        "words": (speech_commands, given.speech_commands),
        "events": (fsd50k, given.fsd50k),
    }
    rows, facts = [], []
    for preset, (layout, root) in sources.items():
        cache = given.work / f"cache-{preset}"
        finished = (cache / "index.parquet").exists()
        clips = open_cache(cache) if finished else build_cache(layout(root), cache)
        facts.append(summary(clips))
        for number, start in enumerate(STARTS):
            folder = given.work / f"{preset}-{number}"
            rows.append(row(clips, SETTINGS[preset], start, folder))
    head = ("data", "encoder from", "test (95 % interval over clips)", "", "N", "minutes")
    body = (
        "CNN12 at width 1/8, one run each, tested on clips of other speakers and recordings. "
        "Frozen: a linear head on the encoder's embeddings. The weights are those that ship: words "
        "of synthetic speech and rendered events.\n\n"
        + table(head, rows)
        + "\n\n"
        + "\n".join(f"- {fact}" for fact in facts)
    )
    write_page(
        HERE / "REAL_RECORDINGS.md",
        "Accuracy on real recordings",
        "python -m benchmarks.real_recordings",
        body,
        ("torch", "numpy"),
    )


if __name__ == "__main__":
    main()
