"""Each fix, taken out again: what then goes wrong, and whether verification sees it.

Verification compares a capture with the model itself, by means that it does not share with the fix.
So it has to see a fault of these kinds although nobody thought of it. What it cannot see by
construction is told by a check of its own: channel axes, call counts, silence, levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from operator import getitem
from typing import Any
from unittest.mock import patch

import torch

from deconv1d import mirror as mirroring
from deconv1d.record import recorder as recording
from deconv1d.record.aliasing import undo_writes
from deconv1d.record.keeping import Keeping
from deconv1d.record.recorder import Recorder
from deconv1d.record.schema import is_random
from deconv1d.record.values import Values
from deconv1d.rules import adjoints, table
from deconv1d.rules.op import depends_on_input
from deconv1d.rules.table import Rule

from .detached import DETACHED, STRAIGHT
from .drawn import DRAWN
from .elsewhere import THREADS
from .memory import GEOMETRY, WRITTEN
from .operands import OPERANDS
from .singular import SINGULAR
from .spectra import COMPLEX

Plant = Callable[[], AbstractContextManager[Any]]


def _content_of_before() -> AbstractContextManager[Any]:
    """What is kept in a buffer is put back with the buffer."""

    def undo(keeping: Keeping) -> list[torch.Tensor]:
        undo_writes(keeping.undo)
        return [before.tensor for before in keeping.undo]

    return patch.object(Keeping, "undo_writes", undo)


def _all_is_live() -> AbstractContextManager[Any]:
    """Grad modes and detached values are not noticed."""

    def track(values: Values, node: Any, *, detached: bool = False) -> None:
        node.meta.setdefault("grad", True)
        carries = any(source.meta["tracked"] for source in node.all_input_nodes)
        node.meta.update(grad=True, tracked=carries, undetached=carries)

    return patch.object(Values, "track", track)


def _nothing_is_held() -> AbstractContextManager[Any]:
    """A detached value carries beside a live one."""
    return patch.object(recording, "detached_beside_live", lambda schema, inputs: [])


@contextmanager
def _rules_changed(change: Callable[[Any, Iterator[Any], Any], Iterator[Any]]) -> Iterator[None]:
    rule_for = table.rule_for

    def changed(rules: Any, op: Any, method: str = "deconvnet") -> Rule:
        rule = rule_for(rules, op, method)
        carry_back = rule.carry_back
        return replace(
            rule,
            carry_back=lambda op, signal, emit: change(op, carry_back(op, signal, emit), emit),
        )

    with patch.object(mirroring, "rule_for", changed):
        yield


def _first_operand_alone() -> AbstractContextManager[Any]:
    """Of several operands that carry, the first gets a signal."""

    def first(op: Any, signals: Iterator[Any], emit: Any) -> Iterator[Any]:
        found = list(signals)
        yield from found[:1] if len(op.dependent) > 1 else found

    return _rules_changed(first)


def _not_conjugated() -> AbstractContextManager[Any]:
    """The derivative of a complex op is not conjugated."""

    def conjugate(op: Any, signals: Iterator[Any], emit: Any) -> Iterator[Any]:
        for node, signal in signals:
            wrong = node.meta["dtype"].is_complex and depends_on_input(node)
            yield node, emit(torch.conj_physical, signal) if wrong else signal

    return _rules_changed(conjugate)


def _drawn_again() -> AbstractContextManager[Any]:
    """The mirror draws its own random numbers: here those of the forward pass, in other places."""
    undo_writes_of = Keeping.undo_writes

    def undo(keeping: Keeping) -> list[torch.Tensor]:
        for values in (keeping.kept, keeping.recorded):
            for node, value in values.items():
                source = node.args[0] if node.target is getitem else node
                if is_random(source):
                    values[node] = value.flatten().roll(1).reshape(value.shape)
        return undo_writes_of(keeping)

    return patch.object(Keeping, "undo_writes", undo)


def _threads_are_not_followed() -> AbstractContextManager[Any]:
    """Work in another thread is not recorded."""
    return patch.object(Recorder, "elsewhere", lambda recorder, function: function)


@contextmanager
def _strides_of_the_mirror() -> Iterator[None]:
    """Strides are read from whatever memory the mirror's value has."""
    by_values = Values.by_values

    def plain(values: Values, *given: Any) -> Any:
        (node, (_, sizes, strides), view), sources = by_values(values, *given)
        dense = torch.empty(sizes, device="meta").stride()
        return (node, (view[0] if dense == strides else 0, sizes, dense), view), sources

    with patch.object(Values, "by_values", plain):
        yield


def _infinite() -> AbstractContextManager[Any]:
    """Zero times an infinite derivative."""
    pull_back = adjoints.pull_back
    return patch.object(
        adjoints, "pull_back", lambda f, places, singular=False: pull_back(f, places)
    )


PLANTS: dict[str, Plant] = {
    WRITTEN: _content_of_before,
    DETACHED: _all_is_live,
    STRAIGHT: _nothing_is_held,
    OPERANDS: _first_operand_alone,
    COMPLEX: _not_conjugated,
    DRAWN: _drawn_again,
    THREADS: _threads_are_not_followed,
    GEOMETRY: _strides_of_the_mirror,
    SINGULAR: _infinite,
}
