"""Every architecture, captured and carried back: what works, how exactly, and who else can.

Writes docs/models.md. For each network, at its last named layer with the layer's own output as map:
"gradient" against autograd, "deconvnet" against autograd whose ReLU kin rectify (where nothing is
held or flagged), and what `torch.fx.symbolic_trace`, `torch.export` and Captum do with the network.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import NeuronDeconvolution
from torch import Tensor, nn

from benchmarks.architectures import ARCHITECTURES, Architecture
from benchmarks.reporting import HERE, table, write_page
from deconv1d.errors import PathError
from deconv1d.layers.names import find_module
from deconv1d.mirror import Deconvnet, mirror
from deconv1d.record.capture import Capture, capture
from deconv1d.record.request import TapRequest
from tests.oracles import RectifyingBackward, eager, heard

TOLERANCE = 1e-4
"""Of the laws, in float32, as a share of the peak."""
PACKAGES = ("torch", "captum", "transformers", "torchcrepe", "numpy")
BEFORE = json.loads((HERE / "flagged_before.json").read_text())
"""The share flagged by an older version of the library (see `benchmarks/flagged.py`)."""


class LawBrokenError(AssertionError):
    """A sonification that is not what autograd says."""


@dataclass(frozen=True)
class Listened:
    """One network, carried back from its last layer by one method."""

    captured: Capture
    deconvnet: Deconvnet
    raw: Tensor
    capture_seconds: float
    mirror_seconds: float


def build(architecture: Architecture, *, scripted: bool = True) -> tuple[nn.Module, Tensor]:
    """The network and a waveform, the same each time; without TorchScript if not `scripted`."""
    torch.manual_seed(0)
    model = architecture.build()
    if not scripted:
        weights = model.state_dict()
        model = eager(architecture.build)
        model.load_state_dict(weights)
    return model, torch.randn(architecture.input_shape, generator=torch.Generator().manual_seed(1))


def listen(architecture: Architecture, method: str) -> Listened:
    """Captures and mirrors a fresh network; the second run is timed."""
    model, x = build(architecture)
    layer = architecture.layers[-1]
    module = find_module(model, layer)  # inside TorchScript only ops have names
    target = (
        TapRequest(module.target, "output") if module else TapRequest(layer, "output", is_op=True)
    )
    for _ in range(2):
        torch.manual_seed(2)
        start = time.perf_counter()
        captured = capture(model, x, target=target, method=method, forward=architecture.forward)
        captured_at = time.perf_counter()
        deconvnet = mirror(captured, method=method)
        assert captured.tap is not None
        raw = deconvnet(captured.kept[captured.tap])
        done = time.perf_counter()
    return Listened(captured, deconvnet, raw, captured_at - start, done - captured_at)


def autograd(architecture: Architecture, *, rectifying: bool) -> Tensor:
    """The same by torch's own derivative of the running model.

    What is compiled calls no function that could be given another backward pass: it runs as Python.
    """
    model, x = build(architecture, scripted=not rectifying)
    x.requires_grad_()

    def run() -> Any:
        torch.manual_seed(2)
        return architecture.run(model, x)

    with RectifyingBackward() if rectifying else nullcontext():
        (activation,) = heard(model, architecture.layers[-1:], run)
    (gradient,) = torch.autograd.grad((activation * activation.detach()).sum(), x)
    return gradient


def difference(ours: Tensor, theirs: Tensor) -> str:
    """Largest difference relative to the peak.

    Raises:
        LawBrokenError: If it is more than rounding: no page says then that the law holds.
    """
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    if not error < TOLERANCE:
        raise LawBrokenError(f"a law fails: the largest difference is {error:.0e} of the peak")
    return f"{error:.0e}"


def outcome(run: Callable[[], str]) -> str:
    """What a tool returns, or the first line of what it raises."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return run()
    except LawBrokenError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0][:60].replace("|", "/")
        return f"fails: {type(error).__name__}: {line}"


def traced(architecture: Architecture) -> str:
    """`torch.fx.symbolic_trace`: whether the traced network computes the same."""
    model, x = build(architecture)
    torch.manual_seed(2)
    trace = torch.fx.symbolic_trace(model)
    trace(x)
    return "works"


def exported(architecture: Architecture) -> str:
    """`torch.export` on the same waveform."""
    model, x = build(architecture)
    torch.export.export(model, (x,))
    return "works"


def by_captum(architecture: Architecture, deconvnet: Tensor, gradient: Tensor | None) -> str:
    """Captum's NeuronDeconvolution for the whole map, with the map as seed."""
    model, x = build(architecture)
    layer = architecture.layers[-1]
    if "#" in layer or architecture.forward is not None:
        return "not applicable"
    torch.manual_seed(2)
    method = NeuronDeconvolution(model, model.get_submodule(layer))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captums = method.attribute(x, neuron_selector=lambda a: (a * a.detach()).flatten(1).sum(1))
    if equal(captums, deconvnet):
        return "the same"
    cosine = float(torch.cosine_similarity(captums.flatten(), deconvnet.flatten(), 0))
    plain = gradient is not None and equal(captums, gradient)
    return f"{'plain gradient' if plain else 'differs'}, cosine {cosine:.2f}"


def equal(theirs: Tensor, ours: Tensor) -> bool:
    """Whether two waveforms differ by rounding alone."""
    return torch.allclose(theirs, ours, atol=TOLERANCE * float(ours.abs().max()))


def gradient_of(architecture: Architecture) -> Tensor | None:
    """Ours by `method="gradient"`; None where the model stops gradients on their way.

    Raises:
        LawBrokenError: If torch's own derivative does not stop there.
    """
    try:
        return listen(architecture, "gradient").raw
    except PathError as error:
        # Such a model runs under `torch.no_grad`: then torch has nothing to differentiate.
        with contextlib.suppress(RuntimeError):
            autograd(architecture, rectifying=False)
            raise LawBrokenError("a law fails: torch has a derivative, we have none") from error
        return None


def before(name: str) -> str:
    """The share that the older version flagged, or the error that it ended in."""
    share = BEFORE["shares"].get(name, "-")
    return share if isinstance(share, str) else f"{share:.0%}"


def row(architecture: Architecture) -> list[str]:
    """One line of the table."""
    ours, gradient = listen(architecture, "deconvnet"), gradient_of(architecture)
    rules = [step.rule for step in ours.deconvnet.steps]
    plain = not any(rule.flagged or rule.kind == "hold" for rule in rules)
    inside = find_module(build(architecture)[0], architecture.layers[-1]) is None

    def law(raw: Tensor | None, *, rectifying: bool) -> str:
        if inside:
            return "no hooks in a script"
        # A forward without gradients has none to compare with; the deconvnet needs none.
        if raw is None or gradient is None:
            return "torch has no derivative"
        return outcome(lambda: difference(raw, autograd(architecture, rectifying=rectifying)))

    ops = sum(node.op == "call_function" for node in ours.captured.graph.nodes)
    return [
        architecture.name,
        f"`{architecture.layers[-1]}`",
        str(ops),
        f"{1e3 * ours.capture_seconds:.0f}",
        f"{ours.mirror_seconds:.3f}",
        before(architecture.name),
        f"{sum(rule.flagged for rule in rules) / len(rules):.0%}",
        law(gradient, rectifying=False),
        law(ours.raw, rectifying=True) if plain else "held or flagged",
        outcome(lambda: traced(architecture)),
        outcome(lambda: exported(architecture)),
        outcome(lambda: by_captum(architecture, ours.raw, gradient)),
    ]


def main() -> None:
    """Writes docs/models.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures; all if none is named")
    names = parser.parse_args().names or list(ARCHITECTURES)
    chosen = [ARCHITECTURES[name] for name in names if ARCHITECTURES[name].installed]
    warnings.simplefilter("ignore")
    rows, broken = [], []
    for architecture in chosen:
        print(architecture.name, flush=True)
        try:
            rows.append(row(architecture))
        except LawBrokenError as error:
            broken.append(f"{architecture.name}: {error}")
    if broken:
        raise LawBrokenError("\n".join(["the page is not written:", *broken]))
    write_rows(rows)


def write_rows(rows: list[list[str]]) -> None:
    """Writes docs/models.md from the lines of its table."""
    head = ["network", "layer", "ops", "capture, ms", "mirror, s", "flagged before", "flagged"]
    head += ["gradient law", "deconvnet law", "fx.symbolic_trace", "torch.export", "Captum"]
    body = (
        f"{len(rows)} networks, each at the last of its named layers on a path from the waveform "
        "(`benchmarks/architectures/`), float32, random weights unless the package ships its own. "
        '*Gradient law*: `method="gradient"` against `torch.autograd`; *deconvnet law*: against '
        "autograd whose ReLU kin rectify, where nothing is held or flagged; both the largest "
        "difference relative to the peak. *Flagged*: the share of ops on the way that carry their "
        f"gradient for want of a rule; *before*: by commit {BEFORE['version']}, or the error in "
        "which it ended. *Captum*: `NeuronDeconvolution` for the same map.\n\n"
    )
    write_page(
        HERE.parent / "docs" / "models.md",
        "Models",
        "python benchmarks/models.py",
        body + table(head, rows),
        PACKAGES,
    )


if __name__ == "__main__":
    main()
