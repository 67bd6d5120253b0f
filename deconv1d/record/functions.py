"""Custom functions (`torch.autograd.Function`): their own backward, or the ops inside.

    class Swish(Function):          the ops inside, mul and sigmoid, have rules: a rectifier
    class RoundThrough(Function):   the op inside, round, has none, and its derivative is zero

The gradient method always uses a function's own backward, as autograd does. The others use the ops
inside where these have rules of their own and one of them rectifies, switches or holds: there the
deconvnet is not the gradient, and spelling must not matter. Else they use the own backward too. It
is what the model's author says about the way back, and often all there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from deconv1d.rules.op import Op
from deconv1d.rules.table import Rules, rule_for


def has_a_rectifier(nodes: Iterable[Node], rules: Rules, method: str) -> bool:
    """Whether the deconvnet of these ops is known and is not simply their gradient."""
    ops = [Op.of(node) for node in nodes if node.op == "call_function"]
    kinds = {
        rule_for(rules, op, method).kind
        for op in ops
        if op.dependent and "label" in op.node.meta and op.node.meta["depends_on_input"]
    }
    # One op inside that is carried by its gradient alone is enough: then the function's own
    # backward is used for the whole of it.
    return "gradient" not in kinds and bool(kinds & {"rectify", "switch", "hold"})


@cache
def called(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """A custom function as the target of a node."""

    def run(*args: Any) -> Any:
        return function.apply(*args)

    def pull_back(places: Sequence[int]) -> Callable[..., Any]:
        """See `deconv1d.rules.adjoints.pull_back`; functorch takes few custom functions."""

        def carry_back(signal: Any, args: Any, kwargs: Any) -> tuple[Tensor, ...]:
            flat, structure = pytree.tree_flatten(args)
            for place in places:
                # Leaves of their own: the values come without an autograd graph, and the one that
                # is built below has to end here.
                flat[place] = flat[place].detach().clone().requires_grad_()
            with torch.enable_grad():
                output = run(*pytree.tree_unflatten(flat, structure))
            # Not strict: the mirror's list of signals ends at the last output that has one.
            pairs = zip(_several(output), _several(signal), strict=False)
            live = [(y, s) for y, s in pairs if s is not None and y.requires_grad]
            inputs = [flat[place] for place in places]
            if not live:
                return tuple(map(torch.zeros_like, inputs))
            outputs, signals = zip(*live, strict=True)
            gradients = torch.autograd.grad(outputs, inputs, signals, allow_unused=True)
            return tuple(
                torch.zeros_like(x) if g is None else g
                for g, x in zip(gradients, inputs, strict=True)
            )

        return carry_back

    run.__name__ = function.__name__
    run.pull_back = pull_back  # type: ignore[attr-defined]  # read by adjoints.pull_back
    return run


def _several(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)
