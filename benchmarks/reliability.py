"""Attacks on the recording, by kind: tried, right, refused by name, wrong.

Writes docs/reliability.md. Most attacks are a small model that is hard to record. Its maps must be
those of the plain model, the gradient method must be `torch.autograd`'s, and the deconvnet that of
a plain function where one is known; an error of this library is a refusal. The other attacks, on
files and the like, judge themselves.
"""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.attacks import ATTACKS, files
from benchmarks.attacks.attack import Attack, Body, Check, Function, model_of, noise
from benchmarks.attacks.flaws import FLAWS, Flaw
from benchmarks.attacks.plants import PLANTS
from benchmarks.reporting import HERE, table, write_page
from deconv1d import Sonifier
from deconv1d.errors import Deconv1dError, PathError

sys.path.append(str(HERE.parent / "tests"))
import test_interrupts as interrupts
from oracles import RectifyingBackward
from untouched import changed

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
"""The largest difference, as a share of the peak."""


def judge(attack: Attack | Check, verify: str | bool = "once") -> str:
    """What came of an attack: right, "refused: <the error>" or "wrong: <what differs>"."""
    try:
        if isinstance(attack, Check):
            attack.run()
            return "right"
        return _judge(attack, verify)
    except Deconv1dError as error:
        return f"refused: {type(error).__name__}: {error}"
    except Exception as error:
        return f"wrong: {type(error).__name__}: {error}"


def is_as_promised(attack: Attack | Check, outcome: str) -> bool:
    """Whether an attack came out right, or is refused where it may be."""
    return outcome == "right" or bool(attack.refused and outcome.startswith("refused: "))


def _judge(attack: Attack, verify: str | bool) -> str:
    model = attack.model()
    torch.manual_seed(1)
    with torch.no_grad():
        plain = model(attack.x.clone())
    sonifier = Sonifier(attack.model(), verify=verify)
    seed = noise(*plain.shape, seed=7, dtype=plain.dtype)
    tolerance = max(TOLERANCES[attack.x.dtype], TOLERANCES[plain.real.dtype])
    torch.manual_seed(1)
    maps = sonifier.maps(attack.x, layer="body", tap="output", channel_axis=1)
    if maps.dim() > plain.dim():  # an axis of length 1 stands for each that the map has lost
        maps = maps[0].movedim(0, 1) if plain.dim() > 1 else maps.reshape(plain.shape)
    if wrong := _difference(maps, plain, tolerance):
        return f"wrong: maps differ by {wrong:.1g}"
    source = attack.model() if attack.finite is None else model_of(lambda: Body(attack.finite))
    torch.manual_seed(1)
    expected = autograd(source, attack.x, seed)
    if wrong := _difference(_carried(attack, sonifier, seed, "gradient"), expected, tolerance):
        return f"wrong: gradient differs by {wrong:.1g}"
    return _judge_deconvnet(attack, sonifier, seed, tolerance)


def _carried(attack: Attack, sonifier: Sonifier, seed: Tensor, method: str) -> Tensor:
    torch.manual_seed(1)
    try:
        back = sonifier.deconvnet(attack.x, "body", tap="output", method=method)
    except PathError as error:
        # No path is autograd's zero; other errors of the path are refusals.
        if method == "gradient" and "does not depend on the input" in str(error):
            return torch.zeros_like(attack.x)
        raise
    return back(seed)


def _judge_deconvnet(attack: Attack, sonifier: Sonifier, seed: Tensor, tolerance: float) -> str:
    raw = _carried(attack, sonifier, seed, "deconvnet")
    if attack.twin is None:
        return "right" if raw.any() else "wrong: the deconvnet is silent"
    wrong = _difference(raw, _rectified(attack.twin, attack.x, seed), tolerance)
    return f"wrong: deconvnet differs by {wrong:.1g}" if wrong else "right"


def _rectified(twin: Function, x: Tensor, seed: Tensor) -> Tensor:
    """The deconvnet of a plain function by autograd, in which ReLU's kin rectify the signal."""
    with RectifyingBackward():
        return autograd(twin, x, seed)


def autograd(model: Callable[[Tensor], Tensor], x: Tensor, seed: Tensor) -> Tensor:
    """What autograd carries back through the plain model; zero where it has no path."""
    leaf = x.clone().requires_grad_()
    y = model(leaf * 1)
    if not y.requires_grad:
        return torch.zeros_like(x)
    y.backward(seed)  # `autograd.grad` refuses models with reentrant checkpoints
    return torch.zeros_like(x) if leaf.grad is None else leaf.grad


def _difference(actual: Tensor, expected: Tensor, tolerance: float) -> float:
    """The largest difference as a share of the peak; 0 within the tolerance."""
    if actual.shape != expected.shape:
        return float("inf")
    error = float((actual - expected).abs().max()) / max(float(expected.abs().max()), 1e-300)
    return error if not error < tolerance else 0.0


def seen(kind: str) -> tuple[int | str, int | str]:
    """With a kind's fix taken out: how many attacks go wrong, how many of these are noticed."""
    if kind not in PLANTS:
        return "", ""
    wrong = noticed = 0
    for attack in ATTACKS:
        if attack.kind == kind and isinstance(attack, Attack):
            with PLANTS[kind]():
                if not judge(attack, verify=False).startswith("right"):
                    wrong += 1
                    noticed += "is not what the model computes" in judge(attack)
    return wrong, noticed


def row(kind: str, outcomes: Mapping[Attack | Check, str]) -> list[object]:
    """One kind of attack: its name, how many were tried, right, refused, wrong."""
    own = [outcome for attack, outcome in outcomes.items() if attack.kind == kind]
    counts = [sum(o.startswith(word) for o in own) for word in ("right", "refused", "wrong")]
    return [kind, len(own), *counts, *seen(kind)]


def flaw_row(flaw: Flaw) -> list[str]:
    """A fault that is put in: its kind, what it is, the attack that has to catch it, what came."""
    attack = next(a for a in ATTACKS if (a.kind, a.name) == (flaw.kind, flaw.attack))
    with flaw.plant(), patch.object(files, "PATIENCE", 1):
        outcome = judge(attack)
    caught = "not caught" if is_as_promised(attack, outcome) else "caught"
    return [flaw.kind, flaw.what, flaw.attack, caught]


def interrupted() -> tuple[int, int]:
    """At how many instructions of entry and exit Ctrl-C was pressed, and how many visits it ended.

    Raises:
        AssertionError: If one of them left a trace.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        x, model = noise(1, 1, 20, dtype=torch.float32), interrupts.Busy().train()
        interrupts.visit(model, x)  # what is made once is there
        places = interrupts.instructions_of(model, x, interrupts.ENTRY_AND_EXIT)
        state, ended = interrupts.everything(model), 0
        for code, instruction, _ in places:
            trace = interrupts.acting(code, instruction, 1, interrupts.ctrl_c)
            ended += interrupts.interrupted_at(model, x, trace)
            differences = changed(state, interrupts.everything(model))
            assert not differences, (code.co_qualname, instruction, differences)
    finally:
        signal.signal(signal.SIGINT, before)
    return len(places), ended


HEAD = ("kind", "tried", "right", "refused by name", "wrong", "wrong without the fix", "noticed")
TEXT = """\
Models that are hard to record, and files that are hard to write, were thought of by kind: what a
hostile reviewer would try. They lie in `benchmarks/attacks/`, and each is a test too.

An attack on a model is *right* if three things hold. The maps are those of the plain model. With
`method="gradient"` the signal at the waveform is what `torch.autograd` carries back through the
plain model (float64: to 1e-9 of the peak; float32: 1e-4). And the deconvnet is the one that
autograd gives for a plain function in which ReLU and its kin have the deconvnet's derivative and
what is held is detached, where such a function was written down. Other attacks ask for what their
kind promises: the same number of channels everywhere, a model that goes on as its twin does which
was not listened to, a file that keeps its mode.

An attack is *refused by name* if an error of this library says what it cannot do. It is *wrong*
if neither is so. What is refused of PyTorch's own samples of every op, and why, stands on the page
of [ops](ops.md).

The last two columns say what the default `verify="once"` is worth. The fix of a kind is taken out
(`benchmarks/attacks/plants.py`), and its attacks are made again: so many go wrong then, and of so
many verification says that the capture is not what the model computes. Straight-through estimators
are told otherwise: a deconvnet that is zero where the gradient is not is an error. Where the
columns are empty the attacks judge themselves; faults that are put in for them stand below.
"""
FLAWS_TEXT = """\
Faults that are put in on purpose (`benchmarks/attacks/flaws.py`), each with the attack that has to
come out wrong then.
"""
INTERRUPTS_TEXT = """\
Ctrl-C was pressed before each of the {places} bytecode instructions of entry and exit (the modules
`capture`, `unchanged`, `belongings` and `interrupts`) that run in a visit of a model which writes,
counts, draws and caches: the first time that each runs. {ended} of the {places} visits ended in
KeyboardInterrupt. After none was a tensor, an attribute, a generator, a mode, a hook, a handler or
a setting of the process other than before. The long run (`python -m pytest -m slow
tests/test_interrupts.py`) also presses it the last time that each runs.
"""
PROGRAMS_TEXT = """\
## Random programs with memory

Programs of up to nine steps (views, writes, a buffer, `detach`, `data`, `no_grad`, branches, two
precisions) are drawn by Hypothesis; maps and gradient have to be plain PyTorch's. The tests try
200, the long run (`python -m pytest -m slow tests/test_reliability.py`) 5,000.
"""


def _anywhere(said: str) -> str:
    """A message whose source lines are given from the checkout's folder on."""
    return said.replace(f"{HERE.parent}/", "")


def body() -> str:
    """The page without its title and date."""
    places, ended = interrupted()
    flaws = [flaw_row(flaw) for flaw in FLAWS]
    outcomes = {attack: judge(attack) for attack in ATTACKS}
    rows = [row(kind, outcomes) for kind in dict.fromkeys(attack.kind for attack in ATTACKS)]
    total = [sum(int(r[n]) for r in rows) for n in range(1, 5)]  # type: ignore[call-overload]  # numbers
    refused = [
        [attack.kind, attack.name, attack.refused or "", _anywhere(outcome.partition(": ")[2])]
        for attack, outcome in outcomes.items()
        if not outcome.startswith("right")
    ]
    named = table(["kind", "attack", "why it may be refused", "what is said"], refused)
    return (
        f"{TEXT}\n{table(HEAD, [*rows, ['all', *total, '', '']])}\n\n## Refused\n\n"
        f"{named if refused else 'Nothing.'}\n\n## Attacks that can fail\n\n{FLAWS_TEXT}\n"
        f"{table(['kind', 'what is wrong', 'attack', 'outcome'], flaws)}\n\n"
        f"## Interrupts\n\n{INTERRUPTS_TEXT.format(places=places, ended=ended)}\n{PROGRAMS_TEXT}"
    )


def main() -> None:
    """Writes docs/reliability.md."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.simplefilter("ignore")
    page, command = HERE.parent / "docs" / "reliability.md", "python -m benchmarks.reliability"
    write_page(page, "Reliability", command, body(), ("torch", "numpy"))


if __name__ == "__main__":
    main()
