"""Figures of docs/how-it-works.md, one for each kind of rule. Writes docs/figures/<kind>.svg.

Each figure is one op of a real model, run forward and carried back by `Sonifier.deconvnet`: nothing
in it is drawn by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.reporting import HERE
from deconv1d import Sonifier
from deconv1d.layers.plan import PlanRow

FOLDER = HERE.parent / "docs" / "figures"
FORWARD, BACK = "#57606a", "#0969da"
"""Colours of what the model computes, and of the signal that is carried back."""


@dataclass(frozen=True)
class Shown:
    """One kind of rule, by an op that has it.

    Attributes:
        op: As the figure names it.
        run: The op, of a waveform (1, 1, time).
        x: The waveform.
        signal: What comes back to the op's output, (1, 1, time).
        what: What the op does with the signal, in a line.
    """

    op: str
    run: Callable[[Tensor], Tensor]
    x: Tensor
    signal: Tensor
    what: str


class Called(nn.Module):
    """A function as a module, so that it can be a layer."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        """Calls it."""
        return self.run(x)


def row(*values: float) -> Tensor:
    """A signal of one example and one channel."""
    return torch.tensor([[values]], dtype=torch.float64)


def standardised(x: Tensor) -> Tensor:
    """A layer norm over time, without weights."""
    return torch.nn.functional.layer_norm(x, x.shape[-1:])


WAVE = row(0.2, 1.0, -0.6, 0.4, 1.6, 0.9, -1.2, -0.3, 0.7, 0.1, -0.8, 0.5)
KERNEL = row(1.0, 0.6, -0.4)
SHOWN = {
    "adjoint": Shown(
        "conv1d",
        lambda x: torch.nn.functional.conv1d(x, KERNEL.to(x), padding=1),
        WAVE,
        row(0, 0, 0, 1, 0, 0, 0, 0, 0.5, 0, 0, 0),
        "each value comes back as the kernel, in its size and its place",
    ),
    "switch": Shown(
        "max_pool1d",
        lambda x: torch.nn.functional.max_pool1d(x, 3),
        WAVE,
        row(1, 0.6, 0.3, -0.4),
        "each value comes back where its window had its maximum",
    ),
    "rectify": Shown(
        "relu",
        torch.relu,
        WAVE,
        row(0.5, -0.6, 0.9, 0.3, -0.2, 1.0, 0.7, -0.9, 0.4, -0.1, 0.6, -0.5),
        "the signal itself goes through a ReLU, whatever the input was",
    ),
    "hold": Shown(
        "layer_norm",
        standardised,
        WAVE,
        row(0, 0, 0, 1, 0, 0, 0, 0, 0.5, 0, 0, 0),
        "the deviation is a constant: the signal minus its mean, scaled",
    ),
    "pass": Shown(
        "clone",
        torch.clone,
        WAVE,
        row(0.5, -0.6, 0.9, 0.3, -0.2, 1.0, 0.7, -0.9, 0.4, -0.1, 0.6, -0.5),
        "the signal, unchanged",
    ),
    "gradient": Shown(
        "sin",
        lambda x: torch.sin(2 * x),
        WAVE,
        row(*[1.0] * 12),
        "the signal times the slope at the input: small where the sine is flat; flagged",
    ),
}


def carried_back(shown: Shown) -> tuple[Tensor, Tensor, PlanRow]:
    """Returns the op's output, what its rule makes of the signal, and the plan's row of the op."""
    sonifier = Sonifier(nn.Sequential(Called(shown.run)))
    given = {"layer": "0", "tap": "output"}
    output = sonifier.maps(shown.x, **given)
    signal = sonifier.deconvnet(shown.x, **given)(shown.signal)
    return output, signal, sonifier.plan(shown.x, **given)[0]  # the op nearest to the output


def drawn(kind: str, shown: Shown) -> Figure:
    """Returns the figure: what ran on the left, what is carried back on the right."""
    output, signal, step = carried_back(shown)
    assert step.rule == kind, (step.rule, kind)
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    (top_left, top_right), (low_left, low_right) = figure.subplots(2, 2)
    _stems(top_left, shown.x, FORWARD, "forward: the input")
    _stems(low_left, output, FORWARD, f"forward: {shown.op} of it")
    _stems(low_right, shown.signal, BACK, "back: the signal at the output")
    _stems(top_right, signal, BACK, "back: the signal at the input")
    figure.suptitle(f"{kind}: {shown.what}", fontsize=10)
    return figure


def _stems(axes: Axes, values: Tensor, colour: str, title: str) -> None:
    places = range(values.shape[-1])
    markers, stems, _ = axes.stem(places, values.flatten(), basefmt=" ")
    markers.set(color=colour, markersize=4)
    stems.set(color=colour, linewidth=1.5)
    axes.axhline(0, color="#8c959f", linewidth=0.8)
    axes.set_title(title, fontsize=9, loc="left", color=colour)
    axes.tick_params(labelsize=7)
    axes.set_ylim(-2.8, 2.8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)


def write(folder: Path = FOLDER) -> list[Path]:
    """Writes all figures, the same bytes each time."""
    # Otherwise ids within the file are random; words stay words, drawn in the reader's font.
    settings = {"svg.hashsalt": "deconv1d", "svg.fonttype": "none", "font.family": "sans-serif"}
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{kind}.svg" for kind in SHOWN]
    for path, (kind, shown) in zip(paths, SHOWN.items(), strict=True):
        with matplotlib.rc_context(settings):
            drawn(kind, shown).savefig(path, metadata={"Date": None})
    return paths


if __name__ == "__main__":
    print(*write(), sep="\n")
