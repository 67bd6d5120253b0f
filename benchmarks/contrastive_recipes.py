"""What was tried to make SimCLR learn on Arabic Commands: short runs of one recipe each.

python -m benchmarks.contrastive_recipes --data DIR --runs runs/recipes

Every recipe is trained for a few epochs at width 1/8 on one thread and then probed, beside an
untrained encoder. Writes docs/results/networks/recipes.json after each recipe, and RECIPES.md
beside this file. Recipes that are in the JSON file are not done again; `--only NAME` does one.
A second table has the five networks of docs/results/networks beside five trained half as long.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.reporting import HERE, table, write_page
from reference_models import simclr
from reference_models.checkpoint import load_checkpoint, load_encoder, write_json
from reference_models.cnn12 import CNN12, projection_head
from reference_models.data import ClipSet, arabic_commands, build_cache
from reference_models.evaluate import word_metrics
from reference_models.networks import read
from reference_models.probe import choose_probe
from reference_models.probing import WHOLE, block_means, untrained
from reference_models.statistics import compare, over_networks

BLOCKS = (6, 9, 11, WHOLE)
STRENGTHS = (0.01, 0.1, 1.0)
PROBED_BLOCK = "11"
PROBED = {"audioset": "Arabic words", "words": "Speech Commands", "fsd50k": "ESC-10 mixtures"}
FOUND = HERE.parent / "docs" / "results" / "networks" / "recipes.json"

# What each recipe changes in this one; four epochs are 672 steps.
COMMON = simclr.Settings(
    width=1 / 8,
    seconds=0.6,
    gap=-0.55,
    batch_size=32,
    epochs=4,
    warmup_epochs=1,
    weight_decay=0.0,
    sonify_every=0,
)
RECIPES: dict[str, dict[str, Any]] = {
    "wd0-lr1e-3": {},
    "wd1e-3-lr1e-3": {"weight_decay": 1e-3},
    "bnhead-wd0-lr1e-3": {"head_norm": True},
    "bnhead-apart": {"head_norm": True, "seconds": 0.45, "gap": 0.05},
    "bnhead-batch64": {"head_norm": True, "batch_size": 64},
    "bnhead-tau0.2": {"head_norm": True, "temperature": 0.2},
    "bnhead-lr3e-4": {"head_norm": True, "peak_rate": 3e-4},
    "bnhead-no-warm-up": {"head_norm": True, "warmup_epochs": 0.0},
    "bnhead-gain": {"head_norm": True, "augmentations": ("gain",)},
    "bnhead-gain-noise": {"head_norm": True, "augmentations": ("gain", "noise")},
    "bnhead-12-epochs": {"head_norm": True, "epochs": 12},
    "bnhead-one-speaker": {"head_norm": True, "one_speaker": True},
    **{
        f"one-speaker-{epochs}-epochs": {
            "head_norm": True,
            "one_speaker": True,
            "epochs": epochs,
            "warmup_epochs": epochs / 10,
        }
        for epochs in (30, 60)
    },
}
"""The last is the preset's, the one before it half as long."""


def main() -> None:
    """Does the recipes that are not done, and writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contrastive_recipes")
    parser.add_argument("--data", required=True, type=Path, help="folder of Arabic Commands")
    parser.add_argument("--runs", required=True, type=Path, help="where runs and the cache go")
    parser.add_argument("--only", choices=RECIPES, nargs="*", default=list(RECIPES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    clips = build_cache(arabic_commands(given.data), given.runs / "cache")
    FOUND.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    if "untrained" not in found:
        found["untrained"] = {"features": look(untrained(COMMON.width, 0), clips)}
        write_json(FOUND, found)
    for name in given.only:
        if name not in found:
            found[name] = try_recipe(name, clips, given.runs)
            write_json(FOUND, found)
    write_page(
        HERE / "RECIPES.md",
        "SimCLR on Arabic Commands: recipes tried",
        "python -m benchmarks.contrastive_recipes",
        f"{page(found)}\n\n{longer(FOUND.parent)}",
        ["torch", "numpy"],
    )


def try_recipe(name: str, clips: ClipSet, runs: Path) -> dict[str, Any]:
    """Trains one recipe, and looks at its encoder."""
    settings = replace(COMMON, **RECIPES[name])
    result = simclr.train(clips, settings, runs / name)
    last = runs / name / f"epoch-{settings.epochs:03d}.safetensors"
    tensors, _ = load_checkpoint(last)
    model = nn.Sequential()
    model.add_module("encoder", CNN12(width=settings.width))
    model.add_module("projection", projection_head(normalised=settings.head_norm))
    model.load_state_dict(tensors)
    return {
        "changes": {key: str(value) for key, value in RECIPES[name].items()},
        "minutes": round(result["seconds"] / 60, 1),
        "epochs": settings.epochs,
        "val_loss": simclr.validation_loss(model, clips.subset("val"), settings),
        "features": look(load_encoder(last), clips),
    }


def look(encoder: CNN12, clips: ClipSet) -> dict[str, dict[str, float]]:
    """By block: the fitted probe's accuracy on validation clips, and the features' rank."""
    training, validation = clips.subset("train"), clips.subset("val")
    seen, held_out = block_means(encoder, training), block_means(encoder, validation)
    found = {}
    for block in BLOCKS:
        probe = choose_probe(
            *(seen[block], training.labels()),
            *(held_out[block], validation.labels()),
            classes=len(clips.classes),
            strengths=STRENGTHS,
        )
        with torch.no_grad():
            accuracy = word_metrics(probe.head(held_out[block]), validation.labels())["accuracy"]
        found[str(block)] = {"accuracy": accuracy, "rank": effective_rank(held_out[block])}
    return found


def effective_rank(features: Tensor) -> float:
    """Returns the exponential of the entropy of the standardised features' spectrum.

    Source:
        Roy and Vetterli, "The effective rank" (2007), of the covariance's eigenvalues.
    """
    standard = features.double() - features.double().mean(dim=0)
    standard = standard / standard.std(dim=0).clamp(min=1e-12)
    shares = torch.linalg.eigvalsh(standard.T @ standard).clamp(min=1e-12)
    shares = shares / shares.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def page(found: dict[str, Any]) -> str:
    """The table and what it shows."""
    head = ["recipe", "changes", "epochs", "minutes", "validation loss"]
    head += ["whole" if block == WHOLE else f"block {block}" for block in BLOCKS]
    rows = []
    for name, one in found.items():
        points = [one["features"][str(block)] for block in BLOCKS]
        cells = [f"{point['accuracy']:.3f} ({point['rank']:.0f})" for point in points]
        changes = ", ".join(f"{key} {value}" for key, value in one.get("changes", {}).items())
        loss = f"{one['val_loss']:.2f}" if "val_loss" in one else ""
        rows.append([name, changes, one.get("epochs", ""), one.get("minutes", ""), loss, *cells])
    return (
        "Two crops of 0.6 s that overlap, their starts at least 50 ms apart, batches of 32, Adam "
        "with a peak rate of 1e-3, all four augmentations, temperature 0.1. By block: accuracy of a"
        " fitted probe on validation clips (30 words; chance 0.033), and in brackets the effective "
        "rank of its standardised features; one network each. Losses compare within batches of one "
        f"speaker, and within mixed ones, of one size and temperature.\n\n{table(head, rows)}"
    )


def longer(folder: Path) -> str:
    """What twice as many epochs bring, over the networks that were measured with either."""
    half, whole = (
        [one for one in read(where) if one["regime"] == "contrastive"]
        for where in (folder / "epochs30", folder)
    )
    rows = []
    for data, name in PROBED.items():
        short, long = ([_probed(one, data) for one in networks] for networks in (half, whole))
        metric = half[0]["probes"][data][PROBED_BLOCK]["fit"]["metric"]
        gained = compare("gained", metric, long, short, margin=0)
        each = (over_networks(short), over_networks(long), gained.estimate)
        rows.append([f"{name}, {metric}", *map(str, each)])
    return (
        "Five networks of the last recipe, and of the one before it: a fitted probe of block 11 on "
        "test clips, and what the additional epochs bring network by network.\n\n"
        + table(["probe", "30 epochs", "60 epochs", "60 minus 30"], rows)
    )


def _probed(one: dict[str, Any], data: str) -> float:
    probe = one["probes"][data][PROBED_BLOCK]
    return probe["test"][probe["fit"]["metric"]]


if __name__ == "__main__":
    main()
