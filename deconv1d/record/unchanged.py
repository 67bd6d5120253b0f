"""The model is a guest: whatever a forward pass changes is put back, also after an exception."""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FORWARD_LOCK = threading.RLock()
"""Held during a visit. One for the process: models may share layers, and all share the random state
and torch's global switches. The mirror runs outside it."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own model inside torch.compile, DataParallel or DistributedDataParallel."""
    if isinstance(inside := getattr(model, "_orig_mod", None), nn.Module):
        return unwrapped(inside)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    return model


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients and no fused paths inside; everything as it was afterwards."""
    with ExitStack() as stack:
        stack.enter_context(FORWARD_LOCK)
        modules = list(model.modules())
        tensors = [*model.parameters(), *model.buffers()]
        stack.enter_context(_same_random_state(tensors))
        stack.enter_context(_same_attributes(modules, tensors))
        stack.enter_context(_eval_mode(modules))
        stack.enter_context(_plain_paths())
        stack.enter_context(_no_collection())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield


@contextmanager
def _same_random_state(tensors: list[Tensor]) -> Iterator[None]:
    devices = {x.device for x in tensors if x.is_cuda}
    python, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)


@contextmanager
def _same_attributes(modules: list[nn.Module], tensors: list[Tensor]) -> Iterator[None]:
    """Puts back attributes, buffers and containers that forward rebinds, and swapped data."""
    owned = [vars(m) for m in modules if not isinstance(m, torch.jit.ScriptModule)]
    before = [(attributes, attributes.copy(), _containers(attributes)) for attributes in owned]
    data = [(x, x.detach()) for x in tensors]
    try:
        yield
    finally:
        for now, attributes, containers in before:
            _put_back(now, attributes)
            for container, content in containers:
                if container or content:
                    _refill(container, content)
        for x, original in data:
            if x.data_ptr() != original.data_ptr():
                x.data = original


def _containers(attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Dicts, lists and sets that a module owns, with their content now."""
    return [(v, v.copy()) for v in attributes.values() if isinstance(v, (dict, list, set))]


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Changes what has changed and nothing else: another thread may be running the module."""
    if now.keys() == before.keys() and all(map(is_, now.values(), before.values())):
        return
    for name in now.keys() - before.keys():
        del now[name]
    for name, value in before.items():
        if now.get(name, before) is not value:
            now[name] = value


def _refill(container: Any, content: Any) -> None:
    if isinstance(container, dict):
        _put_back(container, content)
    elif isinstance(container, list):
        container[:] = content
    else:
        container.symmetric_difference_update(container ^ content)


@contextmanager
def _eval_mode(modules: list[nn.Module]) -> Iterator[None]:
    """Module by module, so that a partly frozen model comes back partly frozen."""
    training = [m for m in modules if getattr(m, "training", False)]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _plain_paths() -> Iterator[None]:
    """No fused attention without derivative, no cached casts of weights, no compiled code."""
    fused = torch.backends.mha.get_fastpath_enabled()
    caching = torch.is_autocast_cache_enabled()
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it is slow
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        torch.backends.mha.set_fastpath_enabled(False)
        torch.set_autocast_cache_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            torch.set_autocast_cache_enabled(caching)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection in the middle: it would look at every object of the process."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def undo_writes(writes: list[tuple[Tensor, Tensor]]) -> None:
    """Puts back what a forward pass wrote into the model's tensors, last write first."""
    for tensor, content in reversed(writes):
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            tensor.copy_(content)
