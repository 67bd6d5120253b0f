"""The waveform that a user gives: it is checked, and tried in the shapes that a model may take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from deconv1d.errors import Deconv1dError, InputError, warn

LONGEST_TRIED = 2**18
"""The search for a model's shortest input goes up to this many samples."""
MOST_CHANNELS = 16
"""More channels than this for each sample are no clip: time does not stand last."""

Result = TypeVar("Result")


class WrongReading(Exception):
    """The model ran on a waveform, but took the axis of examples for that of channels."""


class Attempt(NamedTuple):
    """A reading of a waveform that a model refused, and with which error."""

    shape: tuple[int, ...]
    error: Exception


@dataclass(frozen=True)
class Waveform:
    """A checked waveform.

    An array of two axes may be meant in three ways. The model decides: it is run on each, in this
    order, until it runs.

        (2, 8000)   (2, 8000)      two clips, for a model that takes (batch, time)
                    (1, 2, 8000)   one clip of two channels
                    (2, 1, 8000)   two clips of one channel; with a warning

    Attributes:
        given: As a tensor in the user's dtype.
        mono: Whether it came as one clip without batch and channel axes.
        mixed: The mean of the channels, (time,), if it is one clip of several from a file; a model
            that takes one channel hears this.
    """

    given: Tensor
    mono: bool
    mixed: Tensor | None = None

    @property
    def readings(self) -> tuple[Tensor, ...]:
        """What the model may take it for, in the order to try."""
        given = self.given
        if self.mixed is not None:
            return (*Waveform(self.mixed, mono=True).readings, given[None])
        if self.mono:
            return given[None, None], given[None]
        # More channels than samples are (time, channels): no clip is so short.
        if given.dim() != 2 or len(given) > given.shape[1]:
            return (given,)
        return (given, given[None]) if len(given) == 1 else (given, given[None], given[:, None])

    def run(self, model: Callable[[Tensor], Result]) -> Result:
        """Runs a model on the waveform, in the first of its readings that the model accepts.

        Args:
            model: Called with each reading until one call returns.

        Raises:
            Exception: What the model raised on the first, if it accepts none. An error of this
                library is raised at once: it is about the request, not about the shape.
        """
        result, refused = self.attempt(model)
        if result is None:
            raise refused[0].error
        return result

    def attempt(
        self, model: Callable[[Tensor], Result]
    ) -> tuple[Result | None, tuple[Attempt, ...]]:
        """As `run`, but returns what the model refused; the result is None if that was all.

        Raises:
            InputError: If the model runs on two readings that are not the same.
        """
        refused: list[Attempt] = []
        for number, reading in enumerate(self.readings):
            try:
                result = model(reading)
            except Deconv1dError:
                raise
            except Exception as error:  # a foreign model may raise anything
                refused.append(Attempt(tuple(reading.shape), error))
                continue
            if self.mixed is None and self.given.dim() == 2 and number == 1:
                self._check_decided(model, self.readings[2:])
            if number == 2 and self.mixed is None:
                self._say_clips()
            return result, tuple(refused)
        return None, tuple(refused)

    def _check_decided(self, model: Callable[[Tensor], Any], others: Sequence[Tensor]) -> None:
        """Raises InputError if the model runs on another reading, too."""
        for other in others:
            try:
                model(other)
            except Exception:  # then the model decides
                continue
            channels, time = self.given.shape
            raise InputError(
                f"The waveform of shape {(channels, time)} can be read in two ways, and this model "
                f"runs on both: expected one, got one clip of {channels} channels or {channels} "
                f"clips. Give x.reshape(1, {channels}, {time}) for the clip, or "
                f"x.reshape({channels}, 1, {time}) for the clips."
            )

    def _say_clips(self) -> None:
        """Warns that rows are read as clips: they may be the two sides of a stereo recording."""
        rows, time = self.given.shape
        warn(
            f"The waveform of shape {(rows, time)} is read as {rows} clips of one channel, since "
            f"the model takes one channel. Give x.mean(0) if it is one clip of {rows} channels; "
            f"x.reshape({rows}, 1, {time}) says that it is clips."
        )

    def read_as(self, shape: tuple[int, ...]) -> Waveform:
        """The waveform as a model took it: the first axis counts examples, if there are two.

        Args:
            shape: Of the reading that the model accepted.
        """
        if self.mixed is not None:
            mono = math.prod(shape) == len(self.mixed)
            return Waveform(self.mixed, mono=True) if mono else Waveform(self.given[None], False)
        if self.given.dim() == 2 and shape[0] != len(self.given):
            return Waveform(self.given[None], mono=False)
        return self


def as_waveform(x: Any, sample_rate: int | None = None) -> Waveform:
    """Checks a waveform.

    Args:
        x: Torch tensor, NumPy array or sequence of numbers, floating; (time,) for one mono clip,
            (channels, time), or what the model takes, batch first. Or the path of a sound file.
        sample_rate: In hertz; a file is resampled to it.

    Raises:
        InputError: If it is none of these, empty, complex, not floating, or not finite; or if it is
            a file and the sample rate is not known.
        FileError: If it is a file that cannot be read.
    """
    if isinstance(x, str | Path):
        return _from_file(x, sample_rate)
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
    _check_time_is_last(tuple(given.shape))
    if not math.isfinite(given.abs().max()):
        bad = ~torch.isfinite(given)
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise InputError(
            f"The waveform is not finite: expected finite samples, got {int(bad.sum())} NaN or "
            f"infinite of {given.numel()}, the first at index {first}. Repair or cut them."
        )
    return Waveform(given, mono=given.dim() == 1)


def _check_time_is_last(shape: tuple[int, ...]) -> None:
    """Raises InputError for (time, channels) and (batch, time, channels)."""
    if len(shape) not in (2, 3) or shape[-2] <= MOST_CHANNELS * shape[-1]:
        return
    axes, turned = "(time, channels)", "x.T"
    if len(shape) == 3:
        axes, turned = "(batch, time, channels)", "x.swapaxes(1, 2)"
    raise InputError(
        f"The waveform of shape {shape} has {shape[-2]} channels of {shape[-1]} sample(s): "
        f"expected time last, got what looks like {axes}. Give {turned}. A model that takes "
        f"(batch, time, channels) needs this too: "
        f"Sonifier(model, forward=lambda model, x: model(x.swapaxes(1, 2)))."
    )


def _from_file(path: str | Path, sample_rate: int | None) -> Waveform:
    from deconv1d.audio import read_audio

    if sample_rate is None:
        raise InputError(
            f"The file {str(path)!r} needs a sample rate to be read at: expected the model's, in "
            f"hertz, got None. Give it once: Sonifier(model, sample_rate=8000)."
        )
    samples, _ = read_audio(path, sample_rate, mono=False)
    channels = torch.from_numpy(samples)
    if len(channels) == 1:
        return as_waveform(channels[0])
    return replace(as_waveform(channels), mixed=channels.mean(0))


def _as_tensor(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach()
    try:
        # NumPy makes an object array of anything that is no array of numbers, without an error.
        array = np.asarray(x)
        # Seismograms and FITS files are big-endian; torch knows the machine's byte order alone.
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The waveform is a {type(x).__name__}: expected a tensor or an array of numbers, or "
            f"the path of a sound file. {_part_to_give(x)}"
        ) from error


def _part_to_give(x: Any) -> str:
    """What to type where a loader has returned a waveform together with its sample rate."""
    parts: dict[Any, Any] = {}
    if isinstance(x, dict):
        parts = x
    elif isinstance(x, tuple | list) and len(x) == 2:
        parts = dict(enumerate(x))
    for name, part in parts.items():
        if isinstance(part, Tensor | np.ndarray) and part.ndim:
            return f"It looks like samples with their rate. Give x[{name!r}]."
    return "Read files with soundfile or deconv1d.audio.read_audio first."


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
