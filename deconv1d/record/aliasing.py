"""Which graph node holds the value of a tensor now: in-place writes and views made pure.

A model may write into a tensor, or into a view of it, after others have read it. Here a tensor is
known by its memory (storage, offset, sizes, strides, dtype). Each storage remembers how its views
were derived. A write gives the written view a new node, is scattered back into the tensors that it
was cut from, and leaves every other view to be derived anew when it is next read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.multiprocessing.reductions import StorageWeakRef

Place = tuple[Any, ...]


@dataclass
class _View:
    """One way to look at a storage: how it was cut from its base, and its node as of a version."""

    node: Node
    version: int
    base: Place | None = None
    derive: Callable[[Node], Node] | None = None
    restore: Callable[[Node, Node], Node] | None = None


@dataclass
class _Storage:
    alive: StorageWeakRef
    version: int = 0
    views: dict[Place, _View] = field(default_factory=dict)


def place_of(x: Tensor) -> Place:
    """Where in its storage a tensor lies, and how it reads it."""
    return (x.storage_offset(), x.shape, x.stride(), x.dtype, x.is_conj(), x.is_neg())


def storage_of(x: Tensor) -> int:
    """The identity of a tensor's storage."""
    return int(x.untyped_storage()._cdata)


class Aliases:
    """The nodes of all tensors that are alive."""

    def __init__(self) -> None:
        # A weak reference keeps a storage's address from being used again, not its data.
        self._storages: dict[int, _Storage] = {}

    def read(self, x: Tensor) -> Node | None:
        """The node of this tensor's current value; None if it was never seen."""
        storage = self._storages.get(storage_of(x))
        if storage is None or storage.alive.expired():
            return None
        view = storage.views.get(place_of(x))
        return None if view is None else self._current(storage, view)

    def define(self, x: Tensor, node: Node) -> None:
        """A tensor with memory of its own has this value."""
        weak = StorageWeakRef(x.untyped_storage())
        self._storages[storage_of(x)] = _Storage(weak, views={place_of(x): _View(node, 0)})

    def alias(
        self,
        x: Tensor,
        base: Place,
        node: Node,
        derive: Callable[[Node], Node],
        restore: Callable[[Node, Node], Node],
    ) -> None:
        """A view of what lies at `base` in the same storage.

        Args:
            x: The view.
            base: The place it was cut from.
            node: Its value.
            derive: `derive(base node)` cuts it anew.
            restore: `restore(base node, view node)` puts it back.
        """
        storage = self._storages[storage_of(x)]
        view = _View(node, storage.version, base, derive, restore)
        storage.views.setdefault(place_of(x), view)

    def write(self, x: Tensor, node: Node) -> None:
        """This tensor was overwritten with the value of `node`."""
        storage = self._storages[storage_of(x)]
        view = storage.views[place_of(x)]
        bases = []
        while view.base is not None:
            base = storage.views[view.base]
            bases.append((view, base, self._current(storage, base)))
            view = base
        storage.version += 1
        written = storage.views[place_of(x)]
        written.node, written.version = node, storage.version
        for view, base, before in bases:
            assert view.restore is not None
            base.node, base.version = view.restore(before, view.node), storage.version

    def _current(self, storage: _Storage, view: _View) -> Node:
        if view.version != storage.version:
            assert view.base is not None
            assert view.derive is not None
            view.node = view.derive(self._current(storage, storage.views[view.base]))
            view.version = storage.version
        return view.node
