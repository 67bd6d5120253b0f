"""Operators that run functions: torch.cond, while_loop, scan, flex_attention.

Each is run as plain Python here, while the recorder is active: the ops of the branch that was taken
are recorded, of a loop as often as they ran.

    torch.cond(h.sum() > 0, f, g, (h,))    f(h) is recorded, if the sum is above 0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator

from deconv1d.errors import ModelError


def run_higher_order(operator: HigherOrderOperator, args: Any, kwargs: Any) -> Any:
    """Runs such an operator op by op.

    Raises:
        ModelError: If it is one that this library does not know.
    """
    run = _RUNS.get(operator.name())
    if run is None:
        raise ModelError(
            f"The model calls the higher-order operator {operator.name()!r}: expected one of "
            f"{', '.join(_RUNS)}, whose ops can be recorded one by one. Give "
            f"Sonifier(model, forward=...) with a function that runs the model without it."
        )
    return run(*args, **kwargs)


def _cond(predicate: Any, when_true: Any, when_false: Any, operands: Sequence[Any]) -> Any:
    return (when_true if bool(predicate) else when_false)(*operands)


def _while_loop(
    condition: Callable[..., Any],
    body: Callable[..., Any],
    carried: Sequence[Any],
    others: Sequence[Any] = (),
) -> Any:
    while bool(condition(*carried, *others)):
        carried = body(*carried, *others)
    return tuple(carried)


def _scan(
    combine: Callable[..., Any], state: Sequence[Any], xs: Sequence[Tensor], others: Any = ()
) -> list[Any]:
    """The last states, then what each step gave, along a new first axis."""
    steps = []
    for moment in range(xs[0].shape[0]):
        here = [x.select(0, moment) for x in xs]
        found = list(combine(*state, *here, *others))
        state, step = found[: len(state)], found[len(state) :]
        steps.append(step)
    return [*state, *(torch.stack(parts) for parts in zip(*steps, strict=True))]


def _flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Callable[..., Tensor],
    block_mask: Sequence[Any],
    scale: float,
    kernel_options: Any = None,
    score_mod_other_buffers: Sequence[Any] = (),
    mask_mod_other_buffers: Sequence[Any] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention whose scores and mask are functions of their places."""
    repeats = query.shape[1] // key.shape[1]  # several heads of queries may share one of keys
    key, value = (x.repeat_interleave(repeats, 1) if repeats > 1 else x for x in (key, value))
    scores = query @ key.mT * scale
    places = _places(scores)
    scores = score_mod(scores, *places, *score_mod_other_buffers)
    seen = block_mask[-1](*places, *mask_mod_other_buffers)
    scores = torch.where(seen, scores, float("-inf"))
    largest = scores.amax(-1)
    weights = torch.where(torch.isneginf(largest)[..., None], 0, scores.softmax(-1))
    return weights @ value, scores.logsumexp(-1), largest


def _places(scores: Tensor) -> list[Tensor]:
    """Batch, head, query and key of each score, each along its own axis."""
    rank = scores.dim()
    return [
        torch.arange(size, device=scores.device).reshape(-1, *[1] * (rank - axis - 1))
        for axis, size in enumerate(scores.shape)
    ]


_RUNS: Mapping[str, Callable[..., Any]] = {
    "cond": _cond,
    "while_loop": _while_loop,
    "scan": _scan,
    "flex_attention": _flex_attention,
}
