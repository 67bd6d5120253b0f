"""Ops that are only a name for other ops: recorded whole, or as the ops that they are made of.

max_pool1d        has a rule: one node
hfft              has none: its conj, its copy and its FFT are a node each
attention with dropout   has a rule, but draws a mask within: its ops are a node each
gru_cell, lstm_cell      have none: their products, sigmoids and tanhs are a node each
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload

from deconv1d.record.schema import Schema, draws, is_drawn_within, is_random_op
from deconv1d.rules.op import arguments_of
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


def _gru_cell(
    x: Tensor,
    h: Tensor,
    w_in: Tensor,
    w_hidden: Tensor,
    b_in: Tensor | None = None,
    b_hidden: Tensor | None = None,
) -> Tensor:
    a_r, a_z, a_n = F.linear(x, w_in, b_in).chunk(3, 1)
    b_r, b_z, b_n = F.linear(h, w_hidden, b_hidden).chunk(3, 1)
    r, z = (b_r + a_r).sigmoid(), (b_z + a_z).sigmoid()
    n = (a_n + b_n * r).tanh()
    return (h - n) * z + n


def _lstm_cell(
    x: Tensor,
    states: Sequence[Tensor],
    w_in: Tensor,
    w_hidden: Tensor,
    b_in: Tensor | None = None,
    b_hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    h, c = states
    both = F.linear(h, w_hidden, b_hidden) + F.linear(x, w_in, b_in)
    i, f, g, o = both.chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


# On a GPU torch runs one fused op for all of a cell, in which nobody sees the gates that are to be
# held. A rule would not do: the way back of a cell is that of its parts.
CELLS: dict[OpOverload, Callable[..., Any]] = {
    torch.ops.aten.gru_cell.default: _gru_cell,
    torch.ops.aten.lstm_cell.default: _lstm_cell,
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
