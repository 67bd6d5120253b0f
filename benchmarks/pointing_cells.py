"""One layer of one network in the pointing game, kept as JSON so that a run can be resumed."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.pointing_networks import OPTIONS, Network, recordings, sonifier_of
from benchmarks.reporting import HERE
from deconv1d import InputError, Sonifier
from deconv1d.audio import write_whole
from deconv1d.evaluation.disturbed import disturbed_masks
from deconv1d.evaluation.explanations import captum
from deconv1d.evaluation.pointing import Explanation
from deconv1d.evaluation.trust import GATE, standard_explanations, trials_of, weights_hash
from deconv1d.masks.listen import STEPS
from deconv1d.masks.options import BUDGET
from deconv1d.masks.survey import MASKS

CELLS = HERE / "pointing"
CAPTUM = "NeuronGuidedBackprop"
DIGITS = 4

Scores = dict[str, Tensor]
"""By explanation: (pairs, 2) of a game, or (mixtures, 3) of self-identification."""


@dataclass(frozen=True)
class Cell:
    """What was measured in one layer.

    Attributes:
        settings: What it depends on, as `settings_of`.
        made: When, and with which torch.
        apart: The pointing game with stems at random places.
        aligned: The same with both stems loud at once.
        told: Strict self-identification.
        disturbed: The same by disturbed masks, by disturbance; empty: of an untrained network.
    """

    settings: Mapping[str, Any]
    made: str
    apart: Scores
    aligned: Scores
    told: Scores
    disturbed: Scores

    @property
    def layer(self) -> str:
        """The layer."""
        return str(self.settings["layer"])

    def save(self, path: Path) -> None:
        """Writes JSON; a run that is cut off leaves no half of a file."""
        facts = {
            name: {key: rounded(each) for key, each in value.items()}
            if name in ("apart", "aligned", "told", "disturbed")
            else value
            for name, value in vars(self).items()
        }
        path.parent.mkdir(exist_ok=True)
        write_whole(path, (json.dumps(facts) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> "Cell":
        """What `save` wrote."""
        facts = json.loads(path.read_text(encoding="utf-8"))
        for name, columns in (("apart", 2), ("aligned", 2), ("told", 3), ("disturbed", 3)):
            facts[name] = {
                key: torch.tensor(rows).reshape(-1, columns) for key, rows in facts[name].items()
            }
        return cls(**facts)


def rounded(scores: Tensor) -> list[list[float]]:
    """Rows of numbers of few digits."""
    return [[round(value, DIGITS) for value in row] for row in scores.tolist()]


def settings_of(network: Network, layer: str, digest: str, count: int) -> dict[str, Any]:
    """What a cell depends on: two networks of the same weights and data share their cells."""
    return {
        "layer": layer,
        "weights": digest,
        "data": network.folder,
        "seconds": network.seconds,
        "count": count,
        "clips": max(2, count // 2),
        "explanations": list(network.explanations) or "all",
        "recipe": {"masks": MASKS, "steps": STEPS, "budget": BUDGET},
    }


def cells_of(network: Network, data: Path | None, count: int) -> list[Cell]:
    """One for each layer: as kept if the settings are the same, else measured and kept.

    Without data, layers of which nothing is kept are left out.

    Args:
        network: The network.
        data: Where its recordings are; None: only what is kept.
        count: How many pairs.

    Raises:
        InputError: If there are no data, and nothing is kept.
    """
    sonifier = sonifier_of(network)
    digest = weights_hash(sonifier.model)
    cells = []
    for layer in network.layers:
        path = CELLS / f"{digest}-{layer}{network.suffix}.json"
        settings = settings_of(network, layer, digest, count)
        kept = Cell.load(path) if path.exists() else None
        if data is not None and (kept is None or kept.settings != settings):
            kept = _measured(network, sonifier, data, settings)
            kept.save(path)
        if kept is not None:
            cells.append(kept)
    if not cells:
        raise InputError(
            f"{network.name} cannot be shown: no measurement is kept in {CELLS} for weights "
            f"{digest}. Measure it with --data DIR."
        )
    return cells


def _measured(
    network: Network, sonifier: Sonifier, data: Path, settings: Mapping[str, Any]
) -> Cell:
    layer = settings["layer"]
    explanations = _explanations(network, sonifier)
    trials = trials_of(
        sonifier,
        [layer],
        recordings(network, data),
        explanations,
        count=settings["count"],
        seconds=settings["seconds"],
        clips=settings["clips"],
        random_state=0,
        progress=True,
    )
    disturbed = {}
    if GATE in explanations:
        disturbed = dict(disturbed_masks(sonifier, [layer], trials.mixtures).scores[layer])
    games = (dict(found.scores[layer]) for found in (trials.apart, trials.aligned, trials.told))
    made = f"{datetime.date.today()}; torch {torch.__version__}"
    return Cell(settings, made, *games, disturbed)


def _explanations(network: Network, sonifier: Sonifier) -> dict[str, Explanation]:
    explanations = standard_explanations(sonifier) | OPTIONS
    if network.explanations:
        return {name: explanations[name] for name in network.explanations}
    chosen = {name: each for name, each in explanations.items() if name not in OPTIONS}
    return chosen | ({f"Captum's {CAPTUM}": captum(CAPTUM)} if network.captum else {})
