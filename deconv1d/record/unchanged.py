"""The model stays unchanged: what a forward pass changes is put back, also after an interrupt.

A forward pass of ours switches modules from training to evaluation. Other threads see that: it is
the one change that a plain run at the same time can notice (its dropout is off meanwhile). Our
passes wait for one another. Altered weights never stand in the model itself: they are in a copy
that no other thread has (`deconv1d.record.copies`).
"""

from __future__ import annotations

import gc
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils import _python_dispatch as dispatch
from torch.utils._python_dispatch import _len_torch_dispatch_stack, _pop_mode  # type: ignore[attr-defined]  # torch's own modes count so

from deconv1d.record.belongings import restorers
from deconv1d.record.interrupts import held_back, interruptible

FORWARD_LOCK = threading.RLock()
"""Held during a forward pass. One for the process: models may share layers, and all share the
random state and torch's global switches. The mirror runs outside it."""


def _free_in_child() -> None:
    """A forked process has the thread that forked alone: nobody there would release the lock."""
    if not FORWARD_LOCK._is_owned():  # type: ignore[attr-defined]  # typeshed leaves it out
        FORWARD_LOCK._at_fork_reinit()  # type: ignore[attr-defined]  # as the standard library does


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_free_in_child)


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own model inside torch.compile, DataParallel or DistributedDataParallel."""
    if isinstance(inside := getattr(model, "_orig_mod", None), nn.Module):
        return unwrapped(inside)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    return model


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients and no fused paths inside; everything as it was afterwards.

    Ctrl-C waits inside, except in `deconv1d.record.interrupts.interruptible`.
    """
    taken = _Taken(model)
    # Both `try` come before anything is taken: CPython does not protect the line of a `try` itself.
    # The second `leave` does nothing if the first has come to its end. An exception may be raised
    # between any two instructions (by a debugger, or from another thread), also in `leave`.
    try:
        try:
            taken.enter()
            yield
        finally:
            taken.leave()
    finally:
        taken.leave()


class _Taken:
    """Ctrl-C held back, the lock, and the state to put back; `leave` may be called again."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.signals, self.contexts = model, ExitStack(), ExitStack()
        self.state: _State | None = None
        self.locked: object = False

    def enter(self) -> None:
        # First: Ctrl-C between taking the lock and noting it would leave it taken for good.
        self.signals.enter_context(held_back())
        # The lock and `locked` change in one statement, here and in `leave`: an exception between
        # two statements would leave `locked` wrong.
        self.locked = _acquired()
        self.contexts.enter_context(torch.inference_mode(False))
        self.state = _State(self.model)  # reads and changes nothing yet
        self.state.enter()

    def leave(self) -> None:
        if self.state is not None:
            self.state.restore()
            self.state = None  # before the lock is free: another pass may begin then
        self.contexts.close()
        if self.locked:
            self.locked = FORWARD_LOCK.release()  # type: ignore[func-returns-value]  # None: free
        self.signals.close()


def _acquired() -> bool:
    """Waits for the lock; Ctrl-C ends the waiting."""
    while not FORWARD_LOCK.acquire(timeout=0.1):
        with interruptible():
            continue
    return True


SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.get_num_threads, torch.set_num_threads),
    (np.geterr, lambda before: np.seterr(**before)),
)
"""Settings of the process that a forward pass may change: how to read one, and how to set it."""


FLAGS = [name for name in vars(dispatch) if name.startswith("_is_in_")]
"""What torch notes of the modes that it is in."""


class _State:
    """All that a forward pass changes, as it was before."""

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self.training = [m for m in modules if getattr(m, "training", False)]
        self.belongings = restorers(modules)
        devices = _gpus(model) if torch.cuda.is_initialized() else set()
        self.drawn: dict[Any, Tensor] = {d: torch.cuda.get_rng_state(d) for d in devices}
        self.torch, self.python, self.numpy = (
            torch.get_rng_state(),
            random.getstate(),
            np.random.get_state(),
        )
        self.fused = torch.backends.mha.get_fastpath_enabled()
        self.caching = torch.is_autocast_cache_enabled()
        self.collecting, self.gradients = gc.isenabled(), torch.is_grad_enabled()
        self.settings = [(read, set_to, read()) for read, set_to in SETTINGS]
        self.depth = _len_torch_dispatch_stack()
        self.flags = {name: getattr(dispatch, name) for name in FLAGS}
        self.hooks = [(hooks, dict(hooks)) for hooks in _global_hooks()]
        self.stance = _stance()

    def enter(self) -> None:
        """No dropout, no fused attention without derivative, no cached casts, no compiled code."""
        for module in self.training:
            module.training = False  # one by one: a partly frozen model comes back partly frozen
        torch.backends.mha.set_fastpath_enabled(False)
        torch.set_autocast_cache_enabled(False)
        torch._C._set_grad_enabled(False)
        gc.disable()  # in the middle it would look at every object of the process
        if self.stance is not None:
            torch.compiler.set_stance("force_eager")

    def restore(self) -> None:
        """Puts everything back; may be called again, also after it was interrupted."""
        while _len_torch_dispatch_stack() > self.depth:
            _pop_mode()
        vars(dispatch).update(self.flags)
        for restore in self.belongings:
            restore()
        for module in self.training:
            if not module.training:
                module.training = True
        for hooks, before in self.hooks:
            for extra in hooks.keys() - before.keys():
                del hooks[extra]
        torch.backends.mha.set_fastpath_enabled(self.fused)
        torch.set_autocast_cache_enabled(self.caching)
        torch._C._set_grad_enabled(self.gradients)
        if self.stance is not None:
            torch._dynamo.eval_frame._set_stance(self.stance)
        for read, set_to, setting in self.settings:
            if read() != setting:
                set_to(setting)
        torch.set_rng_state(self.torch)
        for device, state in self.drawn.items():
            torch.cuda.set_rng_state(state, device)
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        if self.collecting:
            gc.enable()


def _gpus(model: nn.Module) -> set[torch.device]:
    """The GPUs that a model is on: each has a random state of its own."""
    return {x.device for x in (*model.parameters(), *model.buffers()) if x.is_cuda}


def _global_hooks() -> list[dict[int, Any]]:
    """Hooks of all modules at once; scripts take no others."""
    return [torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks]


def _stance() -> Any:
    """How torch.compile behaves; None while nothing is compiled, for importing it is slow."""
    return torch._dynamo.eval_frame._stance if "torch._dynamo" in sys.modules else None
