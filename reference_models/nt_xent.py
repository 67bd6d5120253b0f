"""NT-Xent, SimCLR's loss, in one process or over many."""

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from reference_models.distributed import rank, world_size


def nt_xent(
    one: Tensor,
    two: Tensor,
    *,
    temperature: float = 0.1,
    negatives: Literal["global", "local"] = "global",
) -> Tensor:
    """Returns the mean of the loss l_ij over all 2N views: how hard each is to pair with its other.

    Args:
        one: Projections of the first view of N clips, (N, features).
        two: Those of the second view, in the same order.
        temperature: tau of equation 1; the paper's best is 0.1.
        negatives: Where there are several processes, each with N clips: "global" compares with the
            views on all of them, and with gradients averaged over the processes
            (DistributedDataParallel) trains exactly as one process with all clips would; "local"
            compares with its own alone.

    Raises:
        ValueError: The two shapes differ, or `negatives` is neither word.

    Source:
        Equation 1 of the paper. The official SimCLR code (Chen et al., 2020) sums the means over
        first and over second views: its value is twice this one.
    """
    if one.shape != two.shape or one.ndim != 2:
        raise ValueError(
            f"cannot compare views of shapes {tuple(one.shape)} and {tuple(two.shape)}: expected "
            "the same (clips, features); pass the projections of both views of the same clips"
        )
    if negatives not in ("global", "local"):
        raise ValueError(
            f"cannot compute NT-Xent with negatives={negatives!r}: expected 'global' (the views "
            "on all processes) or 'local' (on this one); pass one of the two"
        )
    views = F.normalize(torch.cat([one, two]), dim=-1)
    everyone = negatives == "global" and world_size() > 1
    against = _AllGather.apply(views) if everyone else views
    rows = torch.arange(len(views), device=views.device)
    first = rank() * len(views) if everyone else 0  # of this process' own views in `against`
    positives = first + (rows + len(one)) % len(views)
    itself = torch.arange(len(against), device=views.device) == first + rows[:, None]
    similarity = views @ against.T / temperature
    # -log(exp(s_ij) / sum_{k != i} exp(s_ik)) is the cross-entropy of the row without its k = i.
    return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), positives)


class _AllGather(torch.autograd.Function):
    """The rows of all processes; the gradient of a row is the sum of what each process sends it.

    `dist.all_gather` alone carries no gradient: the others' use of these rows would be lost.
    """

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        shards = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(shards, rows.contiguous())
        return torch.cat(shards)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]
