"""What is drawn at random in place of what was learnt: weights, and what is carried back."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from deconv1d.sonify import Sonifier


def shuffle_weights(
    sonifier: Sonifier, owners: Collection[str], generator: torch.Generator
) -> Sonifier:
    """A sonifier of the same model in which the weights of some modules are shuffled.

    Args:
        sonifier: Of the model, which keeps its own weights.
        owners: Paths of the modules that own the weights.
        generator: On the CPU.
    """
    own = dict(sonifier.model.named_parameters())
    chosen = {k: w for k, w in own.items() if k.rpartition(".")[0] in owners}
    return sonifier.with_weights({k: shuffled(w, generator) for k, w in chosen.items()})


def shuffled(weight: Tensor, generator: torch.Generator) -> Tensor:
    """The same numbers in other places: their distribution stays what training made it.

    Args:
        weight: Of any shape.
        generator: On the CPU.
    """
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
    return noise * energy.sqrt() if noise.any() else noise
