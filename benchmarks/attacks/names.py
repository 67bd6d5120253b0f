"""Names of modules, parameters and buffers that would be source text if they got into a program."""

from __future__ import annotations

import gc
import linecache
import re
import sys

import torch
import torch.fx.graph_module
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from deconv1d import Sonifier

from .attack import Check, noise

NAMES_AS_SOURCE = "names as source"
GROWTH = "slow and growing"

X = noise(1, 1, 60, dtype=torch.float32)
RUNS = "setattr(__import__('sys'), 'ran', 1)"

NAMES = {
    "an expression": RUNS,
    "an expression behind a value": f"weight if {RUNS} else 0",
    "an f-string": "{" + RUNS + "}",
    "a walrus": f"(weight := {RUNS})",
    "a decorator": f"@{RUNS}\n",
    "a line end and a statement": f"a\n    {RUNS}\n",
    "a form feed": f"a\f{RUNS}",
    "a carriage return": f"a\r{RUNS}",
    "a line separator": f"a\u2028{RUNS}",
    "a semicolon": f"a; {RUNS}",
    "a comment": "a # b",
    "a comment that ends": f"'''\n{RUNS}\n'''",
    "a lambda": f"(lambda: {RUNS})()",
    "a comprehension": f"[{RUNS} for _ in range(1)][0]",
    "single quotes": "it's",
    "double quotes": 'a"b',
    "three quotes": '"""',
    "a backslash": "a\\",
    "an escape": "\\x41\\n",
    "a format": "%s {0} {name!r}",
    "a keyword": "lambda",
    "a soft keyword": "match",
    "a constant": "None",
    "a dunder": "__class_getitem__",
    "a builtin": "exec",
    "the name of the waveform": "signal",
    "the name of torch": "torch",
    "the name of an op": "conv1d",
    "a name of the mirror": "switches_0",
    "another": "held_0",
    "digits": "1e5",
    "a full-width letter": "ａ",
    "two letters that are one": "ﬁ",
    "an invisible sign": "a\u200bb",
    "from right to left": "\u202eabc",
    "a lone surrogate": "\udcff",
    "a null": "a\0b",
    "a space": " ",
    "very long": "n" * 5000,
    "slashes": "//etc/passwd",
    "an html tag": "<script>alert(1)</script>",
    "a hash": "a#2",
    "an arrow": "a->b",
}


class Named(nn.Module):
    """Weights, switches and held values in modules of one name, several deep."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.name = name
        body, pool = nn.Module(), nn.Module()
        body.add_module(name, weight_norm(nn.Conv1d(1, 4, 5)))
        body.register_parameter(name + "s", nn.Parameter(torch.rand(4)))
        body.register_buffer(name + "b", torch.rand(4, 1))
        pool.add_module(name, nn.Sequential(nn.GroupNorm(2, 4), nn.MaxPool1d(2)))
        self.add_module(name + "x", body)
        self.add_module("pool", pool)
        self.end = nn.Conv1d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Uses all of them."""
        body, name = getattr(self, self.name + "x"), self.name
        h = getattr(body, name)(x) * getattr(body, name + "s")[:, None] + getattr(body, name + "b")
        return self.end(getattr(self.pool, name)(h * h.sigmoid()).relu())  # type: ignore[no-any-return]  # untyped


def _is_data(name: str) -> None:
    """Every way to the mirror gives what a plain name gives, and nothing of the name runs."""
    vars(sys).pop("ran", None)  # of another attack
    plain = Sonifier(Named("plain"), sample_rate=8000)
    sonifier = Sonifier(Named(name), sample_rate=8000)
    for method in ("deconvnet", "guided", "gradient"):
        expected = plain.sonify(X, layer="end", channel=[0, 1], method=method)
        found = sonifier.sonify(X, layer="end", channel=[0, 1], method=method)
        assert torch.equal(found.raw, expected.raw)
        program = sonifier.prepare(X, layer="end", method=method)
        assert torch.equal(program(X, channel=[0, 1]).raw, expected.raw)
    deconvnet = sonifier.deconvnet(X, "end")
    attributes = set(re.findall(r"self\.(\w+)", deconvnet.code))
    assert all(re.fullmatch(r"(weight|switches|held|kept)_\d+", own) for own in attributes)
    assert RUNS not in deconvnet.code
    assert str(sonifier.layers(X))
    assert str(sonifier.plan(X, "end"))
    assert sonifier.layers(X)._repr_html_().find("<script>") == -1
    assert not hasattr(sys, "ran")


class Chain(nn.Module):
    """Very many pointwise ops."""

    def __init__(self, ops: int) -> None:
        super().__init__()
        self.ops = ops
        self.conv = nn.Conv1d(1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Adds and multiplies."""
        h = self.conv(x)
        for _ in range(self.ops // 2):
            h = h * 1.0001 + 0.0001
        return h  # type: ignore[no-any-return]  # untyped


def _work(ops: int) -> int:
    """Function calls of `layers` on a chain: a measure of work that no other program disturbs."""
    calls = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call"

    sonifier = Sonifier(Chain(ops), verify=False)
    sys.setprofile(count)
    try:
        sonifier.layers(X)
    finally:
        sys.setprofile(None)
    return calls


def _linear() -> None:
    """Twice the ops are twice the work."""
    short, long = _work(400), _work(800)
    assert long < 2.3 * short, (short, long)


def _flat(use: str) -> None:
    """Nothing of a call stays: no source text, no cached line, no object."""
    sonifier = Sonifier(Chain(60), sample_rate=8000, verify=False)

    def call() -> None:
        if use == "prepare":
            sonifier.prepare(X, layer="conv", tap="output")(X, channel=0)
        elif use == "a sonifier each":  # one uses the mirror of equal graphs again
            Sonifier(Chain(60), verify=False).sonify(X, layer="conv", channel=0, tap="output")
        elif use == "deconvnet":
            sonifier.deconvnet(X, "conv", tap="output")
        else:
            seed = "peak" if use == "a peak" else "activation"
            method = "gradient" if use == "the gradient" else "deconvnet"
            layer = "add#30" if use == "a long way" else "conv"
            sonifier.sonify(X, layer=layer, channel=0, seed=seed, method=method, tap="output")

    def held() -> tuple[int, int, int]:
        gc.collect()
        texts = torch.fx.graph_module._loader.eval_cache
        return len(texts), len(linecache.cache), len(gc.get_objects())

    call()
    call()
    before = held()
    for _ in range(10):
        call()
    after = held()
    assert after[:2] == before[:2], (before, after)
    assert after[2] - before[2] < 50, (before, after)


USES = ("sonify", "a sonifier each", "a long way", "a peak", "the gradient", "prepare", "deconvnet")

ATTACKS = [
    *(Check(NAMES_AS_SOURCE, name, lambda n=text: _is_data(n)) for name, text in NAMES.items()),
    Check(GROWTH, "layers on a long chain", _linear),
    *(Check(GROWTH, f"memory of {use}", lambda u=use: _flat(u)) for use in USES),
]
