"""Ops whose weights and biases carry the waveform too, as in FiLM and hypernetworks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .attack import Attack, Function, noise

OPERANDS = "operands that carry"

X = noise(2, 4, 9, seed=2)
KERNEL = noise(4, 4, 3, seed=6)
MATRIX = noise(9, 9, seed=7)
MEAN, VARIANCE = noise(4, seed=8), noise(4, seed=9).abs() + 0.5


def _kernel(h: Tensor) -> Tensor:
    """A kernel that is computed from the waveform, (4, 4, 3)."""
    return (h.mean(0)[:, None, :3] * h.mean(0)[None, :, 3:6]).sin()


def _channels(h: Tensor) -> Tensor:
    return h.mean((0, 2))


def _moments(h: Tensor) -> Tensor:
    return h.mean((0, 1))


def _normal(h: Tensor, axes: tuple[int, ...]) -> Tensor:
    deviation = (h.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()
    return (h - h.mean(axes, keepdim=True)) / deviation.detach()


def _grouped(h: Tensor) -> Tensor:
    return _normal(h.reshape(2, 2, 2, 9), (2, 3)).reshape(h.shape)


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None]


OPS: dict[str, tuple[Function, Function | None]] = {
    "bias of a convolution": (
        lambda h: F.conv1d(h, KERNEL, _channels(h)),
        lambda h: F.conv1d(h, KERNEL) + _per_channel(_channels(h)),
    ),
    "bias alone": (
        lambda h: F.conv1d(X, KERNEL, _channels(h), padding=1),
        lambda h: _per_channel(_channels(h)).expand(2, 4, 9),
    ),
    "kernel of a convolution": (lambda h: F.conv1d(h, _kernel(h), padding=1), None),
    "kernel alone": (lambda h: F.conv1d(X, _kernel(h), padding=1), None),
    "kernel and bias": (lambda h: F.conv1d(h.cos(), _kernel(h), _channels(h), padding=1), None),
    "kernel in groups": (
        lambda h: F.conv1d(h, _kernel(h)[:, :1], padding=1, groups=4, dilation=2),
        None,
    ),
    "kernel of a strided convolution": (lambda h: F.conv1d(h, _kernel(h), stride=2), None),
    "bias of a transposed convolution": (
        lambda h: F.conv_transpose1d(h, KERNEL, _channels(h), stride=2),
        lambda h: F.conv_transpose1d(h, KERNEL, stride=2) + _per_channel(_channels(h)),
    ),
    "kernel of a transposed convolution": (
        lambda h: F.conv_transpose1d(h, _kernel(h), stride=2, output_padding=1),
        None,
    ),
    "kernel in two dimensions": (
        lambda h: F.conv2d(h[:, None], _kernel(h)[:2, None, :2], _channels(h)[:2]),
        None,
    ),
    "bias of a linear layer": (
        lambda h: F.linear(h, MATRIX, _moments(h)),
        lambda h: F.linear(h, MATRIX) + _moments(h),
    ),
    "matrix of a linear layer": (lambda h: F.linear(h, h.mean(0)), None),
    "addmm": (lambda h: torch.addmm(h[1], h[0], MATRIX, beta=0.5, alpha=2.0), None),
    "addmm, all three": (lambda h: torch.addmm(h[0], h[1], h.mean((0, 1)).outer(MATRIX[0])), None),
    "baddbmm": (lambda h: torch.baddbmm(h, h, MATRIX.expand(2, 9, 9), alpha=-1.5), None),
    "addbmm": (lambda h: torch.addbmm(h[0], h, MATRIX.expand(2, 9, 9)), None),
    "addmv": (lambda h: torch.addmv(h[0, :, 0], h[1], h[0, 1])[None], None),
    "addr": (lambda h: torch.addr(h[0], h[1, :, 1], h[1, 2], beta=3.0), None),
    "addcmul": (lambda h: torch.addcmul(h, h.sin(), h.cos(), value=0.3), None),
    "addcdiv": (lambda h: torch.addcdiv(h, h.sin(), h.cos().abs() + 1, value=0.3), None),
    "lerp": (lambda h: torch.lerp(h, h.flip(-1), h.sigmoid()), None),
    "bilinear": (lambda h: F.bilinear(h.mT, h.mT.cos(), noise(3, 4, 4), h[0, :3, 0]), None),
    "weights of layer norm": (
        lambda h: F.layer_norm(h, (9,), _moments(h), _moments(h).cos()),
        lambda h: _normal(h, (2,)) * _moments(h) + _moments(h).cos(),
    ),
    "weights of layer norm over two axes": (
        lambda h: F.layer_norm(h, (4, 9), h[0], h[1]),
        lambda h: _normal(h, (1, 2)) * h[0] + h[1],
    ),
    "weights of layer norm alone": (
        lambda h: F.layer_norm(X.cos(), (9,), _moments(h)),
        lambda h: _normal(X.cos(), (2,)) * _moments(h),
    ),
    "weights of group norm": (
        lambda h: F.group_norm(h, 2, _channels(h), _channels(h).cos()),
        lambda h: _grouped(h) * _per_channel(_channels(h)) + _per_channel(_channels(h).cos()),
    ),
    "weights of instance norm": (
        lambda h: F.instance_norm(h, weight=_channels(h), bias=_channels(h).cos()),
        lambda h: _normal(h, (2,)) * _per_channel(_channels(h)) + _per_channel(_channels(h).cos()),
    ),
    "weights of batch norm": (
        lambda h: F.batch_norm(h, MEAN, VARIANCE, _channels(h), _channels(h).cos()),
        None,
    ),
    "weights of RMS norm": (lambda h: F.rms_norm(h, (9,), _moments(h)), None),
    "slope of PReLU": (lambda h: F.prelu(h, _channels(h).sigmoid()), None),
    "kernel that is made by a network": (
        lambda h: F.conv1d(h, (h.mean((0, 2)) @ noise(4, 48, seed=3)).reshape(4, 4, 3).tanh()),
        None,
    ),
    "query, key and value": (lambda h: F.scaled_dot_product_attention(h, h.cos(), h.sin()), None),
    "mask of attention": (
        lambda h: F.scaled_dot_product_attention(h, h, h, attn_mask=h @ h.mT),
        None,
    ),
    "table of an embedding": (
        lambda h: F.embedding(torch.tensor([[0, 3, 1], [2, 2, 1]]), h[0]),
        lambda h: h[0][torch.tensor([[0, 3, 1], [2, 2, 1]])],
    ),
    "bounds of a clamp": (lambda h: h.clamp(min=h.mean(), max=h.max() * 0.5), None),
    "fill value": (lambda h: h.sin().masked_fill(h > 0.5, h.mean()), None),
    "place of a grid": (
        lambda h: F.grid_sample(
            h[:, None], h[:, :, :8].reshape(2, 4, 4, 2).tanh(), align_corners=False
        ),
        None,
    ),
    "tensordot": (lambda h: torch.tensordot(h, h, ([2], [2])), None),
    "a product of a chain": (lambda h: torch.linalg.multi_dot([h[0], h[1].mT, h[0].sin()]), None),
    "cross": (lambda h: torch.cross(h[:, :3], h[:, 1:].cos(), dim=1), None),
    "kron": (lambda h: torch.kron(h[0], h[1, :2, :2]), None),
}

ATTACKS = [Attack(OPERANDS, name, lambda f=f: f, X, twin) for name, (f, twin) in OPS.items()]
