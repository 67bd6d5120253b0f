"""Faults put in on purpose: each is caught by an attack of its kind, which so can fail.

`plants` takes the fixes of recording out again, for attacks that compare maps and gradients. Here
are faults for the attacks that judge themselves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from deconv1d import audio, channels, forward, mirror, report, sonify
from deconv1d.evaluation import trust
from deconv1d.mining import mine as mine_clips
from deconv1d.mining import mined
from deconv1d.record import axes, belongings, capture
from deconv1d.record.recorder import Recorder
from deconv1d.rules.channel_axis import last, normalized, of_product
from deconv1d.rules.table import Rule

from .axes import AXES
from .files import DAMAGED, OUTPUT, PLACES
from .guests import GUEST
from .names import GROWTH, NAMES_AS_SOURCE
from .precision import HALF

Plant = Callable[[], AbstractContextManager[Any]]

mine: Any = sys.modules[mine_clips.__module__]  # the package has a function of the module's name


@dataclass(frozen=True)
class Flaw:
    """A fault, and the attack that has to catch it.

    Attributes:
        kind: The attack's kind.
        attack: Its name.
        what: What is wrong with the fault put in.
        plant: Makes the context that has it.
    """

    kind: str
    attack: str
    what: str
    plant: Plant


def _instead(target: Any, name: str, new: Any) -> Plant:
    return lambda: patch.object(target, name, new)


# --- maps ---------------------------------------------------------------------------------------


def _features_are_last() -> AbstractContextManager[Any]:
    rule_for = axes.rule_for

    def changed(rules: Any, op: Any, method: str = "deconvnet") -> Rule:
        rule = rule_for(rules, op, method)
        own = rule.channels in (normalized, of_product)
        return replace(rule, channels=last) if own else rule

    return patch.object(axes, "rule_for", changed)


def _one_level() -> AbstractContextManager[Any]:
    levels = channels._levels

    def loudest(carry: Any, seeds: Tensor, batch: int) -> Tensor:
        return levels(carry, seeds, batch) * 0 + seeds.abs().float().max()

    return patch.object(channels, "_levels", loudest)


# --- the model as a guest -----------------------------------------------------------------------


def _in_the_model_itself(model: nn.Module, weights: Any) -> nn.Module:
    for name, weight in weights.items():
        model.get_parameter(name).data = weight
    return model


@contextmanager
def _reads_go_unseen() -> Iterator[None]:
    with (
        patch.object(forward, "check_not_read", lambda captured, replaced: None),
        patch.object(forward, "NotRead", lambda replaced: nullcontext()),
    ):
        yield


@contextmanager
def _weights_are_swapped() -> Iterator[None]:
    with _reads_go_unseen(), patch.object(sonify, "copy_with", _in_the_model_itself):
        yield


# --- names and growth ---------------------------------------------------------------------------


def _names_of_the_model() -> AbstractContextManager[Any]:
    def attribute(writer: Any, word: str, tensor: Tensor, name: str) -> Any:
        writer._attributes[name], writer._names[name] = tensor, name
        return writer.graph.get_attr(name)

    return patch.object(mirror._Writer, "_attribute", attribute)


def _each_op_looks_at_all() -> AbstractContextManager[Any]:
    dispatch = Recorder.__torch_dispatch__

    def slow(recorder: Any, *given: Any) -> Any:
        sum(1 for _ in recorder.values.graph.nodes)
        return dispatch(recorder, *given)

    return patch.object(Recorder, "__torch_dispatch__", slow)


# --- files --------------------------------------------------------------------------------------


@contextmanager
def _replaces_what_is_there(path: str | Path) -> Iterator[Path]:
    part = Path(f"{path}.new")
    yield part
    os.replace(part, path)


def _forgets_clips() -> AbstractContextManager[Any]:
    resume = mine._Run.resume

    def forgetful(run: Any, part: Path) -> None:
        resume(run, part)
        run.clips = set()

    return patch.object(mine._Run, "resume", forgetful)


def _nothing(*given: Any) -> None:
    """What a fix does once it is out."""


FLAWS = (
    Flaw(
        AXES,
        "layer norm over channels and time",
        "a normalisation's channels are on the last axis",
        _features_are_last,
    ),
    Flaw(AXES, "a matrix times the map", "so are a product's", _features_are_last),
    Flaw(
        HALF,
        "one to half a million, float16, waveform times 1",
        "all seeds are scaled by the loudest",
        _one_level,
    ),
    Flaw(
        GUEST,
        "a generator of Python's",
        "generators are not put back",
        _instead(belongings, "_generator", _nothing),
    ),
    Flaw(
        GUEST,
        "a list in a dict in a list",
        "containers are not looked into",
        _instead(belongings, "_parts", lambda value: iter(())),
    ),
    Flaw(
        GUEST, "a NumPy array", "arrays are not put back", _instead(belongings, "_array", _nothing)
    ),
    Flaw(
        GUEST,
        "requires_grad",
        "flags and gradients are not put back",
        _instead(belongings, "_tensor", _nothing),
    ),
    Flaw(
        GUEST,
        "another thread during the card",
        "other weights are put into the model itself",
        _weights_are_swapped,
    ),
    Flaw(
        GUEST,
        "another thread during sonify in double precision",
        "the model itself is cast",
        _instead(capture, "castable", lambda model, dtype: model),
    ),
    Flaw(
        GUEST,
        "the card where forward= holds the model",
        "what a copy reads is not looked at",
        _reads_go_unseen,
    ),
    Flaw(
        NAMES_AS_SOURCE,
        "an expression",
        "attributes of the mirror have the model's names",
        _names_of_the_model,
    ),
    Flaw(GROWTH, "layers on a long chain", "each op looks at all before it", _each_op_looks_at_all),
    Flaw(
        GROWTH,
        "memory of a sonifier each",
        "torch.fx keeps the source text of every mirror",
        _instead(mirror, "_forget", _nothing),
    ),
    *(
        Flaw(
            OUTPUT,
            f"write_audio onto {place}",
            "what lies there is replaced",
            _instead(audio, "whole_file", _replaces_what_is_there),
        )
        for place in PLACES
    ),
    Flaw(
        OUTPUT,
        "a page, killed before rename 2",
        "the older page is not put back",
        _instead(report, "_restore", _nothing),
    ),
    Flaw(
        DAMAGED,
        "mine: a run that is broken off goes on",
        "the clips of before the break count again",
        _forgets_clips,
    ),
    Flaw(
        DAMAGED,
        "mine: audio that differs in one sample",
        "waveforms are not compared",
        _instead(mine, "_content_hash", lambda waveform: ""),
    ),
    Flaw(
        DAMAGED,
        "mine: another stride",
        "the hash is of the weights alone",
        _instead(mine, "weights_hash", trust.weights_hash),
    ),
    Flaw(
        DAMAGED,
        "mine: flipped bits",
        "there is no checksum",
        _instead(mined, "_checksum", lambda columns, facts: ""),
    ),
    Flaw(
        DAMAGED,
        "mine: names that are no UTF-8",
        "ids are plain UTF-8",
        _instead(mined, "AS_BYTES", ("utf-8", "strict")),
    ),
)
