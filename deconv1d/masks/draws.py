"""Random masks on a grid of cells: what the model is asked, once for all channels and layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deconv1d.masks.grid import Grid

PATCH_BANDS = 4
PATCH_SECONDS = 0.125
MOST_PATCHES = 16
"""Along time: patches of a longer recording are longer, since the number of masks is fixed."""


def random_masks(grid: Grid, count: int, draws: torch.Generator) -> Tensor:
    """Smooth random masks in antithetic pairs.

    Each patch of a coarse grid is open or closed with equal odds; a random shift moves the coarse
    grid, and bilinear interpolation makes its edges smooth. The second half of the masks is one
    minus the first half: in the difference of a pair all that masks add to each other in even
    orders cancels, so that fewer masks say as much about each cell.

        coarse  1 0 1     to cells   1 1 .8 .3 0 0 .3 .8 1     its partner   0 0 .2 .7 1 1 .7 .2 0

    Args:
        grid: The cells.
        count: How many masks, even.
        draws: On the CPU.

    Returns:
        (count, bands, columns), values 0 to 1.

    Source:
        The masks of Petsiuk et al., "RISE" (2018), on a spectrogram; antithetic variates as in
        Hammersley and Morton (1956).
    """
    bands, columns = grid.shape
    rows = max(1, bands // PATCH_BANDS)
    patches = max(1, min(MOST_PATCHES, round(grid.seconds / PATCH_SECONDS)))
    patch = -(-bands // rows), -(-columns // patches)
    pairs = count // 2
    # One patch more along both axes: shifted by up to a patch, the grid still covers all cells.
    coarse = torch.rand(pairs, 1, rows + 1, patches + 1, generator=draws) < 0.5
    size = (rows + 1) * patch[0], (patches + 1) * patch[1]
    smooth = F.interpolate(coarse.float(), size=size, mode="bilinear", align_corners=False)[:, 0]
    masks = torch.stack([_shifted(each, grid.shape, patch, draws) for each in smooth])
    return torch.cat([masks, 1 - masks])


def _shifted(
    mask: Tensor, shape: tuple[int, int], patch: tuple[int, int], draws: torch.Generator
) -> Tensor:
    """A part of a larger mask, that begins at random within its first patch."""
    low, first = (int(torch.randint(size, (), generator=draws)) for size in patch)
    return mask[low : low + shape[0], first : first + shape[1]]
