"""The maps that a capture kept: which axes are which, what each moment reads of the waveform."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from deconv1d.capture import Capture
from deconv1d.errors import InputError
from deconv1d.layers import batch_axis, channel_axis
from deconv1d.ops import Field, shape_of
from deconv1d.seeds import Layout
from deconv1d.visit import map_of


@dataclass(frozen=True)
class LayerMaps:
    """The maps of one layer.

    Attributes:
        layer: Its full name.
        maps: (batch, channels, ...).
        time: The axis of `maps` that counts time; None: there is none.
        field: What each moment reads of the waveform; None: it may be all.
        samples: Length of the waveform.
    """

    layer: str
    maps: Tensor
    time: int | None
    field: Field | None
    samples: int


def layer_maps(captured: Capture, tap: Node, layer: str) -> LayerMaps:
    """A layer's maps from a capture that wanted them.

    Raises:
        ModelError: If they are not finite.
    """
    layout, field = layout_of(tap), captured.fields[tap]
    maps = layout.sorted(map_of(captured, tap))
    time = _time_axis(layout, maps.dim(), field)
    return LayerMaps(layer, maps, time, field, shape_of(captured.x)[-1])


def _time_axis(layout: Layout, rank: int, field: Field | None) -> int | None:
    """Where `Layout.sorted` puts the axis along which the field marches."""
    if field is None:
        return 2 if rank == 3 else None
    axis = field.axis % rank
    others = [a for a in range(rank) if a not in (layout.batch, layout.channel)]
    return 2 + others.index(axis) if axis in others else None


def layout_of(tap: Node, override: int | None = None) -> Layout:
    """Which axes of a map count examples and channels.

    Args:
        tap: Its node.
        override: The axis of channels, if not the one assumed.

    Raises:
        InputError: If the map has no such axis, or it counts examples.
    """
    shape, batch = shape_of(tap), batch_axis(tap)
    if override is None:
        return Layout(batch, channel_axis(tap))
    if not -len(shape) <= override < len(shape) or override % len(shape) == batch:
        raise InputError(
            f"channel_axis={override} does not fit the map: expected an axis other than {batch} "
            f"of shape {shape}. sonifier.layers(x) shows the one assumed."
        )
    return Layout(batch, override % len(shape))
