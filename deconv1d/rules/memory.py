"""Pure functions for what torch does to memory by other means: strides, and writes by `.data`.

A captured graph holds values, and a value has no strides. An op that reads a tensor by strides is
therefore written down together with the strides that the tensor had when the model ran:

    frames = x[:, 1].as_strided(size, stride)     x is (2, 4, 41), laid out (164, 41, 1)
    frames = strided(x, x's layout, frames' layout)

A layout is (offset, sizes, strides), all in elements of the storage.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

Layout = tuple[int, tuple[int, ...], tuple[int, ...]]


def strided(x: Tensor, layout: Layout, view: Layout) -> Tensor:
    """What a strided view of x reads, if x is laid out as `layout` says."""
    return x.reshape(-1)[_indices(x, layout, view)]


def covers(layout: Layout, view: Layout) -> bool:
    """Whether every element that a view reads is one of the value that is laid out so."""
    here = torch.device("cpu")
    return bool(torch.isin(_places(view, here), _places(layout, here)).all())


def strided_scatter(x: Tensor, piece: Tensor, layout: Layout, view: Layout) -> Tensor:
    """X after `piece` was written into a strided view of it."""
    flat = x.reshape(-1)
    return flat.index_put((_indices(x, layout, view),), piece).reshape(x.shape)


def strided_transpose(signal: Tensor, layout: Layout, view: Layout) -> Tensor:
    """The transpose of `strided`: values that read one element add up there."""
    places = _indices(signal, layout, view).reshape(-1)
    flat = signal.new_zeros(prod(layout[1])).index_add(0, places, signal.reshape(-1))
    return flat.reshape(layout[1])


def without_strided(signal: Tensor, layout: Layout, view: Layout) -> Tensor:
    """A signal that is zero where a strided view reads."""
    flat = signal.reshape(-1)
    places = _indices(signal, layout, view).reshape(-1)
    return flat.index_fill(0, places, 0).reshape(signal.shape)


def _indices(like: Tensor, layout: Layout, view: Layout) -> Tensor:
    """The number, in x's own order, of each element that the view reads."""
    # For x of sizes (2, 3) and strides (1, 2):
    #
    #     places    of x's elements in the storage, in x's order     0 2 4 1 3 5
    #     numbers   the inverse: storage place -> element of x       0 3 1 4 2 5
    #     read      of the view's elements in the storage; numbers[read] are elements of x
    places, read = _places(layout, like.device), _places(view, like.device)
    numbers = torch.zeros(int(max(places.max(), read.max())) + 1, dtype=torch.long).to(like.device)
    order = torch.arange(places.numel(), device=like.device)
    numbers[places.reshape(-1)] = order
    return numbers[read]


def _places(layout: Layout, device: torch.device) -> Tensor:
    """Where each element of a layout lies in the storage."""
    offset, sizes, strides = layout
    # Element (i, j, ...) lies at offset + i * strides[0] + j * strides[1] + ...: each axis adds its
    # own term, which is broadcast over the axes behind it.
    places = torch.full(sizes, offset, dtype=torch.long, device=device)
    for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        steps = torch.arange(size, device=device) * stride
        places += steps.reshape(-1, *[1] * (len(sizes) - axis - 1))
    return places


def revalued(value: Tensor, history: Tensor) -> Tensor:
    """What `history.data.copy_(value)` leaves: a new value, and autograd's old way back.

    The gradient method carries the signal to `history`, as autograd does; the deconvnet carries it
    to `value`, which is what the forward pass went on with.
    """
    return value


def held(x: Tensor) -> Tensor:
    """A detached value beside a live one: of `z + (q - z).detach()`, the second term."""
    return x


def with_real(z: Tensor, part: Tensor) -> Tensor:
    """A complex value after its real part was written into."""
    return torch.complex(part, z.imag)


def with_imag(z: Tensor, part: Tensor) -> Tensor:
    """A complex value after its imaginary part was written into."""
    return torch.complex(z.real, part)


held.tags = (torch.Tag.pointwise,)  # type: ignore[attr-defined]  # read as an op's
revalued.tags = held.tags  # type: ignore[attr-defined]  # read as an op's
with_real.tags = with_imag.tags = held.tags  # type: ignore[attr-defined]  # read as an op's
