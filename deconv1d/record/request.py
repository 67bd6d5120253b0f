"""Where a forward pass is to stop, how far it has come, and where it failed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node


@dataclass(frozen=True)
class TapRequest:
    """The map to stop at.

    Attributes:
        call: "path#call" of a module, or "path.op#n" of an op.
        tap: "block" or "output".
        is_op: Which of the two it is.
    """

    call: str
    tap: str = "block"
    is_op: bool = False


@dataclass(frozen=True)
class Failure:
    """An op that raised: what, in which module, at which line, on which shapes."""

    error: Exception
    op: str
    label: str
    source: str
    shapes: list[tuple[int, ...]]


@dataclass(eq=False)
class Tap:
    """Where a wanted layer's block has come to.

    Attributes:
        request: The layer.
        tip: The last value of its block so far; None: the layer has not answered yet.
        complete: Whether the tip is the block's end.
    """

    request: TapRequest
    tip: tuple[Node, Tensor] | None = None
    complete: bool = False

    def follows(self, node: Node) -> bool:
        """Whether an op takes up the tip."""
        return not self.complete and self.tip is not None and self.tip[0] in node.all_input_nodes
