"""Exceptions. A message says what failed, where, expected against got, and what to do now."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any


class Deconv1dError(Exception):
    """Every error that this library raises on purpose."""


# Each error also derives from the builtin that fits: callers who know nothing of this library can
# still catch a ValueError.
class InputError(Deconv1dError, ValueError):
    """The waveform, or another argument, cannot be used as it is."""


class LayerError(Deconv1dError, LookupError):
    """No layer, or no single layer, has this name."""


class ChannelError(Deconv1dError, IndexError):
    """The layer has no such channel."""


class PathError(Deconv1dError, ValueError):
    """No signal can be carried from the layer back to the waveform."""


class ModelError(Deconv1dError, RuntimeError):
    """The model itself could not be run on this input."""


class FileError(Deconv1dError, OSError):
    """A file could not be read or written."""


class DependencyError(Deconv1dError, ImportError):
    """An optional package is needed for this."""


class SilenceWarning(UserWarning):
    """The sonification is exact silence: the input is silent or the map is dead."""


def check_word(name: str, word: Any, known: Sequence[str]) -> None:
    """Raises InputError unless a word is one of the known ones."""
    if word not in known:
        raise InputError(f"Unknown {name} {word!r}: expected one of {', '.join(map(repr, known))}.")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns of the line outside this package that led here, through however many functions."""
    frame: FrameType | None = sys._getframe(1)
    level = 2  # the caller of this function, as warnings counts
    while frame is not None and frame.f_globals.get("__name__", "").startswith("deconv1d."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
