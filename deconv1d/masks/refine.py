"""A channel's mask, made better step by step with the gradient at the masked recording itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deconv1d.masks.budget import unit, within_budget
from deconv1d.masks.spectrogram import Spectrogram

QUIET = 1e-3
"""Of the mean energy of a cell: below it a cell's slope is not divided by its own amplitude."""
WHOLE = 0.8
"""How far a mask is opened towards the whole recording when the first gradient is taken."""
OPENED = 2 / 3
"""The share of the steps in which masks are opened, ever less."""


def refined(
    scores: Tensor,
    recording: Spectrogram,
    gradients: Callable[[Tensor], Tensor],
    *,
    budget: float,
    steps: int,
) -> Tensor:
    """Masks that serve their channels better than those of the scores.

    A first-order method (Frank and Wolfe's) in the set of masks within the budget. At each step
    the model hears the masked recordings, at the recording's level, and the gradient says of each
    cell what would help now. The mask moves towards the best one by root of score times gradient:

        score     4  1  1  1      by random masks: sees what is far away, but is coarse
        root      2  1  1  1
        gradient  1 -1  2  1      at this mask: fine, but blind to what is far away
        product   2  0  2  1      -> towards this mask, 2 / (step + 3) of the way

    The product keeps the mask to cells on which random masks saw an effect. Without it the mask
    would leave for cells that excite the channel there and then, as adversarial examples do.

    At first the model hears masks that are opened towards the whole recording, m + o (1 - m) with
    o = 0.8, and at the end the masks themselves: a gradient at the mask alone says little of cells
    that are shut, and with nothing else to be heard it does not say what is another sound's.

        of 8 steps    0    1    2    3    4    5    6    7
        opened by    .8  .65   .5  .35   .2  .05    0    0

    The gradient counts by amplitude: a cell's slope grows with its amplitude, but what the cell
    costs of the sound's level grows with the square. Without it masks keep the loudest parts, and
    their channel is about as active on what they leave out.

    Args:
        scores: (asked, bands, columns).
        recording: What is masked.
        gradients: From sounds, (asked, ..., time), one for each mask, to gradients of what the
            masks are to serve, of that shape.
        budget: Share of the recording's energy.
        steps: How many; 0: the masks of the roots of the scores.

    Returns:
        (asked, bands, columns).

    Source:
        Frank and Wolfe, "An algorithm for quadratic programming" (1956); masks that preserve an
        activation within an area as in Fong et al., "Understanding deep networks via extremal
        perturbations and smooth masks" (2019).
    """
    prior = unit(scores).sqrt()
    energy = recording.energy
    amplitude = (energy + QUIET * energy.mean()).sqrt()
    amplitude = torch.where(amplitude > 0, amplitude, 1)  # the recording is silent
    masks = within_budget(prior, energy, budget)
    # Frank and Wolfe's step is 2 / (k + 2). Here k starts at 1, for at 0 the masks of the scores
    # would be left altogether. A mask between two that keep within the budget keeps within it too,
    # since the masks that do so are a convex set.
    for step in range(steps):
        opened = masks + _openness(step, steps) * (1 - masks)
        slopes = recording.slopes(gradients(recording.loud(opened)))
        wanted = prior * unit(slopes / amplitude)
        masks = masks + 2 / (step + 3) * (within_budget(wanted, energy, budget) - masks)
    return masks


def _openness(step: int, steps: int) -> float:
    """How far masks are opened in this step, 0 to 1."""
    return WHOLE * max(0.0, 1 - step / (OPENED * steps))
