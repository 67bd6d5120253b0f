"""Which axes of a map count examples and channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.fx import Node

from deconv1d.errors import InputError
from deconv1d.rules.op import shape_of

if TYPE_CHECKING:
    from deconv1d.record.capture import Capture


@dataclass(frozen=True)
class Layout:
    """Which axes of a map count examples and channels."""

    batch: int
    channel: int

    def sorted(self, maps: Tensor) -> Tensor:
        """Maps as the model has them -> (batch, channels, ...)."""
        return maps.movedim((self.batch, self.channel), (0, 1))

    def unsorted(self, maps: Tensor) -> Tensor:
        """(batch, channels, ...) -> as the model has them."""
        return maps.movedim((0, 1), (self.batch, self.channel))


def layout_of(captured: Capture, tap: Node, override: int | None = None) -> Layout:
    """Which axes of a map count examples and channels.

    Every door goes through here: `layers`, `maps`, `sonify` and `mine` cannot disagree.

    Args:
        captured: The forward pass.
        tap: The map's node.
        override: The axis of channels, if not the one assumed.

    Raises:
        InputError: If the map has no such axis, or it counts examples.
    """
    # Counted from the end along the graph, where ops add axes in front; from the front here.
    shape, axes = shape_of(tap), captured.axes[tap]
    batch = 0 if axes.batch is None else axes.batch % len(shape)
    if override is None:
        return Layout(batch, _channel(axes.channel, batch, len(shape)))
    if not -len(shape) <= override < len(shape) or override % len(shape) == batch:
        raise InputError(
            f"channel_axis={override} does not fit the map: expected an axis other than {batch} "
            f"of shape {shape}. sonifier.layers(x) shows the one assumed."
        )
    return Layout(batch, override % len(shape))


def _channel(axis: int | None, batch: int, rank: int) -> int:
    """The axis counted from the front; where it cannot be told, the first beside the batch."""
    if axis is not None and axis % rank != batch:
        return axis % rank
    # A map of one axis, such as a score for each example, has no axis beside the batch.
    return next((other for other in (1, 0) if other < rank and other != batch), 0)


def ordered(maps: Tensor) -> Tensor:
    """Turns maps into numbers that have an order: of complex values the magnitude."""
    return maps.abs() if maps.is_complex() else maps
