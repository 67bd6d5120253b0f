"""Ops that are only a name for other ops: recorded whole, or as the ops that they are made of.

max_pool1d        has a rule: one node
hfft              has none: its conj, its copy and its FFT are a node each
attention with dropout   has a rule, but draws a mask within: its ops are a node each
gru_cell, lstm_cell      have none: their products, sigmoids and tanhs are a node each
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload

from deconv1d.record.schema import Schema, draws, is_drawn_within, is_random_op
from deconv1d.rules.op import arguments_of
from deconv1d.rules.recurrent import GRU, LSTM, Cell
from deconv1d.rules.table import Rules

COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


def is_whole(func: OpOverload, schema: Schema, rules: Rules, args: Any, kwargs: Any) -> bool:
    """Whether an op that is made of others has a rule, rrelu's being that of rrelu_ too."""
    # Only ops that draw are asked for their arguments, which costs time at each op.
    random = is_random_op(func)
    pure = getattr(schema.pure, "overloadpacket", schema.packet) if random else schema.packet
    if schema.packet not in rules and pure not in rules:
        return False
    given = arguments_of(func, args, kwargs) if random else {}
    # An op that draws a mask within is taken apart: only then is the mask a value to be kept.
    return not (random and draws(func, given) and is_drawn_within(given))


def run_parts(func: OpOverload, args: Any, kwargs: Any) -> Any:
    """Runs the ops that an op is made of."""
    with lazy_bits():
        if (parts := CELLS.get(func)) is not None:
            return parts(*args, **kwargs)
        return func._op_dk(COMPOSITE, *args, **kwargs)


def _step(
    cell: Cell,
    x: Tensor,
    states: Tensor | Sequence[Tensor],
    w_in: Tensor,
    w_hidden: Tensor,
    b_in: Tensor | None = None,
    b_hidden: Tensor | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """One step of a recurrent layer; its states come back as they are given, one or several."""
    first = (states,) if isinstance(states, Tensor) else tuple(states)
    products = F.linear(x, w_in, b_in), F.linear(first[0], w_hidden, b_hidden)
    after, _ = cell.step(*products, first)
    return after[0] if isinstance(states, Tensor) else after


# On a GPU torch runs one fused op for all of a cell, in which nobody sees the gates that are to be
# held. A rule would not do: the way back of a cell is that of its parts.
CELLS: dict[OpOverload, Callable[..., Any]] = {
    torch.ops.aten.gru_cell.default: partial(_step, GRU),
    torch.ops.aten.lstm_cell.default: partial(_step, LSTM),
}
"""What torch makes of them on a processor."""


def lazy_bits() -> Any:
    """Lets torch resolve conj() and imag, which it does lazily, for ops that are run from in here.

    A dispatch mode's handler is called with that switched off, as for whole ops it was done before.
    An op made of others, such as hfft, conjugates within, and its FFT would read the memory as is.
    """
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.Conjugate, torch._C.DispatchKey.Negative):
        excluded = excluded.remove(key)
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)
