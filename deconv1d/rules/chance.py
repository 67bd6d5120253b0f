"""Ops with an entry that draw random numbers if they are told to.

Run again, they draw others, so the mirror must not run them. rrelu and native_dropout have a record
of what they drew. The rest is captured as the ops that it is made of, whose draws are kept:

    scaled_dot_product_attention(q, k, v, dropout_p=0.1)   # one op, its mask is unknown
    bernoulli(...) -> mask; softmax(q @ k.mT) * mask @ v   # several, and the mask is a value
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten

CHANCE: Mapping[Any, Callable[[Mapping[str, Any]], bool]] = {
    aten.scaled_dot_product_attention: lambda given: given["dropout_p"] > 0,
    **dict.fromkeys(
        (aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu),
        lambda given: given["dropout"] > 0 and given["train"],
    ),
    aten.rrelu: lambda given: given["training"],
    aten.native_dropout: lambda given: given["train"] is not False,
}
"""Whether a call draws, from its arguments by name."""
REMEMBERED = frozenset({aten.rrelu, aten.native_dropout})


def draws(op: Any, given: Mapping[str, Any]) -> bool:
    """Whether this call of an op with an entry draws random numbers.

    Args:
        op: Its packet.
        given: Its arguments by name.
    """
    return op in CHANCE and CHANCE[op](given)
