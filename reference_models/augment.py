"""Augmentations of a batch of waveforms, on its own device, from an explicit generator.

Every clip of the batch gets draws of its own. Waveforms are (batch, 1, time) and keep their shape;
the generator must live on their device. None of them scales to unit peak again: that would take
the gain back out.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor


def random_gain(
    waveforms: Tensor,
    *,
    generator: Generator,
    decibels: tuple[float, float] = (-18.0, 6.0),
    p: float = 0.5,
) -> Tensor:
    """Returns the waveforms, each with probability `p` made louder or softer.

    Source:
        The paper names "random gain augmentation"; range and probability are our choice.
    """
    change = _uniform(waveforms, *decibels, generator) * _chosen(waveforms, p, generator)
    return waveforms * 10 ** (change / 20)


def gaussian_noise(
    waveforms: Tensor,
    *,
    generator: Generator,
    amplitude: tuple[float, float] = (0.001, 0.015),
    p: float = 0.5,
) -> Tensor:
    """Returns the waveforms, each with probability `p` with white noise added.

    Args:
        waveforms: (batch, 1, time).
        generator: Draws everything.
        amplitude: Range of the noise's standard deviation, uniform.
        p: Probability of noise.

    Source:
        The paper names "additive Gaussian noise"; range and probability are our choice.
    """
    deviation = _uniform(waveforms, *amplitude, generator) * _chosen(waveforms, p, generator)
    noise = torch.randn(
        waveforms.shape, generator=generator, device=waveforms.device, dtype=waveforms.dtype
    )
    return waveforms + deviation * noise


def time_mask(
    waveforms: Tensor, *, generator: Generator, masks: int = 3, longest: float = 0.1
) -> Tensor:
    """Returns the waveforms with 0 to `masks` stretches of each set to zero.

    Args:
        waveforms: (batch, 1, time).
        generator: Draws everything.
        masks: Most stretches a clip; their number is uniform. They may overlap.
        longest: Most of a clip that one stretch hides; its length is uniform from 0 on.

    Source:
        The paper names "random timestep masking"; number and length are our choice.
    """
    samples = waveforms.shape[-1]
    time = torch.arange(samples, device=waveforms.device)
    count = _uniform(waveforms, 0, masks + 1, generator).floor()
    for mask in range(masks):
        length = _uniform(waveforms, 0, int(longest * samples) + 1, generator).floor()
        start = (_uniform(waveforms, 0, 1, generator) * (samples - length + 1)).floor()
        hidden = (start <= time) & (time < start + length) & (mask < count)
        waveforms = waveforms.masked_fill(hidden, 0.0)
    return waveforms


def background(
    waveforms: Tensor,
    *,
    generator: Generator,
    clean: Tensor | None = None,
    decibels: tuple[float, float] = (10.0, 25.0),
) -> Tensor:
    """Returns the waveforms, each with another clip of the batch mixed in behind it.

    Args:
        waveforms: (batch, 1, time).
        generator: Draws everything.
        clean: The same clips before anything was done to them, which the backgrounds are drawn
            from; None: `waveforms` themselves.
        decibels: Range of the signal-to-noise ratio, uniform: 10 * log10 of the ratio of the two
            powers (means of the squares). Behind or in front of silence nothing is added.

    Raises:
        ValueError: The batch has no other clip.

    Source:
        "Background noise injection preserving random signal-to-noise ratio", similar to the
        mix-back of Fonseca et al. (2021), from which we take that the background is another
        training clip; the range is our choice.
    """
    batch = len(waveforms)
    if batch < 2:
        raise ValueError(
            f"cannot mix a background into a batch of shape {tuple(waveforms.shape)}: expected at "
            "least 2 clips, for each is the other's background; use a larger batch"
        )
    apart = torch.randint(1, batch, (batch,), generator=generator, device=waveforms.device)
    clean = waveforms if clean is None else clean
    behind = clean[(torch.arange(batch, device=waveforms.device) + apart) % batch]
    ratio = 10 ** (_uniform(waveforms, *decibels, generator) / 10)
    scale = (_power(waveforms) / (ratio * _power(behind))).sqrt()
    return waveforms + behind * scale.where(_power(behind) > 0, 0.0)


def mixup(
    waveforms: Tensor, targets: Tensor, *, generator: Generator, alpha: float = 0.3
) -> tuple[Tensor, Tensor]:
    """Returns convex mixtures of pairs of clips, and of their targets alike.

    Args:
        waveforms: (batch, 1, time).
        targets: (batch, classes), multi-hot or one-hot, floating point.
        generator: Draws the partners and, for each clip afresh, its share ~ Beta(alpha, alpha).
        alpha: Above 0; the smaller, the fewer clips are much mixed.

    Source:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2017), there with one share for
        the whole batch. The paper names mixup; alpha is our choice.
    """
    batch, device = len(waveforms), waveforms.device
    partner = torch.randperm(batch, generator=generator, device=device)
    # A Beta draw is a Dirichlet's first part: `torch.distributions` draws it by this call as
    # well, but from the global generator alone.
    concentration = torch.full((batch, 2), alpha, device=device)
    share = torch._sample_dirichlet(concentration, generator=generator)[:, :1]
    return (
        waveforms[partner].lerp(waveforms, share[..., None].to(waveforms)),
        targets[partner].lerp(targets, share.to(targets)),
    )


AUGMENTATIONS = {
    "gain": random_gain,
    "noise": gaussian_noise,
    "time_mask": time_mask,
    "background": background,
}
Augmentation = Literal[tuple(AUGMENTATIONS)]
"""The name of one of them."""


def augment(waveforms: Tensor, names: Sequence[str], *, generator: Generator) -> Tensor:
    """Returns the waveforms after the named augmentations, in that order, with their defaults.

    Backgrounds are drawn from the clips as they came, not from augmented ones.

    Args:
        waveforms: (batch, 1, time).
        names: Out of "gain", "noise", "time_mask", "background".
        generator: Draws everything.

    Raises:
        ValueError: There is no augmentation of that name.
    """
    clean = waveforms
    for name in names:
        if name not in AUGMENTATIONS:
            raise ValueError(
                f"cannot augment: {name!r} is no augmentation; "
                f"expected one of {', '.join(AUGMENTATIONS)}; correct the list {list(names)}"
            )
        more = {"clean": clean} if name == "background" else {}
        waveforms = AUGMENTATIONS[name](waveforms, generator=generator, **more)
    return waveforms


def _uniform(waveforms: Tensor, low: float, high: float, generator: Generator) -> Tensor:
    """One number a clip, uniform in [low, high), (batch, 1, 1)."""
    uniform = torch.rand(
        len(waveforms), 1, 1, generator=generator, device=waveforms.device, dtype=waveforms.dtype
    )
    return low + (high - low) * uniform


def _chosen(waveforms: Tensor, p: float, generator: Generator) -> Tensor:
    """One truth value a clip, true with probability `p`, (batch, 1, 1)."""
    return _uniform(waveforms, 0, 1, generator) < p


def _power(waveforms: Tensor) -> Tensor:
    return waveforms.square().mean(dim=-1, keepdim=True)
