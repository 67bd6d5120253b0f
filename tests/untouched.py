"""All that a visit must leave as it was: the model, and the state of the process."""

import collections
import contextlib
import random
from dataclasses import is_dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn.modules import module as torch_module


def content(value):
    """A copy that tells any change of value, or of the object itself."""
    if isinstance(value, torch.Tensor):
        return id(value), value.data_ptr(), value.detach().clone().numpy().tobytes()
    if isinstance(value, dict):
        return {key: content(part) for key, part in value.items()}
    if isinstance(value, list | set | tuple | collections.deque):
        return [content(part) for part in value]
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return str(value.get_state())
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes()
    if is_dataclass(value) or isinstance(value, SimpleNamespace):
        return content(vars(value))
    return value


def state_of(model):
    facts = {
        f"{path}.{name}": content(value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
    }
    for name, parameter in model.named_parameters():
        facts[f"{name}.grad"] = content(parameter.grad)
        facts[f"{name}.requires_grad"] = parameter.requires_grad
    return facts


def state_of_process():
    return {
        "torch's random numbers": torch.get_rng_state().tolist(),
        "numpy's random numbers": [np.asarray(part).tolist() for part in np.random.get_state()],
        "python's random numbers": random.getstate(),
        "grad modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "fused attention": torch.backends.mha.get_fastpath_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "compiler": torch._dynamo.eval_frame._stance,
        "hooks": (
            dict(torch_module._global_forward_hooks),
            dict(torch_module._global_forward_pre_hooks),
        ),
    }


def changed(before, now):
    return [name for name in before | now if before.get(name) != now.get(name)]


@contextlib.contextmanager
def untouched(model):
    before = state_of(model) | state_of_process()
    yield
    assert changed(before, state_of(model) | state_of_process()) == []
