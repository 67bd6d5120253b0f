"""What a channel hears on sounds that were changed a little: is a mask an adversarial example?

A sound may excite a channel by details that no listener hears. Such details do not outlive a small
change; what the channel responds to in general does. So the same masks are heard as they are,
through another STFT, shifted by some samples, and in noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deconv1d.errors import InputError
from deconv1d.evaluation.cells import clip_spectrogram
from deconv1d.evaluation.hearing import hear
from deconv1d.evaluation.identity import MOST, Identities, answers_of, strongest
from deconv1d.masks.grid import Grid, grid_of
from deconv1d.masks.spectrogram import spectrogram_of

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

SHIFT = 37
"""Samples: no multiple of any stride of a usual model."""
NOISE = 0.1
"""Of a sound's RMS: -20 dB."""
OTHER_WINDOW_SECONDS = 0.048
"""One and a half of the window of masks."""
AS_IT_IS = "as it is"
OTHER_STFT = "through another STFT"
SHIFTED = f"shifted by {SHIFT} samples"
NOISY = "in noise at -20 dB"
DISTURBANCES = (AS_IT_IS, OTHER_STFT, SHIFTED, NOISY)

Masking = Callable[["Sonifier", Tensor, str, Sequence[int]], Tensor]
"""What makes masks: (sonifier, clip (time,), layer, channels) -> (channels, bands, columns)."""


def disturbed_masks(
    sonifier: Sonifier,
    layers: Sequence[str],
    clips: Iterable[Tensor],
    *,
    masks_of: Masking | None = None,
    most: int = MOST,
    random_state: int = 0,
) -> Identities:
    """Strict self-identification by masks, with their sounds as they are and disturbed.

    Each mask is found once; `DISTURBANCES` are the names of the rows.

    Args:
        sonifier: Of the model, with its sample rate; it is applied to single clips, (time,).
        layers: Each as for `Sonifier.sonify`.
        clips: Each (time,).
        masks_of: Where the masks come from, on the grid of `grid_of`; None: `method="mask"`.
        most: As for `self_identification`.
        random_state: Of the noise.

    Raises:
        InputError: If the sample rate is unknown, or masks have another shape.
    """
    find = masks_of or _own_masks
    scores: dict[str, dict[str, list[list[float]]]] = {
        layer: {name: [] for name in DISTURBANCES} for layer in layers
    }
    generator = torch.Generator().manual_seed(random_state)
    for clip in clips:
        for layer, heard in zip(layers, hear(sonifier, clip[None], layers), strict=True):
            channels = strongest(heard[0], most)
            if len(channels) < 2:
                continue
            masks = _checked(find(sonifier, clip, layer, channels), sonifier, clip, channels)
            for name, sounds, disturb in _disturbed(sonifier, clip, masks, generator):
                answers = answers_of(sonifier, clip, layer, channels, sounds, disturb=disturb)
                scores[layer][name].append(answers.summary)
    return Identities(
        {
            layer: {name: torch.tensor(rows).reshape(-1, 3) for name, rows in by_name.items()}
            for layer, by_name in scores.items()
        }
    )


def through_another_stft(
    clip: Tensor,
    masks: Tensor,
    sample_rate: float | None,
    *,
    window_seconds: float = OTHER_WINDOW_SECONDS,
) -> Tensor:
    """A recording through masks, (masks, time), by frames of another length than the masks' own.

    Args:
        clip: (time,).
        masks: (masks, bands, columns), of the clip's grid.
        sample_rate: In hertz.
        window_seconds: Of a frame.

    Raises:
        InputError: If the sample rate is unknown, or frames of this length have other bands.
    """
    own = grid_of(sample_rate, clip.shape[-1])
    grid = Grid(own.sample_rate, own.samples, window_seconds)
    bands, columns = grid.shape
    if bands != masks.shape[-2]:
        raise InputError(
            f"These masks cannot be heard through windows of {window_seconds} s: expected masks "
            f"of {bands} bands, as such windows tell apart, got {masks.shape[-2]}. Give a longer "
            f"window, so that each band holds a bin of frequency."
        )
    # The last frame may lie in an earlier column than with the masks' own hop, or a later one.
    nearest = torch.arange(columns, device=masks.device).clamp(max=masks.shape[-1] - 1)
    return spectrogram_of(clip, grid).masked(masks[..., nearest])


def _own_masks(sonifier: Sonifier, clip: Tensor, layer: str, channels: Sequence[int]) -> Tensor:
    masks = sonifier.sonify(clip, layer=layer, channel=channels, method="mask").mask
    assert masks is not None  # every sonification by this method has one
    return masks


def _checked(masks: Tensor, sonifier: Sonifier, clip: Tensor, channels: Sequence[int]) -> Tensor:
    expected = (len(channels), *grid_of(sonifier.sample_rate, clip.shape[-1]).shape)
    if masks.shape != expected:
        raise InputError(
            f"These masks cannot be disturbed: expected one for each channel, of shape {expected} "
            f"(channels, bands, columns), got {tuple(masks.shape)}. Make them on the grid that "
            f"deconv1d.masks.grid.grid_of gives."
        )
    return masks


def _disturbed(
    sonifier: Sonifier, clip: Tensor, masks: Tensor, generator: torch.Generator
) -> Iterator[tuple[str, Tensor, Callable[[Tensor], Tensor] | None]]:
    """Each disturbance's name, the masked sounds, and what is done to sounds before they are heard.

    What a sound leaves is disturbed as the sound is.
    """

    def shift(sounds: Tensor) -> Tensor:
        return sounds.roll(SHIFT, -1)

    def add_noise(sounds: Tensor) -> Tensor:
        noise = torch.randn(sounds.shape, generator=generator).to(sounds)
        return sounds + NOISE * sounds.square().mean(-1, keepdim=True).sqrt() * noise

    sounds = clip_spectrogram(sonifier, clip).masked(masks)
    yield AS_IT_IS, sounds, None
    yield OTHER_STFT, through_another_stft(clip, masks, sonifier.sample_rate), None
    yield SHIFTED, sounds, shift
    yield NOISY, sounds, add_noise
