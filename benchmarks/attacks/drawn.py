"""Models that draw random numbers in eval mode, and the state of the generators that they use."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deconv1d import Sonifier

from .attack import Attack, Check, Function, model_of, noise

DRAWN = "random ops"

X = noise(2, 4, 9, seed=2)


class Own(nn.Module):
    """Dithers by a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, h: Tensor) -> Tensor:
        """Adds noise, by which it also multiplies."""
        drawn = torch.randn(h.shape, generator=self.generator, dtype=h.dtype)
        return (h + drawn).sin() * drawn


class Recurrent(nn.Module):
    """Drops values between two recurrent layers, also in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(9, 3, 2, dropout=0.5, batch_first=True).double()

    def forward(self, h: Tensor) -> Tensor:
        """Runs the layers in training mode."""
        self.layer.train()
        return self.layer(h)[0]  # type: ignore[no-any-return]  # untyped


def _multinomial(h: Tensor) -> Tensor:
    chosen = torch.multinomial(h.abs().mean((0, 1)), 4)
    return h[..., chosen].sin()


def _in_place(h: Tensor) -> Tensor:
    drawn = h * 1
    drawn[:, 1:].normal_()
    return drawn * h


def _twice(h: Tensor) -> Tensor:
    return F.dropout(h, 0.3) + F.dropout(h, 0.3) * 2


def _numpy(h: Tensor) -> Tensor:
    rng = np.random.RandomState(int(torch.randint(99, ())))
    return h * torch.from_numpy(rng.randn(9))


FUNCTIONS: dict[str, Function] = {
    "dropout": lambda h: F.dropout(h.sin(), 0.4),
    "dropout, twice": _twice,
    "dropout in place": lambda h: F.dropout(h * 2, 0.4, inplace=True).sin(),
    "dropout of channels": lambda h: F.dropout1d(h.cos(), 0.4),
    "alpha dropout": lambda h: F.alpha_dropout(h.sin(), 0.4, training=True),
    "feature alpha dropout": lambda h: F.feature_alpha_dropout(h.sin(), 0.4, training=True),
    "rrelu": lambda h: F.rrelu(h, training=True),
    "rrelu in place": lambda h: F.rrelu_(h * 3, training=True) * h,
    "attention with dropout": lambda h: F.scaled_dot_product_attention(
        h, h.cos(), h.sin(), dropout_p=0.3
    ),
    "causal attention with dropout": lambda h: F.scaled_dot_product_attention(
        h, h, h, dropout_p=0.3, is_causal=True
    ),
    "bernoulli": lambda h: torch.bernoulli(h.sigmoid()) * h,
    "bernoulli in place": lambda h: (h * 2).bernoulli_(0.4) + h.cos(),
    "rand_like": lambda h: torch.rand_like(h) * h + torch.randn_like(h),
    "randint": lambda h: h[..., torch.randint(9, (5,))] * 2,
    "randperm": lambda h: h[:, torch.randperm(4)].sin(),
    "multinomial": _multinomial,
    "normal around the map": lambda h: torch.normal(h, 0.5) * h,
    "normal of the map's deviation": lambda h: torch.normal(0.0, h.abs()) + h,
    "written by normal_": _in_place,
    "poisson": lambda h: torch.poisson(h.abs() * 3) * h,
    "exponential": lambda h: torch.empty_like(h).exponential_() * h,
    "gumbel": lambda h: F.gumbel_softmax(h, dim=1),
    "gumbel, hard": lambda h: F.gumbel_softmax(h, dim=1, hard=True) * h,
    "fractional pooling": lambda h: F.fractional_max_pool2d(h[:, None], 2, output_size=(2, 4))[
        :, 0
    ],
    "uniform noise, written": lambda h: h + torch.zeros_like(h).uniform_(-0.1, 0.1) * h,
    "reparametrised": lambda h: torch.distributions.Normal(h, h.exp()).rsample().sin(),
    "relaxed": lambda h: torch.distributions.RelaxedBernoulli(0.5, logits=h).rsample() * h,
    "NumPy's, seeded by torch's": _numpy,
    "Python's numbers": lambda h: h * random.Random(int(torch.randint(9, ()))).random(),
    "checkpointed dropout": lambda h: torch.utils.checkpoint.checkpoint(
        lambda z: F.dropout(z, 0.4).sin(), h, use_reentrant=False
    ),
}

USES: dict[str, Callable[[Sonifier, Tensor], Any]] = {
    "sonify": lambda s, x: s.sonify(x, layer="body", channel=0, tap="output"),
    "sonify by gradient": lambda s, x: s.sonify(x, layer="body", channel="all", method="gradient"),
    "maps": lambda s, x: s.maps(x, layer="body"),
    "layers": lambda s, x: s.layers(x),
    "plan": lambda s, x: s.plan(x, "body"),
    "deconvnet": lambda s, x: s.deconvnet(x, "body", tap="output"),
    "control_card": lambda s, x: s.control_card(x, layer="body", channel=0),
}


def _generators_stay(use: Callable[[Sonifier, Tensor], Any]) -> None:
    """Torch's, NumPy's and Python's generators are where they were."""

    def noisy(h: Tensor) -> Tensor:
        drawn = random.random() + np.random.rand()
        return F.dropout(h.sin(), 0.3) * drawn + torch.rand_like(h)

    x = noise(1, 4, 900)
    sonifier = Sonifier(model_of(lambda: noisy), sample_rate=8000)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    use(sonifier, x)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(np.random.get_state()))


ATTACKS: list[Attack | Check] = [
    *(Attack(DRAWN, name, lambda f=f: f, X) for name, f in FUNCTIONS.items()),
    Attack(DRAWN, "a generator of its own", Own, X),
    Attack(DRAWN, "recurrent layers with dropout", Recurrent, X),
    *(
        Check(DRAWN, f"generators after {n}", lambda u=u: _generators_stay(u))
        for n, u in USES.items()
    ),
]
