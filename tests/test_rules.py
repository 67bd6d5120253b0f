"""Every rule of the op table keeps its law, on awkward sizes and over grids of geometry."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from itertools import islice, product
from math import ceil, floor
from operator import getitem

import pytest
import torch
import torch.nn.functional as F
from cases import CASES, Case
from oracles import Function, basis, captured, extents, jacobian, mirrored, random
from torch import Tensor, nn
from torch.testing import assert_close
from zoo import built, waveforms

from benchmarks.architectures import ARCHITECTURES, RECTIFIERS
from deconv1d import PathError, Sonifier
from deconv1d.mirror import Deconvnet, _Writer, mirror
from deconv1d.record.receptive_fields import ReceptiveField
from deconv1d.record.replay import replay
from deconv1d.rules import adjoints
from deconv1d.rules.op import Op
from deconv1d.rules.table import GRADIENT, LAWS, METHODS, RULES, packet, rule_for

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

EXACT, ROUNDED = {"rtol": 1e-9, "atol": 1e-9}, {"rtol": 1e-12, "atol": 1e-12}
WINDOWS = {
    *("convolution", "_convolution", "avg_pool1d", "avg_pool2d", "avg_pool3d", "constant_pad_nd"),
    *("max_pool1d", "max_pool2d_with_indices", "max_pool3d_with_indices", "slice"),
}
"""Ops whose reach is exact: no wider than what the output reads."""
MIRRORS = {"reflection_pad1d", "replication_pad1d", "reflection_pad2d", "replication_pad2d"}
"""Ops whose reach leaves out what the edges repeat."""


@cache
def deconvnet_of(case: Case, method: str = "deconvnet") -> Deconvnet:
    return mirrored(case.run, case.x, method)


def signals_of(case: Case, deconvnet: Deconvnet, count: int = 3) -> Tensor:
    dtype = case.run(case.x).dtype
    return random(count, *deconvnet.map_shape, seed=11, dtype=dtype)


def by_kind(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [c for c in CASES if c.kind in kinds], ids=str)


# --- the table ---------------------------------------------------------------------------------


def test_every_entry_has_a_case():
    tested = {case.op for case in CASES}
    assert [str(op) for op in RULES if op.__name__ not in tested] == []


def test_every_kind_has_a_law():
    assert {case.kind for case in CASES} == set(LAWS)


def test_cases_have_names_of_their_own():
    assert len({str(case) for case in CASES}) == len(CASES)


@by_kind(*LAWS)
def test_kind(case):
    """The case records its op, and the table has the expected rule for it."""
    ops = [Op.of(node) for node in captured(case.run, case.x).graph.nodes]
    named = [
        op for op in ops if op.dependent and getattr(packet(op.node), "__name__", 0) == case.op
    ]
    assert case.kind in [rule_for(RULES, op).kind for op in named]


@by_kind(*LAWS)
@pytest.mark.parametrize("method", METHODS)
def test_every_operand_carries_or_is_held_by_name(case, method):
    """No input that carries the waveform is forgotten, and none is given a signal in vain."""
    if case.op == "detach" and method == "gradient":
        return  # refused: see test_method_gradient_is_autograd
    seen = captured(case.run, case.x, method)
    writer = _Writer(seen)
    for step in mirror(seen, method=method).steps:
        parts = [user.args[1] for user in step.op.node.users if user.target is getitem]
        signal = [writer.graph.placeholder("seed") for _ in range(max(parts, default=-1) + 1)]
        back = step.rule.carry_back(
            step.op, signal or writer.graph.placeholder("seed"), writer.at(step)
        )
        carried, held = {source for source, _ in back}, set(step.rule.holds(step.op))
        assert carried == set(step.op.dependent) - held, step.op.node.meta["name"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", [F.batch_norm, partial(F.instance_norm, use_input_stats=False)])
def test_statistics_that_a_model_computes_itself_are_held(norm, method):
    """Autograd takes none that need a gradient, so the twin has them detached."""
    x, gain, shift = random(2, 3, 7), random(3, seed=2), random(3, seed=3)

    def run(x: Tensor, hold: Function) -> Tensor:
        return norm(x, hold(x.mean((0, 2))), hold(x.std((0, 2))), weight=gain, bias=shift)

    deconvnet = mirrored(lambda x: run(x, lambda value: value), x, method)
    expected = jacobian(lambda x: run(x, Tensor.detach), x)
    assert_close(deconvnet(basis(deconvnet.map_shape)), expected, **EXACT)


def test_other_ops_are_flagged():
    steps = mirrored(lambda x: torch.special.i0(x).relu(), random(1, 1, 5)).steps
    assert [step.rule for step in steps if step.rule.flagged] == [GRADIENT]
    assert [step.op.node.meta["name"] for step in steps if step.rule.flagged] == ["body.i0#1"]


# --- laws --------------------------------------------------------------------------------------


@by_kind("adjoint")
def test_adjoint_law(case):
    """<A u, y> = <u, A' y>, where A u is a difference of two forward passes: no derivative."""
    deconvnet, step = deconvnet_of(case), 2.0**-10
    signal, u = signals_of(case, deconvnet, 1)[0], random(*case.shape, seed=12)
    moved = (case.run(case.x + step * u) - case.run(case.x)) / step
    assert_close((moved * signal).sum(), (u * deconvnet(signal)).sum(), **EXACT)


@by_kind("adjoint", "switch", "gradient")
def test_is_the_dense_transpose(case):
    deconvnet = deconvnet_of(case)
    assert_close(deconvnet(basis(deconvnet.map_shape)), jacobian(case.run, case.x), **EXACT)


@by_kind("hold")
def test_held_value_is_constant(case):
    """The transpose of a slow twin in which the statistic or gate is detached."""
    deconvnet = deconvnet_of(case)
    assert_close(case.held(case.x), case.run(case.x), **EXACT)
    assert_close(deconvnet(basis(deconvnet.map_shape)), jacobian(case.held, case.x), **EXACT)
    first, second = signals_of(case, deconvnet, 2)
    together = deconvnet(first) - 3 * deconvnet(second)
    assert_close(deconvnet(first - 3 * second), together, **EXACT)


@by_kind("rectify")
def test_rectify_law(case):
    signals = signals_of(case, deconvnet_of(case))
    rectified = signals.clamp(min=0)
    for signal, expected in zip(signals, rectified, strict=True):
        assert torch.equal(deconvnet_of(case)(signal), expected)
    guided = [deconvnet_of(case, "guided")(signal) for signal in signals]
    assert torch.equal(torch.stack(guided), rectified * (case.x > 0))


@by_kind("adjoint", "switch", "hold", "pass", "gradient")
def test_guided_differs_in_rectifiers_alone(case):
    signal = signals_of(case, deconvnet_of(case), 1)[0]
    assert_close(deconvnet_of(case, "guided")(signal), deconvnet_of(case)(signal), **ROUNDED)


@by_kind("pass")
def test_pass_law(case):
    signal = signals_of(case, deconvnet_of(case), 1)[0]
    assert_close(deconvnet_of(case)(signal), signal.to(case.x), rtol=0, atol=0)  # dtype too


@by_kind(*LAWS)
def test_method_gradient_is_autograd(case):
    if case.op == "detach":
        with pytest.raises(PathError, match="No signal can be carried"):
            deconvnet_of(case, "gradient")
        return
    deconvnet = deconvnet_of(case, "gradient")
    expected = jacobian(case.run, case.x)
    units = basis(deconvnet.map_shape, case.run(case.x).dtype)
    assert_close(torch.stack([deconvnet(unit) for unit in units]), expected, **EXACT)


@by_kind(*LAWS)
def test_several_signals_are_carried_as_one_by_one(case):
    for method in METHODS if case.op != "detach" else METHODS[:2]:
        deconvnet = deconvnet_of(case, method)
        signals = signals_of(case, deconvnet)
        one_by_one = torch.stack([deconvnet(signal) for signal in signals])
        assert_close(deconvnet(signals), one_by_one, **ROUNDED)


@by_kind(*LAWS)
def test_replay_is_the_map(case):
    seen = captured(case.run, case.x)
    assert_close(replay(seen), seen.kept[seen.tap], **ROUNDED)
    assert_close(replay(seen), case.run(case.x), **ROUNDED)


# --- one function, many spellings ----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tap", ["block", "output"])
@pytest.mark.parametrize("spelling", RECTIFIERS)
def test_spellings_of_relu_are_one(spelling, tap, method):
    """Whole networks, at a layer that is followed by one more ReLU and a max-pool."""
    raws = []
    for name in ("relu_module", f"relu_{spelling}"):
        entry = ARCHITECTURES[name]
        sonifier, x = Sonifier(built(entry, torch.float64)), waveforms(entry, torch.float64)
        raws.append(sonifier.sonify(x, layer="conv2", channel=[0, 3], tap=tap, method=method).raw)
    assert raws[0].any()
    assert_close(*raws, **ROUNDED)


FAMILIES: dict[str, tuple[Function, ...]] = {
    "relu": (
        F.relu,
        torch.relu,
        nn.ReLU(inplace=True),
        Tensor.relu_,
        lambda x: F.relu(x, inplace=True),
        lambda x: x.clip(min=0),
        lambda x: torch.clamp_min_(x, 0),
        lambda x: F.threshold_(x, 0, 0),
        lambda x: torch.max(x, torch.zeros_like(x)),
        lambda x: torch.maximum(x, x.new_zeros(())),
        lambda x: torch.where(x > 0, x, torch.zeros((), dtype=x.dtype)),
        lambda x: x.mul_(x > 0),
        lambda x: x * (x > 0).double(),
        lambda x: x * torch.gt(x, 0),
    ),
    "silu": (
        F.silu,
        nn.SiLU(inplace=True),
        lambda x: x * torch.sigmoid(x),
        lambda x: x.sigmoid() * x,
        lambda x: x.mul_(x.sigmoid()),
        lambda x: torch.sigmoid(x).mul_(x),
    ),
    "relu6": (
        F.relu6,
        nn.ReLU6(inplace=True),
        lambda x: F.hardtanh(x, 0, 6),
        lambda x: x.clamp(0, 6),
        lambda x: x.clamp_(0.0, 6.0),
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("family", "number"), [(name, n) for name, runs in FAMILIES.items() for n in range(len(runs))]
)
def test_spellings_of_an_activation_are_one(family, number, method):
    first, other = FAMILIES[family][0], FAMILIES[family][number]
    x, signal = random(2, 4, 9, seed=2), random(3, 2, 4, 9, seed=4)
    expected = mirrored(lambda x: first(x * 1), x, method)(signal)
    assert_close(mirrored(lambda x: other(x * 1), x, method)(signal), expected, **EXACT)


# --- reach -------------------------------------------------------------------------------------


def check_reach(run: Function, x: Tensor, field: ReceptiveField, exact: bool, edges: bool):
    """The field holds every sample that each moment of the output reads; `exact`: no more."""
    samples = x.shape[-1]
    for moment, read in enumerate(extents(run, x, field.axis)):
        first = ceil(moment * field.hop + field.start)
        last = floor(moment * field.hop + field.stop)
        inside = first >= 0 and last < samples
        if read is not None and (inside or edges):
            assert first <= read[0], (run, moment, field)
            assert read[1] <= last, (run, moment, field)
        if exact and inside:
            assert read == ((first, last) if first <= last else None), (run, moment, field)


@by_kind(*LAWS)
def test_reach(case):
    seen = captured(case.run, case.x)
    field = seen.receptive_fields[seen.tap]
    if "in training" in case.note:
        return  # what it draws changes more than what it reads
    windows = case.op in WINDOWS and not {"live", "constant", "complex"} & {*case.note.split()}
    exact = windows and case.kind != "gradient" and case.shape[-1] > 1
    assert field is not None or not exact
    if field is not None:
        check_reach(case.run, case.x, field, exact, edges=case.op not in MIRRORS)


# --- grids of geometry --------------------------------------------------------------------------

KERNELS = {"kernel_size": (1, 2, 3, 5), "stride": (1, 2, 3), "dilation": (1, 2)}
ALONE = {"kernel_size": 1, "stride": 1, "dilation": 1, "padding": 0}
"""A kernel that leaves the other axis of a plane alone."""
Geometry = tuple[nn.Module, tuple[int, ...]]


def grid(**choices: tuple) -> Iterator[dict]:
    for values in product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


def convolutions(length: int) -> Iterator[Geometry]:
    modes = ("zeros", "reflect", "replicate", "circular")
    for options in grid(**KERNELS, padding=(0, 1, 3), padding_mode=modes, groups=(1, 2)):
        yield nn.Conv1d(2, 4, **options), (2, 2, length)
    for options in grid(**KERNELS, padding=(0, 2)):
        yield nn.Conv1d(1, 3, **options), (2, 1, length)
    rest = {"padding": (0, 1, 3), "output_padding": (0, 1), "groups": (1, 2)}
    for options in grid(**KERNELS, **rest):
        yield nn.ConvTranspose1d(2, 4, **options), (2, 2, length)


def max_pools(length: int) -> Iterator[Geometry]:
    kernels = KERNELS | {"kernel_size": (1, 2, 3, 5, 18)}
    for options in grid(**kernels, padding=(0, 1, 2, 9), ceil_mode=(False, True)):
        yield nn.MaxPool1d(**options), (2, 2, length)


def average_pools(length: int) -> Iterator[Geometry]:
    rest = {"padding": (0, 1, 2), "ceil_mode": (False, True), "count_include_pad": (False, True)}
    for options in grid(kernel_size=(1, 2, 5), stride=(1, 2, 3), **rest):
        yield nn.AvgPool1d(**options), (2, 2, length)
    for kind, size in product((nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d), (1, 2, 3, 5, 7)):
        yield kind(size), (2, 2, length)


def planes(length: int) -> Iterator[Geometry]:
    """Time as rows, then as columns, of an image that is one pixel wide."""
    for options, order in product(grid(**KERNELS, padding=(0, 1, 2)), (1, -1)):
        both = {name: (value, ALONE[name])[::order] for name, value in options.items()}
        image = nn.Unflatten(2, (length, 1)[::order])
        yield nn.Sequential(image, nn.Conv2d(2, 2, **both)), (2, 2, length)
        yield nn.Sequential(image, nn.MaxPool2d(**both)), (2, 2, length)


GRIDS = pytest.mark.parametrize(
    ("kind", "length"),
    list(product((convolutions, max_pools, average_pools, planes), (1, 2, 7, 12, 19))),
)


@GRIDS
def test_geometries(kind, length):
    """One in thirteen, a prime, so that every choice of a grid meets every other."""
    check_geometries(kind(length), every=13)


@pytest.mark.slow
@GRIDS
def test_all_geometries(kind, length):
    check_geometries(kind(length), every=1)


def check_geometries(layers: Iterator[Geometry], every: int) -> None:
    torch.manual_seed(0)
    taken = [pair for pair in islice(layers, 0, None, every) if takes(*pair)]
    assert taken
    for layer, shape in taken:
        check_geometry(layer, torch.round(2 * random(*shape, seed=5)) / 2)


def takes(layer: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether torch does, and no window lies in the padding alone, where a maximum is -inf."""
    try:
        return bool(layer.double()(random(*shape)).isfinite().all())
    except (RuntimeError, ValueError):
        return False


def check_geometry(layer: nn.Module, x: Tensor) -> None:
    """The dense transpose (with ties, where two equal maxima meet) and the exact reach."""
    seen = captured(layer, x)
    deconvnet, field = mirror(seen), seen.receptive_fields[seen.tap]
    carried, expected = deconvnet(basis(deconvnet.map_shape)), jacobian(layer, x)
    assert torch.allclose(carried, expected, **EXACT), (layer, x.shape)
    if field is not None:
        gaps = isinstance(layer, nn.ConvTranspose1d) and layer.dilation > (1,)
        repeats = getattr(layer, "padding_mode", "zeros") != "zeros"
        # Of one sample any axis may be time: they all have its length.
        exact = x.shape[-1] > 1 and not gaps
        check_reach(layer, x, field, exact=exact, edges=not repeats)


@pytest.mark.parametrize("name", ["lstm.input", "gru.data", "rnn_relu.input", "matmul"])
def test_recurrent_layers_are_differentiated_without_cudnn(name):
    """Whose recurrent layers have no derivative in eval mode."""
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(torch.backends.cudnn.enabled)
        return 2 * x

    function.__name__ = name
    before = torch.backends.cudnn.enabled
    (back,) = adjoints.pull_back(function, [0])(torch.ones(3), (torch.ones(3),), {})
    assert torch.equal(back, torch.full((3,), 2.0))
    assert seen == [before and name == "matmul"]
    assert torch.backends.cudnn.enabled == before
