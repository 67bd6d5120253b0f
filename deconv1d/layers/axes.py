"""`Layout`: a map turned to (batch, channels, ...) and back, whatever the model's order of axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.fx import Node

from deconv1d.errors import InputError
from deconv1d.rules.op import shape_of

if TYPE_CHECKING:
    from deconv1d.record.axes import Axes
    from deconv1d.record.capture import Capture


@dataclass(frozen=True)
class Layout:
    """Which axes of a map count examples and channels; None: the map has no such axis.

    (batch, channels, time)    Layout(0, 1)
    (batch,)                   Layout(0, None): one number for each example
    (channels, time)           Layout(None, 0): the model took its only example, h[0]
    ()                         Layout(None, None): a loss
    """

    batch: int | None
    channel: int | None

    def sorted(self, maps: Tensor) -> Tensor:
        """Maps as the model has them -> (batch, channels, ...), of length 1 what they lack."""
        if (self.batch, self.channel) == (0, 1):
            return maps
        missing = (self.batch, self.channel).count(None)
        return maps[(None,) * missing].movedim(self._order(missing), (0, 1))

    def unsorted(self, maps: Tensor) -> Tensor:
        """(batch, channels, ...) -> as the model has them."""
        missing = (self.batch, self.channel).count(None)
        return maps.movedim((0, 1), self._order(missing))[(0,) * missing]

    def channels(self, maps: Tensor) -> int:
        """The number of channels of maps as the model has them."""
        return 1 if self.channel is None else maps.shape[self.channel]

    def _order(self, missing: int) -> tuple[int, int]:
        """Where batch and channels lie once the missing axes stand in front."""
        # What is there moves behind the new axes; of two new ones the first is the batch.
        batch = 0 if self.batch is None else self.batch + missing
        if self.channel is not None:
            return batch, self.channel + missing
        return batch, missing - 1


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
    batch = _batch(axes, shape, shape_of(captured.x)[0])
    if override is None:
        return Layout(batch, _channel(axes.channel, batch, len(shape)))
    if not -len(shape) <= override < len(shape) or override % len(shape) == batch:
        expected = f"an axis other than {batch} of" if len(shape) > 1 else "None, with this"
        raise InputError(
            f"channel_axis={override} does not fit the map: expected {expected} "
            f"shape {shape}. sonifier.layers(x) shows the one assumed."
        )
    return Layout(batch, override % len(shape))


def _batch(axes: Axes, shape: tuple[int, ...], examples: int) -> int | None:
    """The axis of examples counted from the front; None: the map has lost it.

    It cannot be told after a reshape that folds it into others, such as (batch * frames, channels).
    Then the first axis is taken for it where that may be: where it has its length, or where there
    are two others.
    """
    if not shape:
        return None
    if axes.batch is not None:
        return axes.batch % len(shape)
    if axes.channel is not None and axes.channel % len(shape) == 0:
        return None
    return 0 if shape[0] == examples or len(shape) > 2 else None


def _channel(axis: int | None, batch: int | None, rank: int) -> int | None:
    """The axis counted from the front; where it cannot be told, the first beside the batch."""
    if rank == 0:
        return None
    if axis is not None and axis % rank != batch:
        return axis % rank
    if batch is None:
        return 0
    # A map of one axis, such as a score for each example, has no axis beside the batch.
    return next((other for other in (1, 0) if other < rank and other != batch), None)


def ordered(maps: Tensor) -> Tensor:
    """Turns maps into numbers that have an order: of complex values the magnitude."""
    return maps.abs() if maps.is_complex() else maps
