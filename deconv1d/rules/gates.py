"""Which value an op holds: of two factors the gate, of two terms the detached one.

Gates are found by facts that the recorder copies from each op's rule into its node: `gate`,
`detached` and `reshapes` (see `deconv1d.rules.table.Rule`).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch.fx import Node

from deconv1d.rules.op import Op


def is_gate(x: Node) -> bool:
    """Whether a value is a sigmoid, a softmax or a detached value, perhaps in another shape."""
    # `get`: the waveform and the model's constants have no rule, and so no such fact.
    return bool(_unshaped(x).meta.get("gate"))


def held_factor(op: Op) -> Node | None:
    """Of two factors that carry the signal: the one that is a gate, if just one is."""
    return _only_one(op, [x for x in op.dependent if is_gate(x)])


def held_term(op: Op) -> Node | None:
    """Of two terms that carry the signal: the one that is detached, if just one is."""
    return _only_one(op, [x for x in op.dependent if _unshaped(x).meta.get("detached")])


def held_values(op: Op) -> Iterable[Node]:
    """The held factor, as what a rule keeps."""
    return [held] if (held := held_factor(op)) else []


def _only_one(op: Op, held: list[Node]) -> Node | None:
    # With two gates, or with none, nothing says which of the two values is to be held.
    return held[0] if len(op.dependent) == 2 and len(held) == 1 else None


def _unshaped(x: Node) -> Node:
    """The value before ops that only gave it another shape.

    A gate is often computed for fewer axes than it multiplies:

        gate = sigmoid(maps.mean(-1))     # gate: True
        y = maps * gate.unsqueeze(-1)     # unsqueeze reshapes: its input is looked at instead
    """
    while x.meta.get("reshapes"):
        x = x.args[0]  # type: ignore[assignment]  # these ops all take their input first
    return x
