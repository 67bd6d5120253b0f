"""Names of layers: from what a user writes to one module call or op, and the table of all."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from operator import getitem
from typing import TYPE_CHECKING

from torch import nn

from deconv1d.errors import LayerError
from deconv1d.rules.op import depends_on_input

if TYPE_CHECKING:
    from deconv1d.record.capture import Capture

WRAPPERS = ("_orig_mod.", "module.")


@dataclass(frozen=True)
class Layer:
    """A layer as asked for: a module's path, or an op's name; and which call of it."""

    path: str
    call: int | None = None
    is_op: bool = False

    @property
    def target(self) -> str:
        """What the recorder stops at."""
        return self.path if self.is_op else f"{self.path}#{1 if self.call is None else self.call}"

    def __str__(self) -> str:
        return self.path if self.call is None else f"{self.path}#{self.call}"


def find_module(model: nn.Module, name: str) -> Layer | None:
    """The module that a name means: its dotted path, or any unique suffix of it; with "#n".

    Raises:
        LayerError: If the name means several modules.
    """
    found = list(model.named_modules(remove_duplicate=False))
    # A module that is registered twice runs under its first name; the others are aliases of it.
    paths = {module: path for path, module in reversed(found)}
    name, call = call_number(_without_wrappers(paths.values(), name))
    every = {p: paths[m] for p, m in found if p}
    # Compiled submodules keep their name with a prefix that the user never wrote.
    every = {**{alias.replace("_orig_mod.", ""): path for alias, path in every.items()}, **every}
    path = _meant(name, every)
    return None if path is None else Layer(path, call)


def find_op(captured: Capture, model: nn.Module, name: str) -> Layer:
    """The op that a name means: "<module path>.<op>#n", or any unique suffix of it.

    Raises:
        LayerError: If the name means several ops, or neither op nor module.
    """
    calls = [n for n in captured.graph.nodes if n.op == "call_function" and n.target is not getitem]
    ops = [n.meta["name"] for n in calls if depends_on_input(n)]
    if (op := _meant(name, {op: op for op in ops})) is not None:
        return Layer(op, is_op=True)
    modules = [path for path, _ in model.named_modules() if path]
    near = difflib.get_close_matches(name, [*modules, *ops], n=5, cutoff=0.3)
    raise LayerError(
        f"No layer {name!r} in this model: expected a module path or a unique suffix of one, "
        f"such as {', '.join(map(repr, near or modules[:5]))}. sonifier.layers(x) lists them all."
    )


def call_number(name: str) -> tuple[str, int | None]:
    """Splits "relu#2" into ("relu", 2); a name without a number has None."""
    base, mark, number = name.rpartition("#")
    return (base, int(number)) if mark and number.isdigit() else (name, None)


def _without_wrappers(paths: Collection[str], name: str) -> str:
    while name.split("#")[0] not in paths and name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def _meant(name: str, full_names: Mapping[str, str]) -> str | None:
    """What a name means: a full name, or a unique suffix of one; None: nothing.

    Args:
        name: What the user wrote.
        full_names: What each full name means; aliases mean the same.
    """
    # A full name wins over names that end with it: "conv" over "encoder.conv".
    if name in full_names:
        return full_names[name]
    matches = sorted({meant for full, meant in full_names.items() if full.endswith(f".{name}")})
    if len(matches) > 1:
        raise LayerError(
            f"Layer {name!r} is ambiguous: expected the name of one layer, got "
            f"{', '.join(map(repr, matches))}. Give one of these in full."
        )
    return matches[0] if matches else None
