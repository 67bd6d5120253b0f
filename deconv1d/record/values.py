"""Which node holds the value of a tensor now, and whether autograd would carry a gradient there.

No derivative is built while a model is recorded. What autograd would do is written down instead:
each node's meta says whether autograd carries a gradient through it (`tracked`), from the grad mode
in which the op ran and from its inputs:

    h = conv(x)                      tracked
    d = h.detach() * 3               not tracked: detach, mul
    with torch.no_grad(): g = h * 2  not tracked: mul
    h + d                            tracked, by h alone

`undetached` says the same for any grad mode: g is undetached, d is not. A detached value begins a
branch of its own (see `deconv1d.record.aliasing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.utils.weak import TensorWeakRef

from deconv1d.errors import PathError
from deconv1d.record.aliasing import Aliases, Place, place_of, storage_of
from deconv1d.record.schema import is_factory
from deconv1d.record.source_lines import source_line
from deconv1d.rules.memory import covers, held, revalued
from deconv1d.rules.op import Op, depends_on_input
from deconv1d.rules.table import Rule, Rules, packet, rule_for

aten = torch.ops.aten


class Values:
    """The nodes of the tensors of one forward pass.

    Args:
        x: The waveform.
        names: The model's own tensors by identity.
        rules: The op table.
        method: Which rules are recorded for.
    """

    def __init__(self, x: Tensor, names: Mapping[int, str], *, rules: Rules, method: str) -> None:
        self.rules, self.method, self.names = rules, method, names
        self.graph, self.aliases = Graph(), Aliases()
        # By name, as `get_attr` nodes have it: the model's own objects, so that weights stay tied.
        self.constants: dict[str, Tensor] = {}
        # Storages that this run made. A write into any other changes the model and is undone. The
        # waveform counts as made here: it is a copy of what the user gave (see `capture`).
        self.fresh = {storage_of(x)}
        # The grad mode of a custom function's caller, while its forward runs.
        self.outer_grad: bool | None = None
        # With the storage: `b.data = h` gives an object other memory without an op.
        self._branches: dict[int, tuple[TensorWeakRef, int, int]] = {}
        self._last_branch = 0
        self.x = self.graph.placeholder("x")
        self.x.meta.update(grad=True, tracked=True, undetached=True)
        self.describe(self.x, x, carried=True, constant=False)
        self.define(x, self.x)

    def release(self) -> None:
        """Lets go of tensors: they would outlive the pass."""
        self.aliases = Aliases()
        self._branches.clear()

    def peek(self, x: Tensor) -> Node | None:
        """The node of a tensor's value now, where one was written down already."""
        branch = self._branch(x)
        return None if branch is None else self.aliases.peek(x, branch)

    def node(self, x: Tensor) -> Node:
        """The node of a tensor's value now; a tensor never seen is a constant of the model's."""
        branch = self._branch(x)
        if branch is None:
            branch = self._unseen(x)
        node = self.aliases.read(x, branch)
        return self.constant(x) if node is None else node

    def place(self, x: Tensor) -> Place:
        """Where a tensor lies, and its branch."""
        return place_of(x, self._branch(x) or 0)

    def constant(self, x: Tensor) -> Node:
        """A new node for a tensor of the model's."""
        name = self.names.get(id(x), f"constant_{len(self.constants)}")
        node = self.graph.create_node("get_attr", name, name=name.replace(".", "_"))
        self.constants[name] = x
        # A parameter may have a gradient of its own, but none that goes on to the waveform.
        node.meta.update(grad=True, tracked=False, undetached=False)
        self.describe(node, x, carried=False, constant=True)
        self.aliases.add(x, node)
        self.remember(x, 0)
        return node

    def updated(self, statistics: list[Tensor]) -> None:
        """Running statistics that a normalisation has changed are other constants from now on."""
        for x in statistics:
            self.node(x)  # known, also if only the normalisation read it
            self.aliases.write(x, self._branch(x) or 0, self.constant(x.clone()))

    def by_values(
        self, args: Any, kwargs: Any, inputs: dict[Node, Tensor], label: str
    ) -> tuple[tuple[Any, ...], dict[int, Place]]:
        """Arguments of `strided` for those of as_strided: strides belong to the tensor that was."""
        x, sizes, strides, *rest = args
        offset = rest[0] if rest else kwargs.get("storage_offset")
        place = self.place(x)
        root = self.aliases.root(x, place.branch)
        inputs.clear()
        inputs[node := self.aliases.at(x, root)] = x
        view = (place.offset if offset is None else offset, tuple(sizes), tuple(strides))
        if not covers(root.layout, view):
            raise PathError(
                f"A view by strides reads beyond the value that it is made from (in "
                f"{label or 'the model'}, {source_line()}): expected strides "
                f"within {root.layout}, got {view}. Make it from the whole value, before detach()."
            )
        return (node, root.layout, view), {storage_of(x): root}

    def define(self, x: Tensor, node: Node) -> None:
        """A tensor with memory of its own has this value."""
        self.aliases.define(x, node)
        self.remember(x, 0)

    # --- what autograd would follow ------------------------------------------------------------

    def grad(self) -> bool:
        """The model's grad mode; in a custom function's forward, which has none, its caller's."""
        return torch.is_grad_enabled() if self.outer_grad is None else self.outer_grad

    def track(self, node: Node, *, detached: bool = False) -> None:
        """Says whether autograd carries a gradient through an op, and would in any grad mode."""
        grad = node.meta.setdefault("grad", self.grad())
        sources = [] if detached else node.all_input_nodes
        node.meta["undetached"] = any(source.meta["undetached"] for source in sources)
        node.meta["tracked"] = grad and any(source.meta["tracked"] for source in sources)

    def _follow_autograd(self, node: Node) -> None:
        """The gradient method carries what autograd carries."""
        if self.method == "gradient" and not node.meta["tracked"]:
            node.meta["depends_on_input"] = False

    def describe(self, node: Node, x: Tensor, *, carried: bool, constant: bool) -> None:
        """Says what a value is, and whether the waveform's signal is carried through it."""
        floating = x.is_floating_point() or x.is_complex()
        node.meta.update(
            shape=tuple(x.shape),
            dtype=x.dtype,
            depends_on_input=carried and floating,
            constant=constant,
            zero=not carried and _is_zero(node, x),
        )
        if not floating:
            node.meta.update(tracked=False, undetached=False)
        self._follow_autograd(node)

    # --- branches ------------------------------------------------------------------------------

    def _branch(self, x: Tensor) -> int | None:
        """Autograd's branch of a tensor object; None for an object that no op returned."""
        reference, storage, branch = self._branches.get(id(x), (None, 0, 0))
        if reference is not None and reference() is x and storage == storage_of(x):
            return branch
        own = id(x) in self.names and storage_of(x) not in self.fresh
        return 0 if own else None

    def remember(self, x: Tensor, branch: int) -> None:
        """Says which branch a tensor object belongs to."""
        self._branches[id(x)] = (TensorWeakRef(x), storage_of(x), branch)

    def _unseen(self, x: Tensor) -> int:
        """The branch of an object that no op returned: `nn.Parameter(h)` is a detached h.

        So is a buffer after `self.b.data = h`.
        """
        place = place_of(x)
        if self.aliases.read(x) is None:
            return 0
        branch = self.cut(x, place, None)
        self.remember(x, branch)
        return branch

    def cut(self, x: Tensor, base: Place, node: Node | None) -> int:
        """A new branch of x's storage, which begins at `base` with this node."""
        self._last_branch += 1
        root = base._replace(branch=self._last_branch)
        self.aliases.alias(x, root, base, node, self._detached_again, self._restored)
        return self._last_branch

    def _detached_again(self, base: Node, old: Node | None) -> Node:
        """A detached value after its base was written to; its own way back stays."""
        again = self.append(aten.detach.default, (base,), like=base)
        return again if old is None or not old.meta["undetached"] else self.revalued(again, old)

    def _restored(self, base: Node, view: Node) -> Node:
        """A base after a detached view of it was written to; its own way back stays."""
        if base.meta["undetached"]:
            return self.revalued(view, base)
        return self.append(aten.detach.default, (view,), like=view)

    def revalued(self, value: Node, history: Node) -> Node:
        """This value, with the way back of another node."""
        tracked, undetached = history.meta["tracked"], history.meta["undetached"]
        # Only one of the two may carry the signal, or it would count twice. Autograd goes back by
        # the history, the deconvnet by the value that the forward pass went on with.
        # A value that carries nothing, such as codes that were looked up, leaves the history to
        # both: `y.data.copy_(codes)` is a straight-through estimator. Zeros are no codes.
        source = value.args[1] if packet(value) is aten.copy else value
        looked_up = isinstance(source, Node) and not (
            depends_on_input(source) or source.meta["constant"] or source.meta["zero"]
        )
        if self.method == "gradient" or looked_up:
            value = self.held(value)
        else:
            history = self.held(history)
        node = self.append(revalued, (value, history), like=value)
        node.meta.update(tracked=tracked, undetached=undetached)
        node.meta["depends_on_input"] = any(map(depends_on_input, node.all_input_nodes))
        return node

    def held(self, source: Node) -> Node:
        """A value as a constant, through which nothing is carried."""
        node = self.append(held, (source,), like=source)
        node.meta.update(depends_on_input=False, tracked=False, undetached=False)
        return node

    def append(self, target: Any, args: tuple[Any, ...], like: Node, *, grad: bool = True) -> Node:
        """A node for a value that no op computed: what a write to a view did to other views."""
        node = self.graph.call_function(target, args)
        sources = node.all_input_nodes
        floating = like.meta["dtype"].is_floating_point or like.meta["dtype"].is_complex
        node.meta.update(
            like.meta,
            depends_on_input=floating and any(depends_on_input(source) for source in sources),
            constant=all(source.meta["constant"] for source in sources),
            zero=False,
            derived=True,
            grad=grad,
        )
        self.track(node, detached=target is aten.detach.default)
        self._follow_autograd(node)
        carries = depends_on_input(node) and target is not getitem
        note_facts(node, rule_for(self.rules, Op.of(node)) if carries else None)
        return node


def note_facts(node: Node, rule: Rule | None) -> None:
    """What the rules of later ops ask of this one's (see `deconv1d.rules.gates`)."""
    for name in ("gate", "bounded", "detached", "reshapes", "affine"):
        node.meta[name] = rule is not None and getattr(rule, name)


def _is_zero(node: Node, x: Tensor) -> bool:
    """Whether a constant is zero everywhere, as far as a glance tells.

    Looked at: single numbers, and what was made for this (zeros_like, new_full, torch.zeros), which
    is often as large as a map. A weight is not looked at: that would cost a pass over all of them.
    """
    if packet(node) is aten.zero:
        return True
    if packet(node) is aten.detach:  # with gradients on, torch.zeros_like detaches what it made
        return bool(node.all_input_nodes[0].meta["zero"])
    if x.is_complex() or not (x.numel() == 1 or is_factory(node.target)):
        return False
    return not bool(x.any())
