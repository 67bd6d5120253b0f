"""Models that cut what autograd carries: detach, data, no_grad, straight-through estimators."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attack import Attack, Function, noise

DETACHED = "detach, data, no_grad"
STRAIGHT = "straight-through estimators"

X = noise(2, 4, 9, seed=2)


def _data_written(h: Tensor) -> Tensor:
    y = h.sin()
    y.data.mul_(2)
    return y * 3


def _data_of_a_view_written(h: Tensor) -> Tensor:
    y = h.sin()
    y[:, 1:].data.mul_(2)
    return y * 3


def _detached_written(h: Tensor) -> Tensor:
    y = h.sin()
    d = y.detach()
    d[:, :2] = h[:, :2] * 5
    return y + d.cos()


def _written_without_gradient(h: Tensor) -> Tensor:
    y = h * 2
    with torch.no_grad():
        y.clamp_(min=-0.5)
        y[:, 0].mul_(3)
    return y * 2


def _normalised_without_gradient(h: Tensor) -> Tensor:
    with torch.no_grad():
        deviation = (h * h).mean(-1, keepdim=True).sqrt()
    return h / deviation


def _block_without_gradient(h: Tensor) -> Tensor:
    with torch.no_grad():
        front = h.sin() * 3
    return front + h.cos()


@torch.no_grad()
def _decorated(h: Tensor) -> Tensor:
    return h * h


def _with_inference_mode(h: Tensor) -> Tensor:
    with torch.inference_mode():
        gain = h.abs().amax(-1, keepdim=True)
    return h / gain.clone()


def _views_in_both_modes(h: Tensor) -> Tensor:
    y = h.sin()
    with torch.no_grad():
        cut = y[:, 1:]
    again = y[:, 1:]
    return cut * 2 + again * 3


def _gradient_again(h: Tensor) -> Tensor:
    with torch.no_grad():
        a = h.sin()
        with torch.enable_grad():
            b = h.cos()
    return a * 2 + b


def _switched(h: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    a = h.exp()
    torch.set_grad_enabled(before)
    return a + h


def _detached_in_place(h: Tensor) -> Tensor:
    y = h.sin()
    z = y.cos()
    z.detach_()
    return y + z * 2


CUTS: dict[str, Function] = {
    "a slice of a detached value": lambda h: h + 3 * h.detach()[:],
    "a view of a detached value": lambda h: h + 3 * h.detach().view(2, 4, 9),
    "a detached value turned twice": lambda h: h + 3 * h.detach().mT.mT,
    "data": lambda h: h + 3 * h.data,
    "a slice of data": lambda h: h * h.data[:, :1],
    "data, written": _data_written,
    "data of a view, written": _data_of_a_view_written,
    "a detached value, written": _detached_written,
    "written without gradient": _written_without_gradient,
    "a statistic without gradient": _normalised_without_gradient,
    "a branch without gradient": _block_without_gradient,
    "a function without gradient": lambda h: _decorated(h.sin()) + h,
    "inference mode": _with_inference_mode,
    "one view in both modes": _views_in_both_modes,
    "gradient again inside": _gradient_again,
    "gradient switched": _switched,
    "detached in place": _detached_in_place,
    "copied by torch.tensor": lambda h: h + torch.tensor(h) * 2,
    "a new parameter": lambda h: h + nn.Parameter(h) * 2,
    "detached after a write": lambda h: (y := h.sin(), d := y.detach(), y.mul_(2), y + d.cos())[3],
    "checkpointed": lambda h: torch.utils.checkpoint.checkpoint(
        lambda z: z.sin() * z, h, use_reentrant=False
    ),
    "checkpointed, reentrant": lambda h: torch.utils.checkpoint.checkpoint(
        lambda z: z.sin() * z, h, use_reentrant=True
    ),
}

# --- straight-through estimators -----------------------------------------------------------------

CODES = noise(16, 4, seed=4)


def quantised(z: Tensor) -> Tensor:
    """The nearest codes, as a residual codec looks them up."""
    nearest = torch.cdist(z.mT, CODES).argmin(-1)
    return CODES[nearest].mT


class RoundThrough(torch.autograd.Function):
    """Rounds, and passes the gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        """Rounds."""
        return z.round()

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        """Passes the gradient."""
        return signal


class Straight(torch.autograd.Function):
    """The codes of a map, and the gradient of the map."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        """Looks the codes up, spelled as a sum that cancels."""
        q = quantised(z)
        return (z + q) - z

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        """Passes the gradient."""
        return signal


class Scaled(torch.autograd.Function):
    """A product whose backward is its own: twice the gradient, of both inputs."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Multiplies; and adds."""
        ctx.save_for_backward(a, b)
        return a * b, a + b

    @staticmethod
    def backward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Twice autograd's."""
        a, b = ctx.saved_tensors
        return 2 * (first * b + second), 2 * (first * a + second)


def _gumbel(z: Tensor) -> Tensor:
    torch.manual_seed(5)
    return F.gumbel_softmax(z, hard=True, dim=1) @ CODES[:9]


def _soft_and_hard(z: Tensor) -> Tensor:
    soft = torch.softmax(z, 1)
    hard = torch.zeros_like(soft).scatter_(1, soft.argmax(1, keepdim=True), 1.0)
    return hard - soft.detach() + soft


def _without_gradient(z: Tensor) -> Tensor:
    with torch.no_grad():
        rest = quantised(z) - z
    return z + rest


def _residual(z: Tensor) -> Tensor:
    left, total = z, torch.zeros_like(z)
    for _ in range(3):
        q = quantised(left)
        q = left + (q - left).detach()
        left, total = left - q.detach(), total + q
    return total


def _written_sum(z: Tensor) -> Tensor:
    out = z.clone()
    out += (quantised(z) - z).detach()
    return out


def _plain(z: Tensor) -> Tensor:
    return z * 1


ESTIMATORS: dict[str, tuple[Function, Function | None]] = {
    "the usual": (lambda z: z + (quantised(z) - z).detach(), _plain),
    "each detached": (lambda z: quantised(z).detach() - z.detach() + z, _plain),
    "scaled": (lambda z: z + 1.0 * (quantised(z) - z).detach(), _plain),
    "by data": (lambda z: z + (quantised(z) - z).data, _plain),
    "without gradient": (_without_gradient, _plain),
    "stacked": (lambda z: torch.stack([z, (quantised(z) - z).detach()]).sum(0), _plain),
    "concatenated": (
        lambda z: torch.cat([z[None], (quantised(z) - z).detach()[None]]).sum(0),
        _plain,
    ),
    "three terms": (lambda z: sum([z, quantised(z).detach(), -z.detach()]), _plain),  # type: ignore[list-item]  # 0 + a tensor
    "in place": (_written_sum, _plain),
    "turned": (lambda z: (z.mT + (quantised(z) - z).detach().mT).mT, _plain),
    "addcmul": (
        lambda z: torch.addcmul(z, (quantised(z) - z).detach(), torch.ones_like(z)),
        _plain,
    ),
    "where": (lambda z: torch.where(z > 9, z, z + (quantised(z) - z).detach()), _plain),
    "rounded": (lambda z: z + (z.round() - z).detach(), _plain),
    "residual": (_residual, None),
    "softmax, by hand": (_soft_and_hard, lambda z: torch.softmax(z, 1)),
    "gumbel": (_gumbel, None),
    "own backward": (RoundThrough.apply, _plain),
    "own backward, a sum": (Straight.apply, _plain),
    "own backward, two": (lambda z: sum(Scaled.apply(z, z.sin())), None),
    "own backward, a method": (lambda z: RoundThrough.apply(z * 4) / 4 + z, lambda z: 2 * z),
}

ATTACKS = [Attack(DETACHED, name, lambda f=f: f, X) for name, f in CUTS.items()] + [
    Attack(STRAIGHT, name, lambda f=f: f, X, twin) for name, (f, twin) in ESTIMATORS.items()
]
