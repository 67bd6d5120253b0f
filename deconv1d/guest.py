"""The model is a guest: whatever a forward pass changes is put back, also after an exception."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

VISIT = threading.RLock()
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
def visiting(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients and no fused paths inside; everything as it was afterwards."""
    with ExitStack() as stack:
        stack.enter_context(VISIT)
        stack.enter_context(_same_random_state(model))
        stack.enter_context(_same_attributes(model))
        stack.enter_context(_eval_mode(model))
        stack.enter_context(_plain_paths())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        yield


@contextmanager
def _same_random_state(model: nn.Module) -> Iterator[None]:
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    python, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)


@contextmanager
def _same_attributes(model: nn.Module) -> Iterator[None]:
    """Puts back attributes, buffers and containers that forward rebinds, and swapped data."""
    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    before = [(m, dict(vars(m)), _containers(m)) for m in modules]
    data = [(x, x.detach()) for x in (*model.parameters(), *model.buffers())]
    try:
        yield
    finally:
        for module, attributes, containers in before:
            _put_back(vars(module), attributes)
            for container, content in containers:
                if container or content:
                    _refill(container, content)
        for x, original in data:
            if x.data_ptr() != original.data_ptr():
                x.data = original


def _containers(module: nn.Module) -> list[tuple[Any, Any]]:
    """Dicts, lists and sets that the module owns, with their content now."""
    return [(v, v.copy()) for v in vars(module).values() if isinstance(v, dict | list | set)]


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Changes what has changed and nothing else: another thread may be running the module."""
    for name in now.keys() - before.keys():
        del now[name]
    for name, value in before.items():
        if name not in now or now[name] is not value:
            now[name] = value


def _refill(container: Any, content: Any) -> None:
    if isinstance(container, dict):
        _put_back(container, content)
    elif isinstance(container, list):
        container[:] = content
    else:
        container.symmetric_difference_update(container ^ content)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Module by module, so that a partly frozen model comes back partly frozen."""
    training = [m for m in model.modules() if getattr(m, "training", False)]
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


def undo_writes(writes: list[tuple[Tensor, Tensor]]) -> None:
    """Puts back what a forward pass wrote into the model's tensors, last write first."""
    for tensor, content in reversed(writes):
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            tensor.copy_(content)
