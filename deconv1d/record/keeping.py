"""The values that the mirror will need, and the model's own that have to be put back.

Both are copied before an op writes into them:

    h = conv(x)          kept: h, say, for the rule of an op to come
    h.mul_(2)            kept: a copy of h as it was
    self.count.add_(1)   to be undone: the model's count as it was
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.fx import Node

from deconv1d.record.aliasing import Before, before_write, storage_of, undo_writes
from deconv1d.rules.op import Op, leaves

if TYPE_CHECKING:
    from deconv1d.record.values import Values
    from deconv1d.rules.table import Rule


class Keeping:
    """What one forward pass keeps.

    Args:
        values: Of the pass.
        x: The waveform.

    Attributes:
        kept: Values of nodes.
        recorded: What rules recorded, by node.
        undo: What the model's own tensors held before each write.
        writes: Names of these.
    """

    def __init__(self, values: Values, x: Tensor) -> None:
        self._values = values
        self.kept: dict[Node, Tensor] = {values.x: x}
        self.recorded: dict[Node, Tensor] = {}
        self.undo: list[Before] = []
        self.writes: dict[str, None] = {}

    def keep_inputs(
        self, op: Op, rule: Rule | None, inputs: dict[Node, Tensor], written: list[Tensor]
    ) -> dict[Node, Tensor]:
        """Keeps the values that the rule reads; returns the inputs as they are before a write."""
        if rule is None:
            return inputs
        # Values that follow from the model alone are not kept: the mirror computes them anew, from
        # the parameters as they are then.
        wanted = set(rule.keeps(op))
        for node, x in inputs.items():
            if node in wanted or not (node.meta["depends_on_input"] or node.meta["constant"]):
                # A buffer after `self.b.data = h` gets its own memory back at the end.
                lent = id(x) in self._values.names and storage_of(x) in self._values.fresh
                self.kept.setdefault(node, x.detach() if lent else x)
        if rule.record is None:
            return inputs
        # `record` is called after the op. An input that the op wrote into holds the result by then.
        return {n: x.clone() if any(x is w for w in written) else x for n, x in inputs.items()}

    def protect(self, written: list[Tensor]) -> None:
        """Before a write: copies what is kept there, and remembers what belongs to the model."""
        for x in written:
            storage = storage_of(x)
            # By storage, not by tensor: the write may go through another view of what is kept.
            for node, value in self.kept.items():
                if storage_of(value) == storage:
                    self.kept[node] = value.clone()
            if storage not in self._values.fresh:
                self.undo.append(before_write(x))
                self.writes[self._values.names.get(id(x), "a tensor without a name")] = None

    def made(self, output: Any, given: Container[int]) -> None:
        """Memory that this run made; all other is the model's, and writes to it are undone."""
        made = (storage_of(x) for x in leaves(output) if isinstance(x, Tensor))
        self._values.fresh.update(storage for storage in made if storage not in given)

    def undo_writes(self) -> list[Tensor]:
        """Puts back what was written into the model's tensors, last write first; returns them.

        What is kept for the mirror and lies in such a tensor is copied first: a map that forward
        left in a buffer, `self.b.copy_(z)`, is z and not what the buffer held before.
        """
        written = {storage_of(undo.tensor) for undo in self.undo}
        for values in (self.kept, self.recorded):
            for node, value in values.items():
                if storage_of(value) in written:
                    values[node] = value.clone()
        undo_writes(self.undo)
        return [undo.tensor for undo in self.undo]
