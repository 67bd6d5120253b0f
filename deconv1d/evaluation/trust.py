"""Every explanation and every control in the layers of one model: which can be trusted?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deconv1d.errors import InputError
from deconv1d.evaluation.cells import in_cells, random_cells
from deconv1d.evaluation.explanations import (
    gated,
    integrated_gradients,
    itself,
    randomly_seeded,
    shuffled_twin,
    sonified,
)
from deconv1d.evaluation.identity import Identities, Identity, self_identification
from deconv1d.evaluation.intervals import Mean
from deconv1d.evaluation.pointing import (
    Explanation,
    Game,
    Pair,
    Pointing,
    draw_pairs,
    pointing_game,
)
from deconv1d.table import Table

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

COUNT, SECONDS, LAYERS = 24, 2.0, 4
GATE = "control: input gated by the map"
SEED_IN_CELLS = "control: random map x input, in cells"
TWIN = "control: shuffled weights, same map"
RANDOM_CELLS = "control: random cells"
LOUDEST_CELLS = "control: loudest cells"
CONTROLS = (GATE, SEED_IN_CELLS, TWIN)
"""What an explanation has to beat: none of them depends on what the model learnt below the map."""


@dataclass(frozen=True)
class Trust:
    """What one explanation is worth in one layer; means with 95 % intervals.

    Attributes:
        layer: The layer, as it was asked for.
        explanation: The explanation's name.
        pairs: How many pairs counted in the game with stems at random places.
        pointing: `Pointing.pointing`, stems at random places in time.
        aligned: The same with both stems loud at once.
        within_frames: `Pointing.within_frames`, both stems loud at once.
        identified: `Identity.identified`; None: the oracle has no sounds of single channels.
        in_minus_out: `Identity.in_minus_out`; None as there.
    """

    layer: str
    explanation: str
    pairs: int
    pointing: Mean
    aligned: Mean
    within_frames: Mean
    identified: Mean | None = field(metadata={"none": "-"})
    in_minus_out: Mean | None = field(metadata={"none": "-"})


def benchmark_trust(
    sonifier: Sonifier,
    layers: Sequence[str],
    recordings: Mapping[str, Sequence[Tensor]],
    explanations: Mapping[str, Explanation] | None = None,
    *,
    count: int = COUNT,
    seconds: float = SECONDS,
    clips: int | None = None,
    random_state: int = 0,
    progress: bool = False,
) -> Table[Trust]:
    """The pointing game in both forms, and strict self-identification, on mixtures of recordings.

    Args:
        sonifier: Of the model, with its sample rate; it is applied to single clips, (time,).
        layers: Each as for `Sonifier.sonify`.
        recordings: By class, each (time,), at the sample rate.
        explanations: By name; None: `standard_explanations`.
        count: How many pairs are played in each layer and form.
        seconds: Length of the mixtures.
        clips: How many mixtures serve self-identification; None: `count`.
        random_state: Of all draws.
        progress: Whether to show bars.

    Raises:
        InputError: As for `draw_pairs` and `pointing_game`; if the sample rate is unknown.
    """
    return trials_of(
        sonifier,
        layers,
        recordings,
        explanations or standard_explanations(sonifier, random_state=random_state),
        count=count,
        seconds=seconds,
        clips=count if clips is None else clips,
        random_state=random_state,
        progress=progress,
    ).table


@dataclass(frozen=True)
class Trials:
    """What `benchmark_trust` is made from, pair by pair and clip by clip.

    Attributes:
        apart: The pointing game with stems at random places.
        aligned: The same with both stems loud at once.
        told: Strict self-identification.
        mixtures: On which it was tested, (time,) each.
    """

    apart: Game
    aligned: Game
    told: Identities
    mixtures: Sequence[Tensor]

    @property
    def table(self) -> Table[Trust]:
        """One row for each layer and explanation, with intervals."""
        identities = {(row.layer, row.explanation): row for row in self.told.table}
        return Table(
            [
                _row(apart, aligned, identities.get((apart.layer, apart.explanation)))
                for apart, aligned in zip(self.apart.table, self.aligned.table, strict=True)
            ],
            title="Trust",
        )


def trials_of(
    sonifier: Sonifier,
    layers: Sequence[str],
    recordings: Mapping[str, Sequence[Tensor]],
    explanations: Mapping[str, Explanation],
    *,
    count: int,
    seconds: float,
    clips: int,
    random_state: int,
    progress: bool,
) -> Trials:
    """What `benchmark_trust` is made from; arguments and errors are the same."""
    rate = _rate(sonifier)

    def pairs(seed: int, *, aligned: bool = False) -> Iterator[Pair]:
        return draw_pairs(
            recordings, seconds=seconds, sample_rate=rate, aligned=aligned, random_state=seed
        )

    def play(*, aligned: bool) -> Game:
        drawn = pairs(random_state, aligned=aligned)
        return pointing_game(sonifier, layers, drawn, explanations, count=count, progress=progress)

    # Other draws than the game's, from the same recordings.
    mixtures = [pair.mixture for pair in islice(pairs(random_state + 1), clips)]
    told = self_identification(sonifier, layers, mixtures, explanations, progress=progress)
    return Trials(play(aligned=False), play(aligned=True), told, mixtures)


def summary_of(table: Iterable[Trust]) -> list[str]:
    """One sentence for each layer: which explanation points best, beside its best control.

    Args:
        table: What `benchmark_trust` gives.
    """
    by_layer: dict[str, list[Trust]] = {}
    for row in table:
        by_layer.setdefault(row.layer, []).append(row)
    return [_told(layer, rows) for layer, rows in by_layer.items()]


def _told(layer: str, rows: Sequence[Trust]) -> str:
    # The oracle has no sounds of single channels, so that it is identified by none.
    counted = [row for row in rows if row.pairs]
    tried = [r for r in counted if r.identified and not r.explanation.startswith("control")]
    controls = [row for row in counted if row.explanation in CONTROLS]
    if not tried or not controls:
        return f"{layer}: no pair counted, or nothing was tried beside the controls."
    best = max(tried, key=lambda row: row.aligned.value)
    rival = max(controls, key=lambda row: row.aligned.value)
    more = best.aligned.value - rival.aligned.value
    # Both were measured on the same pairs, so that this is on the careful side.
    spread = math.hypot(best.aligned.error, rival.aligned.error)
    said = "points better than" if more > 2 * spread else "cannot be told from"
    return (
        f"{layer}: {best.explanation} points best, {best.aligned} aligned over {best.pairs} pairs. "
        f"It {said} the best control ({rival.explanation.removeprefix('control: ')}, "
        f"{rival.aligned})."
    )


def _row(apart: Pointing, aligned: Pointing, identity: Identity | None) -> Trust:
    return Trust(
        layer=apart.layer,
        explanation=apart.explanation,
        pairs=apart.pairs,
        pointing=apart.pointing,
        aligned=aligned.pointing,
        within_frames=aligned.within_frames,
        identified=None if identity is None else identity.identified,
        in_minus_out=None if identity is None else identity.in_minus_out,
    )


def standard_explanations(sonifier: Sonifier, *, random_state: int = 0) -> dict[str, Explanation]:
    """The ways to listen that this package has, and their controls.

    Args:
        sonifier: Of the model.
        random_state: Of the controls' draws.
    """

    # A new one for each control: how much one draws must not change what another draws.
    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(random_state)

    return {
        "deconvnet": sonified(),
        "guided": sonified(method="guided"),
        "gradient": sonified(method="gradient"),
        "mask": sonified(method="mask"),
        "deconvnet x input, in cells": in_cells(sonified()),
        "integrated gradients minus rivals, in cells": in_cells(integrated_gradients(rivals=8)),
        GATE: gated,
        SEED_IN_CELLS: in_cells(randomly_seeded(generator())),
        TWIN: shuffled_twin(sonifier, generator()),
        RANDOM_CELLS: random_cells(generator()),
        LOUDEST_CELLS: in_cells(itself),
    }


def spread_layers(sonifier: Sonifier, seconds: float = SECONDS, *, most: int = LAYERS) -> list[str]:
    """Some of a model's layers, from low to high: convolutions if it has any.

    Args:
        sonifier: Of the model, with its sample rate.
        seconds: Length of the clip on which the layers are listed.
        most: How many at most.

    Raises:
        InputError: If the clip is too short for the model.
    """
    rate = _rate(sonifier)
    noise = torch.randn(round(seconds * rate), generator=torch.Generator().manual_seed(0))
    rows = [row for row in sonifier.layers(0.1 * noise) if row.channels > 1]
    names = [row.name for row in rows if "conv" in row.type.lower()] or [row.name for row in rows]
    places = torch.linspace(0, len(names) - 1, min(most, len(names))).round().int().tolist()
    return [names[place] for place in places]


def facts_of(table: Table[Trust], model: nn.Module) -> dict[str, Any]:
    """A table's rows for JSON, where a mean without pairs or clips is None.

    Args:
        table: As from `benchmark_trust`.
        model: Whose weights are named.
    """

    def plain(value: Any) -> Any:
        if not isinstance(value, Mean):
            return value
        # JSON has no NaN.
        return None if math.isnan(value.value) else value._asdict()

    rows = [{name: plain(value) for name, value in vars(row).items()} for row in table]
    return {"weights": weights_hash(model), "rows": rows}


def weights_hash(model: nn.Module) -> str:
    """Twelve hexadecimal digits that name a model's weights: SHA-256 of names, shapes and values.

    Args:
        model: On any device; its state dict is read.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        # Values alone are not enough: the same bytes may have another shape or another name.
        # A name may hold surrogates, which plain UTF-8 has not.
        facts = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        digest.update(facts.encode("utf-8", "surrogatepass"))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def _rate(sonifier: Sonifier) -> int:
    if sonifier.sample_rate is None:
        raise InputError(
            "Trust is measured in spectra, which need a sample rate: expected a number in hertz, "
            "got None. Give it once: Sonifier(model, sample_rate=8000)."
        )
    return sonifier.sample_rate
