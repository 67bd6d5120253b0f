"""What an encoder's frozen features tell of a data set, block by block, by fitted probes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reference_models.cnn12 import CNN12, end_of_block
from reference_models.data import ClipSet
from reference_models.evaluate import metrics, predict
from reference_models.initialisation import initialise
from reference_models.probe import choose_probe

BLOCKS = range(1, 12)
WHOLE = 12  # stands for the encoder with its linear layer


class BlockMeans(nn.Module):
    """All that probes look at, from one pass: each block's output, averaged over time, and the end.

    Args:
        encoder: Its modules are used, not copied.

    Attributes:
        sizes: Number of features of each block, 1 to 11 and `WHOLE`.
    """

    def __init__(self, encoder: CNN12):
        super().__init__()
        self.features, self.fc1 = encoder.features, encoder.fc1
        self._ends = {end_of_block(encoder, block) for block in BLOCKS}
        convolutions = (self.features.get_submodule(f"conv{block}") for block in BLOCKS)
        self.sizes = [conv.out_channels for conv in convolutions] + [self.fc1[-1].out_features]

    def forward(self, maps: Tensor) -> Tensor:
        """Returns (batch, features of all blocks and of the end) of waveforms (batch, 1, time)."""
        means = []
        for name, module in self.features.named_children():
            maps = module(maps)
            if name in self._ends:
                means.append(maps.mean(dim=-1))
        return torch.cat([*means, self.fc1(means[-1])], dim=1)


def block_means(encoder: CNN12, clips: ClipSet) -> dict[int, Tensor]:
    """Returns the features of every clip, (clips, features) on the CPU, by block."""
    model = BlockMeans(encoder)
    features = predict(model, clips).split(model.sizes, dim=1)
    return dict(zip((*BLOCKS, WHOLE), features, strict=True))


def probe_blocks(
    encoder: CNN12, clips: ClipSet, *, blocks: Sequence[int] = (*BLOCKS, WHOLE)
) -> dict[int, dict[str, Any]]:
    """Returns how well a fitted probe on each block does.

    Args:
        encoder: Frozen, on the device where the probes are fitted.
        clips: With the splits "train", "val" (chooses the penalty) and "test".
        blocks: Which to probe.

    Returns:
        By block: "val" and "test" metrics, and "fit", of `Probe.about`.
    """
    device = next(encoder.parameters()).device
    splits = {split: clips.subset(split) for split in ("train", "val", "test")}
    features = {split: block_means(encoder, own) for split, own in splits.items()}
    labels = {split: own.labels() for split, own in splits.items()}
    results = {}
    for block in blocks:
        probe = choose_probe(
            features["train"][block].to(device),
            labels["train"].to(device),
            features["val"][block].to(device),
            labels["val"],
            classes=len(clips.classes),
        )
        with torch.no_grad():
            scores = {s: probe.head(features[s][block].to(device)).cpu() for s in ("val", "test")}
        results[block] = {split: metrics(scores[split], labels[split]) for split in scores}
        results[block]["fit"] = probe.about()
    return results


def untrained(width: float, draw: int) -> CNN12:
    """Returns an encoder with its first weights, in eval mode: what a trained one must beat.

    Args:
        width: Scales the number of filters.
        draw: Which one; equal numbers give equal weights.
    """
    torch.manual_seed(draw)
    return initialise(CNN12(width=width)).eval()


def best_block(probed: Mapping[int, Mapping[str, Any]]) -> int:
    """Returns the block whose probe does best on the validation clips; of equal ones the lowest."""

    def value(block: int) -> float:
        return probed[block]["val"][probed[block]["fit"]["metric"]]

    return max(sorted(probed), key=value)
