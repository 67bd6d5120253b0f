"""Models that run some of their work in other threads, or call a layer now once, now twice."""

from __future__ import annotations

import _thread
import asyncio
import ctypes
import os
import queue
import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from multiprocessing.pool import ThreadPool
from typing import Any

import torch
from torch import Tensor, nn

from .attack import Attack, Function, noise

THREADS = "work in other threads"
X = noise(2, 4, 9, seed=2)
POOL = ThreadPoolExecutor(2)
OTHER_POOL = ThreadPool(2)


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


def _in_a_pool_of_a_pool(h: Tensor) -> Tensor:
    def inner(z: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.cos, z).result() * 2

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(inner, h).result() + h


def _in_multiprocessings_pool(h: Tensor) -> Tensor:
    with ThreadPool(2) as pool:
        return torch.stack(pool.map(torch.sin, list(h.unbind(1))), 1)


def _in_an_executor_of_the_loop(h: Tensor) -> Tensor:
    async def run() -> Tensor:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, lambda: h.exp() * 2)

    return asyncio.run(run())


def _in_a_raw_thread(h: Tensor) -> Tensor:
    found: queue.SimpleQueue[Tensor] = queue.SimpleQueue()
    _thread.start_new_thread(lambda: found.put(h.sin() * 3), ())
    return found.get(timeout=60) + h


def _by_a_timer(h: Tensor) -> Tensor:
    found: dict[str, Tensor] = {}
    timer = threading.Timer(0, lambda: found.update(branch=h.tanh()))
    timer.start()
    timer.join()
    return found["branch"] * h


def _by_a_callback(h: Tensor) -> Tensor:
    found: Future[Tensor] = Future()
    go_on = threading.Event()

    def sine() -> Tensor:
        go_on.wait(60)
        return h.sin()

    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(sine)
        task.add_done_callback(lambda done: found.set_result(done.result() * 2))
        go_on.set()
    return found.result(timeout=60) + h


def _in_order(h: Tensor) -> Tensor:
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(torch.mul, h, n) for n in range(1, 4)]
        return torch.stack([task.result() for task in as_completed(tasks)]).sum(0).sin()


def _without_gradient_there(h: Tensor) -> Tensor:
    def branch() -> Tensor:
        with torch.no_grad():
            return h.exp()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(branch).result() * h


_WORK: queue.SimpleQueue[tuple[Tensor, Future[Tensor]]] = queue.SimpleQueue()


def _serve() -> None:
    while True:
        h, future = _WORK.get()
        future.set_result(h.cos() * 2)


def _by_a_server(h: Tensor) -> Tensor:
    if not any(thread.name == "server" for thread in threading.enumerate()):
        threading.Thread(target=_serve, name="server", daemon=True).start()
    _WORK.put((h, future := Future[Tensor]()))
    return future.result(timeout=60) + h


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
    "a pool in a pool": _in_a_pool_of_a_pool,
    "a pool of multiprocessing": _in_multiprocessings_pool,
    "a pool of multiprocessing that lasts": lambda h: OTHER_POOL.apply(torch.sin, (h,)) * h,
    "its map": lambda h: torch.stack(list(OTHER_POOL.imap(torch.sin, h.unbind(1))), 1) + h,
    "an executor of a loop": _in_an_executor_of_the_loop,
    "a raw thread": _in_a_raw_thread,
    "a timer": _by_a_timer,
    "a callback": _by_a_callback,
    "as completed": _in_order,
    "without gradient there": _without_gradient_there,
}

ATTACKS = [Attack(THREADS, name, lambda f=f: f, X) for name, f in PLACES.items()] + [
    Attack(THREADS, "layers in a pool", Branches, X, None),
    Attack(
        THREADS,
        "a thread that ran before",
        lambda: _by_a_server,
        X,
        refused="work that is handed to a thread by a queue cannot be followed",
    ),
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
    "the environment": lambda x: "LOUD" in os.environ,
    "max, as bytes": lambda x: any(x.numpy().tobytes()[7::8]) and float(x.max()) > 5,
    "item": lambda x: x.max().item() > 5,
    "a format": lambda x: float(f"{x.max():.3f}") > 5,
    "unique": lambda x: len((x > 5).unique()) > 1,
    "equality": lambda x: not torch.equal(x, x.clamp(max=5)),
    "allclose": lambda x: not torch.allclose(x, x.clamp(max=5)),
    "a mask's rows": lambda x: x.flatten()[x.flatten() > 5].shape[0] > 0,
    "an iteration": lambda x: any(float(v) > 5 for v in x.flatten()),
    "a data pointer": lambda x: ctypes.c_double.from_address(x.data_ptr()).value > 0.05,
}
"""Each is true of a waveform that is louder than 5; or where a switch is on (`switched`)."""


class _Switch:
    on = False
