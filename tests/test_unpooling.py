"""Unpooling without switches: against average pooling, NumPy's interpolation, whole networks."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import CASES
from oracles import captured, random
from torch import nn
from torch.testing import assert_close

from deconv1d import InputError, Sonifier
from deconv1d.mirror import mirror
from deconv1d.rules.table import RULES
from deconv1d.rules.unpooling import UNPOOL, rules_with

VARIANT = ("spread", "interpolate")
GRID = [
    (kernel, stride, padding, dilation, size, ceil)
    for kernel, stride, padding, dilation, size, ceil in product(
        (1, 2, 3, 5), (1, 2, 3), (0, 1), (1, 2), (9, 14), (False, True)
    )
    if padding <= kernel // 2
]


POOLS = [case for case in CASES if case.kind == "switch"]


def mirrored(function, x, unpool):
    capture = captured(function, x)
    return mirror(capture, rules=rules_with(RULES, unpool))


def windows(kernel, stride, padding, dilation, size, count):
    for number in range(count):
        places = [number * stride - padding + tap * dilation for tap in range(kernel)]
        yield [place for place in places if 0 <= place < size]


@pytest.mark.parametrize("geometry", GRID, ids=str)
def test_pools_on_a_grid_by_hand(geometry):
    kernel, stride, padding, dilation, size, ceil = geometry
    x = random(2, 3, size)

    def pool(x):
        return F.max_pool1d(x, kernel, stride, padding, dilation, ceil)

    count = pool(x).shape[-1]
    signal = random(2, 3, count, seed=1)
    each = list(windows(kernel, stride, padding, dilation, size, count))
    expected = torch.zeros_like(x)
    for number, places in enumerate(each):
        expected[..., places] += signal[..., number, None] / max(len(places), 1)
    assert_close(mirrored(pool, x, "spread")(signal), expected)
    middles = np.arange(count) * stride - padding + (kernel - 1) * dilation / 2
    rows = signal.reshape(-1, count).numpy()
    curves = np.stack([np.interp(np.arange(size), middles, row) for row in rows])
    assert_close(mirrored(pool, x, "interpolate")(signal), torch.tensor(curves).reshape(x.shape))


def test_spread_is_the_transpose_of_average_pooling():
    x = random(2, 3, 4, 12)
    pools = [
        (lambda x: F.max_pool2d(x, (2, 3), (2, 3)), lambda x: F.avg_pool2d(x, (2, 3), (2, 3))),
        (lambda x: F.adaptive_max_pool2d(x, (3, 5)), lambda x: F.adaptive_avg_pool2d(x, (3, 5))),
        (
            lambda x: F.max_pool2d(x, 3, 2, 1),
            lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        ),
        (lambda x: x.amax((2, 3)), lambda x: x.mean((2, 3))),
        (lambda x: x.max(-1, keepdim=True).values, lambda x: x.mean(-1, keepdim=True)),
    ]
    for pool, average in pools:
        signal = random(*pool(x).shape, seed=1)
        back = mirrored(pool, x, "spread")(signal)
        assert_close((average(x) * signal).sum(), (x * back).sum())


def test_interpolating_a_whole_axis_repeats_its_value():
    x = random(2, 3, 7)
    signal = random(2, 3, seed=1)
    back = mirrored(lambda x: x.amax(-1), x, "interpolate")(signal)
    assert_close(back, signal[..., None].expand(2, 3, 7))


@pytest.mark.parametrize("unpool", VARIANT)
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_every_case_of_the_table_is_linear_and_batched(case, unpool):
    deconvnet = mirrored(case.run, case.x, unpool)
    signals = random(3, *deconvnet.map_shape, seed=2)
    one = torch.stack([deconvnet(signal) for signal in signals])
    assert_close(deconvnet(signals), one)
    assert_close(deconvnet(2 * signals[0] - signals[1]), 2 * one[0] - one[1])
    assert not any(step.rule.flagged for step in deconvnet.steps)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv1d(1, 4, 7),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(4, 6, 5),
        nn.ReLU(),
        nn.MaxPool1d(3),
    ).double()


def test_a_network_by_hand():
    model, x = network(), random(1, 1, 81)
    found = Sonifier(model).sonify(x, layer="3", channel=2, unpool="spread")
    map_ = model(x).detach()
    assert_close(found.activation, map_)
    signal = torch.zeros_like(map_)
    signal[:, 2] = map_[:, 2]
    for convolution, pool, size in ((model[3], 3, 33), (model[0], 2, 75)):
        spread = torch.zeros(*signal.shape[:2], size, dtype=signal.dtype)
        shared = signal.repeat_interleave(pool, -1) / pool
        spread[..., : shared.shape[-1]] = shared
        signal = F.conv_transpose1d(spread.relu(), convolution.weight)
    assert_close(found.raw, signal.detach())


@pytest.mark.parametrize("unpool", VARIANT)
def test_the_plan_and_the_code_say_so(unpool):
    sonifier, x = Sonifier(network()), random(1, 1, 81)
    pools = [row for row in sonifier.plan(x, "3", unpool=unpool) if "max_pool" in row.op]
    assert len(pools) == 2
    assert all("in place of switches" in row.source and not row.flagged for row in pools)
    code = sonifier.deconvnet(x, "3", unpool=unpool).code
    assert f"unpooling_{unpool}(" in code
    assert "switches" not in code


def test_switches_are_the_default_and_know_the_input_best():
    sonifier, x = Sonifier(network()), random(1, 1, 2001)
    default = sonifier.sonify(x, layer="3", channel=1)
    assert torch.equal(default.raw, sonifier.sonify(x, layer="3", channel=1, unpool="switches").raw)
    coherence = {
        unpool: float(sonifier.sonify(x, layer="3", channel=1, unpool=unpool).coherence())
        for unpool in UNPOOL
    }
    assert max(coherence, key=coherence.get) == "switches"


def test_what_makes_no_sense_is_an_error():
    sonifier, x = Sonifier(network()), random(1, 1, 81)
    with pytest.raises(InputError, match="Unknown unpool 'bed'"):
        sonifier.sonify(x, layer="3", channel=0, unpool="bed")
    with pytest.raises(InputError, match="A gradient goes through the switches"):
        sonifier.sonify(x, layer="3", channel=0, method="gradient", unpool="spread")


def test_every_switch_of_the_table_is_replaced():
    """But for the maximum of everything, which leaves no axis to go back over."""
    for unpool, case in product(VARIANT, POOLS):
        kinds = {step.rule.kind for step in mirrored(case.run, case.x, unpool).steps}
        assert ("switch" in kinds) == (case.note == "of all with ties"), (unpool, case)


def test_an_op_of_ones_own_is_replaced_where_its_rule_says_so():
    """A table of the user's own: `Rule.unpool` is all that the variants go by."""
    pool = RULES[torch.ops.aten.max_pool1d]
    other = replace(pool, unpool="")
    for rule, variants in ((pool, True), (other, False)):
        rules = rules_with({**RULES, torch.ops.aten.max_pool1d: rule}, "spread")
        entry = rules[torch.ops.aten.max_pool1d]
        assert (entry.kind == "adjoint") == variants


def test_the_maximum_of_named_axes_may_name_none():
    """amax(x) and amax(x, ()) are the maximum over all axes."""
    x = random(2, 3, 5)
    back = mirrored(lambda x: x.amax(()), x, "spread")(torch.ones(()).double())
    assert_close(back, torch.full_like(x, 1 / x.numel()))
