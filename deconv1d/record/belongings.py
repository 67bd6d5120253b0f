"""What a model owns beside its parameters, and how each kind of thing is put back.

A forward pass may count its calls, fill caches, draw from a generator that is kept as an attribute
or write into an array. `restorers` looks at all of it once and returns one function for each thing:

    self.calls += 1                        a module's attributes
    self.state["h"].append(h)              containers, also within containers
    self.noise = torch.randn(..., generator=self.generator)         generators of three libraries
    self.window *= 0.5                     NumPy arrays
    self.memory.last = h                   dataclasses, namespaces, objects of own classes
    self.scale.requires_grad_(False)       flags and gradients of tensors

A restorer changes only what has changed: another thread may be running the model. It can be called
again, also after an interrupt in the middle of it.
"""

from __future__ import annotations

import random
import sys
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import is_dataclass
from functools import partial
from operator import is_
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Restore = Callable[[], Any]

PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None)})
"""Most attributes are of these types, which cannot change."""
CONTAINERS = frozenset({dict, OrderedDict, list, set, deque})
"""What can be filled and emptied. A module has a dozen that are empty, for hooks of every kind."""
LIBRARIES = sys.stdlib_module_names | {"torch", "numpy"}


def restorers(modules: Iterable[nn.Module]) -> list[Restore]:
    """Remembers everything that modules own.

    Args:
        modules: All of a model.

    Returns:
        Functions that put it back.
    """
    empty: list[Any] = []
    found: list[Restore] = [partial(_empty, empty)]
    known: dict[int, Any] = {}  # keeps what it has seen, so that no id is used twice
    waiting = [vars(m) for m in modules if not isinstance(m, torch.jit.ScriptModule)]
    while waiting:
        value = waiting.pop()
        if id(value) in known:
            continue
        known[id(value)] = value
        restore = _restorer(value)
        if restore is None:
            continue
        found.append(restore)
        for part in _parts(value):
            if type(part) in CONTAINERS and not part:
                empty.append(part)
            elif type(part) not in PLAIN:
                waiting.append(part)
    return found


def _empty(containers: list[Any]) -> None:
    """Empties what was empty."""
    for container in containers:
        if container:
            container.clear()


def _parts(value: Any) -> Iterable[Any]:
    """What a container holds; modules are looked at by themselves."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return value
    if _has_fields(value):
        return (vars(value),)
    return [getattr(value, name) for name in _slots(value)]


def _restorer(value: Any) -> Restore | None:
    """How one thing is put back; None for what cannot change, or is none of our business."""
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, dict):
        return _mapping(value)
    if isinstance(value, (list, deque)):
        return _sequence(value)
    if isinstance(value, set):
        return _set(value)
    if isinstance(value, (tuple, frozenset)) or _has_fields(value):
        return _nothing
    if isinstance(value, nn.Module):
        return None
    if slots := _slots(value):
        return partial(_set_slots, value, {name: getattr(value, name) for name in slots})
    if isinstance(value, (bytearray, array)):
        return _bytes(value)
    if isinstance(value, np.ndarray):
        return _array(value)
    return _generator(value)


def _nothing() -> None:
    """A tuple does not change, but what it holds may."""


def is_record(value: Any) -> bool:
    """Plain records: a dataclass or a namespace."""
    record = is_dataclass(value) or isinstance(value, SimpleNamespace)
    return record and not isinstance(value, (type, nn.Module)) and hasattr(value, "__dict__")


def _has_fields(value: Any) -> bool:
    """Records, and objects of the model's own classes; of a library's nobody knows what it does."""
    if isinstance(value, (type, nn.Module)) or not hasattr(value, "__dict__"):
        return False
    return is_record(value) or _is_own(value)


def _is_own(value: Any) -> bool:
    root = type(value).__module__.partition(".")[0]
    return root not in LIBRARIES


def _slots(value: Any) -> list[str]:
    """The attributes of an object of the model's own classes that has no dictionary."""
    if isinstance(value, (type, nn.Module)) or hasattr(value, "__dict__") or not _is_own(value):
        return []
    names = [getattr(kind, "__slots__", ()) for kind in type(value).__mro__]
    flat = [name for own in names for name in ([own] if isinstance(own, str) else own)]
    return [name for name in flat if hasattr(value, name)]


def _set_slots(value: Any, before: dict[str, Any]) -> None:
    for name, content in before.items():
        if getattr(value, name, None) is not content:
            object.__setattr__(value, name, content)


def _bytes(now: Any) -> Restore:
    before = copy(now)

    def restore() -> None:
        if now != before:
            now[:] = before

    return restore


def _mapping(now: dict[Any, Any]) -> Restore:
    before = dict(now)

    def restore() -> None:
        if now.keys() == before.keys() and all(map(is_, now.values(), before.values())):
            return
        for name in now.keys() - before.keys():
            del now[name]
        for name, value in before.items():
            if name not in now or now[name] is not value:
                now[name] = value

    return restore


def _sequence(now: Any) -> Restore:
    before = list(now)

    def restore() -> None:
        if len(now) == len(before) and all(map(is_, now, before)):
            return
        if isinstance(now, list):
            now[:] = before
        else:
            now.clear()
            now.extend(before)

    return restore


def _set(now: set[Any]) -> Restore:
    before = set(now)

    def restore() -> None:
        if now != before:
            now.symmetric_difference_update(now ^ before)

    return restore


def _array(now: np.ndarray[Any, Any]) -> Restore | None:
    if now.dtype.hasobject or not now.flags.writeable:
        return None
    before = now.copy()

    def restore() -> None:
        if now.tobytes() != before.tobytes():  # bytes: NaN equals itself
            now[...] = before

    return restore


def _tensor(now: Tensor) -> Restore | None:
    """A tensor's memory, flag and gradient; writes into the memory are undone by the recorder."""
    if not now.is_leaf:
        return None
    before, flag, gradient = now.detach(), now.requires_grad, now.grad

    def restore() -> None:
        if now.layout is torch.strided and now.data_ptr() != before.data_ptr():
            now.data = before
        if now.requires_grad != flag and now.is_leaf:
            now.requires_grad_(flag)
        if now.grad is not gradient:
            now.grad = gradient

    return restore


def _generator(value: Any) -> Restore | None:
    """Generators of torch, NumPy (new and old) and Python: all have a state to read and to set."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return partial(value.set_state, state)
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator
        before = bits.state
        return partial(setattr, bits, "state", before)
    if isinstance(value, np.random.BitGenerator):
        return partial(setattr, value, "state", value.state)
    if isinstance(value, np.random.RandomState):
        old = value.get_state()
        return partial(value.set_state, old)
    if isinstance(value, random.Random):
        own = value.getstate()
        return partial(value.setstate, own)
    return None
