"""A copy of a model's modules that shares its tensors, for a run with altered weights.

To swap a weight in the model itself, as `torch.func.functional_call` does for the time of a call,
would be seen by every other thread that runs the model. In a copy nobody sees it:

    model ── conv ── weight W          copy ── conv' ── weight W'    altered
          └─ norm ── weight G               └─ norm' ── weight G     the same tensor, no memory

What modules hold is copied with them: containers, plain records, bound methods, partial functions,
arrays and generators. What is none of these, such as a closure, stays the same object. If it holds
the model, the run uses the model's own weight, which the recorder notices and refuses.
"""

from __future__ import annotations

import copy
import functools
import random
from collections import deque
from collections.abc import Mapping
from itertools import chain
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deconv1d.errors import InputError, ModelError
from deconv1d.record.aliasing import storage_of
from deconv1d.record.belongings import is_record
from deconv1d.record.source_lines import source_line
from deconv1d.record.unchanged import FORWARD_LOCK

if TYPE_CHECKING:
    from deconv1d.record.capture import Capture

GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
Weights = Mapping[str, Tensor]
"""Tensors that take the place of a model's own, by their names in the model."""


def copy_with(model: nn.Module, weights: Weights) -> nn.Module:
    """A copy of a model's modules in which some tensors are others; all else is shared.

    Args:
        model: It is not changed.
        weights: By their names in the model's `named_parameters` and `named_buffers`.

    Raises:
        InputError: If the model has no tensor of a name.
    """
    replaced = own_tensors(model, weights)
    others = {id(own): _like(weights[name], own) for name, own in replaced.items()}
    with FORWARD_LOCK:  # no visit is on: its hooks and its evaluation mode would be copied
        return _Copier(others).copied(model)  # type: ignore[no-any-return]  # a module of a module


def _like(weight: Tensor, own: Tensor) -> Tensor:
    """A weight as a parameter, where the model's own is one."""
    weight = weight.detach()
    return nn.Parameter(weight, own.requires_grad) if isinstance(own, nn.Parameter) else weight


def own_tensors(model: nn.Module, weights: Weights) -> dict[str, Tensor]:
    """The model's own tensors that others are to replace, by name.

    Raises:
        InputError: If the model has no tensor of a name.
    """
    # Tied weights have several names, and each is one that may be asked for.
    own = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    for name in weights:
        if name not in own:
            raise InputError(
                f"The weight {name!r} is not one of the model's: expected names of its parameters "
                f"and buffers, such as {', '.join(map(repr, list(own)[:3])) or 'none: it has none'}"
                f". model.named_parameters() and model.named_buffers() list them."
            )
    return {name: own[name] for name in weights}


def check_not_read(captured: Capture, replaced: Weights) -> None:
    """Raises ModelError if a run of a copy read a tensor that it has another of.

    Args:
        captured: The run.
        replaced: The model's own tensors that the copy has others of, by name.
    """
    for node in captured.graph.find_nodes(op="get_attr"):
        user = next(iter(node.users), node).meta
        where = user.get("name", str(node.target)), user.get("source", "")
        _check_other(captured.constants[str(node.target)], replaced, *where)


class NotRead(TorchDispatchMode):
    """The same for a run that is not recorded: its ops raise ModelError.

    Args:
        replaced: As for `check_not_read`.
    """

    def __init__(self, replaced: Weights) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's is untyped
        self._replaced = replaced

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for read in tree_leaves((args, kwargs)):
            if isinstance(read, Tensor) and read.layout is torch.strided:
                name = func.overloadpacket.__name__
                _check_other(read, self._replaced, name, source_line())
        return func(*args, **kwargs or {})


def _check_other(read: Tensor, replaced: Weights, op: str, source: str) -> None:
    for name, own in replaced.items():
        if _overlap(read, own):
            raise ModelError(
                f"The weight {name!r} cannot be replaced: expected the forward pass to run on a "
                f"copy of the model that has the other weight, got an op that reads the model's "
                f"own, {op!r} ({source}). Some function holds the model itself: let forward= use "
                f"the model that it is given, and make what the model calls a method or a module "
                f"of it."
            )


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory, at least in part."""
    if storage_of(one) != storage_of(other) or not (one.numel() and other.numel()):
        return False
    (begin, end), (other_begin, other_end) = map(_span, (one, other))
    return begin < other_end and other_begin < end


def _span(x: Tensor) -> tuple[int, int]:
    """The first byte of a tensor in its storage, and the byte after its last."""
    size, begin = x.element_size(), x.storage_offset()
    last = begin + sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return int(begin) * size, (int(last) + 1) * size


class _Copier:
    """Copies what modules hold, each object once, so that what was shared stays shared."""

    def __init__(self, replacements: Mapping[int, Tensor]) -> None:
        self._replacements = replacements
        self._copies: dict[int, Any] = {}
        self._originals: list[Any] = []  # kept, so that no id is used twice

    def copied(self, value: Any) -> Any:
        """The copy of an object; the object itself where it is shared."""
        if id(value) in self._replacements:
            return self._replacements[id(value)]
        if id(value) not in self._copies:
            self._originals.append(value)
            self._copies[id(value)] = value  # for what holds itself; replaced below
            self._copies[id(value)] = self._copy(value)
        return self._copies[id(value)]

    def _copy(self, value: Any) -> Any:
        if isinstance(value, torch.jit.ScriptModule):
            return self._script(value)
        if isinstance(value, nn.Module):
            return self._filled(type(value).__new__(type(value)), value)
        if isinstance(value, Tensor):
            return value
        if isinstance(value, (dict, list, set, deque)):
            return self._container(value)
        if isinstance(value, (tuple, frozenset)):
            return self._immutable(value)
        if isinstance(value, MethodType):
            return MethodType(value.__func__, self.copied(value.__self__))
        if isinstance(value, functools.partial):
            function, args, words = value.func, value.args, value.keywords
            return functools.partial(
                self.copied(function), *self.copied(args), **self.copied(words)
            )
        if is_record(value):
            return self._filled(copy.copy(value), value)
        return _own(value)

    def _filled(self, new: Any, old: Any) -> Any:
        """Fills a new object with copies of another's attributes."""
        self._copies[id(old)] = new  # before its attributes, which may refer to it
        # `dict` first: another thread that runs the model may add an attribute meanwhile.
        fields = {name: self.copied(value) for name, value in dict(vars(old)).items()}
        if isinstance(old, nn.Module):
            # Made by torch.compile: functions that hold the module that was compiled.
            fields.pop("_compiled_call_impl", None)
            if "_orig_mod" in fields.get("_modules", ()):
                fields["forward"] = fields["_modules"]["_orig_mod"].__call__
        vars(new).update(fields)
        return new

    def _container(self, old: Any) -> Any:
        new = self._copies[id(old)] = copy.copy(old)
        parts = list(new.items() if isinstance(new, dict) else new)
        new.clear()
        if isinstance(new, dict):
            new.update((key, self.copied(part)) for key, part in parts)
        elif isinstance(new, set):
            new.update(map(self.copied, parts))
        else:
            new.extend(map(self.copied, parts))
        return new

    def _immutable(self, old: Any) -> Any:
        parts = [self.copied(part) for part in old]
        if all(new is part for new, part in zip(parts, old, strict=True)):
            return old
        return type(old)(*parts) if hasattr(old, "_fields") else type(old)(parts)

    def _script(self, script: Any) -> Any:
        return torch.jit._recursive.wrap_cpp_module(self._inside_script(script._c))

    def _inside_script(self, inside: Any) -> Any:
        new = copy.copy(inside)  # shares submodules and tensors
        for name, part in torch._C.ModuleDict(inside).items():
            new.setattr(name, self._inside_script(part))
        tensors: Any = (torch._C.ParameterDict(inside), torch._C.BufferDict(inside))  # untyped
        for name, tensor in chain.from_iterable(part.items() for part in tensors):
            if id(tensor) in self._replacements:
                new.setattr(name, self._replacements[id(tensor)])
        return new


def _own(value: Any) -> Any:
    """Arrays and generators, of which a run changes the content; all else is shared."""
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, GENERATORS) or type(value) is np.ndarray:
        return copy.deepcopy(value)
    return value
