"""Ops that are only a name for other ops: recorded whole, or as the ops that they are made of.

max_pool1d        has a rule: one node
hfft              has none: its conj, its copy and its FFT are a node each
attention with dropout   has a rule, but draws a mask within: its ops are a node each
"""

from __future__ import annotations

from typing import Any

import torch
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
        return func._op_dk(COMPOSITE, *args, **kwargs)


def lazy_bits() -> Any:
    """Lets torch resolve conj() and imag, which it does lazily, for ops that are run from in here.

    A dispatch mode's handler is called with that switched off, as for whole ops it was done before.
    An op made of others, such as hfft, conjugates within, and its FFT would read the memory as is.
    """
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.Conjugate, torch._C.DispatchKey.Negative):
        excluded = excluded.remove(key)
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)
