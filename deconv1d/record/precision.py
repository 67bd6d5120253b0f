"""A model run in another precision; its parameters stay as they are.

with cast(castable(model, torch.float64), torch.float64):   # a copy that shares all tensors
...                                                     # whose weights are casts of them
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from deconv1d.record.copies import copy_with


def castable(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """The module to run in this dtype: the model, or a copy for `cast` that nobody else sees."""
    return model if dtype is None else copy_with(model, {})


@contextmanager
def cast(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """The floating tensors of a copy in another dtype, as ops of the graph: they stay tied.

    Args:
        model: From `castable`, since other threads would see what is swapped in the user's model.
        dtype: None: they stay as they are.
    """
    if dtype is None:
        yield
        return
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    # Cast one by one, inside the recorder, so that each cast is an op of the graph with the model's
    # own parameter as its input.
    floating = {name: t.to(dtype) for name, t in tensors.items() if t.is_floating_point()}
    with torch.nn.utils.stateless._reparametrize_module(model, floating, tie_weights=True):
        yield
