"""Models that run some of their work in other threads, or call a layer now once, now twice."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from .attack import Attack, Function, noise

THREADS = "work in other threads"
X = noise(2, 4, 9, seed=2)
POOL = ThreadPoolExecutor(2)


def _in_a_pool(h: Tensor) -> Tensor:
    with ThreadPoolExecutor(2) as pool:
        a, b = pool.submit(torch.sin, h), pool.submit(torch.cos, h)
        return a.result() + b.result() * h


def _in_a_pool_that_lasts(h: Tensor) -> Tensor:
    return POOL.submit(lambda: h.sin() * 2).result() + h


def _by_map(h: Tensor) -> Tensor:
    with ThreadPoolExecutor(3) as pool:
        return torch.cat(list(pool.map(torch.exp, h.split(2, 1))), 1)


def _in_a_thread(h: Tensor) -> Tensor:
    found: dict[str, Tensor] = {}
    worker = threading.Thread(target=lambda: found.update(branch=h.exp()))
    worker.start()
    worker.join()
    return found["branch"] + h


class Worker(threading.Thread):
    """A thread that is a class."""

    def __init__(self, h: Tensor) -> None:
        super().__init__()
        self.h, self.future = h, Future[Tensor]()

    def run(self) -> None:
        """Works."""
        self.future.set_result(self.h.tanh())


def _in_a_thread_class(h: Tensor) -> Tensor:
    worker = Worker(h)
    worker.start()
    return worker.future.result() * h


def _async(h: Tensor) -> Tensor:
    async def both() -> Tensor:
        a, b = await asyncio.gather(asyncio.to_thread(h.sin), asyncio.to_thread(h.cos))
        return a * b

    return asyncio.run(both())


def _writes(h: Tensor) -> Tensor:
    y = h * 2
    with ThreadPoolExecutor(1) as pool:
        pool.submit(y.sin_).result()
    return y + h


def _forked(h: Tensor) -> Tensor:
    future = torch.jit.fork(torch.sin, h)
    return torch.jit.wait(future) + h  # type: ignore[no-any-return]  # torch's is untyped


class Branches(nn.Module):
    """Two convolutions, each in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 3).double(), nn.Conv1d(4, 4, 3).double()

    def forward(self, h: Tensor) -> Tensor:
        """Sums them."""
        with ThreadPoolExecutor(2) as pool:
            a, b = pool.map(lambda layer: layer(h), (self.a, self.b))
        return a + b.relu()  # type: ignore[no-any-return]  # layers are untyped


PLACES: dict[str, Function] = {
    "a pool": _in_a_pool,
    "a pool that lasts": _in_a_pool_that_lasts,
    "map of a pool": _by_map,
    "a thread": _in_a_thread,
    "a thread that is a class": _in_a_thread_class,
    "asyncio": _async,
    "a write": _writes,
    "torch.jit.fork": _forked,
}

ATTACKS = [Attack(THREADS, name, lambda f=f: f, X) for name, f in PLACES.items()] + [
    Attack(THREADS, "layers in a pool", Branches, X, None)
]


class OnceOrTwice(nn.Module):
    """A layer that runs twice where `decide` says so, which no op shows."""

    def __init__(self, decide: Any) -> None:
        super().__init__()
        self.conv, self.decide = nn.Conv1d(1, 1, 3).double(), decide

    def forward(self, x: Tensor) -> Tensor:
        """Runs it once or twice."""
        h = self.conv(x)
        return self.conv(h) if self.decide(x) else h  # type: ignore[no-any-return]  # any


DECISIONS: dict[str, Any] = {
    "numpy": lambda x: x.numpy().max() > 5,
    "tolist": lambda x: max(x.flatten().tolist()) > 5,
    "numel": lambda x: x[x > 5].numel() > 0,
    "nonzero": lambda x: (x > 5).nonzero().shape[0] > 0,
    "Python's random numbers": lambda x: random.random() > 0.5,
    "an attribute": lambda x: _Switch.on,
}
"""Each is true of a waveform that is louder than 5, but for the last two."""


class _Switch:
    on = False
