"""How much each cell adds to each channel, by regression on random masks."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1.0
"""Of the masks' mean squared length. Large: effects of neighbouring cells are smoothed together,
as sounds spread over neighbouring cells. At 0.1 and 0.01 masks point worse."""


def effects(masks: Tensor, activations: Tensor) -> Tensor:
    """What each channel's mean activation gains when a cell opens, from a ridge regression.

    With masks m, activations a and cells' effects w the model is a = const + w . m, and w the
    minimiser of |a - m w|^2 + ridge |w|^2 on centred m and a. There are fewer masks than cells, so
    the system is solved between masks: w = m^T (m m^T + ridge)^-1 a. One solution serves all
    channels of all layers.

    Args:
        masks: (masks, bands, columns).
        activations: Of every channel under each mask, (masks, channels).

    Returns:
        (channels, bands, columns).

    Source:
        RISE (Petsiuk et al. 2018) takes the mean of the masks weighted by the activations; ridge
        regression takes off what the masks have in common by chance (Hoerl and Kennard 1970).
    """
    m = (masks - masks.mean(0)).flatten(1).double()
    a = (activations - activations.mean(0)).double()
    gram = m @ m.T
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    w: Tensor = m.T @ torch.linalg.solve(gram, a)
    return w.T.reshape(-1, *masks.shape[1:]).to(activations)
