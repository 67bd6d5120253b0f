"""What the channels make of one recording through random masks: one batch for all of them.

It is most of the work of a mask, and the same for every channel and layer. It is done a few sounds
at a time, so that a program can do other things between, and kept for the channels asked for later.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deconv1d.masks.draws import random_masks
from deconv1d.masks.grid import grid_of
from deconv1d.masks.hearing import Hearing, batch_of
from deconv1d.masks.spectrogram import Spectrogram, spectrogram_of

MASKS = 64


class Survey:
    """The activations of all channels of some layers on one recording through random masks.

    Args:
        hearing: The model and the layers.
        recording: What is masked.
        masks: Random masks, (masks, bands, columns).
        at_once: How many sounds make a batch.
    """

    def __init__(
        self, hearing: Hearing, recording: Spectrogram, masks: Tensor, at_once: int
    ) -> None:
        self.recording, self.masks, self.at_once = recording, masks, at_once
        self._hearing = hearing
        # The second half of the masks are the partners of the first: one minus each.
        self._waiting = list(masks[: len(masks) // 2].split(max(1, at_once // 2)))
        self._heard: dict[str, list[tuple[Tensor, Tensor]]] = {}

    @property
    def left(self) -> int:
        """How many batches are not heard yet."""
        return len(self._waiting)

    def step(self) -> bool:
        """Hears one batch more; False: all are heard, and nothing is done."""
        if not self._waiting:
            return False
        sounds = self.recording.masked(self._waiting[0])
        # What is heard through a mask's partner is what the mask leaves.
        both = torch.cat([sounds, self.recording.x - sounds])
        for layer, means in self._hearing.activations(both, self.at_once).items():
            kept, left = means.to(self.masks).chunk(2)
            self._heard.setdefault(layer, []).append((kept, left))
        # Last, so that a batch that fails is tried again and not left out.
        del self._waiting[0]
        return True

    def activations(self, layer: str) -> Tensor:
        """Of a layer's channels through each mask, (masks, channels); all batches must be heard.

        Args:
            layer: Its full name.
        """
        assert not self._waiting
        kept, left = zip(*self._heard[layer], strict=True)
        return torch.cat([*kept, *left])


def surveys_of(
    hearing: Hearing, x: Tensor, *, masks: int = MASKS, generator: torch.Generator | None = None
) -> list[Survey]:
    """One for each recording, through the same random masks; nothing is heard yet.

    Args:
        hearing: The model and the layers.
        x: (batch, ..., time), as the model takes it.
        masks: How many random masks, even.
        generator: Of the random masks, on the CPU; None: a new one with seed 0.
    """
    grid = grid_of(hearing.sonifier.sample_rate, x.shape[-1])
    draws = torch.Generator().manual_seed(0) if generator is None else generator
    # Spectra are computed in float32 at least, whatever precision the model runs in.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    random, at_once = random_masks(grid, masks, draws).to(wide), batch_of(hearing, x)
    return [Survey(hearing, spectrogram_of(recording, grid), random, at_once) for recording in wide]
