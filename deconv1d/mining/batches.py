"""The maps of batches of clips, by generated forward passes where the model admits them.

What a batch gives is a pure function of its clips. Nothing is padded: a batch holds clips of one
length. The last bits of a value may depend on how many clips are run at once, as with any use of
PyTorch, but not on which they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from deconv1d.errors import InputError, ModelError
from deconv1d.layers.maps import LayerMaps, layer_maps
from deconv1d.prepared.halves import Forward, Looked, check_preparable, generate_forward
from deconv1d.record.capture import Capture
from deconv1d.rules.op import shape_of

if TYPE_CHECKING:
    from deconv1d.forward import ForwardPass

Found = TypeVar("Found")

KEPT = 8
"""So many shapes' programs are kept."""
AGREE = 1e-3
"""Largest difference of a map in a batch from the map alone, relative to its largest value."""


@dataclass(frozen=True)
class _Program:
    """A generated forward pass for one shape."""

    forward: Forward
    shape: tuple[int, ...]
    like: Tensor

    def __call__(self, x: Tensor) -> list[Any]:
        return [*self.forward(x.reshape(self.shape).to(self.like))]


def _themselves(maps: LayerMaps) -> LayerMaps:
    return maps


class BatchedMaps(Generic[Found]):
    """Maps of several layers for batches of clips of one length.

    Args:
        forward_pass: How to run the model.
        layers: Their names.
        tap: As for `Sonifier.sonify`.
        look: What is made of each layer's maps, as soon as they are there: all maps together take
            several times the memory that the forward pass takes, and its time with it.
    """

    def __init__(
        self,
        forward_pass: ForwardPass,
        layers: Sequence[str],
        tap: str,
        look: Callable[[LayerMaps], Found] = _themselves,  # type: ignore[assignment]  # the maps
    ) -> None:
        self._forward_pass, self._layers, self._tap = forward_pass, tuple(layers), tap
        self._look = look
        # None for a shape that was met once: writing a program pays from the third time on.
        self._programs: OrderedDict[tuple[int, ...], _Program | None] = OrderedDict()
        self._axes: tuple[int, ...] | None = None

    def __call__(self, clips: Sequence[Any]) -> list[Found]:
        """What is made of each layer's maps of clips of one length, one example a clip.

        Args:
            clips: (time,) each.
        """
        x = torch.from_numpy(np.stack(clips))
        if len(x) > 1 and self._axes is None:
            # How the model takes one clip, (1, 1, time) or (1, time), is how it takes several.
            self._axes = shape_of(self._capture(x[0])[0].x)[1:-1]
        given = x[0] if len(x) == 1 else x.reshape(len(x), *self._axes or (), x.shape[-1])
        shape = tuple(given.shape)
        program = self._programs.get(shape)
        if program is not None:
            self._programs.move_to_end(shape)
            return program(given)
        captured, names = self._capture(given)
        self._programs[shape] = self._written(captured, names) if shape in self._programs else None
        if len(self._programs) > KEPT:
            self._programs.popitem(last=False)
        return [self._look(maps) for maps in _maps(captured, names)]

    def why_one_by_one(self: BatchedMaps[LayerMaps], clip: Any) -> str | None:
        """Why clips cannot be run in batches; None: they can.

        Args:
            clip: (time,).
        """
        captured, names = self._capture(clip)
        try:
            check_preparable(self._forward_pass.model, captured, _taps(captured))
            # Beside another clip the map must be what it is alone: a model may mix its examples.
            both = self([clip, clip[::-1]])
        except (InputError, ModelError) as error:
            return str(error)
        for alone, beside in zip(_maps(captured, names), both, strict=True):
            bound = AGREE * float(alone.maps.abs().max())
            first = beside.maps[:1]
            if first.shape != alone.maps.shape or (first - alone.maps).abs().max() > bound:
                return f"the model mixes the clips of a batch in layer {alone.layer!r}"
        return None

    def _capture(self, x: Any) -> tuple[Capture, tuple[str, ...]]:
        return self._forward_pass.run_through(x, self._layers, tap=self._tap)

    def _written(self, captured: Capture, names: Sequence[str]) -> _Program | None:
        """A program for waveforms of this shape; None: the model does not admit one."""
        taps = _taps(captured)
        try:
            check_preparable(self._forward_pass.model, captured, taps)
        except ModelError:
            return None
        looks = [self._looking(maps) for maps in _maps(captured, names)]
        wanted = [Looked(tap, look) for tap, look in zip(taps, looks, strict=True)]
        x = captured.kept[captured.x]
        return _Program(generate_forward(captured, wanted), tuple(x.shape), x.new_empty(0))

    def _looking(self, maps: LayerMaps) -> Callable[[Tensor], Found]:
        # These maps' values are dropped: what stays is what they are.
        about = replace(maps, maps=torch.empty(0))

        def look(values: Tensor) -> Found:
            return self._look(replace(about, maps=about.layout.sorted(values)))

        return look


def _taps(captured: Capture) -> list[Node]:
    return [node for node in captured.taps if node is not None]  # `run_through` raises if one is


def _maps(captured: Capture, names: Sequence[str]) -> list[LayerMaps]:
    pairs = zip(_taps(captured), names, strict=True)
    return [layer_maps(captured, node, name) for node, name in pairs]
