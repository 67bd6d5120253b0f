"""A layer's sonifications, and sounds of the same energy that owe less to what the layer learnt."""

import torch
from torch import Tensor

from deconv1d import Sonifier
from deconv1d.channels import only
from deconv1d.evaluation.randomisation import random_seed, shuffle_weights
from deconv1d.sounding import to_peak_of
from reference_models.experiments.hearing import sonified

SONIFICATION = "sonification"
CONTROLS = ("random weights", "random seed", "another channel", "noise like the input")


def twin_of(sonifier: Sonifier, draws: torch.Generator) -> Sonifier:
    """A sonifier of the same network with all its weights shuffled."""
    return shuffle_weights(sonifier, [name for name, _ in sonifier.model.named_modules()], draws)


def sounds(
    sonifier: Sonifier, twin: Sonifier, x: Tensor, *, layer: str, draws: torch.Generator
) -> dict[str, Tensor]:
    """The sonification of each clip's most active map, and four controls of equal energy.

    "random weights": the twin's most active map. "random seed": the same map's place and switches,
    a random positive seed. "another channel": of each clip one drawn from its other active maps.
    "noise like the input": the input with random phases, which has its spectrum and no events. A
    control that makes no sound stays silent.

    Args:
        sonifier: Of a network whose maps are (batch, channels, time).
        twin: As `twin_of` makes it.
        x: Clips of one length, (batch, 1, time).
        layer: The layer.
        draws: Of the controls; on the CPU.

    Returns:
        By the names above, the shape of `x` each, `SONIFICATION` first.
    """
    found = sonified(sonifier, x, layer=layer, channel="most_active")
    maps, channel = found.activation, found.channel
    assert isinstance(channel, Tensor)
    seeds = only(random_seed(maps, draws), channel), another(maps, channel, draws)
    seeded, other = sonifier.deconvnet(x, layer)(torch.stack(seeds))
    unlearnt = sonified(twin, x, layer=layer, channel="most_active").waveform
    controls = unlearnt, seeded, other, noise_like(x, draws)
    same = {k: to_energy_of(found.waveform, v) for k, v in zip(CONTROLS, controls, strict=True)}
    return {SONIFICATION: found.waveform, **same}


def another(maps: Tensor, channel: Tensor, draws: torch.Generator) -> Tensor:
    """Maps of which for each example one is kept: another that is active; none if there is none.

    Args:
        maps: (batch, channels, time).
        channel: The channels that are not to be kept, (batch,).
        draws: On the CPU.
    """
    active = (maps.mean(-1) > 0).scatter(1, channel[:, None], False)
    chances = active.double().cpu() + torch.finfo().tiny  # where none is active any may be drawn
    drawn = torch.multinomial(chances, 1, generator=draws)[:, 0].to(channel)
    return only(maps * active[:, :, None], drawn)


def noise_like(x: Tensor, draws: torch.Generator) -> Tensor:
    """Waveforms with the magnitudes of `x`'s spectrum, (..., time), and random phases."""
    spectrum = torch.fft.rfft(x)
    turns = torch.rand(spectrum.shape, generator=draws).to(x)
    return torch.fft.irfft(torch.polar(spectrum.abs(), 2 * torch.pi * turns), x.shape[-1])


def to_energy_of(x: Tensor, sound: Tensor) -> Tensor:
    """Scales each sound, (batch, 1, time), to the energy of its `x`; silence stays silence."""
    unit, _ = to_peak_of(torch.ones_like(x), sound)  # its square can neither overflow nor vanish
    energy = unit.square().sum(-1, keepdim=True)
    gain = (x.square().sum(-1, keepdim=True) / energy.clamp(min=1)).sqrt()
    return unit * gain
