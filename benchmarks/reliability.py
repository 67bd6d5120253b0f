"""Attacks on the recording, by kind: tried, right, refused by name, wrong.

Writes docs/reliability.md. Each attack is a small model that is hard to record. Its maps must be
those of the plain model, the gradient method must be `torch.autograd`'s, and the deconvnet that of
a plain function where one is known; an error of this library is a refusal.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.attacks import ATTACKS
from benchmarks.attacks.attack import Attack, Body, noise
from benchmarks.reporting import HERE, table, write_page
from deconv1d import Sonifier
from deconv1d.errors import Deconv1dError

TOLERANCE = 1e-9


def judge(attack: Attack, verify: str | bool = "once") -> str:
    """What came of an attack: right, "refused: <the error>" or "wrong: <what differs>"."""
    try:
        return _judge(attack, verify)
    except Deconv1dError as error:
        return f"refused: {type(error).__name__}: {error}"
    except Exception as error:
        return f"wrong: {type(error).__name__}: {error}"


def _judge(attack: Attack, verify: str | bool) -> str:
    with torch.no_grad():
        plain = attack.model()(attack.x.clone())
    sonifier = Sonifier(attack.model(), verify=verify)
    seed = noise(*plain.shape, seed=7, dtype=plain.dtype)
    if wrong := _difference(
        sonifier.maps(attack.x, layer="body", tap="output", channel_axis=1), plain
    ):
        return f"wrong: maps differ by {wrong:.1g}"
    expected = autograd(attack.model(), attack.x, seed)
    if expected.any() or attack.twin is None:
        back = sonifier.deconvnet(attack.x, "body", tap="output", method="gradient")
        if wrong := _difference(back(seed), expected):
            return f"wrong: gradient differs by {wrong:.1g}"
    return _judge_deconvnet(attack, sonifier, seed)


def _judge_deconvnet(attack: Attack, sonifier: Sonifier, seed: Tensor) -> str:
    raw = sonifier.deconvnet(attack.x, "body", tap="output")(seed)
    if attack.twin is None:
        return "right" if raw.any() else "wrong: the deconvnet is silent"
    twin = Attack(attack.kind, attack.name, lambda: Body(attack.twin), attack.x)  # type: ignore[arg-type]  # checked
    expected = Sonifier(twin.model(), verify=False).deconvnet(attack.x, "body", tap="output")(seed)
    wrong = _difference(raw, expected)
    return f"wrong: deconvnet differs by {wrong:.1g}" if wrong else "right"


def autograd(model: Callable[[Tensor], Tensor], x: Tensor, seed: Tensor) -> Tensor:
    """What autograd carries back through the plain model; zero where it has no path."""
    leaf = x.clone().requires_grad_()
    y = model(leaf * 1)
    if not y.requires_grad:
        return torch.zeros_like(x)
    y.backward(seed)  # `autograd.grad` refuses models with reentrant checkpoints
    return torch.zeros_like(x) if leaf.grad is None else leaf.grad


def _difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the peak; 0 within the tolerance."""
    if actual.shape != expected.shape:
        return float("inf")
    error = float((actual - expected).abs().max()) / max(float(expected.abs().max()), 1e-300)
    return error if not error < TOLERANCE else 0.0


def row(kind: str) -> list[object]:
    """One kind of attack: its name, how many were tried, right, refused, wrong."""
    outcomes = [judge(attack) for attack in ATTACKS if attack.kind == kind]
    counts = [sum(o.startswith(word) for o in outcomes) for word in ("right", "refused", "wrong")]
    return [kind, len(outcomes), *counts]


def refusals() -> list[list[object]]:
    """What is refused, and what the error says."""
    outcomes = ((attack, judge(attack)) for attack in ATTACKS)
    return [[a.kind, a.name, o] for a, o in outcomes if not o.startswith("right")]


def main() -> None:
    """Writes docs/reliability.md."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.simplefilter("ignore")
    rows = [row(kind) for kind in dict.fromkeys(attack.kind for attack in ATTACKS)]
    rest = refusals()
    body = (
        "Each attack is a small model that is hard to record (`benchmarks/attacks/`). *Right*: its "
        'maps are those of the plain model, `method="gradient"` is `torch.autograd`\'s to 1e-9, '
        "and the deconvnet is that of a plain function where one is known.\n\n"
        + table(["kind", "tried", "right", "refused by name", "wrong"], rows)
        + "\n\n"
        + (table(["kind", "attack", "outcome"], rest) if rest else "Nothing is refused.")
    )
    page, command = HERE.parent / "docs" / "reliability.md", "python -m benchmarks.reliability"
    write_page(page, "Reliability", command, body, ("torch",))


if __name__ == "__main__":
    main()
