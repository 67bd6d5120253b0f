"""The model is a guest: it comes back as it was, whatever its forward pass does to it."""

import contextlib
import copy
import random
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from untouched import untouched

from deconv1d import InputError, Sonifier


@pytest.fixture
def x():
    return torch.randn(2, 1, 60, generator=torch.manual_seed(1))


class Rude(nn.Module):
    """Changes in its forward pass what a forward pass can change."""

    def __init__(self, error=None):
        super().__init__()
        self.conv1, self.bn = nn.Conv1d(1, 4, 5), nn.BatchNorm1d(4)
        self.conv2, self.error = nn.Conv1d(4, 4, 3), error
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("hidden", torch.zeros(4))
        self.register_buffer("rebound", None)
        self.calls, self.cache, self.log, self.seen = 0, {}, [], set()
        self.table, self.mode = torch.zeros(3), "before"
        self.conv1.weight.grad = torch.ones_like(self.conv1.weight)
        self.conv1.bias.requires_grad_(False)
        self.bn.eval()  # partly frozen
        self.conv1.register_forward_hook(lambda *_: None)

    def forward(self, x):
        self.calls, self.mode, self.new = self.calls + 1, "after", x
        self.cache["x"] = x
        self.log.append(x.shape)
        self.seen.add(len(self.log))
        self.table[0] = random.random() + np.random.rand()
        self.conv1.weight.data = 2 * self.conv1.weight.data
        self.scale.data.add_(torch.rand(4))
        self.conv2.bias.data.zero_()
        self.conv2.register_forward_hook(lambda *_: None)
        y = self.conv1(x)
        self.hidden += y.mean((0, 2))
        self.hidden[1:].mul_(0.5)
        self.rebound = y.mean()
        y = F.relu(self.bn(y))
        self.train()
        self.conv2.eval()
        if self.error is not None:
            raise self.error
        return self.conv2(y) * self.scale[:, None]


@dataclass
class Memory:
    last: object = None
    past: list = field(default_factory=list)


class Owning(nn.Module):
    """Keeps all kinds of things as attributes, and changes each of them in its forward pass."""

    def __init__(self, error=None):
        super().__init__()
        self.conv, self.error = nn.Conv1d(1, 4, 5), error
        self.end = nn.Conv1d(4, 2, 3)
        self.torchs = torch.Generator().manual_seed(1)
        self.numpys, self.old = np.random.default_rng(1), np.random.RandomState(1)
        self.pythons = random.Random(1)
        self.window, self.memory = np.ones(4), Memory()
        self.space = SimpleNamespace(count=0, inner={"list": [1, [2, {"deep": [3]}]]})
        self.recent, self.pair = deque([1, 2], maxlen=2), ([], {})
        self.plain, self.other = torch.zeros(4), [torch.ones(4)]
        self.conv.weight.grad = torch.ones_like(self.conv.weight)

    def forward(self, x):
        y = self.conv(x)
        y = y + 0.1 * torch.randn(y.shape, generator=self.torchs)
        noise = self.numpys.normal(), self.old.normal(), self.pythons.random()
        self.window *= 0.5
        self.memory.last = noise
        self.memory.past.append(noise)
        self.space.count += 1
        self.space.inner["list"][1][1]["deep"].append(4)
        self.space.inner["new"] = noise
        self.recent.append(3)
        self.pair[0].append(1)
        self.pair[1]["x"] = x
        self.plain.add_(1)
        self.other[0].mul_(2)
        self.conv.weight.grad = None
        self.conv.bias.requires_grad_(False)
        self.end.weight.grad = torch.ones_like(self.end.weight)
        if self.error is not None:
            raise self.error
        return self.end(y * self.window.sum())


# --- after success and after failure -------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.float64], ids=str)
@pytest.mark.parametrize(
    "visit",
    [
        lambda s, x: s.sonify(x, layer="conv2", channel=[0, 1]),
        lambda s, x: s.sonify(x, layer="conv1", channel="all", tap="output", method="gradient"),
        lambda s, x: s.layers(x),
        lambda s, x: s.plan(x, "conv2"),
        lambda s, x: s.deconvnet(x, "conv2"),
    ],
    ids=["sonify", "stopped", "layers", "plan", "deconvnet"],
)
@pytest.mark.filterwarnings("ignore::deconv1d.SilenceWarning")
def test_a_visit_changes_nothing(x, visit, dtype):
    model = Rude()
    sonifier = Sonifier(model, dtype=dtype)
    for _ in range(2):
        with untouched(model):
            visit(sonifier, x)


@pytest.mark.parametrize("error", [None, ValueError])
@pytest.mark.parametrize("dtype", [None, torch.float64], ids=str)
def test_everything_that_a_model_owns_is_put_back(x, dtype, error):
    model = Owning(error and error())
    for _ in range(2):
        with untouched(model), contextlib.suppress(ValueError):
            Sonifier(model, dtype=dtype).sonify(x, layer="end", channel=0)


def test_a_dithering_model_trains_the_same_with_visits_in_between(x):
    def trained(visits):
        torch.manual_seed(0)
        model = Owning()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(3):
            optimiser.zero_grad()
            model(x).square().mean().backward()
            optimiser.step()
            for _ in range(visits):
                Sonifier(model).sonify(x, layer="end", channel=0)
        return list(model.parameters())

    for plain, visited in zip(trained(0), trained(2), strict=True):
        assert torch.equal(plain, visited)


ERRORS = [ValueError, KeyError, StopIteration, KeyboardInterrupt, SystemExit, GeneratorExit]


@pytest.mark.parametrize("error", ERRORS)
def test_an_exception_in_the_model_changes_nothing_and_comes_through(x, error):
    model = Rude(error("the model's own"))
    with untouched(model), pytest.raises(error, match="the model's own"):
        Sonifier(model).sonify(x, layer="conv2", channel=0)


@pytest.mark.parametrize("norm", [F.batch_norm, F.instance_norm])
def test_running_statistics_change_nothing(x, norm):
    class Adapting(nn.Module):
        """Normalises by the statistics of what it hears, also in eval mode."""

        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(1, 4, 5), nn.BatchNorm1d(4)

        def forward(self, x):
            mean, variance = self.norm.running_mean, self.norm.running_var
            return norm(self.conv(x), mean, variance, None, None, True)

    model = Adapting()
    with untouched(model):
        Sonifier(model).sonify(x, layer="conv", channel=0)


SWITCHES = {
    "fused attention": (
        torch.backends.mha.get_fastpath_enabled,
        torch.backends.mha.set_fastpath_enabled,
    ),
    "autocast cache": (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
}


@pytest.mark.parametrize("error", [None, ValueError])
@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("switch", SWITCHES)
def test_torchs_switches_stay_as_they_were_set(x, switch, state, error):
    read, turn = SWITCHES[switch]
    before = read()
    turn(state)
    try:
        with contextlib.suppress(ValueError):
            Sonifier(Rude(error and error())).sonify(x, layer="conv2", channel=0)
        assert read() == state
    finally:
        turn(before)


@pytest.mark.parametrize("samples", [1, 6])
def test_a_waveform_too_short_changes_nothing(x, samples):
    model = Rude()
    with untouched(model), pytest.raises(InputError, match="expected at least 7 samples"):
        Sonifier(model).sonify(x[..., :samples], layer="conv2", channel=0)


@pytest.mark.parametrize("given", [torch.clone, torch.Tensor.numpy], ids=["tensor", "array"])
def test_a_waveform_that_the_model_writes_into_comes_back_as_it_was(x, given):
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(1, 2, 3)

        def forward(self, x):
            return self.conv(x.sub_(x.mean()))

    waveform = given(x.clone())
    found = Sonifier(Centred()).sonify(waveform, layer="conv", channel=0)
    assert torch.equal(torch.as_tensor(waveform), x)
    assert torch.equal(found.input, x)


def test_eval_mode_inside_training_mode_outside(x):
    model = nn.Sequential(nn.Conv1d(1, 4, 5), nn.BatchNorm1d(4), nn.Dropout(), nn.Conv1d(4, 2, 3))
    model.train()
    with untouched(model):
        found = Sonifier(model).sonify(x, layer="3", channel=None)
    assert torch.equal(found.activation, copy.deepcopy(model).eval()(x))


def test_the_users_hooks_run_and_count(x):
    model = nn.Sequential(nn.Conv1d(1, 4, 5), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, output: 3 * output)
    with untouched(model):
        found = Sonifier(model).sonify(x, layer="0", channel=1, tap="output")
    plain = Sonifier(nn.Sequential(model[0])).sonify(x, layer="0", channel=1)
    assert torch.equal(found.activation, plain.activation)
    torch.testing.assert_close(found.activation, 3 * F.conv1d(x, model[0].weight, model[0].bias))


# --- wherever it is called from ------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    layers = OrderedDict(
        conv1=nn.Conv1d(1, 4, 5), act1=nn.ReLU(), pool=nn.MaxPool1d(2), conv2=nn.Conv1d(4, 3, 3)
    )
    return nn.Sequential(layers)


def heard(model, x):
    return Sonifier(model).sonify(x, layer="conv2", channel=[0, 2], method="guided").raw


@pytest.mark.parametrize("inference", [False, True], ids=["tensors", "inference tensors"])
@pytest.mark.parametrize(
    "context", [contextlib.nullcontext, torch.no_grad, torch.inference_mode, torch.enable_grad]
)
def test_grad_modes_do_not_matter(x, context, inference):
    expected = heard(network(), x)
    with torch.inference_mode(inference):
        model, given = network(), x.clone()
    assert given.is_inference() == inference
    for method in ("deconvnet", "guided", "gradient"):
        with context(), untouched(model):
            found = heard(model, given)
            Sonifier(model).sonify(given, layer="conv2", channel="all", method=method)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        assert not found.requires_grad


def test_autocast_is_used_forward_alone(x):
    model = network()
    expected = Sonifier(model).sonify(x, layer="conv2", channel=1)
    with torch.autocast("cpu", torch.bfloat16), untouched(model):
        found = Sonifier(model).sonify(x, layer="conv2", channel=1)
    assert found.raw.dtype == found.activation.dtype == x.dtype
    assert torch.equal(found.activation, found.activation.bfloat16().float())
    assert 0 < (found.raw - expected.raw).norm() / expected.raw.norm() < 2**-5


def test_the_mirror_knows_no_autocast(x):
    sonifier = Sonifier(network())
    deconvnet = sonifier.deconvnet(x, "conv2")
    seed = torch.rand(deconvnet.map_shape)
    with torch.autocast("cpu", torch.bfloat16):
        found = deconvnet(seed)
    assert torch.equal(found, deconvnet(seed))


@pytest.mark.parametrize("context", [contextlib.nullcontext, torch.inference_mode])
def test_gradients_of_layers_made_in_inference_mode(x, context):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.lstm = nn.Conv1d(1, 4, 4), nn.LSTM(4, 3, batch_first=True)

        def forward(self, x):
            return self.lstm(self.conv(x).transpose(1, 2))[0]

    with torch.inference_mode():
        made = Recurrent()
    found, expected = [], []
    for model, raw in ((made, found), (Recurrent(), expected)):
        with context():
            raw.append(Sonifier(model).sonify(x, layer="lstm", channel=[0, 2]).raw)
    torch.testing.assert_close(found, expected)


class Inner(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.module = model

    def forward(self, x):
        return self.module(x)


def data_parallel(model):
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        return nn.parallel.DistributedDataParallel(model)
    finally:
        torch.distributed.destroy_process_group()


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


WRAPPED = {
    "torch.compile": lambda m: torch.compile(m, backend="eager"),
    "Module.compile": compiled_in_place,
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": data_parallel,
    "compiled DataParallel": lambda m: torch.compile(nn.DataParallel(m), backend="eager"),
    "own wrapper": Inner,
    "compiled own wrapper": lambda m: torch.compile(Inner(m), backend="eager"),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrapped_models_give_what_is_inside(x, wrapper):
    model = network()
    wrapped = WRAPPED[wrapper](model)
    if "Distributed" not in wrapper:
        wrapped(x)  # compiled by now
    sonifier = Sonifier(wrapped)
    for layer in ("conv2", "module.conv2", "_orig_mod.module.conv2"):
        with untouched(model):
            found = sonifier.sonify(x, layer=layer, channel=[0, 2], method="guided")
        assert found.layer == ("module.conv2" if "own" in wrapper else "conv2")
        assert torch.equal(found.raw, heard(network(), x))


@pytest.mark.parametrize("layer", ["conv2", "body.conv2", "body._orig_mod.conv2"])
def test_compiled_layers_run_as_they_were_written(x, layer):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    body = torch.compile(network(), backend=backend)
    model = nn.Sequential(OrderedDict(body=body, end=nn.AvgPool1d(2)))
    model(x)
    with untouched(model):
        found = Sonifier(model).sonify(x, layer=layer, channel=[0, 2], method="guided")
    assert torch.equal(found.raw, heard(network(), x))
    assert len(compiled) == 1


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "build", [torch.jit.script, lambda m: torch.jit.trace(m, torch.zeros(1, 1, 60))]
)
@pytest.mark.parametrize("training", [False, True])
def test_scripts_are_sonified_by_op(x, build, training):
    script = build(network()).train(training)
    before = {name: value.clone() for name, value in script.state_dict().items()}
    found = Sonifier(script).sonify(x, layer="convolution#2", channel=[0, 2], method="guided")
    assert torch.equal(found.raw, heard(network(), x))
    assert all(m.training == training for m in script.modules())
    assert all(torch.equal(value, before[name]) for name, value in script.state_dict().items())


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_frozen_scripts_have_no_parameters_and_are_sonified_all_the_same(x):
    script = torch.jit.freeze(torch.jit.script(network().eval()))
    found = Sonifier(script).sonify(x, layer="convolution#2", channel=[0, 2], method="guided")
    torch.testing.assert_close(found.raw, heard(network(), x), rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("layer", ["body.convolution#2", "convolution#2", "body"])
def test_scripts_within_models(x, layer):
    model = nn.Sequential(OrderedDict(body=torch.jit.script(network()), end=nn.AvgPool1d(2)))
    found = Sonifier(model).sonify(x, layer=layer, channel=[0, 2], method="guided")
    assert torch.equal(found.raw, heard(network(), x))


@pytest.mark.parametrize("caught", [Exception, BaseException])
def test_models_that_swallow_exceptions(x, caught):
    handled = []

    class Swallowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.after = network(), nn.ReLU()

        def forward(self, x):
            for _ in range(2):
                try:
                    return self.after(self.inner(x))
                except caught as error:
                    handled.append(error)
            return self.after(torch.zeros(1))

    model = Swallowing()
    sonifier = Sonifier(model)
    for _ in range(2):  # the second time it is stopped early
        with untouched(model):
            found = sonifier.sonify(x, layer="conv2", channel=[0, 2], tap="output", method="guided")
        assert torch.equal(found.raw, heard(network(), x))
    assert caught is BaseException or not handled  # being stopped is no error of the model's
