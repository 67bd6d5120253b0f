"""Runs with other weights, or in another dtype, happen in a copy that no other thread can see."""

import functools
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from untouched import untouched

from deconv1d import Sonifier
from deconv1d.errors import InputError, ModelError
from deconv1d.evaluation.ablation import ablation
from deconv1d.evaluation.randomisation import shuffle_weights
from deconv1d.record.copies import copy_with

RATE = 8000


@pytest.fixture
def x():
    return torch.randn(1, 1, 600, generator=torch.manual_seed(1))


def tower():
    torch.manual_seed(0)
    layers = nn.Conv1d(1, 6, 9), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv1d(6, 8, 5), nn.ReLU()
    return nn.Sequential(*layers)


class Beside:
    """Runs a model again and again in a thread of its own."""

    def __init__(self, model, x):
        self.outputs, self.errors, self.over = [], [], threading.Event()
        self.thread = threading.Thread(target=self.run, args=(model, x))

    def run(self, model, x):
        while not self.over.is_set() or not self.outputs:
            try:
                self.outputs.append(model(x).detach())
            except Exception as error:
                self.errors.append(error)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.over.set()
        self.thread.join()


def card(model, x):
    Sonifier(model, sample_rate=RATE, verify=False).control_card(x, layer="3", draws=1)


def double(model, x):
    for _ in range(8):
        Sonifier(model, dtype=torch.float64).sonify(x, layer="3", channel=0)


def shuffle(model, x):
    owners = [name for name, module in model.named_modules() if isinstance(module, nn.Conv1d)]
    for seed in range(8):
        twin = shuffle_weights(Sonifier(model), owners, torch.Generator().manual_seed(seed))
        twin.sonify(x, layer=owners[-1], channel="all")


@pytest.mark.parametrize("visit", [card, double, shuffle])
@pytest.mark.parametrize("training", [False, True])
def test_another_threads_plain_run_sees_nothing(x, visit, training):
    model = tower().train(training)
    plain = model(x).detach()
    with Beside(model, x) as beside:
        visit(model, x)
    assert beside.errors == []
    assert len(beside.outputs) > 1
    assert all(torch.equal(output, plain) for output in beside.outputs)


@pytest.mark.parametrize("visit", [double, shuffle])
def test_another_threads_dropout_stays_on(x, visit):
    """Of a copy: the evaluation mode of the copy is nobody else's."""
    model = nn.Sequential(
        nn.Dropout(1.0), nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Conv1d(2, 2, 3)
    ).train()
    plain = model(x).detach()
    with Beside(model, x) as beside:
        visit(model, x)
    assert beside.errors == []
    assert all(torch.equal(output, plain) for output in beside.outputs)


# --- what is copied ------------------------------------------------------------------------------


@dataclass
class Record:
    module: nn.Module


class Keeps(nn.Module):
    """Reaches one convolution by an attribute of many kinds."""

    def __init__(self, kind):
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)
        self.end = nn.Conv1d(2, 2, 3)
        self.call = {
            "module": lambda: self.conv,
            "list": lambda: [self.conv],
            "tuple in a dict": lambda: {"a": (self.conv,)},
            "record": lambda: Record(self.conv),
            "method": lambda: self.conv.forward,
            "partial": lambda: functools.partial(self.conv.forward),
            "weight": lambda: functools.partial(
                torch.nn.functional.conv1d, weight=self.conv.weight, bias=self.conv.bias
            ),
        }[kind]()

    def forward(self, x):
        call = self.call
        call = call[0] if isinstance(call, list) else call["a"][0] if type(call) is dict else call
        return self.end((call.module if isinstance(call, Record) else call)(x))


KINDS = ["module", "list", "tuple in a dict", "record", "method", "partial", "weight"]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_keeps_a_module_uses_the_other_weights(x, kind):
    model, other = Keeps(kind).double(), Keeps(kind).double()
    weights = {name: w.detach() for name, w in other.named_parameters()}
    with untouched(model.conv), untouched(model.end):
        found = Sonifier(model).with_weights(weights).maps(x.double(), layer="end")
    assert torch.equal(found, Sonifier(other).maps(x.double(), layer="end"))


def scripted():
    torch.manual_seed(0)
    return torch.jit.script(nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Conv1d(2, 2, 3)))


SCRIPTS = {
    "script": (scripted, "", "convolution#2"),
    "script within": (lambda: nn.Sequential(scripted(), nn.Conv1d(2, 2, 3)), "0.", "1"),
    "recurrent": (lambda: nn.Sequential(nn.Flatten(1, 2), nn.LSTM(600, 3)), "1.", "1"),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(1, 2, 3))),
        "0.",
        "0",
    ),
    "compiled inside": (lambda: nn.Sequential(torch.compile(nn.Conv1d(1, 2, 3))), "0.", "0"),
}


@pytest.mark.parametrize("case", SCRIPTS)
def test_scripts_and_other_modules_are_copied(x, case):
    build, prefix, layer = SCRIPTS[case]
    model = build()
    plain = Sonifier(model).maps(x, layer=layer)
    weights = {n: 2 * w.detach() for n, w in model.named_parameters() if n.startswith(prefix)}
    twin = Sonifier(model).with_weights(weights)
    found = twin.maps(x, layer=layer)
    assert torch.equal(Sonifier(model).maps(x, layer=layer), plain)
    for name, weight in model.named_parameters():
        if name in weights:
            weight.data.copy_(weights[name])
    assert torch.equal(found, Sonifier(model).maps(x, layer=layer))
    again = Sonifier(model, dtype=torch.float64).sonify(x, layer=layer, channel=0)
    assert torch.allclose(again.activation, found, atol=1e-5)


class Dithers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.generator = nn.Conv1d(1, 2, 3), torch.Generator().manual_seed(0)
        self.numpy, self.window = np.random.default_rng(0), np.ones(1)

    def forward(self, x):
        self.window *= 2
        noise = torch.rand(x.shape, generator=self.generator) + self.numpy.random()
        return self.conv(x + noise * float(self.window[0]))


def test_the_way_back_is_by_the_other_weights(x):
    model, other = tower(), tower()
    with torch.no_grad():
        other[0].weight.neg_()
    sonifier = Sonifier(model)
    own = sonifier.sonify(x, layer="3", channel=0).raw
    twin = sonifier.with_weights({"0.weight": other[0].weight})
    found = twin.sonify(x, layer="3", channel=0).raw
    assert torch.equal(found, Sonifier(other).sonify(x, layer="3", channel=0).raw)
    assert not torch.equal(found, own)
    assert torch.equal(sonifier.sonify(x, layer="3", channel=0).raw, own)


def test_what_a_run_changes_is_the_copys_own(x):
    model = Dithers()
    twin = copy_with(model, {})
    with untouched(model):
        twin(x)
    assert twin.conv.weight is model.conv.weight
    assert twin.conv is not model.conv


def test_tied_weights_are_replaced_under_every_name(x):
    model = nn.Sequential(nn.Conv1d(1, 1, 3), nn.Conv1d(1, 1, 3))
    model[1].weight = model[0].weight
    twin = copy_with(model, {"1.weight": torch.zeros(1, 1, 3)})
    assert twin[0].weight is twin[1].weight
    assert not twin[0].weight.any()


# --- what hides the model ------------------------------------------------------------------------


class Closure(nn.Module):
    def __init__(self):
        super().__init__()
        conv = self.conv = nn.Conv1d(1, 2, 3)
        self.run = lambda x: conv(x)
        self.end = nn.Conv1d(2, 2, 3)

    def forward(self, x):
        return self.end(self.run(x))


class Transposed(nn.Module):
    """Keeps a view of its weight as a plain tensor."""

    def __init__(self):
        super().__init__()
        self.conv, self.end = nn.Conv1d(1, 2, 1), nn.Conv1d(2, 2, 3)
        self.other = self.conv.weight.detach()[:, 0].t()

    def forward(self, x):
        return self.end((x.mT @ self.other).mT)


def hiding_forward():
    net = nn.Sequential()
    net.add_module("conv", nn.Conv1d(1, 2, 3))
    net.add_module("end", nn.Conv1d(2, 2, 3))
    return net, lambda model, x: model.end(net.conv(x))


HIDDEN = {
    "forward": hiding_forward,
    "closure": lambda: (Closure(), None),
    "view": lambda: (Transposed(), None),
}
REFUSED = r"'conv.weight' cannot be replaced.*the model itself"


@pytest.mark.parametrize("case", HIDDEN)
def test_altered_weights_are_refused_by_name_where_the_model_is_hidden(x, case):
    model, forward = HIDDEN[case]()
    sonifier = Sonifier(model, forward=forward)
    twin = sonifier.with_weights({"conv.weight": torch.zeros_like(model.conv.weight)})
    with pytest.raises(ModelError, match=REFUSED):
        twin.maps(x, layer="end")
    other = torch.zeros_like(model.end.weight)  # which nothing hides
    found = sonifier.with_weights({"end.weight": other}).maps(x, layer="end")
    assert torch.equal(found, model.end.bias.detach()[:, None].expand_as(found))


def behind_the_layer():
    """The model's own weight is read again, behind the layer that is listened to."""
    net = nn.Sequential()
    net.add_module("conv", nn.Conv1d(1, 2, 3))
    net.add_module("end", nn.Conv1d(2, 2, 3))
    return net, lambda model, x: F.conv_transpose1d(model.end(model.conv(x)), net.conv.weight)


def test_the_removal_of_a_channel_sees_the_whole_model(x):
    model, forward = behind_the_layer()
    sonifier = Sonifier(model, sample_rate=RATE, forward=forward)
    with pytest.raises(ModelError, match=REFUSED):
        ablation(sonifier, x, "conv.weight", 0, 1, torch.Generator())
    with pytest.raises(ModelError, match=REFUSED):
        sonifier.control_card(x, layer="conv", channel=0)
    # Nothing hides these.
    alone, others = ablation(sonifier, x, "end.weight", 0, 1, torch.Generator())
    assert 0 < alone <= 1
    assert 0 < others <= 1


@pytest.mark.parametrize("case", ["forward", "closure"])
def test_so_are_the_controls_of_a_card(x, case):
    model, forward = HIDDEN[case]()
    sonifier = Sonifier(model, sample_rate=RATE, forward=forward)
    with pytest.raises(ModelError, match=REFUSED):
        sonifier.control_card(x, layer="end", channel=0)


def test_an_unknown_weight_is_refused():
    with pytest.raises(InputError, match=r"'2.weight' is not one of the model's.*'0.weight'"):
        Sonifier(tower()).with_weights({"2.weight": torch.zeros(1)})


def test_twins_are_verified_once_for_all(x, monkeypatch):
    sonifier = Sonifier(tower(), sample_rate=RATE)
    sonifier.sonify(x, layer="3", channel=0)
    verification, checks = type(sonifier._forward_pass.verification), []
    check = verification._check
    monkeypatch.setattr(verification, "_check", lambda *a: checks.append(a) or check(*a))
    found = shuffle_weights(sonifier, ["3"], torch.Generator()).sonify(x, layer="3", channel=0)
    assert found.verified.signal < 1e-4
    sonifier.control_card(x, layer="3", draws=2)
    assert checks == []
