"""What is drawn at random in place of what was learnt: weights, and what is carried back."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from deconv1d.sonification import Sonification
    from deconv1d.sonify import Sonifier


CONVERGENCE_DRAWS = 4


def shuffle_weights(
    sonifier: Sonifier, owners: Collection[str], generator: torch.Generator
) -> Sonifier:
    """A sonifier of the same model in which the weights of some modules are shuffled.

    Args:
        sonifier: Of the model, which keeps its own weights.
        owners: Paths of the modules that own the weights.
        generator: On the CPU.
    """
    parameters = dict(sonifier.model.named_parameters())
    chosen = {k: w for k, w in parameters.items() if k.rpartition(".")[0] in owners}
    return sonifier.with_weights({k: shuffled(w, generator) for k, w in chosen.items()})


def shuffled(weight: Tensor, generator: torch.Generator) -> Tensor:
    """The same numbers in other places: their distribution stays what training made it.

    Args:
        weight: Of any shape.
        generator: On the CPU.
    """
    # Drawn on the CPU, so that one random state gives one order on every device.
    order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
    return weight.detach().reshape(-1)[order].reshape(weight.shape)


def random_seed(activation: Tensor, generator: torch.Generator) -> Tensor:
    """A seed for `Sonifier.sonify`: positive, random, where the map is not zero, of its energy.

    Args:
        activation: The map; where it is 0 everywhere, so is the seed.
        generator: On the CPU.
    """
    noise = torch.rand(activation.shape, generator=generator).to(activation)
    noise = noise * (activation != 0)
    energy = activation.abs().square().sum() / noise.abs().square().sum()
    # For a map that is 0 everywhere the ratio above is 0 / 0; it is not used then.
    return noise * energy.sqrt() if noise.any() else noise


def cosine_convergence(
    sonifier: Sonifier,
    sonification: Sonification,
    *,
    method: str = "deconvnet",
    draws: int = CONVERGENCE_DRAWS,
    random_state: int = 0,
) -> float:
    """How alike are the sounds that random maps of one layer are carried back to, 0 to 1.

    The mean |cosine| of all pairs of raw sonifications of all of the layer's maps at once, drawn
    from a normal distribution. At 1 every signal from this layer ends in one sound.

    Args:
        sonifier: The one that made the sonification.
        sonification: Of the layer, on the waveform whose switches are used.
        method: As for `Sonifier.sonify`.
        draws: How many sets of maps.
        random_state: Of the draws.

    Source: Sixt, Granz, Landgraf, "When explanations lie" (2020), cosine similarity convergence.
    """
    generator = torch.Generator().manual_seed(random_state)
    deconvnet = sonifier.deconvnet(
        sonification.input, sonification.layer, tap=sonification.tap, method=method
    )
    seeds = torch.randn(draws, *sonification.activation.shape, generator=generator)
    # Not the sonification's dtype, which is the waveform's: with dtype= the map has another.
    seeds = seeds.to(sonification.activation.device, deconvnet.map_dtype)
    sounds = deconvnet(seeds).reshape(draws, -1)
    unit = torch.nn.functional.normalize(sounds.float(), dim=1)
    # Above the diagonal: each pair once, and no sound with itself. The clamp takes off rounding.
    pairs = torch.triu_indices(draws, draws, 1)
    return float((unit @ unit.mT)[pairs[0], pairs[1]].abs().mean().clamp(max=1))
