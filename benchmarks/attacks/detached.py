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


class Gated(nn.Module):
    """A frozen branch in a module of its own, under no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU()).double()
        self.live = nn.Conv1d(4, 4, 3, padding=1).double()

    def forward(self, h: Tensor) -> Tensor:
        """The frozen branch is a target for the live one."""
        with torch.no_grad():
            target = self.frozen(h)
        return self.live(h) * target.sigmoid() + target  # type: ignore[no-any-return]  # untyped


class Reversed(torch.autograd.Function):
    """Gradient reversal."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        """The same value."""
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        """The other sign."""
        return -0.5 * signal


@torch.inference_mode()
def _all_of_it(h: Tensor) -> Tensor:
    return h.sin() * 2


def _detached_view_written(h: Tensor) -> Tensor:
    y = h.sin()
    d = y[:, 1:].detach()
    d.mul_(2)
    return y * h


def _written_before_and_after(h: Tensor) -> Tensor:
    y = h.sin()
    y.mul_(2)
    with torch.no_grad():
        y.add_(1)
    y.mul_(3)
    return y + 0


def _copied_without_gradient(h: Tensor) -> Tensor:
    y = torch.zeros_like(h)
    with torch.no_grad():
        y[:, :2] = h[:, :2]
    y[:, 2:] = h[:, 2:] * 2
    return y.clone()


def _nested_modes(h: Tensor) -> Tensor:
    with torch.no_grad(), torch.set_grad_enabled(True):
        a = h.sin()
    with torch.enable_grad(), torch.no_grad():
        b = h.cos()
    return a * b


def _generator_without_gradient(h: Tensor) -> Tensor:
    @torch.no_grad()
    def pieces() -> Any:
        for n in range(3):
            yield h[..., n] * n

    return torch.stack(list(pieces()), -1) + h[..., :3]


def _by_a_list(h: Tensor) -> Tensor:
    with torch.no_grad():
        gains = torch.tensor(h.abs().mean((0, 2)).tolist(), dtype=h.dtype)
    return h * gains[:, None]


def _detached_and_live_view(h: Tensor) -> Tensor:
    y = h * 2
    live, dead = y[:, :2], y[:, 2:].detach()
    y.sin_()
    return torch.cat([live, dead], 1) * 3


def _made_to_require(h: Tensor) -> Tensor:
    d = h.detach().requires_grad_()
    return d.sin() + h.cos()


def _reversed_by_sum(h: Tensor) -> Tensor:
    return 1.5 * h.detach() - 0.5 * h


def _scaled_gradient(h: Tensor) -> Tensor:
    return h * 0.1 + (h - h * 0.1).detach()


def _half_precision_inside(h: Tensor) -> Tensor:
    with torch.no_grad():
        gain = h.to(torch.bfloat16).abs().amax(-1, keepdim=True)
    return h / gain.to(h.dtype)


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
    "one value, three spellings": lambda h: h.detach() * h.data + h * h.clone().detach(),
    "turned and cut": lambda h: h + 2 * h.detach().permute(2, 0, 1).flip(0)[2:].sum(0)[..., None],
    "detached, expanded": lambda h: h + h.detach()[:, :1].expand_as(h),
    "detached, split": lambda h: torch.cat([h.detach().split(2, 1)[1], h[:, :2]], 1) * h,
    "detached, in single precision": lambda h: h + h.float().detach().double() * 2,
    "detached, complex": lambda h: torch.view_as_real(torch.complex(h, h.detach())).sum(-1) * h,
    "unbound": lambda h: torch.stack([*h.detach().unbind(1)[:2], *h.unbind(1)[2:]], 1).sin(),
    "detached by as_strided": lambda h: h.detach().as_strided((2, 4, 9), (36, 9, 1)) * h,
    "alias": lambda h: torch.ops.aten.alias(h.detach()) * h,
    "view_as of a detached one": lambda h: h.detach().view_as(h) + h.cos(),
    "a detached view written": _detached_view_written,
    "written before and after": _written_before_and_after,
    "copied without gradient": _copied_without_gradient,
    "modes in modes": _nested_modes,
    "a generator without gradient": _generator_without_gradient,
    "by a list": _by_a_list,
    "a live and a detached view, written": _detached_and_live_view,
    "made to require a gradient": _made_to_require,
    "reversed by a sum": _reversed_by_sum,
    "a scaled gradient": _scaled_gradient,
    "reversed by a function": lambda h: Reversed.apply(h.sin()) * 2 + h,
    "a statistic in half precision": _half_precision_inside,
    "inference mode as a decorator": lambda h: _all_of_it(h).clone() + h.cos(),
    "functional detach": lambda h: torch.detach(h) * h,
    "stop in an op": lambda h: torch.ops.aten.detach(h) * h.sin(),
    "set by index": lambda h: (y := h.clone(), y.__setitem__((0, 1), h[1, 2].detach()), y * 2)[2],
    "no gradient, in place, of all": lambda h: (y := h * 2, torch.no_grad()(y.sin_)(), y * h)[2],
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


def _into_rows(z: Tensor) -> Tensor:
    rows = z.new_zeros(2, *z.shape)
    rows[0] = z
    rows[1] = (quantised(z) - z).detach()
    return rows.sum(0)


def _added_by_index(z: Tensor) -> Tensor:
    rows = torch.cat([z, (quantised(z) - z).detach()])
    return torch.zeros_like(z).index_add(0, torch.tensor([0, 1, 0, 1]), rows)


def _by_scatter(z: Tensor) -> Tensor:
    out = z.clone()
    return out.scatter_add(2, torch.arange(9).expand_as(z), (quantised(z) - z).detach())


def _by_a_convolution(z: Tensor) -> Tensor:
    both = torch.cat([z, (quantised(z) - z).detach()], 1)
    unit = torch.eye(4, dtype=z.dtype)
    return F.conv1d(both, torch.cat([unit, unit], 1)[..., None])


def _lookup_free(z: Tensor) -> Tensor:
    return torch.where(z > 0, 1.0, -1.0).sub(z).detach().add(z)


def _finite_scalars(z: Tensor) -> Tensor:
    bounded = z.tanh() * 2
    return bounded + (bounded.round() - bounded).detach()


def _products(z: Tensor) -> Tensor:
    halves = [h + (h.sign() - h).detach() for h in z.chunk(2, 1)]
    return torch.cat(halves, 1)


def _learnt_step(z: Tensor) -> Tensor:
    step = z.new_tensor(0.3)
    grown = (step - step * 0.1).detach() + step * 0.1
    y = z / grown
    return (y.round() - y).detach().add(y) * grown


def _in_single_precision(z: Tensor) -> Tensor:
    rest = (quantised(z) - z).detach().float()
    return z.float() + rest


def _by_einsum(z: Tensor) -> Tensor:
    both = torch.stack([z, (quantised(z) - z).detach()], -1)
    return torch.einsum("bctn,n->bct", both, torch.ones(2, dtype=z.dtype))


class Quantiser(nn.Module):
    """A code book in a module, in another module."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding.from_pretrained(CODES)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The quantised map, the codes' numbers, and a loss."""
        nearest = torch.cdist(z.mT.detach(), self.codes.weight).argmin(-1)
        q = self.codes(nearest).mT
        return z + (q - z).detach(), nearest, (q - z.detach()).pow(2).mean()


class Codec(nn.Module):
    """Residual quantisers between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = (nn.Conv1d(4, 4, 3, padding=1).double() for _ in range(2))
        self.quantisers = nn.ModuleList([Quantiser(), Quantiser()])

    def forward(self, h: Tensor) -> Tensor:
        """Codes the map, and decodes it."""
        left = self.encode(h)
        total = torch.zeros_like(left)
        for quantiser in self.quantisers:
            q, _, _ = quantiser(left)
            total, left = total + q, left - q.detach()
        return self.decode(total).relu()  # type: ignore[no-any-return]  # untyped


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
    "subtracted": (lambda z: z - (z - quantised(z)).detach(), _plain),
    "grouped otherwise": (lambda z: quantised(z).detach() + (z - z.detach()), _plain),
    "torch.add": (lambda z: torch.add((quantised(z) - z).detach(), z, alpha=1), _plain),
    "half of it twice": (
        lambda z: torch.add(z, (quantised(z) - z).detach() * 2, alpha=0.5),
        _plain,
    ),
    "lerp": (lambda z: torch.lerp(z, z + (quantised(z) - z).detach(), 1.0), _plain),
    "mean of two": (lambda z: torch.stack([z, (quantised(z) - z).detach()], 1).mean(1) * 2, _plain),
    "rows that are written": (_into_rows, _plain),
    "added by index": (_added_by_index, None),
    "added by scatter": (_by_scatter, _plain),
    "summed by a convolution": (_by_a_convolution, _plain),
    "summed by einsum": (_by_einsum, _plain),
    "summed by a product": (
        lambda z: torch.stack([z, (quantised(z) - z).detach()], -1) @ z.new_ones(2),
        _plain,
    ),
    "by signs": (_lookup_free, _plain),
    "finite scalars": (_finite_scalars, lambda z: z.tanh() * 2),
    "by product": (_products, _plain),
    "a learnt step": (_learnt_step, _plain),
    "in single precision": (_in_single_precision, lambda z: z.float()),
    "of a spectrum": (
        lambda z: (f := torch.fft.rfft(z), f + (f.real.round() + 0j - f).detach())[1].abs(),
        None,
    ),
    "a view of the sum": (
        lambda z: (z + (quantised(z) - z).detach())[:, 1:].relu(),
        lambda z: z[:, 1:].relu(),
    ),
    "detached codes, detached copy": (
        lambda z: z.clone() + quantised(z).detach().clone() - z.clone().detach(),
        _plain,
    ),
    "into the map's memory": (
        lambda z: (y := z.clone(), y.data.copy_(quantised(z)), y * 1)[2],
        None,
    ),
    "dropped by a mask": (
        lambda z: torch.where(X > 0, z, z + (quantised(z) - z).detach()),
        _plain,
    ),
    "by a soft and a hard choice": (
        lambda z: (
            soft := torch.softmax(z, 1),
            hard := F.one_hot(soft.argmax(1), 4).mT.to(z),
            (hard - soft).detach() + soft,
        )[2],
        lambda z: torch.softmax(z, 1),
    ),
    "rounded after sigmoid": (
        lambda z: (p := z.sigmoid(), (p > 0.5).to(z) + p - p.detach())[1],
        lambda z: 0.5 + (z / 2).tanh() / 2,  # the same: no gate, so that it passes as tanh does
    ),
    "softmax, by hand": (_soft_and_hard, lambda z: torch.softmax(z, 1)),
    "gumbel": (_gumbel, None),
    "own backward": (RoundThrough.apply, _plain),
    "own backward, a sum": (Straight.apply, _plain),
    "own backward, two": (lambda z: sum(Scaled.apply(z, z.sin())), None),
    "own backward, a method": (lambda z: RoundThrough.apply(z * 4) / 4 + z, lambda z: 2 * z),
}

ATTACKS = [
    *(Attack(DETACHED, name, lambda f=f: f, X) for name, f in CUTS.items()),
    Attack(DETACHED, "gated by a frozen branch", Gated, X),
    *(Attack(STRAIGHT, name, lambda f=f: f, X, twin) for name, (f, twin) in ESTIMATORS.items()),
    Attack(STRAIGHT, "a codec", Codec, X),
]
