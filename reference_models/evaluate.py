"""How well a model does: whole-clip outputs, the paper's metrics, and how sure they are."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats
import torch
from torch import Tensor, nn

from reference_models.cnn12 import SHORTEST
from reference_models.data import ClipSet
from reference_models.distributed import gather_shards, rank, world_size


@torch.no_grad()
def predict(model: nn.Module, clips: ClipSet, *, batch_size: int = 32) -> Tensor:
    """Returns the model's outputs for every clip, whole, in the order of `clips.ids`.

    A batch holds clips of one length, so that each output is what the clip alone would give;
    clips shorter than the network's receptive field are zero-padded to it. The model is in eval
    mode meanwhile. Under `torchrun` each process takes its share, every clip exactly once, and
    all of them return all outputs.

    Args:
        model: Waveforms (batch, 1, time) to (batch, outputs).
        clips: The clips.
        batch_size: Clips in a batch, at the most.

    Returns:
        (clips, outputs), on the CPU.

    Raises:
        ValueError: There are fewer clips than processes.

    Source:
        Appendix A.3: "Evaluation was done on the entire audio clip at once".
    """
    if len(clips) < world_size():
        raise ValueError(
            f"cannot evaluate on {len(clips)} usable clips of '{clips.index.name}': expected at "
            f"least {world_size()}, one for each process; see the statuses in its index"
        )
    device = next(model.parameters()).device
    numbers, outputs = [], []
    mine = torch.arange(rank(), len(clips), world_size())
    with _in_eval_mode(model):
        for batch, waveforms in clips.whole(mine, batch_size=batch_size, shortest=SHORTEST):
            numbers.append(batch)
            outputs.append(model(waveforms.to(device)))
    in_order = torch.cat(outputs)[torch.cat(numbers).argsort()]
    return gather_shards(in_order, len(clips)).cpu()


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module's mode is as it was afterwards: a wrapper's may differ from what it wraps."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Returns the metrics that fit the labels: `event_metrics` of rows, `word_metrics` of numbers.

    Args:
        scores: Outputs of `predict`, (clips, classes).
        labels: Labels of the same clips as `ClipSet.labels` gives them.
    """
    return (event_metrics if labels.ndim == 2 else word_metrics)(scores, labels)


def word_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Returns the accuracy of the best-scored class, 0 to 1.

    Args:
        scores: (clips, classes).
        labels: Class numbers, (clips,).

    Raises:
        ValueError: A score is not a number.
    """
    _check_numbers("accuracy", scores)
    right = scores.argmax(dim=1) == labels
    return {"accuracy": right.double().mean().item(), "clips": len(labels)}


def event_metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Returns mAP, mAUC and d', and of how many classes they are the means.

    A class counts if at least one clip has it and at least one has not: average precision and
    area under the ROC curve are defined for no other. d' is sqrt(2) * Phi^-1(mAUC).

    Args:
        scores: (clips, classes); only their order within a class matters.
        labels: Multi-hot, (clips, classes).

    Raises:
        ValueError: No class counts, or a score is not a number.

    Source:
        Appendix A.3.1; both are scikit-learn's macro averages, of many classes at once.
    """
    _check_numbers("mAP", scores)
    present = labels.bool()
    counted = present.any(dim=0) & ~present.all(dim=0)
    if not counted.any():
        raise ValueError(
            f"no mAP for labels of shape {tuple(labels.shape)}: expected a class that some clips "
            "have and others have not, there is none; evaluate on more clips"
        )
    precision, area = _precision_and_area(scores[:, counted], present[:, counted])
    mean_area = area.mean().item()
    return {
        "mAP": precision.mean().item(),
        "mAUC": mean_area,
        "dprime": math.sqrt(2) * float(scipy.special.ndtri(mean_area)),
        "classes": int(counted.sum()),
        "clips": len(labels),
    }


def _check_numbers(metric: str, scores: Tensor) -> None:
    if scores.isnan().any():
        raise ValueError(
            f"no {metric} for scores of shape {tuple(scores.shape)}: {int(scores.isnan().sum())} "
            "of them are NaN, expected none; the model has diverged, take an earlier checkpoint"
        )


def _precision_and_area(scores: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Average precision and area under the ROC curve of each class, float64, (classes,).

    Of the n clips let `below` have a lower score than clip i, `within` one that is no higher, and
    `hits` be positive with a score at least as high. The precision at the threshold s_i is
    hits / (n - below), and its mean over the positives i the average precision. The area is the
    share of pairs (positive i, negative) in the right order, a tie counting half: the sum over i
    of (below + within) / 2 counts all clips, of which pairs of positives make up p^2 / 2.
    """
    rows, positive = scores.T.contiguous(), present.T.double()
    ranked, order = rows.sort(dim=1)
    below = torch.searchsorted(ranked, rows)
    within = torch.searchsorted(ranked, rows, right=True)
    from_rank_on = positive.gather(1, order).flip(1).cumsum(dim=1).flip(1)
    hits = from_rank_on.gather(1, below)
    n, p = len(scores), positive.sum(dim=1)
    precision = (positive * hits / (n - below)).sum(dim=1) / p
    area = ((positive * (below + within)).sum(dim=1) / 2 - p * p / 2) / (p * (n - p))
    return precision, area


class Interval(NamedTuple):
    """A mean over runs, with its 95 % confidence interval.

    Attributes:
        mean: The mean.
        half_width: The interval is mean - half_width to mean + half_width; infinite for one run.
        runs: Number of runs.
    """

    mean: float
    half_width: float
    runs: int

    def __str__(self) -> str:
        """As the paper prints it, with N: "0.299 ± 0.001 (N=3)"."""
        return f"{self.mean:.3f} ± {self.half_width:.3f} (N={self.runs})"


def over_runs(values: Sequence[float]) -> Interval:
    """Returns mean and 95 % t interval of one metric over runs of other random states."""
    runs = len(values)
    if runs == 1:
        return Interval(float(values[0]), math.inf, 1)
    error = np.std(values, ddof=1) / math.sqrt(runs)
    return Interval(float(np.mean(values)), float(scipy.stats.t.ppf(0.975, runs - 1) * error), runs)
