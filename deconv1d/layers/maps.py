"""The maps that a capture kept: which axes are which, what each moment reads of the waveform."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from torch import Tensor
from torch.fx import Node

from deconv1d.errors import ModelError
from deconv1d.layers.axes import Layout, layout_of
from deconv1d.record.receptive_fields import ReceptiveField
from deconv1d.rules.op import shape_of

if TYPE_CHECKING:
    from deconv1d.record.capture import Capture


@dataclass(frozen=True)
class LayerMaps:
    """The maps of one layer.

    Attributes:
        layer: Its full name.
        maps: (batch, channels, ...).
        layout: Which axes of the model's own map these are.
        time: The axis of `maps` that counts time; None: there is none.
        field: What each moment reads of the waveform; None: it may be all.
        samples: Length of the waveform.
    """

    layer: str
    maps: Tensor
    layout: Layout
    time: int | None
    field: ReceptiveField | None
    samples: int

    def __repr__(self) -> str:
        return f"LayerMaps(layer {self.layer!r}, shape {tuple(self.maps.shape)})"


def layer_maps(captured: Capture, tap: Node, layer: str) -> LayerMaps:
    """A layer's maps from a capture that wanted them.

    Raises:
        ModelError: If they are not finite.
    """
    layout, field = layout_of(captured, tap), captured.receptive_fields[tap]
    maps = layout.sorted(map_of(captured, tap))
    time = _time_axis(layout, maps.dim(), field)
    return LayerMaps(layer, maps, layout, time, field, shape_of(captured.x)[-1])


def map_of(captured: Capture, tap: Node | None = None) -> Tensor:
    """A wanted map, which must be finite; None: the first."""
    tap = tap or captured.tap
    assert tap is not None
    check_finite(captured.kept[tap], tap.meta.get("name", tap.name))
    return captured.kept[tap]


def check_finite(activation: Tensor, name: str) -> None:
    """Raises ModelError if a map has NaN or infinite values."""
    # The largest magnitude shows both; `torch.isfinite` makes five passes over a map.
    if activation.numel() and not isfinite(activation.abs().max()):
        raise ModelError(
            f"The map of {name!r} has NaN or infinite values: expected a "
            f"model that computes finite ones on this waveform. Check its weights and its input."
        )


def _time_axis(layout: Layout, rank: int, field: ReceptiveField | None) -> int | None:
    """Where `Layout.sorted` puts the axis along which the field marches."""
    # A map that reads all of time has no step to find its time axis by; of three axes the last
    # is left.
    if field is None:
        return 2 if rank == 3 else None
    axis = field.axis % rank
    rank -= (layout.batch, layout.channel).count(None)  # of the model's own map
    others = [a for a in range(rank) if a not in (layout.batch, layout.channel)]
    return 2 + others.index(axis) if axis in others else None
