"""The whole way back: figure B.2 by hand, Captum, laws of the whole net, random networks."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, floor

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import (
    FRESH,
    SMOOTH,
    WRITES,
    Pure,
    RectifyingBackward,
    Step,
    Written,
    captured,
    derivative,
    mirrored,
    network,
    random,
)
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks.architectures import trained_like
from deconv1d import InputError, Sonifier
from deconv1d.mirror import mirror
from deconv1d.rules.adjoints import unpool, unpool_pairs
from deconv1d.rules.table import METHODS
from reference_models.cnn12 import CNN12

pytestmark = pytest.mark.filterwarnings("ignore::deconv1d.SilenceWarning")

EXACT = {"rtol": 1e-10, "atol": 1e-12}


# --- figure B.2 ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cnn12() -> CNN12:
    torch.manual_seed(0)
    return trained_like(CNN12(width=1 / 8)).double()


@torch.no_grad()
def by_hand(model: CNN12, x: Tensor, block: int, channel: int | None) -> tuple[Tensor, Tensor]:
    """Figure B.2, line by line: a map of one block, and what is left of it at the waveform."""
    layers, switches, sizes = model.features, {}, {}
    h = x
    for number in range(1, block + 1):
        conv = layers.get_submodule(f"conv{number}")
        h = F.relu(F.conv1d(h, conv.weight, conv.bias))
        if number <= 8:
            sizes[number] = h.shape[-1:]
            h, switches[number] = F.max_pool1d(h, 2, return_indices=True)
    current = h.clone()
    if channel is not None:
        current = torch.zeros_like(h)
        current[:, channel] = h[:, channel]
    for number in range(block, 0, -1):
        if number in switches:
            current = F.max_unpool1d(current, switches[number], 2, output_size=sizes[number])
        current = F.relu(current)
        current = F.conv_transpose1d(current, layers.get_submodule(f"conv{number}").weight)
    return h, current


@pytest.mark.parametrize("block", range(1, 12))
def test_figure_b2(cnn12, block):
    x = random(2, 1, 2901, seed=block)
    sonifier, layer = Sonifier(cnn12), f"conv{block}"
    whole, together = by_hand(cnn12, x, block, None)
    for channel in whole.mean((0, 2)).topk(2).indices.tolist():
        map_, raw = by_hand(cnn12, x, block, channel)
        s = sonifier.sonify(x, layer=layer, channel=channel)
        assert raw.any()
        assert_close(s.activation, map_, **EXACT)
        assert_close(s.raw, raw, rtol=0, atol=1e-10 * float(raw.abs().max()))
    raw = sonifier.deconvnet(x, layer)(whole)
    assert_close(raw, together, rtol=0, atol=1e-10 * float(together.abs().max()))


# --- Captum --------------------------------------------------------------------------------------


def rectified() -> nn.Sequential:
    """A network of nn.ReLU modules, none in place and none used twice, as Captum needs."""
    torch.manual_seed(0)
    layers = (
        nn.Conv1d(1, 6, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.MaxPool1d(3, 2, 1),
        nn.Conv1d(6, 8, 5, groups=2, dilation=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 4, 3),
        nn.ReLU(),
    )
    return trained_like(nn.Sequential(*layers)).double()


TAPS = [
    ("0", "output", 0),
    ("0", "block", 2),
    ("3", "output", 3),
    ("3", "block", 6),
    ("7", "output", 7),
    ("7", "block", 8),
]
"""A layer, a tap, and the module whose output is that map.

Captum starts from a module's output. At a convolution that is `tap="output"`: the raw map, with its
negative values. Where the block ends it is `tap="block"`.
"""


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations:UserWarning")
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients:UserWarning")
@pytest.mark.parametrize("method", ["deconvnet", "guided"])
@pytest.mark.parametrize(("layer", "tap", "place"), TAPS)
def test_captum(layer, tap, place, method):
    from captum.attr import NeuronDeconvolution, NeuronGuidedBackprop

    model, x = rectified(), random(2, 1, 83)
    s = Sonifier(model).sonify(x, layer=layer, channel="all", tap=tap, method=method)
    kind = {"deconvnet": NeuronDeconvolution, "guided": NeuronGuidedBackprop}[method]
    for channel, raw in enumerate(s.raw):
        # The gradient of this sum is the map: Captum would start with ones.
        expected = kind(model, model[place]).attribute(
            x.clone(), lambda a, c=channel: (a[:, c] * a[:, c].detach()).sum(-1)
        )
        assert_close(raw, expected, **EXACT)


# --- laws of the whole net ----------------------------------------------------------------------

STRIDE, FIELD = 8, 63  # of `rectified()` at its last convolution, in samples


@pytest.fixture
def sonifier() -> Sonifier:
    return Sonifier(rectified())


@pytest.fixture
def x() -> Tensor:
    return random(3, 1, 201)


@pytest.mark.parametrize("method", METHODS)
def test_positive_homogeneity(sonifier, x, method):
    deconvnet = sonifier.deconvnet(x, "7", method=method)
    seed = random(*deconvnet.map_shape)
    assert_close(deconvnet(2.5 * seed), 2.5 * deconvnet(seed), **EXACT)
    linear = torch.allclose(deconvnet(-seed), -deconvnet(seed))
    assert linear == (method == "gradient")


@pytest.mark.parametrize("method", METHODS)
def test_zero_in_zero_out(sonifier, x, method):
    deconvnet = sonifier.deconvnet(x, "7", method=method)
    assert not deconvnet(torch.zeros(deconvnet.map_shape, dtype=torch.float64)).any()


def test_a_seed_of_another_dtype_is_refused(sonifier, x):
    deconvnet = sonifier.deconvnet(x, "7")
    with pytest.raises(InputError, match=r"expected torch.float64, got torch.float32. Give seed"):
        deconvnet(torch.zeros(deconvnet.map_shape))


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_items(sonifier, x, method):
    asked = {"layer": "7", "channel": [1, 3], "method": method}
    items = [sonifier.sonify(item[None], **asked) for item in x]
    batch = sonifier.sonify(x, **asked)
    assert_close(batch.raw, torch.cat([item.raw for item in items], 1), **EXACT)
    assert_close(batch.waveform, torch.cat([item.waveform for item in items], 1), **EXACT)


@pytest.mark.parametrize("method", METHODS)
def test_channels_in_one_call_are_one_by_one(sonifier, x, method):
    asked = {"layer": "7", "method": method}
    alone = torch.stack([sonifier.sonify(x, channel=c, **asked).raw for c in range(4)])
    assert_close(sonifier.sonify(x, channel="all", **asked).raw, alone, **EXACT)
    assert_close(sonifier.sonify(x, channel=[2, 0, 2], **asked).raw, alone[[2, 0, 2]], **EXACT)
    active = sonifier.sonify(x, channel="most_active", **asked)
    own = torch.stack([alone[c, item] for item, c in enumerate(active.channel)])
    assert_close(active.raw, own, **EXACT)


def test_every_map_at_once_is_not_their_sum(sonifier, x):
    """Between the maps and the waveform a ReLU; at the first layer none is left to differ."""
    for layer, same in (("0", True), ("7", False)):
        together = sonifier.sonify(x, layer=layer, channel=None).raw
        alone = sonifier.sonify(x, layer=layer, channel="all").raw.sum(0)
        assert torch.allclose(together, alone) == same


@pytest.mark.parametrize("steps", [1, 3])
def test_shifts_by_the_total_stride_carry_over(sonifier, steps):
    """Exact where the map reads no end, nor does what the mirror spreads from it."""
    shift = steps * STRIDE
    x = random(1, 1, 400)
    before = sonifier.sonify(x, layer="7", channel=1).raw
    moved = sonifier.sonify(x.roll(shift, -1), layer="7", channel=1).raw
    inner = slice(shift + 2 * FIELD, -2 * FIELD)
    assert before[..., inner].any()
    assert_close(moved[..., inner], before.roll(shift, -1)[..., inner], **EXACT)


def test_other_shifts_do_not(sonifier):
    x = random(1, 1, 400)
    before = sonifier.sonify(x, layer="7", channel=1).raw
    moved = sonifier.sonify(x.roll(3, -1), layer="7", channel=1).raw
    assert not torch.allclose(moved[..., 130:-130], before.roll(3, -1)[..., 130:-130])


# --- what no single rule shows ------------------------------------------------------------------


def mixed_precision(x: Tensor) -> Tensor:
    h = F.conv1d(x.float(), random(2, 3, 3, dtype=torch.float32))
    return F.conv1d(F.relu(h).double() + x[:, :2, 1:-1], random(2, 2, 3))


def straight_through(x: Tensor) -> Tensor:
    """x + (q - x).detach(): the signal passes as if there had been no quantiser."""
    return 2 * (x + (torch.round(x) - x).detach())


def test_mixed_precision_is_carried():
    x, signal = random(2, 3, 9), random(2, 2, 5, seed=1)
    leaf = x.clone().requires_grad_()
    expected = derivative(mixed_precision(leaf), leaf, signal)
    assert_close(mirrored(mixed_precision, x, "gradient")(signal), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_straight_through_estimators_pass_the_signal(method):
    signal = random(2, 3, 9, seed=1)
    assert torch.equal(mirrored(straight_through, random(2, 3, 9), method)(signal), 2 * signal)


# --- random networks ----------------------------------------------------------------------------

FEW = settings(max_examples=50, deadline=None, derandomize=True)
MANY = settings(max_examples=500, deadline=None)


def steps(ops: Iterable[str]) -> st.SearchStrategy[list[Step]]:
    number = st.integers(0, 99)
    kinds = st.sampled_from([*ops, *WRITES, "cut"])
    sizes = (st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
    step = st.builds(Step, kinds, number, number, *sizes, groups=st.sampled_from([1, 2]))
    return st.lists(step, min_size=1, max_size=8)


def expected(plan: list[Step], x: Tensor, signal: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return derivative(network(plan, Pure)(leaf), leaf, signal)


def check_gradient(plan: list[Step], length: int) -> None:
    """In-place code is autograd's of its twin, and one value reads no more than its field."""
    x = random(2, 1, length)
    seen = captured(network(plan, Written), x, "gradient")
    map_, deconvnet = seen.kept[seen.tap], mirror(seen, method="gradient")
    assert_close(map_, network(plan, Pure)(x), **EXACT)
    signal = random(*map_.shape, seed=1)
    assert_close(deconvnet(signal), expected(plan, x, signal), **EXACT)
    if (field := seen.receptive_fields[seen.tap]) is not None:
        moment = map_.shape[field.axis] // 2
        alone = torch.zeros_like(map_)
        alone.select(field.axis, moment).copy_(signal.select(field.axis, moment))
        read = expected(plan, x, alone).any(0).flatten().nonzero().flatten().tolist()
        first, last = moment * field.hop + field.start, moment * field.hop + field.stop
        assert all(ceil(first) <= sample <= floor(last) for sample in read), (field, read)


def check_deconvnet(plan: list[Step], length: int) -> None:
    x = random(2, 1, length)
    # A dilated window may lie in the padding alone: then the map is not finite.
    assume(bool(network(plan, Written)(x).isfinite().all()))
    deconvnet = mirrored(network(plan, Written), x)
    signal = random(*deconvnet.map_shape, seed=1)
    with RectifyingBackward():
        oracle = expected(plan, x, signal)
    assert_close(deconvnet(signal), oracle, **EXACT)


@FEW
@given(steps([*FRESH, *SMOOTH]), st.integers(1, 40))
def test_random_networks_have_the_gradient_of_autograd(plan, length):
    check_gradient(plan, length)


@FEW
@given(steps(FRESH), st.integers(1, 40))
def test_random_networks_have_the_deconvnet_of_a_rectifying_autograd(plan, length):
    check_deconvnet(plan, length)


@pytest.mark.slow
@MANY
@given(steps([*FRESH, *SMOOTH]), st.integers(1, 40))
def test_many_random_networks_have_the_gradient_of_autograd(plan, length):
    check_gradient(plan, length)


@pytest.mark.slow
@MANY
@given(steps(FRESH), st.integers(1, 40))
def test_many_random_networks_have_the_deconvnet_of_a_rectifying_autograd(plan, length):
    check_deconvnet(plan, length)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("size", [12, 13])
def test_pairs_are_unpooled_as_any_windows_are(dtype, size):
    signal = random(3, 2, 6).to(dtype)
    switches = torch.tensor([0, 1, 1, 0, 1, 0], dtype=torch.uint8).expand(2, 6)
    pairs = unpool_pairs(signal, switches, size)
    assert torch.equal(pairs, unpool(signal, switches, 2, 0, 1, size))
    one_by_one = torch.func.vmap(lambda one: unpool_pairs(one, switches, size))(signal)
    assert torch.equal(one_by_one, pairs)
