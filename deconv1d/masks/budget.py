"""From scores of cells to a mask that keeps a share of the recording's energy."""

from __future__ import annotations

import torch
from torch import Tensor

SHARPNESS = 2.0
OPEN = 5.0
"""A mask is `OPEN` times the score to this power, relative to the best, but for the budget: cells
are open from 0.45 of the best score. Softer masks and masks that open until the budget is spent
point worse; sharper ones keep too little for the channel."""


def within_budget(scores: Tensor, energy: Tensor, budget: float) -> Tensor:
    """The soft mask that follows the scores and keeps up to a share of the energy.

    A mask m keeps (m^2 energy).sum(). Here m = min(1, k s), s = (score / best score)^`SHARPNESS`,
    with k = `OPEN`, or less if that would keep more than the budget allows; cells whose score is
    not above 0 stay closed.

        scores  4  3  1  0 -1     s  1 .56 .06 0 0     k = 5: mask  1  1 .31  0  0

    The k of a budget is found exactly: if the n best cells are cut to 1, k^2 is what they leave of
    the budget over the sum of s^2 energy of the others, and n is the first number for which
    the next cell, with this k, needs no cut.

    Args:
        scores: (..., bands, columns).
        energy: Of each cell; its shape fits the scores'.
        budget: Share of the whole energy, 0 to 1.

    Returns:
        Masks of the scores' shape, 0 to 1.
    """
    positive = unit(scores).flatten(-2).double() ** SHARPNESS
    energies = energy.expand_as(scores).flatten(-2).double()
    best, order = positive.sort(dim=-1, descending=True, stable=True)
    sorted_energy = energies.gather(-1, order)
    left = budget * energies.sum(-1, keepdim=True) - (sorted_energy.cumsum(-1) - sorted_energy)
    rest = (best.square() * sorted_energy).flip(-1).cumsum(-1).flip(-1)
    uncut = (left * best.square() <= rest) & (rest > 0)
    first = uncut.long().argmax(-1, keepdim=True)  # the first True
    exact = (left.gather(-1, first).clamp(min=0) / rest.gather(-1, first)).sqrt()
    factor = torch.where(uncut.any(-1, keepdim=True), exact, torch.inf).clamp(max=OPEN)
    return (factor * positive).clamp(max=1).to(scores).reshape(scores.shape)


def unit(scores: Tensor) -> Tensor:
    """Scores clipped at 0 and scaled to a maximum of 1, (..., bands, columns)."""
    positive = scores.clamp(min=0)
    top = positive.amax((-2, -1), keepdim=True)
    return positive / torch.where(top > 0, top, 1)
