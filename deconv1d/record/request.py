"""What a forward pass is asked for: where it is to stop, how far it has come, where it failed.

A request names a layer; its tap follows the layer's block while the model runs:

    conv -> relu -> max_pool -> conv      request "conv1#1", tap "block"
    tip: conv, then relu, then max_pool; complete when the second conv takes the tip
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
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


# Compared by identity: == on the fields would compare tensors, and the result is no bool.
@dataclass(eq=False)
class Tap:
    """How far a wanted layer's block has been followed.

    Attributes:
        request: The layer.
        tip: The last value of its block so far; None: the layer has not run yet.
        complete: Whether the tip is the block's end.
    """

    request: TapRequest
    tip: tuple[Node, Tensor] | None = None
    complete: bool = False

    def follows(self, node: Node) -> bool:
        """Whether an op takes the tip as an input."""
        # Identity, not equality: two values may be equal and only one of them is the block's.
        if self.complete or self.tip is None:
            return False
        tip, inputs = self.tip[0], node.all_input_nodes
        # `h.numpy()` detaches h for a look; the block goes on from h.
        looked_at = getattr(tip.target, "overloadpacket", None) is torch.ops.aten.detach
        return tip in inputs or (looked_at and tip.args[0] in inputs)
