"""Which graph node holds the value of a tensor now: in-place writes and views made pure.

A model may write into a tensor, or into a view of it, after others have read it:

    h = conv(x)            h: node conv
    v = h[:, 1:]           v: node slice, a view of h
    v.mul_(2)              v: node mul; h: node slice_scatter(conv, mul), its base
    u = h[:, 0]            u: node select(slice_scatter): reads what is there now
    v + 1                  v: node mul still

A tensor is known by its storage and its *place*: offset, sizes, strides, dtype. Each storage
remembers how its views were derived. A write gives the written view a new node, is scattered back
into the tensors that it was cut from, and leaves every other view to be derived anew when it is
next read. `x[..., :n] = 0` is a write of zeros into a slice: x becomes slice_scatter(x, zeros). On
the way back the rule of slice_scatter gives the old x its signal with 0 where it was overwritten.

Autograd adds one more thing. `d = h.detach()` has h's memory and h's place but not h's way back.
So a view also belongs to a *branch*: 0 for what autograd follows from the storage's first tensor,
another number for each detached view and what is cut from it. A write in one branch changes the
values in all branches of the storage; it changes the way back in its own alone. Below,
`revalued(new, old)` has the values of `new` and the way back of `old`.

    h = conv(x)            branch 0: conv
    d = h.detach()         branch 1: detach(conv)
    d.mul_(2)              branch 1: mul(detach); branch 0: revalued(mul, conv)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.multiprocessing.reductions import StorageWeakRef

from deconv1d.rules.memory import Layout


class Place(NamedTuple):
    """Where in its storage a tensor lies, how it reads it, and autograd's branch of it."""

    offset: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    # conj() and imag may return the same memory with a bit set. Without these two fields, x and
    # x.conj() would have one place and therefore one node.
    conjugate: bool
    negative: bool
    branch: int = 0

    @property
    def layout(self) -> Layout:
        """Offset, sizes and strides."""
        return self.offset, tuple(self.shape), tuple(self.stride)


Derive = Callable[[Node, Node | None], Node]
Restore = Callable[[Node, Node], Node]


@dataclass
class _View:
    """One way to look at a storage: how it was cut from its base, and its node as of a version."""

    node: Node | None
    version: int
    base: Place | None = None
    derive: Derive | None = None
    restore: Restore | None = None


@dataclass
class _Storage:
    alive: StorageWeakRef
    version: int = 0
    views: dict[Place, _View] = field(default_factory=dict)


def place_of(x: Tensor, branch: int = 0) -> Place:
    """Where a tensor lies."""
    return Place(
        int(x.storage_offset()), x.shape, x.stride(), x.dtype, x.is_conj(), x.is_neg(), branch
    )


def storage_of(x: Tensor) -> int:
    """The identity of a tensor's storage."""
    return int(x.untyped_storage()._cdata)


class Before(NamedTuple):
    """A tensor of the model's before it was written into."""

    tensor: Tensor
    content: Tensor
    place: Place
    bytes: int


def before_write(x: Tensor) -> Before:
    """What has to be put back if this tensor is written into, or laid out anew."""
    return Before(x, x.detach().clone(), place_of(x), x.untyped_storage().nbytes())


def undo_writes(writes: Sequence[Before]) -> None:
    """Puts back what a forward pass wrote into the model's tensors, last write first."""
    # Two writes into one tensor leave two records. The older one holds what the model had, so it is
    # put back last.
    for tensor, content, place, size in reversed(writes):
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            # First the storage's size, then the tensor's place in it, then the values: each step
            # needs the one before it.
            if (storage := tensor.untyped_storage()).nbytes() != size:
                storage.resize_(size)
            if place_of(tensor) != place:
                tensor.set_(storage, *place.layout)
            tensor.copy_(content)


class Aliases:
    """The nodes of all tensors that are alive."""

    def __init__(self) -> None:
        # A weak reference keeps a storage's address from being used again, not its data.
        self._storages: dict[int, _Storage] = {}

    def read(self, x: Tensor, branch: int = 0) -> Node | None:
        """The node of this tensor's current value; None if its place was never seen."""
        storage = self._storage(x)
        view = None if storage is None else storage.views.get(place_of(x, branch))
        return None if storage is None or view is None else self._current(storage, view)

    def peek(self, x: Tensor, branch: int = 0) -> Node | None:
        """As `read`, but None where a node would first have to be derived."""
        storage = self._storage(x)
        view = None if storage is None else storage.views.get(place_of(x, branch))
        if storage is None or view is None or view.version != storage.version:
            return None
        return view.node

    def knows(self, x: Tensor) -> bool:
        """Whether this tensor's storage was seen."""
        return self._storage(x) is not None

    def _storage(self, x: Tensor) -> _Storage | None:
        storage = self._storages.get(storage_of(x))
        return None if storage is None or storage.alive.expired() else storage

    def define(self, x: Tensor, node: Node) -> None:
        """A tensor with memory of its own has this value."""
        # A new record, without the views of an older one: memory that is new or was laid out anew
        # has none of them.
        weak = StorageWeakRef(x.untyped_storage())
        self._storages[storage_of(x)] = _Storage(weak, views={place_of(x): _View(node, 0)})

    def add(self, x: Tensor, node: Node) -> None:
        """A tensor of the model's has this value; its storage may have been seen before."""
        if (storage := self._storage(x)) is None:
            self.define(x, node)
        else:
            storage.views[place_of(x)] = _View(node, storage.version)

    def alias(
        self, x: Tensor, at: Place, base: Place, node: Node | None, derive: Derive, restore: Restore
    ) -> None:
        """A view of what lies at `base` in the same storage.

        Args:
            x: A tensor of that storage.
            at: The view's place.
            base: The place it was cut from.
            node: Its value; None: to be derived when it is read.
            derive: `derive(base node, old node)` cuts it anew.
            restore: `restore(base node, view node)` puts it back.
        """
        storage = self._storages[storage_of(x)]
        # -1 equals no storage's version, so that the first read derives the node.
        version = -1 if node is None else storage.version
        # `h[:, 1:]` cut twice is one place. The first record stays, so that a write into either
        # tensor is seen in both.
        storage.views.setdefault(at, _View(node, version, base, derive, restore))

    def root(self, x: Tensor, branch: int) -> Place:
        """The place in its branch from which, in the end, this view was cut.

        Its own place if the dtype changed.
        """
        views, here = self._storages[storage_of(x)].views, place_of(x, branch)
        place = here
        while (base := views[place].base) is not None and base.branch == branch:
            place = base
        # Fields 3 to 5 are dtype, conjugate and negative. If they differ (after view_as_real or
        # conj()), the root's elements are not this tensor's: strides would read other values.
        return place if place[3:6] == here[3:6] else here

    def at(self, x: Tensor, place: Place) -> Node:
        """The node of the current value at a place of x's storage that was seen."""
        storage = self._storages[storage_of(x)]
        return self._current(storage, storage.views[place])

    def write(self, x: Tensor, branch: int, node: Node) -> None:
        """This tensor was overwritten with the value of `node`.

        With v = h[:, 1:] written, the chain is v, h; h gets slice_scatter(h before, node).
        """
        # A write into a view of a view goes down the whole chain of bases:
        #
        #     h = conv(x)     h: conv
        #     v = h[:, 1:]    v: slice(conv), base h
        #     w = v[0]        w: select(slice), base v
        #     u = h[:, 0]     u: select_1(conv), base h
        #     w.mul_(2)       w: mul; v: select_scatter(slice, mul);
        #                     h: slice_scatter(conv, select_scatter);
        #                     u keeps its old version: the next read cuts it anew from h
        storage = self._storages[storage_of(x)]
        written = storage.views[place_of(x, branch)]
        chain, view = [], written
        # All bases are read before the version goes up; after that they would count as out of date.
        while view.base is not None:
            base = storage.views[view.base]
            chain.append((view, base, self._current(storage, base)))
            view = base
        storage.version += 1
        written.node, written.version = node, storage.version
        for view, base, before in chain:
            assert view.restore is not None
            assert view.node is not None
            base.node, base.version = view.restore(before, view.node), storage.version

    def _current(self, storage: _Storage, view: _View) -> Node:
        # A view without a base has nothing to be derived from: its node is set by `define`, `add`
        # and `write` alone. A base may be out of date itself, hence the recursion.
        if view.version != storage.version and view.base is not None:
            assert view.derive is not None
            base = self._current(storage, storage.views[view.base])
            view.node = view.derive(base, view.node)
            view.version = storage.version
        assert view.node is not None
        return view.node
