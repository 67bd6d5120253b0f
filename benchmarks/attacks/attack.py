"""What one attack is: a small model that is hard to record, and what must come of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Attack:
    """A model whose one layer, "body", computes in a way that a recording may get wrong.

    Attributes:
        kind: The kind of fault that it provokes.
        name: Unique within its kind.
        build: Makes the body: a module or a function of the waveform.
        x: The waveform.
        twin: A plain function with the same deconvnet, what is held being detached; None: only
            maps and gradient are compared.
        finite: A function with the same values and a gradient that is finite everywhere; None:
            the model's own gradient is.
        refused: Why the attack may be refused by an error of this library; None: it may not.
    """

    kind: str
    name: str
    build: Callable[[], Function]
    x: Tensor
    twin: Function | None = None
    finite: Function | None = None
    refused: str | None = None

    def model(self) -> nn.Module:
        """The model, in eval mode; a fresh one every time."""
        return model_of(self.build)


@dataclass(frozen=True)
class Check:
    """An attack that is no matter of one map and its gradient: it judges itself.

    Attributes:
        kind: The kind of fault that it provokes.
        name: Unique within its kind.
        run: Raises AssertionError, or another error that is not of this library, if all is not
            well.
        refused: As of `Attack`.
    """

    kind: str
    name: str
    run: Callable[[], None]
    refused: str | None = None


def model_of(build: Callable[[], Function]) -> nn.Module:
    """A model whose one layer is called "body"."""
    torch.manual_seed(0)
    body = build()
    layer = body if isinstance(body, nn.Module) else Body(body)
    return nn.Sequential(OrderedDict(body=layer)).eval()


class Body(nn.Module):
    """A function as a module; `state` gives it buffers, which it gets as its first argument."""

    def __init__(self, function: Callable[..., Tensor], **state: Tensor) -> None:
        super().__init__()
        self.function, self.stateful = function, bool(state)
        for name, value in state.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Calls the function."""
        return self.function(self, x) if self.stateful else self.function(x)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """The same normal numbers every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
