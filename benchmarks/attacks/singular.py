"""Clips with digital silence inside, through ops whose derivative is infinite at zero."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attack import Attack, Function, noise

SINGULAR = "singular derivatives"

X = noise(2, 4, 41, seed=3).clone()
X[..., 10:30] = 0
WINDOW = torch.hann_window(8, dtype=torch.float64)


def _pairs(h: Tensor) -> Tensor:
    return h[..., :40].reshape(2, 4, 20, 2)


def _magnitude(z: Tensor) -> Tensor:
    """The length of the last axis, by a function whose gradient autograd takes for 0 at 0."""
    return torch.linalg.vector_norm(z, dim=-1)


def _power(z: Tensor, exponent: float) -> Tensor:
    """Z ** exponent of what is not negative, with gradient 0 at 0."""
    safe = torch.where(z > 0, z, 1)
    return torch.where(z > 0, safe**exponent, 0)


def _spectrum(h: Tensor) -> Tensor:
    return torch.stft(h[:, 1], 8, 4, window=WINDOW, center=False, return_complex=True)


def _real(h: Tensor) -> Tensor:
    return torch.view_as_real(_spectrum(h))


class Front(nn.Module):
    """A front end inside a module, then a convolution."""

    def __init__(self, front: Function) -> None:
        super().__init__()
        self.front, self.conv = front, nn.Conv1d(4, 3, 3).double()

    def forward(self, h: Tensor) -> Tensor:
        """Magnitudes, convolved."""
        return self.conv(self.front(h)).relu()  # type: ignore[no-any-return]  # untyped


def _root_written(h: Tensor) -> Tensor:
    p = _pairs(h).pow(2).sum(-1)
    p.sqrt_()
    return p * 2


FRONT_ENDS: dict[str, tuple[Function, Function]] = {
    "squares, sum, root": (
        lambda h: _pairs(h).pow(2).sum(-1).sqrt(),
        lambda h: _magnitude(_pairs(h)),
    ),
    "squares by a product": (
        lambda h: (_pairs(h) * _pairs(h)).sum(-1).sqrt(),
        lambda h: _magnitude(_pairs(h)),
    ),
    "squares by square": (
        lambda h: torch.sqrt(torch.square(_pairs(h)).sum(-1)),
        lambda h: _magnitude(_pairs(h)),
    ),
    "root in place": (_root_written, lambda h: _magnitude(_pairs(h)) * 2),
    "power of a half": (lambda h: _pairs(h).pow(2).sum(-1) ** 0.5, lambda h: _magnitude(_pairs(h))),
    "power of 0.3": (
        lambda h: _pairs(h).pow(2).sum(-1) ** 0.3,
        lambda h: _power(_pairs(h).pow(2).sum(-1), 0.3),
    ),
    "float_power": (
        lambda h: _pairs(h).pow(2).sum(-1).float_power(0.3),
        lambda h: _power(_pairs(h).pow(2).sum(-1), 0.3),
    ),
    "power given as a tensor": (
        lambda h: _pairs(h).pow(2).sum(-1).pow(torch.tensor([0.5], dtype=torch.float64)),
        lambda h: _magnitude(_pairs(h)),
    ),
    "root of a root": (
        lambda h: _pairs(h).pow(2).sum(-1).sqrt().sqrt(),
        lambda h: _power(_pairs(h).pow(2).sum(-1), 0.25),
    ),
    "root of an absolute value": (lambda h: h.abs().sqrt(), lambda h: _power(h.abs(), 0.5)),
    "root of a rectified value": (lambda h: h.relu().sqrt(), lambda h: _power(h.relu(), 0.5)),
    "signed root": (
        lambda h: h.sign() * h.abs().sqrt(),
        lambda h: h.sign() * _power(h.abs(), 0.5),
    ),
    "root of a root mean square": (
        lambda h: F.avg_pool1d(h.pow(2), 5).sqrt(),
        lambda h: _power(F.avg_pool1d(h.pow(2), 5), 0.5),
    ),
    "magnitude of a spectrum by hand": (
        lambda h: _real(h).pow(2).sum(-1).sqrt(),
        lambda h: _spectrum(h).abs(),
    ),
    "of real and imaginary part": (
        lambda h: (_spectrum(h).real.pow(2) + _spectrum(h).imag.pow(2)).sqrt(),
        lambda h: _spectrum(h).abs(),
    ),
    "of a product with its conjugate": (
        lambda h: (_spectrum(h) * _spectrum(h).conj()).real.sqrt(),
        lambda h: _spectrum(h).abs(),
    ),
    "compressed spectrum": (
        lambda h: _spectrum(h).abs().pow(0.3),
        lambda h: _power(_spectrum(h).abs(), 0.3),
    ),
    "magnitude by abs": (lambda h: _spectrum(h).abs(), lambda h: _spectrum(h).abs()),
    "magnitude by norm": (lambda h: _pairs(h).norm(dim=-1), lambda h: _magnitude(_pairs(h))),
    "magnitude by hypot": (
        lambda h: torch.hypot(_pairs(h)[..., 0], _pairs(h)[..., 1]),
        lambda h: _magnitude(_pairs(h)),
    ),
    "norm of three": (
        lambda h: _pairs(h).abs().pow(3).sum(-1).pow(1 / 3),
        lambda h: torch.linalg.vector_norm(_pairs(h), 3, -1),
    ),
    "a root through exp and log": (
        lambda h: (0.5 * h.pow(2).log()).exp(),
        lambda h: h.abs(),
    ),
    "deviation of a frame": (
        lambda h: _pairs(h).var(-1, correction=0).sqrt(),
        lambda h: _power(_pairs(h).var(-1, correction=0), 0.5),
    ),
    "deviation by std": (
        lambda h: _pairs(h).std(-1),
        lambda h: _power(_pairs(h).var(-1), 0.5),
    ),
    "scaled root": (
        lambda h: torch.sqrt(_pairs(h).pow(2).sum(-1) * 4) + h[..., :20].sin(),
        lambda h: _magnitude(_pairs(h)) * 2 + h[..., :20].sin(),
    ),
}

ATTACKS = [
    *(Attack(SINGULAR, name, lambda f=f: f, X, finite=g) for name, (f, g) in FRONT_ENDS.items()),
    *(
        Attack(SINGULAR, f"{name}, in a network", lambda f=f: Front(f), X, finite=None)
        for name, (f, _) in list(FRONT_ENDS.items())[:0]
    ),
]
