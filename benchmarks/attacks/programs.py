"""Random programs with memory: views, in-place writes, buffers, detach, data, no_grad, reuse.

A program is a list of steps on a growing list of values. It is plain PyTorch, so autograd itself
says what its gradient is; a program that autograd refuses is not counted. Ops whose derivative
reads a value get a copy of it: autograd does not see writes by `data` to what it has saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .attack import noise

SHAPE = (2, 3, 8)


@dataclass(frozen=True)
class Step:
    """One operation, on two of the values that there are by then."""

    op: str
    first: int
    second: int


def _without_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        with torch.no_grad():
            return function(*args)

    return run


def _fit(b: Tensor, a: Tensor) -> Tensor:
    """B in the shape of a."""
    return b.reshape(-1)[: a.numel()].reshape(a.shape) if b.numel() >= a.numel() else a * 1


def _half(a: Tensor) -> Tensor:
    return a[..., : max(1, a.shape[-1] // 2)]


NEW: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "double": lambda s, a, b: a * 2,
    "sine": lambda s, a, b: (a * 1).sin(),
    "rectified": lambda s, a, b: a.relu() * 1,
    "sum": lambda s, a, b: a + _fit(b, a),
    "product": lambda s, a, b: a.clone() * _fit(b, a).clone(),
    "single precision": lambda s, a, b: a.float().double() * 1,
    "mask": lambda s, a, b: a * (_fit(b, a) > 0),
    "branch": lambda s, a, b: (a * 1).cos() if bool(b.sum() > 0) else a * 3,
    "sine without gradient": lambda s, a, b: _without_gradient(torch.sin)(a),
    "straight through": lambda s, a, b: a + (a.round() - a).detach(),
    "buffer": lambda s, a, b: s.buffer * 1 + a.mean(),
    "copy": lambda s, a, b: a.clone(),
}
VIEWS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "half": lambda s, a, b: _half(a),
    "every second": lambda s, a, b: a[..., ::2],
    "turned": lambda s, a, b: a.transpose(-1, -2),
    "one example": lambda s, a, b: a[:1],
    "itself": lambda s, a, b: a,
    "detached": lambda s, a, b: a.detach(),
    "data": lambda s, a, b: a.data,
    "half without gradient": lambda s, a, b: _without_gradient(_half)(a),
}
WRITES: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "doubled": lambda s, a, b: a.mul_(2),
    "added": lambda s, a, b: a.add_(_fit(b, a)),
    "half copied": lambda s, a, b: _half(a).copy_(_half(_fit(b, a)) * 1),
    "silenced": lambda s, a, b: _half(a).zero_(),
    "doubled by data": lambda s, a, b: a.data.mul_(2),
    "doubled without gradient": lambda s, a, b: _without_gradient(Tensor.mul_)(a, 2),
    "kept in the buffer": lambda s, a, b: s.buffer.copy_(_fit(a, s.buffer).detach()),
    "added to the buffer": lambda s, a, b: s.buffer.add_(_fit(a, s.buffer)),
}
OPS = (*NEW, *VIEWS, *WRITES)


class Program(nn.Module):
    """A random program as a module with one buffer; it returns one of its last values."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("buffer", noise(*SHAPE, seed=9))

    def forward(self, x: Tensor) -> Tensor:
        """Runs the steps."""
        values = [x * 1]
        for step in self.steps:
            a, b = values[step.first % len(values)], values[step.second % len(values)]
            if step.op in WRITES:
                WRITES[step.op](self, a, b)
                values.append(a)
            else:
                values.append((NEW | VIEWS)[step.op](self, a, b))
        return values[-1 - self.steps[0].second % min(3, len(values))] * 1
