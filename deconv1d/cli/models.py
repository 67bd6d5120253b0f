"""A model from what a command line can say: a factory that makes it, a file with its weights."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
import traceback
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PosixPath
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from deconv1d.errors import Deconv1dError, FileError, ModelError
from deconv1d.loading.checkpoints import unwrap
from deconv1d.record.source_lines import OURS_AND_TORCH

NOT_THEIRS = (*OURS_AND_TORCH, str(Path(importlib.__file__).parent), "<frozen importlib")
_ARRAYS = [getattr(np._core.multiarray, name) for name in ("scalar", "_reconstruct")]  # type: ignore[attr-defined]  # where pickles look for them
HARMLESS: list[Any] = [
    argparse.Namespace,
    PosixPath,
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")),
    *_ARRAYS,
    *((made, f"numpy.core.multiarray.{made.__name__}") for made in _ARRAYS),  # of NumPy 1
]
"""What trainers save beside weights: the options, a path, a metric. Loading these runs no code."""
LISTED = 3
"""How many names of a kind a message lists."""


def load_model(
    factory: str, weights: str | Path | None = None, *, key: str | None = None
) -> nn.Module:
    """Makes a model by its factory, and loads the weights of a file if one is given.

    The factory's code runs; code in a weights file is refused.

    Args:
        factory: "package.module:factory", imported as from a program in the current folder, or
            "path.py:factory": a function or class that needs no arguments.
        weights: A state dict: `.safetensors`, else what `torch.save` writes. A trainer's checkpoint
            is unwrapped, and it is said how.
        key: Where in the checkpoint the state dict is, such as "ema.state_dict"; None: it is found.

    Raises:
        ModelError: If there is no such factory, it fails, it makes no module, or the weights do
            not fit.
        FileError: If a file cannot be read or holds anything but weights.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()
    """
    make = find_factory(factory)
    if hasattr(make, "from_pretrained"):
        raise ModelError(
            f"The class {factory!r} makes no model by itself: expected the folder of a model of "
            f"Hugging Face, got {'no weights' if weights is None else repr(str(weights))}. "
            f"Give --weights FOLDER, which model.save_pretrained wrote."
        )
    with blaming(f"The factory {factory!r}", "It has to run without arguments."):
        model = make()
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"The factory {factory!r} made no model: expected a torch.nn.Module, got a "
            f"{type(model).__name__}. Return the module itself."
        )
    if weights is not None:
        _fill(model, _read_weights(weights), weights, key)
    return model


@contextmanager
def blaming(what: str, advice: str) -> Iterator[None]:
    """Turns what a user's code raises into a `ModelError` that quotes it and its line.

    Args:
        what: What runs, as the message begins.
        advice: What to do now.
    """
    try:
        yield
    except Deconv1dError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [
            f"{f.filename}:{f.lineno}" for f in frames if not f.filename.startswith(NOT_THEIRS)
        ]
        where = f" at {lines[-1]}" if lines else ""
        raise ModelError(
            f"{what} failed{where}: {type(error).__name__}: {str(error).rstrip('.')}. {advice}"
        ) from error


def find_factory(factory: str) -> Any:
    """Finds the function that "module:name" means.

    Args:
        factory: As for `load_model`.

    Raises:
        ModelError: If there is none.
    """
    place, _, name = factory.rpartition(":")
    if not place or not name:
        raise ModelError(
            f"The model {factory!r} cannot be found: expected the function that makes it, got no "
            f"module and function. Give package.module:factory or path.py:factory."
        )
    module = _import(place)
    # `module:function`, as in setuptools' entry points.
    make = getattr(module, name, None)
    if not callable(make):
        factories = [
            k for k, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
        ]
        raise ModelError(
            f"The model {factory!r} cannot be found: expected a function {name!r} in {place!r}, "
            f"got {'none' if make is None else type(make).__name__}. Choose from: "
            f"{_some(factories)}."
        )
    return make


def _import(place: str) -> ModuleType:
    """Imports a module by its name or file; what lies beside it can be imported too."""
    is_file = place.endswith(".py")
    folder = str(Path(place).resolve().parent if is_file else Path.cwd())
    # As `python program.py` would: the folder of the file, or the current one, comes first.
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with blaming(f"Importing {place!r}", "Correct the name, or install what it needs."):
        return _run_file(Path(place)) if is_file else importlib.import_module(place)


def _run_file(path: Path) -> ModuleType:
    name = f"deconv1d_model_{path.stem}"  # a file "torch.py" must not replace the package
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _read_weights(path: str | Path) -> Mapping[str, Any]:
    """Reads the state dict in a file."""
    import safetensors.torch

    # weights_only: a pickle can run any code while it is loaded, and weights come from strangers.
    try:
        if Path(path).suffix == ".safetensors":
            return safetensors.torch.load(Path(path).read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.load, on old pickles
            with torch.serialization.safe_globals(HARMLESS):
                state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileError(
            f"The weights {str(path)!r} cannot be read: {error.strerror}. Give the path of a file."
        ) from error
    except Exception as error:  # a foreign or damaged file raises almost anything
        raise FileError(_refusal(path, error)) from error
    if not isinstance(state, Mapping):
        raise FileError(
            f"The weights {str(path)!r} cannot be used: expected a state dict, names and tensors, "
            f"got a {type(state).__name__}. Save model.state_dict()."
        )
    return state


def _refusal(path: str | Path, error: Exception) -> str:
    if code := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"The weights {str(path)!r} are refused: expected tensors only, got a pickle that asks "
            f"for {code[1]!r}, and a pickle can run any code. Save model.state_dict() instead."
        )
    if "TorchScript" in str(error):
        return (
            f"The weights {str(path)!r} cannot be used: expected a state dict, got a model as "
            f"TorchScript. Write a factory that returns torch.jit.load({str(path)!r}), and give "
            f"it as the model."
        )
    return (
        f"The weights {str(path)!r} cannot be read: expected a whole file of safetensors or "
        f"torch.save, got {type(error).__name__}. Copy it again, or check its suffix: only "
        f".safetensors is read as safetensors."
    )


def _fill(
    model: nn.Module, checkpoint: Mapping[str, Any], path: str | Path, key: str | None
) -> None:
    state, said = unwrap(checkpoint, model.state_dict().keys(), key)
    if said:
        warnings.warn(f"The weights {str(path)!r}: {said}.", stacklevel=3)
    try:
        model.load_state_dict(state)
    except Exception as error:  # a module may have hooks of its own
        wanted = model.state_dict()
        raise ModelError(
            f"The weights {str(path)!r} do not fit the model: expected its {len(wanted)} names and "
            f"shapes, got {_misfits(wanted, state) or error}. Give a file that was saved from this "
            f"model, or the factory that makes its model."
        ) from error


def _misfits(wanted: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Lists what a state dict lacks, has too much of, and has in other shapes."""
    both = [name for name in wanted if name in state]
    kinds = {
        "missing": [name for name in wanted if name not in state],
        "unexpected": [name for name in state if name not in wanted],
        "of another shape": [name for name in both if _shape(wanted[name]) != _shape(state[name])],
    }
    return "; ".join(
        f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names
    )


def _shape(value: Any) -> Any:
    return getattr(value, "shape", None)


def _some(names: Collection[str]) -> str:
    """Lists the first of these names, and how many more there are."""
    shown = ", ".join(map(repr, list(names)[:LISTED]))
    return f"{shown} and {len(names) - LISTED} more" if len(names) > LISTED else shown or "none"
