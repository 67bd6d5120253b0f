"""The mirror is compiled from a graph: no name of the model's gets into its source, or stays."""

import gc
import linecache
import re
import sys

import pytest
import torch
import torch.fx.graph_module
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from deconv1d import Sonifier

NAMES = {
    "an expression": "setattr(__import__('sys'), 'ran', 1)",
    "an expression behind a value": "a if setattr(__import__('sys'), 'ran', 1) else b",
    "a keyword": "class",
    "a builtin": "print",
    "single quotes": "it's",
    "double quotes": 'say "yes"',
    "both quotes": 'it\'s "so"',
    "three quotes": '"""',
    "a backslash": "a\\",
    "a line end": "a\nraise SystemExit",
    "a carriage return": "a\rraise SystemExit",
    "spaces": "  two words ",
    "brackets": "a[0]",
    "braces": "{a}",
    "other scripts": "слой",
    "an emoji": "🔊",
    "our own words": "constant_0",
    "the mirror's own words": "weight_0",
    "self": "self",
    "the mirror's attributes": "steps",
    "nothing but digits": "0",
}


class Named(nn.Module):
    """Ops with weights, switches and held values, in modules of this name."""

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        self.name = name
        body = nn.Module()
        body.add_module(name, weight_norm(nn.Conv1d(1, 4, 5)))
        body.register_parameter(name + "s", nn.Parameter(torch.rand(4)))
        body.register_buffer(name + "b", torch.rand(4, 1))
        pool = nn.Module()
        pool.add_module(name, nn.MaxPool1d(2))
        self.add_module("body", body)
        self.add_module("pool", pool)
        self.add_module("norm", nn.GroupNorm(2, 4))
        self.end = nn.Conv1d(4, 2, 3)

    def forward(self, x):
        body, name = self.body, self.name
        x = getattr(body, name)(x) * getattr(body, name + "s")[:, None] + getattr(body, name + "b")
        x = x * getattr(body, name + "b") + torch.tensor(0.5)
        return self.end(getattr(self.pool, name)(self.norm(x).relu()))


@pytest.fixture
def x():
    return torch.randn(1, 1, 60, generator=torch.manual_seed(1))


@pytest.mark.parametrize("method", ["deconvnet", "guided", "gradient"])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_modules_are_data(x, name, method):
    plain = Sonifier(Named("plain")).sonify(x, layer="end", channel=[0, 1], method=method)
    sonifier = Sonifier(Named(NAMES[name]))
    found = sonifier.sonify(x, layer="end", channel=[0, 1], method=method)
    assert torch.equal(found.raw, plain.raw)
    assert torch.equal(found.waveform, plain.waveform)
    assert sonifier.layers(x)
    assert not hasattr(sys, "ran")


def test_names_in_the_code_come_from_a_counter(x):
    name = "secretword"
    deconvnet = Sonifier(Named(name)).deconvnet(x, "end")
    assert name not in deconvnet.code
    attributes = set(re.findall(r"self\.(\w+)", deconvnet.code))
    assert attributes == set(deconvnet.names)
    assert all(re.fullmatch(r"(weight|switches|held|kept)_\d+", own) for own in attributes)
    assert f"body.{name}s" in deconvnet.names.values()
    assert f"pool.{name}.max_pool1d#1" in deconvnet.names.values()


def sources():
    return set(torch.fx.graph_module._loader.eval_cache), set(linecache.cache)


def test_the_source_of_a_mirror_goes_with_it(x):
    sonifier = Sonifier(Named("plain"))
    for _ in range(3):  # from the third on, the mirror of the second is used again
        sonifier.sonify(x, layer="end", channel=0)
    gc.collect()
    before = sources()
    for _ in range(5):
        sonifier.sonify(x, layer="end", channel=0)
    gc.collect()
    assert sources() == before
    deconvnet = sonifier.deconvnet(x, "end")
    gc.collect()
    key = type(deconvnet).forward.__code__.co_filename
    assert "conv_transpose" in "".join(linecache.getlines(key))  # a traceback can quote it
    deconvnet.recompile()
    del deconvnet
    gc.collect()
    assert sources() == before
