"""Models that remember things in every way that Python has: a visit must leave no trace.

Each model's output depends on what it remembers. One is visited by this library and then run, a
twin is only run: both must say the same. No list of what can be remembered is needed for that.
"""

from __future__ import annotations

import array
import collections
import itertools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deconv1d import Sonifier
from deconv1d.errors import Deconv1dError, ModelError
from deconv1d.evaluation.ablation import ablation
from deconv1d.record.unchanged import SETTINGS

from .attack import Check, noise

GUEST = "the guest promise"

X = noise(1, 1, 900, dtype=torch.float32)


@dataclass
class Memory:
    """A record that is changed."""

    count: int = 0
    past: list[float] = field(default_factory=list)


class Slots:
    """An object without a dictionary."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Counter:
    """An object of the model's own, with an object in it."""

    def __init__(self) -> None:
        self.count, self.inner = 0, Memory()

    def step(self) -> float:
        """Counts in both."""
        self.count += 1
        self.inner.count += 2
        self.inner.past.append(0.5)
        return self.count + self.inner.count + len(self.inner.past)


class Pair(NamedTuple):
    """A tuple of things that change."""

    numbers: list[int]
    table: dict[str, int]


class Remembers(nn.Module):
    """Makes something of its own, and steps it at each forward pass."""

    def __init__(self, make: Callable[[], Any], step: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.end = nn.Conv1d(1, 3, 5), nn.Conv1d(3, 2, 3)
        self.step = step
        self.own = make()

    def forward(self, x: Tensor) -> Tensor:
        """The step is a factor."""
        return self.end(self.conv(x).sin() * self.step(self, self.own))  # type: ignore[no-any-return]  # untyped


def _set(target: Any, name: str, value: Any) -> float:
    setattr(target, name, value)
    return float(value)


def _rebind(s: Any, own: Any) -> float:
    s.own = own + 1
    return s.own


def _append(s: Any, own: Any) -> float:
    own.append(len(own))
    return len(own)


def _deep(s: Any, own: Any) -> float:
    own["a"][0][1].append(1)
    own["a"][0][1][0]["b"] = own["a"][0][1][0].get("b", 0) + 1
    return len(own["a"][0][1]) + own["a"][0][1][0]["b"]


def _new_buffer(s: Any, own: Any) -> Any:
    if hasattr(s, "grown"):
        s.grown += 1
    else:
        s.register_buffer("grown", torch.ones(()))
    return s.grown


def _new_module(s: Any, own: Any) -> float:
    s.add_module(f"extra{len(s._modules)}", nn.Identity())
    return len(s._modules)


def _new_attribute(s: Any, own: Any) -> float:
    if hasattr(s, "gone"):
        return 1.0
    s.gone = 2
    return 3.0


def _hooked(s: Any, own: Any) -> float:
    s.end.register_forward_hook(lambda module, args, output: output * 2)
    return 1.0


def _weights(s: Any, own: Any) -> float:
    with torch.no_grad():
        s.conv.weight.mul_(1.1)
        s.end.bias.data = s.end.bias.data + 1
    return 1.0


def _new_parameter(s: Any, own: Any) -> float:
    s.conv.weight = nn.Parameter(s.conv.weight.detach() * 1.5)
    return 1.0


def _lost_parameter(s: Any, own: Any) -> float:
    found = 1.0 if s.end.bias is None else 2.0
    s.end.bias = None
    return found


def _frozen(s: Any, own: Any) -> float:
    was = s.conv.weight.requires_grad
    s.conv.weight.requires_grad_(False)
    return 1.0 + was


def _gradient(s: Any, own: Any) -> float:
    was = 1.0 if s.end.weight.grad is None else 2.0 + float(s.end.weight.grad.sum())
    s.end.weight.grad = torch.ones_like(s.end.weight)
    return was


def _grown_gradient(s: Any, own: Any) -> float:
    if s.conv.weight.grad is None:
        s.conv.weight.grad = torch.ones_like(s.conv.weight)
    s.conv.weight.grad.add_(1)
    return float(s.conv.weight.grad.mean())


def _seeded(s: Any, own: Any) -> Any:
    drawn = torch.rand(())
    torch.manual_seed(int(drawn * 1000))
    return drawn + random.random() + np.random.rand()


def _numpy_array(s: Any, own: Any) -> float:
    own += 1
    return float(own.sum())


def _structured(s: Any, own: Any) -> float:
    own["a"] += 1
    own["b"][0] = 7 + own["a"][0]
    return float(own["a"].sum() + own["b"].sum())


def _swapped(s: Any, own: Any) -> float:
    s.conv.bias.data, own[0] = own[0], s.conv.bias.data
    return 1.0


def _mode(s: Any, own: Any) -> float:
    was = s.end.training
    s.end.train(not was)
    return 1.0 + was


def _default_dtype(s: Any, own: Any) -> float:
    found = torch.get_default_dtype() == torch.float64
    torch.set_default_dtype(torch.float64)
    return 1.0 + found


def _threads(s: Any, own: Any) -> float:
    was = torch.get_num_threads()
    torch.set_num_threads(was % 2 + 1)
    return float(was)


def _deterministic(s: Any, own: Any) -> float:
    was = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True, warn_only=True)
    return 1.0 + was


def _numpy_errors(s: Any, own: Any) -> float:
    was = np.geterr()["over"] == "raise"
    np.seterr(over="raise")
    return 1.0 + was


KEEPS: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], Any]]] = {
    "a number": (int, _rebind),
    "a list": (list, _append),
    "a list in a dict in a list": (lambda: {"a": [(0, [{}])]}, _deep),
    "a deque": (lambda: collections.deque([1, 2], maxlen=5), _append),
    "a set": (set, lambda s, own: (own.add(len(own)), len(own))[1]),
    "a counter of collections": (
        collections.Counter,
        lambda s, own: (own.update("a"), own["a"])[1],
    ),
    "a default dict": (
        lambda: collections.defaultdict(list),
        lambda s, own: (own["a"].append(1), len(own["a"]))[1],
    ),
    "an ordered dict": (
        collections.OrderedDict,
        lambda s, own: (own.update({str(len(own)): 1}), len(own))[1],
    ),
    "a named tuple": (
        lambda: Pair([], {}),
        lambda s, own: (
            own.numbers.append(1),
            own.table.update({str(len(own.numbers)): 1}),
            len(own.table),
        )[2],
    ),
    "a dataclass": (Memory, lambda s, own: _set(own, "count", own.count + 1)),
    "a namespace": (
        lambda: SimpleNamespace(count=0),
        lambda s, own: _set(own, "count", own.count + 1),
    ),
    "an object with slots": (Slots, lambda s, own: _set(own, "count", own.count + 1)),
    "an object of its own": (Counter, lambda s, own: own.step()),
    "bytes that change": (lambda: bytearray(b"a"), lambda s, own: (own.extend(b"b"), len(own))[1]),
    "an array": (lambda: array.array("d", [1]), lambda s, own: (own.append(2), sum(own))[1]),
    "an iterator": (lambda: itertools.count(1), lambda s, own: next(own)),
    "an iterator of a list": (lambda: iter(range(9)), lambda s, own: next(own)),
    "a NumPy array": (lambda: np.zeros(3), _numpy_array),
    "an array of records": (
        lambda: np.zeros(2, dtype=[("a", "f8"), ("b", "i4")]),
        _structured,
    ),
    "a generator of torch's": (
        lambda: torch.Generator().manual_seed(1),
        lambda s, own: torch.rand((), generator=own),
    ),
    "a generator of NumPy's": (lambda: np.random.default_rng(1), lambda s, own: own.random()),
    "NumPy's older generator": (lambda: np.random.RandomState(1), lambda s, own: own.rand()),
    "a bit generator": (
        lambda: np.random.PCG64(1),
        lambda s, own: own.random_raw() % 97,
    ),
    "a generator of Python's": (lambda: random.Random(1), lambda s, own: own.random()),
    "generators in a list": (
        lambda: [random.Random(1), {"g": np.random.default_rng(1)}],
        lambda s, own: own[0].random() + own[1]["g"].random(),
    ),
    "the global generators": (int, _seeded),
    "a tensor": (lambda: torch.zeros(()), lambda s, own: own.add_(1)),
    "a tensor in a list": (lambda: [torch.zeros(())], lambda s, own: own[0].add_(1)),
    "a tensor of its own in an object": (
        lambda: SimpleNamespace(t=torch.zeros(())),
        lambda s, own: own.t.add_(1),
    ),
    "a new buffer": (int, _new_buffer),
    "a new module": (int, _new_module),
    "a new attribute": (int, _new_attribute),
    "a hook": (int, _hooked),
    "weights": (int, _weights),
    "a new parameter": (int, _new_parameter),
    "a parameter that goes": (int, _lost_parameter),
    "a parameter that is swapped": (lambda: [torch.ones(3)], _swapped),
    "requires_grad": (int, _frozen),
    "a new gradient": (int, _gradient),
    "a gradient that grows": (int, _grown_gradient),
    "a mode": (int, _mode),
    "the default dtype": (int, _default_dtype),
    "the number of threads": (int, _threads),
    "deterministic algorithms": (int, _deterministic),
    "what NumPy does on overflow": (int, _numpy_errors),
}
USES: dict[str, Callable[[Sonifier], Any]] = {
    "sonify": lambda s: s.sonify(X, layer="end", channel=0),
    "layers": lambda s: s.layers(X),
    "maps": lambda s: s.maps(X, layer="conv"),
}


def _leaves_no_trace(make: Callable[[], Any], step: Callable[[Any, Any], Any]) -> None:
    """A visited model goes on as its twin does, which was not visited."""

    def runs(visit: Callable[[Sonifier], Any] | None) -> list[Tensor]:
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)
        settings = [(set_to, read()) for read, set_to in SETTINGS]
        try:
            model = Remembers(make, step).eval()
            sonifier = Sonifier(model, sample_rate=8000)
            outputs = []
            for _ in range(3):
                # Also before the first run: what that changes for good, no later visit can show.
                if visit is not None:
                    visit(sonifier)
                outputs.append(model(X).detach())
            return outputs
        finally:
            for set_to, before in settings:
                set_to(before)

    expected = runs(None)
    for name, use in USES.items():
        for found, plain in zip(runs(use), expected, strict=True):
            assert torch.equal(found, plain), f"{name} left a trace"


# --- other threads --------------------------------------------------------------------------------


class Beside:
    """Another thread's runs of a model while it is visited."""

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []
        self.running: Future[None] | None = None
        self.visitor = threading.get_ident()

    def wait_for_one(self) -> None:
        """Hold the visit, inside the model's pass, until a run has begun and ended meanwhile."""
        if self.running is None or threading.get_ident() != self.visitor:
            return
        seen = len(self.outputs)
        while len(self.outputs) < seen + 2 and not self.running.done():  # done: it has failed
            time.sleep(1e-4)


class Waits(nn.Module):
    """What is visited runs beside another thread at this place, however short the visit is."""

    def forward(self, x: Tensor) -> Tensor:
        """Hold a visit until another thread has run the model, where one does."""
        BESIDE.wait_for_one()
        return x


BESIDE = Beside()


def _network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv1d(1, 4, 5), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 3, 3)]
    return nn.Sequential(*layers, Waits()).eval()


VISITS: dict[str, tuple[Callable[[Sonifier], Any], dict[str, Any]]] = {
    "sonify": (lambda s: s.sonify(X, layer="3", channel=0), {}),
    "layers": (lambda s: s.layers(X), {}),
    "a prepared program": (lambda s: s.prepare(X, layer="3")(X, channel=0), {}),
    "verification, always": (lambda s: s.sonify(X, layer="3", channel=0), {"verify": "always"}),
    "sonify in double precision": (
        lambda s: s.sonify(X, layer="3", channel=0),
        {"dtype": torch.float64},
    ),
    "the card": (lambda s: s.control_card(X, layer="3", channel=0), {}),
    "the card in double precision": (
        lambda s: s.control_card(X, layer="3", channel=0),
        {"dtype": torch.float64},
    ),
}


def _others_see_nothing(visit: Callable[[Sonifier], Any], options: dict[str, Any]) -> None:
    """Plain runs of the model in another thread are right at all times."""
    global BESIDE
    model, done, BESIDE = _network(), threading.Event(), Beside()
    plain = model(X).detach()

    def run() -> None:
        while not done.is_set():
            BESIDE.outputs.append(model(X).detach())

    with ThreadPoolExecutor(1) as pool:
        BESIDE.running = pool.submit(run)
        try:
            visit(Sonifier(model, sample_rate=8000, **options))
        finally:
            done.set()
        BESIDE.running.result()
        assert len(BESIDE.outputs) > 1
        assert all(torch.equal(output, plain) for output in BESIDE.outputs)


# --- who hides the model --------------------------------------------------------------------------

Forward = Callable[[Any, Tensor], Tensor]


def _pair() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("conv", nn.Conv1d(1, 3, 5))
    model.add_module("end", nn.Conv1d(3, 2, 3))
    return model.eval()


def _by_forward() -> tuple[nn.Module, Forward]:
    own = _pair()
    return own, lambda model, x: own(x)


def _in_part() -> tuple[nn.Module, Forward]:
    own = _pair()
    return own, lambda model, x: model.end(own.get_submodule("conv")(x))


def _in_a_partial() -> tuple[nn.Module, Forward]:
    own = _pair()

    return own, partial(lambda conv, model, x: model.end(conv(x)), own.get_submodule("conv"))


class _Holder:
    """An object that is called, and holds the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, model: Any, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]  # a model is untyped


def _by_an_object() -> tuple[nn.Module, Forward]:
    own = _pair()
    return own, _Holder(own)


def _by_a_hook() -> tuple[nn.Module, Forward | None]:
    own = _pair()
    weight = own.get_parameter("conv.weight")
    own.end.register_forward_pre_hook(lambda layer, args: (args[0] * weight.sum(),))
    return own, None


def _behind_the_layer() -> tuple[nn.Module, Forward]:
    own = _pair()
    weight = own.get_parameter("conv.weight")
    return own, lambda model, x: F.conv_transpose1d(model.conv(x), weight)


HIDING: dict[str, Callable[[], tuple[nn.Module, Forward | None]]] = {
    "forward= holds the model": _by_forward,
    "forward= holds a layer": _in_part,
    "forward= is a partial function that holds a layer": _in_a_partial,
    "forward= is an object that holds the model": _by_an_object,
    "a hook holds a weight": _by_a_hook,
    "the weight is read behind the layer": _behind_the_layer,
}
ALTERED: dict[str, tuple[str, Callable[[Sonifier, str], Any]]] = {
    "the card": ("", lambda s, layer: s.control_card(X, layer=layer, channel=0)),
    "removal of a channel": (
        "",
        lambda s, layer: ablation(s, X, "conv.weight", 0, 1, torch.Generator()),
    ),
    "a shuffled weight": (
        "behind the layer",
        lambda s, layer: s.with_weights(
            {"conv.weight": torch.zeros_like(s.model.get_parameter("conv.weight"))}
        ).sonify(X, layer=layer, channel=0),
    ),
}


def _is_refused(
    build: Callable[[], tuple[nn.Module, Forward | None]], use: Callable[[Sonifier, str], Any]
) -> None:
    """A run with other weights says by name which of the model's own it would use."""
    model, forward = build()
    layer = "conv" if build is _behind_the_layer else "end"
    try:
        use(Sonifier(model, sample_rate=8000, forward=forward), layer)
    except ModelError as error:
        if "'conv.weight' cannot be replaced" in str(error):
            raise
        raise AssertionError(f"the weight is not named: {error}") from error
    except Deconv1dError as error:
        raise AssertionError(f"the weight is not named: {error}") from error
    raise AssertionError("what was told of other weights was of the model's own")


def _refused(name: str) -> str | None:
    return "Python cannot put an iterator back" if "iterator" in name else None


ATTACKS = [
    *(
        Check(GUEST, name, lambda m=make, s=step: _leaves_no_trace(m, s), _refused(name))
        for name, (make, step) in KEEPS.items()
    ),
    *(
        Check(
            GUEST,
            f"another thread during {name}",
            lambda v=visit, o=options: _others_see_nothing(v, o),
        )
        for name, (visit, options) in VISITS.items()
    ),
    *(
        Check(
            GUEST,
            f"{use} where {name}",
            lambda b=build, u=run: _is_refused(b, u),
            "a run with other weights cannot be made where the model's own are held elsewhere",
        )
        for name, build in HIDING.items()
        for use, (but, run) in ALTERED.items()
        if not but or but not in name
    ),
]
