"""A layer's sonifications, and control sounds that owe less to what the layer learnt."""

from collections.abc import Mapping

import torch
from torch import Tensor

from deconv1d import Sonifier
from deconv1d.channels import only
from deconv1d.evaluation.randomisation import random_seed, shuffle_weights
from deconv1d.sounding import to_peak_of
from reference_models.experiments.hearing import sonified

SONIFICATION = "sonification"
LOWEST = 50.0
"""Hertz below which trained networks' sonifications have much energy that nobody hears."""
CONTROLS = ("random weights", "random seed", "another channel", "noise like the input")


def twin_of(sonifier: Sonifier, draws: torch.Generator) -> Sonifier:
    """A sonifier of the same network with all its weights shuffled."""
    return shuffle_weights(sonifier, [name for name, _ in sonifier.model.named_modules()], draws)


def sounds(
    sonifier: Sonifier, twin: Sonifier, x: Tensor, *, layer: str, draws: torch.Generator
) -> dict[str, Tensor]:
    """The sonification of each clip's most active map, and four controls of any loudness.

    "random weights": the twin's most active map. "random seed": the same map's place and switches,
    a random positive seed. "another channel": the clip's next most active map. "noise like the
    input": the input with random phases, which has its spectrum and no events. A control that
    makes no sound stays silent.

    Args:
        sonifier: Of a network whose maps are (batch, channels, time).
        twin: As `twin_of` makes it.
        x: Clips of one length, (batch, 1, time).
        layer: The layer.
        draws: Of the controls; on the CPU.

    Returns:
        By the names above, the shape of `x` each, `SONIFICATION` first. Each is scaled to the peak
        of its clip, as sonifications are; `without` chooses how much of it is subtracted.
    """
    sonification = sonified(sonifier, x, layer=layer, channel="most_active")
    maps, channel = sonification.activation, torch.as_tensor(sonification.channel).reshape(-1)
    seeds = only(random_seed(maps, draws), channel), another(maps, channel)
    seeded, other = sonifier.deconvnet(x, layer)(torch.stack(seeds))
    unlearnt = sonified(twin, x, layer=layer, channel="most_active").waveform
    controls = unlearnt, seeded, other, noise_like(x, draws)
    scaled = {k: to_peak_of(x, v)[0] for k, v in zip(CONTROLS, controls, strict=True)}
    return {SONIFICATION: sonification.waveform, **scaled}


def another(maps: Tensor, channel: Tensor) -> Tensor:
    """Maps of which for each example one is kept: the one whose activity is likest; none if dead.

    Activity is a map's mean. Next to the most active map this is the second most active.

    Args:
        maps: (batch, channels, time).
        channel: The channels that are not to be kept, (batch,).
    """
    activity = maps.mean(-1)
    activity_of_channel = activity.gather(1, channel[:, None])
    apart = (activity - activity_of_channel).abs().masked_fill(activity <= 0, torch.inf)
    likest = apart.scatter(1, channel[:, None], torch.inf).argmin(1)
    active = activity > 0
    active = active.scatter(1, channel[:, None], False)
    return only(maps * active[:, :, None], likest)


def noise_like(x: Tensor, draws: torch.Generator) -> Tensor:
    """Waveforms with the magnitudes of `x`'s spectrum, (..., time), and random phases."""
    spectrum = torch.fft.rfft(x)
    turns = torch.rand(spectrum.shape, generator=draws).to(x)
    return torch.fft.irfft(torch.polar(spectrum.abs(), 2 * torch.pi * turns), x.shape[-1])


def audible(x: Tensor, sample_rate: float, lowest: float = LOWEST) -> Tensor:
    """Waveforms, (..., time), without what lies below a frequency in hertz.

    An orthogonal projection (bins of the whole clip's spectrum set to zero): what it takes away is
    uncorrelated with what it leaves.
    """
    spectrum = torch.fft.rfft(x)
    frequencies = torch.fft.rfftfreq(x.shape[-1], 1 / sample_rate, device=x.device)
    return torch.fft.irfft(spectrum * (frequencies >= lowest), x.shape[-1])


def without(x: Tensor, named_sounds: Mapping[str, Tensor], sample_rate: float) -> dict[str, Tensor]:
    """Clips without each of `sounds`, so that the sonification's and the controls' rests compare.

    All of it is done above 50 Hz; what lies below stays in every rest. There

        rest = x - g s,  g = <x, s> / <s, s>       the sonification, by least squares
        rest = a (x - h c)                         a control, |h c| = |g s| (its sign the one that
                                                   lowers the energy), a such that |rest| is the
                                                   same as without the sonification

    so that the sonification's rest has at most the input's energy, as much is subtracted of every
    sound, and all rests are equally loud.

    Args:
        x: The clips, (batch, 1, time).
        named_sounds: What `sounds` returns.
        sample_rate: Of the clips, in hertz.
    """
    heard = audible(x, sample_rate)
    low = x - heard
    direction = _unit(audible(named_sounds[SONIFICATION], sample_rate))
    taken = _dot(heard, direction)
    left = {SONIFICATION: heard - taken * direction}
    loudness = _energy(left[SONIFICATION]).sqrt()
    for name in CONTROLS:
        control = _unit(audible(named_sounds[name], sample_rate))
        rest = heard - taken.abs() * torch.where(_dot(heard, control) < 0, -1, 1) * control
        left[name] = loudness * _unit(rest)
    return {name: low + rest for name, rest in left.items()}


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(-1, keepdim=True)


def _energy(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    """Each sound with energy 1; silence stays silence."""
    even, _ = to_peak_of(torch.ones_like(x), x)  # its square can neither overflow nor vanish
    return even / _energy(even).clamp(min=1).sqrt()
