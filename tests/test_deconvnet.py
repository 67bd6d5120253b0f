"""The mirrored network that `Sonifier.deconvnet` hands out, and the plan of it."""

import re
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from deconv1d import RULES, InputError, Rule, Sonifier


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = OrderedDict(
        conv1=nn.Conv1d(1, 4, 5, stride=3),
        act1=nn.ReLU(),
        mp1=nn.MaxPool1d(2),
        conv2=weight_norm(nn.Conv1d(4, 6, 3)),
        bn2=nn.BatchNorm1d(6),
        act2=nn.ReLU(),
        mp2=nn.MaxPool1d(3, 2),
        tanh=nn.Tanh(),
        conv3=nn.Conv1d(6, 2, 3),
    )
    model = nn.Sequential(layers).double().eval()
    model.bn2.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture
def model():
    return network()


@pytest.fixture
def sonifier(model):
    return Sonifier(model)


@pytest.fixture
def x():
    return torch.randn(2, 1, 201, dtype=torch.float64, generator=torch.manual_seed(1))


def raw(sonifier, x, **asked):
    return sonifier.sonify(x, **{"layer": "conv3", "channel": [0, 1], **asked}).raw


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# --- the module ----------------------------------------------------------------------------------


def test_its_parameters_are_the_models_own_objects(model, sonifier, x):
    deconvnet = sonifier.deconvnet(x, "conv3")
    found = {deconvnet.names[name]: p for name, p in deconvnet.named_parameters()}
    own = dict(model.named_parameters())
    original = "conv2.parametrizations.weight.original"
    expected = {"conv1.weight", f"{original}0", f"{original}1", "bn2.weight", "conv3.weight"}
    assert set(found) == expected
    assert all(found[name] is own[name] for name in expected)


def test_its_buffers_are_the_switches_and_what_is_held(model, sonifier, x):
    deconvnet = sonifier.deconvnet(x, "mp2", tap="output")
    buffers = dict(deconvnet.named_buffers())
    switches = [buffer for name, buffer in buffers.items() if name.startswith("switches")]
    assert sorted(tuple(s.shape) for s in switches) == [(2, 4, 33), (2, 6, 15)]
    assert all(s.dtype == torch.uint8 for s in switches)
    own = {deconvnet.names[name]: buffer for name, buffer in buffers.items()}
    assert own["bn2.running_var"] is model.bn2.running_var
    assert len(buffers) == 3


def test_its_code_reads_as_figure_b2(sonifier, x):
    code = sonifier.deconvnet(x, "mp2", tap="output").code
    steps = re.findall(r"= \S*?(unpool|relu|batch_norm_scale|conv_transpose)(?:_pairs|_)?\(", code)
    block2 = ["unpool", "relu", "batch_norm_scale", "conv_transpose"]
    assert steps == [*block2, "unpool", "relu", "conv_transpose"]


def test_a_seed_or_many_along_a_leading_axis_give_raw(sonifier, x):
    deconvnet = sonifier.deconvnet(x, "conv2")
    seeds = torch.randn(3, *deconvnet.map_shape, dtype=torch.float64)
    assert deconvnet.map_shape == (2, 6, 15)
    before = seeds.clone()
    together = deconvnet(seeds)
    assert torch.equal(seeds, before)
    assert together.shape == (3, *x.shape)
    for seed, one in zip(seeds, together, strict=True):
        close(deconvnet(seed), one)
    whole = sonifier.sonify(x, layer="conv2", channel=None)
    assert torch.equal(deconvnet(whole.activation), whole.raw)


@pytest.mark.parametrize("shape", [(), (6, 15), (2, 6, 14), (1, 6, 15), (2, 2, 2, 6, 15)])
def test_a_seed_of_another_shape_is_an_error(sonifier, x, shape):
    message = rf"expected shape \(2, 6, 15\) or \(seeds, 2, 6, 15\), got {re.escape(str(shape))}"
    with pytest.raises(InputError, match=message):
        sonifier.deconvnet(x, "conv2")(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("tap", ["block", "output"])
@pytest.mark.parametrize("method", ["deconvnet", "guided", "gradient"])
def test_it_takes_tap_and_method_as_sonify_does(sonifier, x, tap, method):
    found = sonifier.sonify(x, layer="conv2", channel=None, tap=tap, method=method)
    deconvnet = sonifier.deconvnet(x, "conv2", tap=tap, method=method)
    assert torch.equal(deconvnet(found.activation), found.raw)


CASTS = {
    "to": lambda d: d.to(torch.float64),
    "to device": lambda d: d.to("cpu"),
    "half": lambda d: d.half(),
    "float": lambda d: d.float(),
    "double": lambda d: d.double(),
    "bfloat16": lambda d: d.bfloat16(),
    "cpu": lambda d: d.cpu(),
    "cuda": lambda d: d.cuda(),
    "type": lambda d: d.type(torch.float16),
}


@pytest.mark.parametrize("cast", CASTS)
def test_moving_or_casting_it_is_refused(model, sonifier, x, cast):
    deconvnet = sonifier.deconvnet(x, "conv3")
    with pytest.raises(InputError, match=r"the model's own, so this would convert the model\. Con"):
        CASTS[cast](deconvnet)
    assert {p.dtype for p in model.parameters()} == {torch.float64}


# --- weights are tied ----------------------------------------------------------------------------


def step(model):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimiser.step()


def load(model):
    other = {
        name: torch.rand_like(value) for name, value in model.state_dict().items() if value.dim()
    }
    model.load_state_dict(other, strict=False)


@pytest.mark.parametrize("change", [step, load])
def test_new_weights_are_heard(model, sonifier, x, change):
    before = raw(sonifier, x)
    change(model)
    after = raw(sonifier, x)
    assert not torch.allclose(before, after)
    fresh = network()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(after, raw(Sonifier(fresh), x))


@pytest.mark.parametrize("change", [step, load])
def test_a_deconvnet_in_hand_follows_new_weights(model, sonifier, x, change):
    # Up to mp1 by one set of switches, from there on by the weights alone.
    deconvnet = sonifier.deconvnet(x, "conv1", tap="output")
    seed = torch.randn(deconvnet.map_shape, dtype=torch.float64)
    change(model)
    expected = F.conv_transpose1d(seed, model.conv1.weight, stride=3, output_padding=1)
    close(deconvnet(seed), expected)


@pytest.mark.parametrize("change", [step, load])
def test_computed_weights_are_computed_from_the_new_parameters(model, sonifier, x, change):
    deconvnet = sonifier.deconvnet(x, "conv2", tap="output")
    seed = torch.randn(deconvnet.map_shape, dtype=torch.float64)
    (name,) = (name for name, op in deconvnet.names.items() if op == "mp1.max_pool1d#1")
    switches = deconvnet.get_buffer(name).long()
    change(model)
    signal = F.conv_transpose1d(seed, model.conv2.weight)
    places = 2 * torch.arange(signal.shape[-1]) + switches[..., : signal.shape[-1]]
    signal = signal.new_zeros(2, 4, 66).scatter(-1, places, signal)
    signal = F.pad(signal, (0, 66 - signal.shape[-1])).relu()
    expected = F.conv_transpose1d(signal, model.conv1.weight, stride=3, output_padding=1)
    close(deconvnet(seed), expected)


# --- the plan, and rules -------------------------------------------------------------------------


def test_the_plan_names_every_op_from_the_map_to_the_waveform(sonifier, x):
    plan = sonifier.plan(x, "conv3")
    assert [(row.op, row.rule, row.reach, row.flagged) for row in plan] == [
        ("conv3.convolution#1", "adjoint", "3, 1, 0", False),
        ("tanh.tanh#1", "pass", "1, 1, 0", False),
        ("mp2.max_pool1d#1", "switch", "3, 2, 0", False),
        ("act2.relu#1", "rectify", "1, 1, 0", False),
        ("bn2.batch_norm#1", "adjoint", "1, 1, 0", False),
        ("conv2.convolution#1", "adjoint", "3, 1, 0", False),
        ("mp1.max_pool1d#1", "switch", "2, 2, 0", False),
        ("act1.relu#1", "rectify", "1, 1, 0", False),
        ("conv1.convolution#1", "adjoint", "5, 3, 0", False),
    ]
    assert {(row.rule, row.law) for row in plan} == {
        ("adjoint", "<Ax, y> = <x, A'y>"),
        ("pass", "identity"),
        ("switch", "adjoint at the switches"),
        ("rectify", "relu(signal)"),
    }
    cited = [row.op for row in plan if "paper, section 3.2" in row.source]
    assert cited == [row.op for row in plan if not row.op.startswith(("tanh", "bn2"))]


def test_the_plan_follows_tap_and_method(sonifier, x):
    assert [row.op for row in sonifier.plan(x, "conv1")][:2] == ["mp1.max_pool1d#1", "act1.relu#1"]
    (row,) = sonifier.plan(x, "conv1", tap="output")
    assert row.op == "conv1.convolution#1"
    sources = {method: sonifier.plan(x, "mp1", method=method) for method in ("guided", "gradient")}
    assert [len(rows) for rows in sources.values()] == [3, 3]


def test_the_plan_prints_one_line_an_op(sonifier, x):
    plan = sonifier.plan(x, "mp1")
    title, head, *lines = str(plan).splitlines()
    assert title.startswith("verified")
    assert head.split() == ["op", "rule", "law", "reach", "source", "flagged", "line"]
    assert [line.split()[0] for line in lines] == [row.op for row in plan]
    assert plan._repr_html_().count("<tr>") == 4


def test_the_plan_says_where_the_model_calls_each_op(x):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 2, 3).double()

        def forward(self, x):
            return F.relu(self.conv(x))

    (relu, conv) = Sonifier(Functional()).plan(x, "conv")
    line = Functional.forward.__code__.co_firstlineno + 1
    assert (relu.op, relu.line) == ("relu#1", f"{__file__}:{line}")
    assert (conv.op, conv.line) == ("conv.convolution#1", f"{__file__}:{line}")


@pytest.mark.parametrize("method", ["deconvnet", "guided"])
def test_rules_are_extended_by_value(model, x, method):
    relu = torch.ops.aten.relu

    def carry_back(op, signal, emit):
        yield op["self"], emit(torch.mul, signal, 3.0)

    rules = {**RULES, relu: Rule("pass", carry_back)}
    found = Sonifier(model, rules=rules).sonify(
        x, layer="act1", channel=1, tap="output", method=method
    )
    usual = Sonifier(model).sonify(x, layer="conv1", channel=1, tap="output", seed=F.relu)
    close(found.raw, 3 * usual.raw)
    assert RULES[relu].kind == "rectify"


class Sine(nn.Module):
    """An activation for which the table has nothing better than the gradient."""

    def forward(self, x):
        return x.sin()


@pytest.mark.parametrize(("layer", "share"), [("conv2", 0), ("sine", 1 / 3), ("last", 1 / 4)])
def test_flagged_is_the_share_of_ops_with_nothing_better_than_a_gradient(x, layer, share):
    layers = OrderedDict(conv1=nn.Conv1d(1, 2, 3), conv2=nn.Conv1d(2, 2, 3), sine=Sine())
    model = nn.Sequential(layers | {"last": nn.Conv1d(2, 2, 3)}).double()
    found = Sonifier(model).sonify(x, layer=layer, channel=1, tap="output")
    assert found.flagged == share
