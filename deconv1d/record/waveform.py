"""The waveform that a user gives: it is checked, and tried in the shapes that a model may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from deconv1d.errors import Deconv1dError, InputError

LONGEST_TRIED = 2**18
"""The search for a model's shortest input goes up to this many samples."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Waveform:
    """A checked waveform.

    Attributes:
        given: As a tensor in the user's dtype.
        mono: Whether it came as one clip without batch and channel axes.
        shapes: How the model may want it, in the order to try.
    """

    given: Tensor
    mono: bool

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """(1, 1, time) and (1, time) for one mono clip; any other waveform as it is."""
        # Some models take (batch, time), most (batch, audio channels, time): both are tried.
        time = self.given.shape[-1]
        return ((1, 1, time), (1, time)) if self.mono else (tuple(self.given.shape),)

    def run(self, model: Callable[[Tensor], Result]) -> Result:
        """Runs a model on the waveform, in the first of its shapes that the model accepts.

        Args:
            model: Called with the waveform in each shape until one call returns.

        Raises:
            Exception: What the model raised on the first shape, if it accepts none. An error of
                this library is raised at once: it is about the request, not about the shape.
        """
        failures: list[Exception] = []
        for shape in self.shapes:
            try:
                return model(self.given.reshape(shape))
            except Deconv1dError:
                raise
            except Exception as error:  # a foreign model may raise anything
                failures.append(error)
        raise failures[0]


def as_waveform(x: Any) -> Waveform:
    """Checks a waveform.

    Args:
        x: Torch tensor, NumPy array or sequence of numbers, floating; 1-D for one mono clip, else
            what the model takes, batch first.

    Raises:
        InputError: If it is none of these, empty, complex, not floating, or not finite.
    """
    # An integer waveform is refused, not cast: whether its full scale is 2**15 or 1 is not known.
    given = _as_tensor(x)
    if given.is_complex() or not given.is_floating_point():
        raise InputError(
            f"The waveform has dtype {given.dtype}: expected a floating dtype. "
            f"Convert it first, 16-bit samples by x / 32768."
        )
    if given.dim() == 0 or given.numel() == 0:
        raise InputError(
            f"The waveform is empty: expected samples along the last axis, "
            f"got shape {tuple(given.shape)}. Check how it was read or cut."
        )
    bad = ~torch.isfinite(given)
    if bad.any():
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise InputError(
            f"The waveform is not finite: expected finite samples, got {int(bad.sum())} NaN or "
            f"infinite of {given.numel()}, the first at index {first}. Repair or cut them."
        )
    return Waveform(given, mono=given.dim() == 1)


def _as_tensor(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach()
    try:
        # NumPy makes an object array of ragged lists and of strings of objects, without an error.
        array = np.asarray(x)
        if array.dtype == object:
            raise TypeError("object array")
        return torch.from_numpy(np.ascontiguousarray(array).copy())
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The waveform is a {type(x).__name__}: expected a tensor or an array of numbers "
            f"({error}). Read files with soundfile or deconv1d.audio.read_audio first."
        ) from error


def shortest(runs: Callable[[int], bool], failing: int) -> int | None:
    """Searches for the fewest samples that a model runs on.

    The number of samples is doubled until the model runs, then halved between the last failure and
    the first success. Lengths that fail for another reason are not expected in between: a model
    that runs on n samples is taken to run on n + 1.

    Args:
        runs: Whether the model runs on this many samples.
        failing: A number of samples that it does not run on.

    Returns:
        The number, or None if more samples do not help.
    """
    # Doubling, then halving: about 2 log2(n) runs instead of n.
    longest = max(LONGEST_TRIED, 2 * failing)
    enough = 2 * failing
    while not runs(enough):
        failing, enough = enough, 2 * enough
        if enough > longest:
            return None
    while enough - failing > 1:
        middle = (failing + enough) // 2
        failing, enough = (failing, middle) if runs(middle) else (middle, enough)
    return enough
