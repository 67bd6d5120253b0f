"""Pictures of a number by layer: one curve a series, with its intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reference_models.evaluate import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Mapping[str, Sequence[Interval]]
FIRST = {"color": "black", "linewidth": 2}
"""The first curve is the one that the others are compared with."""


def plot_curves(
    panels: Mapping[str, Curves], layers: Sequence[str], unit: str, dashed: Mapping[str, float] = {}
) -> "Figure":
    """A row of panels over the layers.

    Args:
        panels: By title the curves by name, one interval for each layer.
        layers: Names of the layers.
        unit: Of the vertical axis.
        dashed: By title of a panel a level to draw across it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(panels), 4), dpi=110, layout="constrained")
    rooms = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(rooms, panels.items(), strict=True):
        axes.set(title=title, xlabel="layer")
        axes.set_xticks(range(len(layers)), [layer.removeprefix("conv") for layer in layers])
        if title in dashed:
            axes.axhline(dashed[title], color="black", linestyle="--", label="baseline")
        _draw(axes, curves)
    rooms[0].set_ylabel(unit)
    names = [list(curves) for curves in panels.values()]
    for axes, own, following in zip(rooms, names, [*names[1:], None], strict=True):
        if own != following:  # one legend for neighbours that have the same curves
            axes.legend(fontsize=8)
    return figure


def _draw(axes: "Axes", curves: Curves) -> None:
    for number, (name, points) in enumerate(curves.items()):
        style = {"linewidth": 1} if number else FIRST
        means = [point.mean for point in points]
        spread = [point.half_width if math.isfinite(point.half_width) else 0 for point in points]
        axes.errorbar(range(len(means)), means, spread, label=name, capsize=2, **style)
