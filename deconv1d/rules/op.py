"""One op of a captured graph: its arguments by name, and its reach in time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

PLAIN = frozenset({int, float, bool, str, type(None)})


@dataclass(frozen=True)
class Op:
    """A node with its arguments by schema name, defaults filled in."""

    node: Node
    arguments: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @classmethod
    def of(cls, node: Node) -> Op:
        """Binds a node's arguments; a node whose target has no schema has none by name."""
        if not isinstance(node.target, OpOverload):
            return cls(node, {})
        return cls(node, arguments_of(node.target, node.args, node.kwargs))

    @cached_property
    def dependent(self) -> list[Node]:
        """The inputs that carry the waveform, as often as they are given."""
        return [x for x in leaves((self.node.args, self.node.kwargs)) if depends_on_input(x)]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return shape_of(self.node)


def arguments_of(target: OpOverload, args: Any, kwargs: Any) -> dict[str, Any]:
    """An op's arguments by name, defaults filled in."""
    # zip ends with the shorter: trailing arguments that were not given keep their defaults.
    names, defaults = _signature(target)
    return {**defaults, **kwargs, **dict(zip(names, args, strict=False))}


def leaves(value: Any) -> list[Any]:
    """What lists, tuples and dicts hold; torch's pytree does more, at a hundred times the cost."""
    found: list[Any] = []
    _gather((value,), found)
    return found


def _gather(values: Iterable[Any], found: list[Any]) -> None:
    for value in values:
        if isinstance(value, (list, tuple)):
            _gather(value, found)
        elif isinstance(value, dict):
            _gather(value.values(), found)
        else:
            found.append(value)


def converted(convert: Callable[[Tensor], Node], value: Any) -> Any:
    """A value with its tensors converted, in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return convert(value)
    if isinstance(value, (list, tuple)):
        parts = [part if type(part) in PLAIN else converted(convert, part) for part in value]
        return type(value)(parts)
    if isinstance(value, dict):
        return {name: converted(convert, part) for name, part in value.items()}
    return value


def first_tensor(output: Any) -> Tensor | None:
    """The first floating tensor in a module's output: tensor, tuple, dict or dataclass."""
    if isinstance(output, Tensor):
        # Within torch.vmap a module returns a wrapped tensor; the ops that ran saw the one inside.
        while torch._C._functorch.is_functorch_wrapped_tensor(output):
            output = torch._C._functorch.get_unwrapped(output)
        return output if output.is_floating_point() or output.is_complex() else None
    return next((x for part in _members(output) if (x := first_tensor(part)) is not None), None)


def _members(output: Any) -> Iterator[Any]:
    if isinstance(output, Mapping):
        yield from output.values()
    elif isinstance(output, tuple | list):
        yield from output
    elif is_dataclass(output):
        yield from (getattr(output, member.name) for member in fields(output))


@cache
def _signature(target: OpOverload) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of an op's arguments, and the defaults of those that have one."""
    # Cached by op: the schema is read once, and this runs for every op of a forward pass.
    schema = target._schema.arguments
    defaults = {a.name: a.default_value for a in schema if a.has_default_value()}
    return tuple(a.name for a in schema), defaults


def depends_on_input(argument: Any) -> bool:
    """Whether this argument is a floating (or complex) value computed from the waveform."""
    return isinstance(argument, Node) and bool(argument.meta["depends_on_input"])


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of a node's value as recorded."""
    return node.meta["shape"]  # type: ignore[no-any-return]  # fx meta is untyped
