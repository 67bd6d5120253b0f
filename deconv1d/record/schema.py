"""What is known of an op before it runs: what it writes into, whether it draws random numbers.

A captured graph is pure: no op in it writes. So each op that writes has a pure twin here:

    h.add_(g)                 the graph holds add(h, g), and h is that node from now on
    torch.add(h, g, out=o)    the graph holds add(h, g), and o is that node
    h.index_fill_(0, i, 1)    where torch has no twin: the op itself, on copies of its inputs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node
from torch.utils import _pytree as pytree

from deconv1d.rules.op import leaves

aten = torch.ops.aten

FACTORY_OPTIONS = {"dtype", "layout", "device", "pin_memory"}
"""Arguments of every op that makes a tensor anew: zeros, zeros_like, new_full."""

# A list outside the table: rules say how a signal is carried, not where values go, and torch has no
# tag for it.
PLACED = frozenset(
    # No rule says it either: rules say how a signal is carried, not where values go.
    {aten.copy, aten.where, aten.index_put, aten.scatter, aten.masked_scatter, aten.index_copy}
    # Writes to views.
    | {aten.slice_scatter, aten.select_scatter, aten.diagonal_scatter}
)
"""Each value of the result is one of the inputs' values: no input is added to another."""

# A list outside the table for the same reason.
SIDE_BY_SIDE = frozenset({aten.cat, aten.stack})
"""As `PLACED`, but a sum over the new places may follow: stack([z, (q - z).detach()]).sum(0)."""


@dataclass(frozen=True)
class Schema:
    """What is known of an op by itself.

    Attributes:
        packet: The op, whichever its overload.
        name: What it is called: add for add_ and for add(out=).
        composite: Whether it is only a name for other ops.
        decides: Whether it tells Python a value, on which the model may decide.
        writes: Number and name of each argument that it writes into.
        updates: Number of each running statistic, and of the argument that says whether it is
            updated: the schemas of normalisations do not mark them as written.
        outs: The arguments by which a caller gives it memory for its results.
        pure: The op that returns what this one writes: add for add_ and for add(out=).
    """

    packet: Any
    name: str
    composite: bool
    decides: bool
    writes: list[tuple[int, str]]
    updates: list[tuple[int, int]]
    outs: frozenset[str]
    pure: Callable[..., Any]

    def written(self, args: Any, kwargs: Any) -> list[Tensor]:
        """The tensors that a call writes into."""
        if not self.writes:
            return []
        given = [args[n] if n < len(args) else kwargs.get(name) for n, name in self.writes]
        return [x for x in leaves(given) if isinstance(x, Tensor)]

    def statistics(self, args: Any) -> list[Tensor]:
        """Running statistics that a normalisation updates although its schema does not say so."""
        given = [args[n] for n, training in self.updates if len(args) > training and args[training]]
        return [x for x in given if isinstance(x, Tensor)]


@cache
def schema_of(func: OpOverload) -> Schema:
    """Returns what is known of an op by itself."""
    key = "CompositeImplicitAutograd"
    marked = enumerate(func._schema.arguments)
    # Composite: torch would run other ops for it, which the recorder then sees instead.
    pure = _pure(func)
    return Schema(
        packet=func.overloadpacket,
        name=getattr(pure, "overloadpacket", pure).__name__.lstrip("_"),
        composite=bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)),
        decides=torch.Tag.data_dependent_output in func.tags,
        writes=[(n, a.name) for n, a in marked if a.alias_info and a.alias_info.is_write],
        updates=_updates(func),
        outs=_outs(func),
        pure=pure,
    )


def _outs(func: OpOverload) -> frozenset[str]:
    return frozenset(a.name for a in func._schema.arguments if a.is_out)


def _updates(func: OpOverload) -> list[tuple[int, int]]:
    marked = {a.name: a.alias_info is not None for a in func._schema.arguments}
    places = {name: place for place, name in enumerate(marked)}
    training = places.get("training", places.get("use_input_stats"))
    statistics = ("running_mean", "running_var")
    if training is None:
        return []
    # `is False`: the op has this statistic and does not mark it. Marked ones are in `writes`.
    return [(places[name], training) for name in statistics if marked.get(name) is False]


def _pure(func: OpOverload) -> Callable[..., Any]:
    if not func._schema.is_mutable:
        return func
    # A twin takes the same arguments, but for those that are only memory for results.
    namespace, name = func._schema.name.split("::")
    twins = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    wanted = [(a.name, str(a.type)) for a in func._schema.arguments if a.name not in _outs(func)]
    for overload in () if twins is None else twins.overloads():
        twin = getattr(twins, overload)
        takes = [(a.name, str(a.type)) for a in twin._schema.arguments]
        if takes == wanted and not twin._schema.is_mutable:
            return twin  # type: ignore[no-any-return]  # ops are untyped
    return _on_copies(func)


def _on_copies(func: OpOverload) -> Callable[..., tuple[Any, ...]]:
    """A pure function of any op that writes: its results, and what it wrote to copies."""

    def run(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        args, kwargs = pytree.tree_map_only(Tensor, Tensor.clone, (args, kwargs))
        output = func(*args, **kwargs)
        return (*leaves(output), *schema_of(func).written(args, kwargs))

    run.tags = func.tags  # type: ignore[attr-defined]  # read as an op's
    run.__name__ = f"pure_{func._schema.name.split('::')[1]}"
    return run


@cache
def returns_one_tensor(target: OpOverload) -> bool:
    """Whether an op returns one tensor, and neither several nor a list of them."""
    return [str(part.type) for part in target._schema.returns] == ["Tensor"]


@cache
def makes_memory(target: Any) -> bool:
    """Whether an op always returns one tensor in memory of its own, never a view of an input."""
    if not isinstance(target, OpOverload) or not returns_one_tensor(target):
        return False
    # Composite ops may return their input where there is nothing to do, as `contiguous` does.
    return target._schema.returns[0].alias_info is None and not schema_of(target).composite


def is_shaped(node: Node) -> bool:
    """Whether an op reads of its input no more than shape and dtype: zeros_like, new_full."""
    return _is_shaped(node.target)


@cache
def _is_shaped(target: Any) -> bool:
    if not is_factory(target):
        return False
    names = {a.name for a in target._schema.arguments}
    return "self" in names and "non_blocking" not in names  # _to_copy has it: that one copies


@cache
def is_factory(target: Any) -> bool:
    """Whether an op makes a tensor anew, by the options that torch gives all of these."""
    schema = getattr(target, "_schema", None)
    return schema is not None and {a.name for a in schema.arguments} >= FACTORY_OPTIONS


@cache
def is_unfilled(target: Any) -> bool:
    """Whether an op makes memory and puts no values there: torch.empty.

    An op of torch's may do so without another op: ctc_loss fills such a tensor with its lengths.
    """
    return is_factory(target) and target._schema.name.partition("::")[2].startswith("empty")


def is_random(node: Node) -> bool:
    """Whether an op draws random numbers."""
    return is_random_op(node.target)


@cache
def is_random_op(target: Any) -> bool:
    """Whether an op can draw random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def draws(target: Any, given: Mapping[str, Any]) -> bool:
    """Whether a call of an op draws random numbers: it is one that can, and is told to.

    rrelu and native_dropout say `training` or `train`, attention and recurrent layers how much they
    drop. Run again, such a call draws others, so what it returned is kept.

    Args:
        target: The op.
        given: Its arguments by name.
    """
    if not is_random_op(target) or False in (given.get("train"), given.get("training")):
        return False
    # An op with neither argument, such as bernoulli, draws at each call: hence the default of 1.
    return bool(given.get("dropout_p", given.get("dropout", 1)) > 0)


def is_drawn_within(given: Mapping[str, Any]) -> bool:
    """Whether what a drawing op draws is a mask between the ops that it is made of.

    scaled_dot_product_attention(q, k, v, dropout_p=0.1)   # one op, its mask is unknown
    bernoulli(...) -> mask; softmax(q @ k.mT) * mask @ v   # several, and the mask is a value
    """
    return "dropout_p" in given or "dropout" in given
