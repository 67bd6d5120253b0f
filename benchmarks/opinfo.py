"""PyTorch's own lists of ops and modules as a judge: each in a small model, against autograd.

Writes the page of ops in docs. `op_db` and `module_db`, with which torch tests itself, hold sample
calls of every op and module. Each differentiable one of dtype float64 becomes a model:

    x -> conv -> cut into the sample's tensors -> the op -> flattened and scaled

`method="gradient"` must be `torch.autograd`'s at the op's own map and at the model's end. An error
of this library is a refusal; any other exception is a foreign traceback.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.reporting import HERE, table, write_page
from deconv1d import Sonifier
from deconv1d.errors import Deconv1dError
from deconv1d.rules.op import first_tensor

TOLERANCE = 1e-7
"""Largest difference from autograd's gradient, as a share of its peak; for a map in a coarser
dtype, what that dtype rounds to."""
SMALLEST_PEAK = 1e-8
"""A gradient with a lower peak is zero but for rounding, and compared with this peak instead: the
samples have values of about 1, and what rounds to 1e-15 is no difference."""
SECONDS = 20.0
"""After so many seconds the remaining samples of an op are left out, and counted."""


@dataclass(frozen=True)
class Sample:
    """One call of one op.

    Attributes:
        op: Its name.
        number: Of the sample among those of the op.
        function: The op.
        args: Its arguments; the tensors in it that require a gradient are the live ones.
    """

    op: str
    number: int
    function: Callable[..., Any]
    args: tuple[Any, dict[str, Any]]


@dataclass
class Outcomes:
    """What came of the samples of one op.

    Attributes:
        counts: By outcome: "right", "refused", "wrong", "foreign".
        reasons: What was raised or found, one text for each kind.
        left_out: Samples not tried, for want of time or because autograd itself cannot.
    """

    counts: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, int] = field(default_factory=dict)
    left_out: int = 0


class Called(nn.Module):
    """A module that calls a sample's op on tensors cut from one vector."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        self.sample = sample
        self.leaves, self.structure = pytree.tree_flatten(sample.args)
        if isinstance(sample.function, nn.Module):
            self.inner = sample.function

    def forward(self, values: Tensor) -> Any:
        """Calls the op; returns what it returns."""
        start, leaves = 0, list(self.leaves)
        for place, leaf in enumerate(leaves):
            if is_live(leaf):
                piece = values[start : start + leaf.numel()]
                leaves[place] = piece.reshape(leaf.shape)
                start += leaf.numel()
            elif isinstance(leaf, Tensor):
                leaves[place] = leaf.detach()
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        return self.sample.function(*args, **kwargs)


class Model(nn.Module):
    """conv -> op -> all results, flattened and scaled."""

    def __init__(self, sample: Sample) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 1, bias=False).double().requires_grad_(False)
        self.conv.weight.fill_(2)
        self.op = Called(sample)
        self.last = nn.Conv1d(1, 1, 1, bias=False).double().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the op on what the waveform holds."""
        output = self.op(self.conv(x).flatten())
        return self.last(flattened(output)[None, None])


def is_live(leaf: Any) -> bool:
    """Whether an argument of a sample is to carry the waveform."""
    if not isinstance(leaf, Tensor) or leaf.layout is not torch.strided:
        return False
    return leaf.requires_grad and leaf.dtype == torch.float64


def flattened(output: Any) -> Tensor:
    """All floating results as one vector of real values."""
    parts = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
    parts = [torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in parts]
    return torch.cat([x.reshape(-1).double() for x in parts if x.is_floating_point()])


def waveform(sample: Sample) -> Tensor:
    """The waveform from which the first convolution makes the sample's values."""
    live = [x.detach().reshape(-1) for x in pytree.tree_leaves(sample.args) if is_live(x)]
    return torch.cat([*live, torch.ones(1, dtype=torch.float64)])[None, None] / 2


def samples_of_op(op: Any) -> Iterator[Sample]:
    """The sample calls of an op of `op_db`."""
    name = f"{op.name}{'.' if op.variant_test_name else ''}{op.variant_test_name}"
    for number, given in enumerate(op.sample_inputs("cpu", torch.float64, requires_grad=True)):
        yield Sample(name, number, _wrapped(op, given), ((given.input, *given.args), given.kwargs))


def _wrapped(op: Any, given: Any) -> Callable[..., Any]:
    """The op as torch's own gradient test calls it: where it is differentiable."""

    def run(*args: Any, **kwargs: Any) -> Any:
        output = op.gradcheck_wrapper(op.get_op(), *args, **kwargs)
        return given.output_process_fn_grad(output) if given.output_process_fn_grad else output

    return run


def samples_of_module(info: Any) -> Iterator[Sample]:
    """The sample calls of a module of `module_db`, in eval mode, as a sonifier runs it."""
    given = info.module_inputs_func(info, "cpu", torch.float64, True, False)
    for number, sample in enumerate(given):
        made, called = sample.constructor_input, sample.forward_input
        module = info.module_cls(*made.args, **made.kwargs).double()
        if not isinstance(module, nn.modules.lazy.LazyModuleMixin):  # these have no parameters yet
            module.requires_grad_(False)
        yield Sample(info.name, number, module, (tuple(called.args), called.kwargs))


def judge(sample: Sample) -> tuple[str, str]:
    """What came of a sample: "right", "refused", "wrong", "foreign" or "left out", and why."""
    torch.manual_seed(0)
    model = Model(sample).eval()
    try:
        x = waveform(sample)
        if not x.isfinite().all():
            return "left out", "its values are no waveform: they are not finite"
        layers = ("op", "last") if has_several(model, x) else ("op",)
        expected = {layer: autograd(model, x, layer) for layer in layers}
    except Exception as error:
        return "left out", f"torch: {type(error).__name__}: {str(error).splitlines()[:1]}"
    if all(gradient is None for gradient, _ in expected.values()):
        return "left out", "autograd has no gradient that is finite"
    try:
        for layer, (gradient, eps) in expected.items():
            if gradient is None:
                continue
            if wrong := difference(sonified(model, x, layer, verify=False), gradient, 4 * eps):
                sonified(model, x, layer, verify="once")  # which is the default, and may refuse
                return "wrong", f"{layer}: differs by {wrong:.1g}"
    except Deconv1dError as error:
        return "refused", f"{type(error).__name__}: {error}"
    except Exception as error:
        return "foreign", f"{layer}: {type(error).__name__}: {error}"
    return "right", ""


def sonified(model: Model, x: Tensor, layer: str, *, verify: str | bool) -> Tensor:
    """The gradient by this library."""
    torch.manual_seed(1)
    sonifier = Sonifier(model, verify=verify)
    heard = sonifier.sonify(x, layer=layer, channel=None, tap="output", method="gradient")
    return heard.raw.reshape(x.shape)


def has_several(model: Model, x: Tensor) -> bool:
    """Whether the op returns several floating tensors: a map is the first alone."""
    with torch.no_grad():
        leaves = pytree.tree_leaves(model.eval().op(model.conv(x).flatten()))
    return sum(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves) > 1


def autograd(model: Model, x: Tensor, layer: str) -> tuple[Tensor | None, float]:
    """Autograd's gradient at a layer, with the map as seed; None: there is none. And its eps."""
    leaf = x.clone().requires_grad_()
    found: list[Any] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *seen: found.append(seen[2]))
    try:
        torch.manual_seed(1)
        model(leaf)
    finally:
        handle.remove()
    value = first_tensor(found[0])
    if value is None or not value.requires_grad or not value.isfinite().all():
        return None, 0.0
    (gradient,) = torch.autograd.grad(value, leaf, value.detach(), allow_unused=True)
    return gradient, torch.finfo(value.dtype).eps


def difference(actual: Tensor, expected: Tensor, eps: float) -> float:
    """The largest difference as a share of the peak, where autograd is finite; 0 if rounding."""
    finite = expected.isfinite()
    actual, expected = actual[finite], expected[finite]
    if not actual.numel():
        return 0.0
    error = float((actual - expected).abs().max()) / max(float(expected.abs().max()), SMALLEST_PEAK)
    return 0.0 if error < max(TOLERANCE, eps) else error


def judged(samples: Iterable[Sample], *, seconds: float = SECONDS) -> Outcomes:
    """Judges samples of one op until its time is up."""
    outcomes, start = Outcomes(), time.process_time()
    for sample in samples:
        if time.process_time() - start > seconds:
            outcomes.left_out += 1
            continue
        outcome, reason = judge(sample)
        if outcome == "left out":
            outcomes.left_out += 1
            continue
        outcomes.counts[outcome] += 1
        if reason:
            text = f"{outcome}: {_general(reason)}"
            outcomes.reasons[text] = outcomes.reasons.get(text, 0) + 1
    return outcomes


def _general(reason: str) -> str:
    """A reason without the paths and line numbers of one machine, on one line."""
    return re.sub(r"\S*/(\S+\.py):\d+", r"\1", " ".join(reason.split()))


def everything() -> Iterator[tuple[str, Callable[[], Iterator[Sample]]]]:
    """Each op and module by name, and its samples."""
    # Imported here, since it freezes settings of torch for the whole process.
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

    for op in op_db:
        if op.supports_autograd and torch.float64 in op.dtypes:
            name = f"{op.name}{'.' if op.variant_test_name else ''}{op.variant_test_name}"
            yield name, lambda op=op: samples_of_op(op)
    for info in module_db:
        if torch.float64 in info.dtypes:
            yield info.name, lambda info=info: samples_of_module(info)


def main() -> None:
    """Writes the page of ops."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="ops; all if none is named; no page is written")
    parser.add_argument("--each", type=int, help="at most so many samples of each op")
    parser.add_argument("--no-page", action="store_true", help="print the counts and no more")
    options = parser.parse_args()
    names = options.names
    warnings.simplefilter("ignore")
    found: dict[str, Outcomes] = {}
    for name, samples in everything():
        if names and name not in names:
            continue
        found[name] = judged(islice(samples(), options.each))
        rest = {k: n for k, n in found[name].counts.items() if k != "right"}
        if rest:
            print(name, dict(found[name].counts), *found[name].reasons.items(), sep="\n    ")
    total = sum((outcomes.counts for outcomes in found.values()), Counter())
    print(json.dumps(total))
    if not names and not options.no_page:
        write_page(
            HERE.parent / "docs" / "ops.md",
            "Ops",
            "python -m benchmarks.opinfo" + (f" --each {options.each}" if options.each else ""),
            body(found, options.each),
            ("torch",),
        )


KINDS = ("right", "refused", "wrong", "foreign")
REASONS = {
    "sparse.mm.reduce": "sparse tensors have no memory by strides, by which values are followed",
    "to_sparse": "the same",
    "normal": "numbers drawn at random do not depend on the waveform: autograd carries zeros",
    "normal.number_mean": "the same",
    "bernoulli": "the same",
    "linalg.matrix_power": "to the power of 0: a unit matrix, whatever the waveform",
    "nn.functional.linear_cross_entropy.chunked": (
        "this loss computes its gradients in the forward pass, and only where its input asks for "
        "one; while a model is recorded none does"
    ),
    "nn.LinearCrossEntropyLoss": "the same, of the chunked variant",
}
"""Why ops are refused, in a person's words; the page shows it before the errors."""


def body(found: dict[str, Outcomes], each: int | None) -> str:
    """The page without its title and date."""
    total = sum((outcomes.counts for outcomes in found.values()), Counter())
    tried = sum(total.values())
    fine = {name: o for name, o in found.items() if set(o.counts) <= {"right"}}
    rest = {name: o for name, o in found.items() if name not in fine}
    reasons = [
        (f"`{n}`", why.replace("|", "/"), k)
        for n, o in rest.items()
        for why, k in o.reasons.items()
    ]
    return (
        "The sample calls with which PyTorch tests its own ops and modules, in float64, each as a "
        'layer of a small model: `method="gradient"` against `torch.autograd`. '
        + (f"At most {each} samples of each op. " if each else "")
        + f"Of {tried} samples of {len(found)} ops and modules {total['right'] / tried:.2%} are "
        f"right, {total['refused'] / tried:.2%} are refused by an error of this library, "
        f"{total['wrong'] / tried:.2%} are wrong and {total['foreign'] / tried:.2%} end in "
        f"another's traceback. {sum(o.left_out for o in found.values())} were left out: autograd "
        "has no finite gradient there, their values are no waveform, or the seconds of the op were "
        "up. What the library does about a wrong capture: [reliability](reliability.md).\n\n"
        + table(
            ("op", "samples", *KINDS, "why it cannot be carried"),
            [(*_row(name, o), REASONS.get(name, "")) for name, o in rest.items()],
        )
        + "\n\n"
        + table(("op", "error", "samples"), reasons)
        + f"\n\nAll samples of these are right: {', '.join(f'`{name}`' for name in fine)}."
    )


def _row(name: str, outcomes: Outcomes) -> tuple[str, ...]:
    counts = [outcomes.counts[kind] for kind in KINDS]
    return (f"`{name}`", str(sum(counts)), *map(str, counts))


if __name__ == "__main__":
    main()
