"""Pictures of a number by layer: one curve a series, with its intervals."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from reference_models.evaluate import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Mapping[str, Sequence[Interval]]
FIRST = {"color": "black", "linewidth": 2}
"""The first curve is the one that the others are compared with."""
SIDESTEP = 0.07
"""Of a layer's place, from one curve to the next, so that each interval can be seen."""


def plot_curves(
    panels: Mapping[str, Curves],
    layers: Sequence[str],
    unit: str | Sequence[str],
    dashed: Mapping[str, float] = {},
) -> "Figure":
    """A row of panels over the layers, framed by their curves: wide intervals end at the frame.

    Args:
        panels: By title the curves by name, one interval for each layer.
        layers: Names of the layers.
        unit: Of the vertical axis that the panels share, or one for each panel.
        dashed: By title of a panel a level to draw across it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(panels), 4), dpi=110, layout="constrained")
    shared = isinstance(unit, str)
    rooms = figure.subplots(1, len(panels), sharey=shared, squeeze=False)[0]
    labels = [unit, *[""] * (len(panels) - 1)] if isinstance(unit, str) else unit
    for axes, label, (title, curves) in zip(rooms, labels, panels.items(), strict=True):
        axes.set(title=title, xlabel="layer", ylabel=label)
        axes.set_xticks(range(len(layers)), [layer.removeprefix("conv") for layer in layers])
        if title in dashed:
            axes.axhline(dashed[title], color="black", linestyle="--", label="baseline")
        _draw(axes, curves)
        axes.set_ylim(*_frame(panels.values() if shared else [curves], dashed.values()))
    names = [list(curves) for curves in panels.values()]
    for axes, own, following in zip(rooms, names, [*names[1:], None], strict=True):
        if own != following:  # one legend for neighbours that have the same curves
            axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _frame(panels: Iterable[Curves], levels: Iterable[float]) -> tuple[float, float]:
    """Half as much room below and above the means as there is between them."""
    means = [p.mean for curves in panels for points in curves.values() for p in points]
    shown = [*levels, *filter(math.isfinite, means)] or [0.0]
    room = max((max(shown) - min(shown)) / 2, 0.01)
    return min(shown) - room, max(shown) + room


def _draw(axes: "Axes", curves: Curves) -> None:
    for number, (name, points) in enumerate(curves.items()):
        style = {"linewidth": 1} if number else FIRST
        means = [point.mean for point in points]
        spread = [point.half_width if math.isfinite(point.half_width) else 0 for point in points]
        aside = SIDESTEP * (number - (len(curves) - 1) / 2)
        places = [layer + aside for layer in range(len(means))]
        axes.errorbar(places, means, spread, label=name, capsize=2, **style)
