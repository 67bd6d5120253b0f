"""On which axis an op's output counts its channels: one function for each way to put them there.

Axes are counted from the end (-1 is the last), as in `deconv1d.rules.reach`; None is an axis that
cannot be told. `before(x)` is the channel axis of an input that carries the waveform.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import Node

from deconv1d.rules.gates import held_factor
from deconv1d.rules.op import Op, depends_on_input, shape_of

Before = Callable[[Node], int | None]
ChannelAxis = Callable[[Op, Before], int | None]


def first(op: Op, before: Before) -> int | None:
    """Behind the batch: convolution, batch norm."""
    return 1 - len(op.shape)


def last(op: Op, before: Before) -> int | None:
    """The last: a linear layer, attention, a recurrent layer."""
    return -1


def normalized(op: Op, before: Before) -> int | None:
    """Layer norm mixes no channels: where its input has them, else the last axis.

    A convolution gives (batch, 6 channels, 96). Then LayerNorm([6, 96]) and LayerNorm(96) both give
    6 maps, on axis 1, although the last axis that they normalise is time.
    """
    carried = before(op.dependent[0])
    return -1 if carried is None else carried


def of_product(op: Op, before: Before) -> int | None:
    """A matrix product with weights is a linear layer: the weights' own axis counts channels.

        z @ w    (batch, time, c) @ (c, d) -> (batch, time, d)     the last
        w @ z    (d, c) @ (batch, c, time) -> (batch, d, time)     the last but one

    A product with a gate, such as attention's weights, leaves the channels where they were.
    """
    left, right = op.node.args[-2:]
    live = [x for x in (left, right) if depends_on_input(x)]
    if not live:  # only the summand depends on the waveform, as x in baddbmm(x, a, b)
        return before(op.dependent[0])
    held = held_factor(op) if len(live) == 2 else None
    if len(live) == 2 and held is None:
        return -1
    x: Any = next(value for value in live if value is not held)
    other: Any = right if x is left else left
    is_matrix = len(shape_of(other)) > 1
    if held is None and is_matrix:
        return -1 if x is left or len(shape_of(x)) == 1 else -2
    carried = before(x)
    if carried is None or carried == (-1 if x is left else -2):
        return -1 if is_matrix else None  # the product sums over the channels
    # A vector takes an axis away: those before it move one place towards the end.
    summed = -1 if x is left else -2
    return carried if is_matrix or carried > summed else carried + 1
