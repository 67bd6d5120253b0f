"""What a model's layers give on many sounds of one length: the mean activation of every channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconv1d.channels import means
from deconv1d.errors import InputError

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

SAMPLES_AT_ONCE = 2**19


def hear(sonifier: Sonifier, sounds: Tensor, layers: Sequence[str]) -> list[Tensor]:
    """Mean activation of every channel of each layer on each sound.

    The sounds go through the model as a batch where it takes batches, else one by one.

    Args:
        sonifier: Of the model.
        sounds: (sounds, time).
        layers: Each as for `Sonifier.sonify`.

    Returns:
        For each layer (sounds, channels).

    Raises:
        InputError, LayerError, ModelError: As for `Sonifier.maps`, on a single sound.
    """
    if sounds.dim() != 2:
        raise InputError(
            f"The sounds cannot be heard: expected mono clips of one length, (sounds, time), got "
            f"shape {tuple(sounds.shape)}. Mix channels down, and stack clips."
        )
    at_once = max(1, SAMPLES_AT_ONCE // sounds.shape[-1])
    parts = [_hear_part(sonifier, part, layers) for part in sounds.split(at_once)]
    return [torch.cat(each) for each in zip(*parts, strict=True)]


def _hear_part(sonifier: Sonifier, sounds: Tensor, layers: Sequence[str]) -> list[Tensor]:
    """As `hear`; the shapes are tried in the order in which `Sonifier` tries those of one clip."""
    if len(sounds) > 1:
        for batch in (sounds[:, None], sounds):
            try:
                heard = [means(each.maps) for each in sonifier.all_maps(batch, layers=layers)]
            except Exception:  # the model's own, where it takes no such shape
                continue
            if all(len(each) == len(sounds) for each in heard):
                return heard
    rows = [sonifier.all_maps(sound, layers=layers) for sound in sounds]
    return [torch.cat([means(each.maps) for each in row]) for row in zip(*rows, strict=True)]


def to_rms(sounds: Tensor, level: Tensor | float) -> Tensor:
    """Sounds, (..., time), scaled to a root mean square level; silence stays silent."""
    rms = sounds.square().mean(-1, keepdim=True).sqrt()
    return torch.where(rms > 0, sounds / torch.where(rms > 0, rms, 1) * level, 0)
