"""Our methods and Captum's on one target, each with its numbers and its sound."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from deconv1d import measure
from deconv1d.compare.captum_methods import CAPTUM, CaptumTarget
from deconv1d.compare.comparison import Compared, Comparison
from deconv1d.errors import InputError, ModelError
from deconv1d.evaluation.faithfulness import faithfulness
from deconv1d.evaluation.randomisation import random_seed
from deconv1d.masks.budget import within_budget
from deconv1d.masks.grid import grid_of
from deconv1d.masks.options import BUDGET, LISTENING, MASK
from deconv1d.masks.spectrogram import spectrogram_of
from deconv1d.progress import bar
from deconv1d.sonification import Sonification, rate_and_channel
from deconv1d.sonify import Sonifier
from deconv1d.sounding import to_peak_of
from deconv1d.table import Table

METHODS = (*LISTENING, *CAPTUM)


def compare(
    sonifier: Sonifier,
    x: Any,
    layer: str,
    channel: int | str = "most_active",
    *,
    methods: Sequence[str] = METHODS,
    tap: str = "block",
    draws: int = 1,
    random_state: int = 0,
    progress: bool = False,
) -> Comparison:
    """Compares our methods and Captum's on one channel of one clip.

    All have one target: the seed is the map itself. Captum's methods are given it as the scalar
    `(map * map of x).sum()`; "mask" serves the map's mean. A method that fails on the model, or
    silently does something else than its name says, says so in its row.

    Example:
        >>> import torch
        >>> from deconv1d import Sonifier
        >>> from deconv1d.compare import compare
        >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 9), torch.nn.ReLU())
        >>> sonifier = Sonifier(model, sample_rate=8000)
        >>> found = compare(sonifier, torch.randn(800), "0", 3, methods=["guided", "gradient"])
        >>> [row.method for row in found.methods]
        ['guided', 'gradient']

    Args:
        sonifier: Of the model.
        x: One clip, as for `Sonifier.sonify`.
        layer: As for `Sonifier.sonify`.
        channel: A number or "most_active".
        methods: Some of `METHODS`, in the order of the rows.
        tap: As for `Sonifier.sonify`.
        draws: How many draws of the random seed, the control; each is a run of every method. The
            control of "mask" is a random mask.
        random_state: Of the draws.
        progress: Whether to show how far it is, on stderr.

    Raises:
        InputError: If a method is unknown, the sample rate is, there are several clips or channels,
            or the sonification is silent, or there is no draw.
        LayerError, ChannelError, PathError: As for `Sonifier.sonify`.
    """
    if unknown := [method for method in methods if method not in METHODS] or not methods:
        raise InputError(
            f"Unknown methods {unknown if methods else list(methods)}: expected some of "
            f"{', '.join(METHODS)}. Leave `methods` out for all of them."
        )
    if draws < 1:
        raise InputError(
            f"A comparison needs its control: expected at least 1 draw of the random seed, got "
            f"{draws}. Give draws=1."
        )
    sonification = sonifier.sonify(x, layer=layer, channel=channel, tap=tap)
    runs = _MethodRuns(sonifier, sonification, draws, random_state)
    steps = bar(methods, desc="compare", unit="methods", shown=progress)
    results = [runs.result_of(method) for method in steps]
    sounds = {row.method: sound for row, sound in results if sound is not None}
    return Comparison(
        layer=sonification.layer,
        channel=runs.channel,
        methods=Table([row for row, _ in results]),
        sounds={"input": _only_sound(replace(sonification, waveform=sonification.input)), **sounds},
        sample_rate=runs.rate,
    )


class _MethodRuns:
    """Runs methods on one target and measures their sounds."""

    def __init__(
        self, sonifier: Sonifier, sonification: Sonification, draws: int, random_state: int
    ) -> None:
        self.rate, self.channel = rate_and_channel(sonification, what="comparisons")
        self._sonifier, self._sonification = sonifier, sonification
        self._draws, self._random_state = draws, random_state

    @cached_property
    def _captum(self) -> CaptumTarget:
        return CaptumTarget(self._sonifier, self._sonification, self.channel)

    def result_of(self, method: str) -> tuple[Compared, Tensor | None]:
        """Returns a method's row and its sound; of a method that fails the reason, and no sound."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Captum's on its hooks, ours on silence
            try:
                heard, controls, seconds = self._run(method)
            except Exception as error:
                return Compared(method, note=_failure(error)), None
        measured = faithfulness(self._sonifier, heard)
        on_input = float(measured.activation)
        coherence = float(heard.coherence())
        notes = [self._captum.note(method)] if method in CAPTUM else []
        if not heard.waveform.any():
            notes.append("silent")
        # A method that returns part of the input whatever the seed is coherent with it too: what
        # counts is how much more coherent the sound of the real map is.
        row = Compared(
            method=method,
            answer=float(measured.mask_in) / on_input if on_input else 0.0,
            selectivity=float(measured.selectivity),
            coherence=coherence,
            minus_control=coherence - statistics.fmean(float(c.coherence()) for c in controls),
            sparsity=float(measure.gini(heard.waveform.flatten())),
            seconds=seconds,
            note="; ".join(filter(None, notes)),
        )
        return row, _only_sound(heard)

    def _run(self, method: str) -> tuple[Sonification, list[Sonification], float]:
        """Runs the method on the map and on random seeds, and returns the median time as well."""
        target = self._captum.sonification if method in CAPTUM else self._sonification
        generator = torch.Generator().manual_seed(self._random_state)
        # The same random seeds for each method: the generator starts anew.
        heard, seconds = [], []
        for draw in range(1 + self._draws):
            seed = random_seed(target.activation, generator) if draw else target.activation
            start = time.perf_counter()
            is_control_mask = draw and method == MASK
            raw = self._random_mask(generator) if is_control_mask else self._raw(method, seed)
            seconds.append(time.perf_counter() - start)
            # A gradient can overflow where a rectified signal does not.
            if not torch.isfinite(raw).all():
                raise ModelError(f"{method} is not finite")
            waveform, gain = to_peak_of(self._sonification.input, raw)
            heard.append(replace(self._sonification, waveform=waveform, raw=raw, gain=gain))
        return heard[0], heard[1:], statistics.median(seconds)

    def _raw(self, method: str, seed: Tensor) -> Tensor:
        if method in CAPTUM:
            return self._captum.attribute(method, seed)
        return self._sonifier.sonify(
            self._sonification.input,
            layer=self._sonification.layer,
            channel=self.channel,
            tap=self._sonification.tap,
            seed="activation" if method == MASK else lambda _: seed,
            method=method,
        ).raw

    def _random_mask(self, generator: torch.Generator) -> Tensor:
        """Returns the control of a mask: the recording through a random one."""
        x = self._sonification.input
        clip = x.reshape(-1, x.shape[-1])
        recording = spectrogram_of(clip, grid_of(self.rate, x.shape[-1]))
        scores = torch.rand(1, *recording.grid.shape, generator=generator).to(clip)
        return recording.masked(within_budget(scores, recording.energy, BUDGET)).reshape(x.shape)


def _only_sound(sonification: Sonification) -> Tensor:
    return next(iter(sonification.sounds().values()))


def _failure(error: Exception) -> str:
    """Returns one line of an error."""
    first = str(error).strip().partition("\n")[0]
    return f"failed: {type(error).__name__}: {first}"
