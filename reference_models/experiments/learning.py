"""Learning curves: whether the networks that claims are tested on were trained long enough."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from reference_models.experiments.comparison import NAMES, differences
from reference_models.experiments.finding import Experiment, Finding, Row, numbers_of
from reference_models.experiments.gates import recognisers
from reference_models.experiments.hearing import every_network
from reference_models.experiments.settled import (
    PROBE,
    RULE,
    Curve,
    history_curve,
    probed_curve,
)
from reference_models.experiments.study import Network, Preset, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "learning-curves"


def networks(preset: Preset) -> list[Network]:
    """Both regimes' networks, and the recognisers that are fine-tuned as a whole."""
    return every_network(preset) + recognisers(preset, "full")


def learning(study: Study) -> Finding:
    """The curve of every network, and whether its last fifth of epochs still gained anything.

    A contrastive network has two: its loss, and what a probe finds, which says whether it settled.
    """
    curves: dict[str, dict[int, Curve]] = {}
    for network in networks(study.preset):
        kind, number = _kind(network), network.random_state
        history = history_curve(study.result(network)["history"])
        curves.setdefault(kind, {})[number] = history
        if network.regime == "contrastive":
            curves.setdefault(f"{kind}, {PROBE}", {})[number] = probed_curve(study, network)
    rows_by_kind = {
        kind: [_row(kind, random_state, curve) for random_state, curve in of_kind.items()]
        for kind, of_kind in curves.items()
    }
    rows = [row for of_kind in rows_by_kind.values() for row in of_kind]
    told = [row["long_enough"] == "yes" for row in rows if row["long_enough"]]
    return Finding(
        rows,
        numbers=[
            number
            for of_kind in rows_by_kind.values()
            for number in numbers_of(
                of_kind, ("networks",), dict.fromkeys(("last", "gained"), str(of_kind[0]["metric"]))
            )
        ],
        figures={NAME: _picture(curves)},
        n=f"{study.preset.runs} networks of each kind; {sum(told)} of {len(told)} were {RULE}",
        differs=f"{differences(study, 'audioset', study.preset.recognised)} The paper shows no "
        "learning curves. Where the held-out clips are trained on too, as with the preset paper, "
        "they say little. The dashed line is where the last fifth begins. The contrastive loss "
        "is shown beside the probe; it says nothing of whether training was long enough.",
    )


def _row(kind: str, random_state: int, curve: Curve) -> Row:
    return {
        "networks": kind,
        "random_state": random_state,
        "metric": curve.unit,
        "epochs": curve.epochs[-1],
        "first": curve.values[0],
        "last": curve.values[-1],
        "gained": curve.gained,
        "long_enough": "" if curve.metric == "val_loss" else "yes" if curve.settled else "no",
    }


def _kind(network: Network) -> str:
    data = NAMES[network.data]
    if network.start:
        return f"fine-tuned on {data}, from {network.start.regime}"
    return f"{network.regime}, {data}"


def _picture(curves: Mapping[str, Mapping[int, Curve]]) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.5 * len(curves), 3.6), dpi=110, layout="constrained")
    rooms = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (kind, of_kind) in zip(rooms, curves.items(), strict=True):
        for random_state, curve in of_kind.items():
            label = f"network {random_state}"
            axes.plot(curve.epochs, curve.values, marker=".", linewidth=1.2, label=label)
        axes.axvline(curve.end + 0.5, color="black", linestyle="--")
        title, unit = textwrap.fill(kind, 32), f"{curve.unit}, validation clips"
        axes.set(title=title, xlabel="epoch", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    rooms[-1].legend(fontsize=8, frameon=False)
    return figure


LEARNING = Experiment(
    NAME, "Learning curves: were the networks trained long enough?", networks, learning
)
