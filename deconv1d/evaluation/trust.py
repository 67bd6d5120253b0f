"""Every explanation and every control in the layers of one model: which can be trusted?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

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
from deconv1d.evaluation.identity import self_identification
from deconv1d.evaluation.intervals import Mean
from deconv1d.evaluation.pointing import ORACLE, Explanation, draw_pairs, pointing_game
from deconv1d.sonify import Sonifier
from deconv1d.table import Table

COUNT, SECONDS = 24, 2.0
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
    identified: Mean | None
    in_minus_out: Mean | None


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
    """The pointing game in both forms and strict self-identification on the same mixtures.

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
    rate = sonifier.sample_rate
    if rate is None:
        raise InputError(
            "Trust is measured in spectra, which need a sample rate: expected a number in hertz, "
            "got None. Give it once: Sonifier(model, sample_rate=8000)."
        )
    if explanations is None:
        explanations = standard_explanations(sonifier, random_state=random_state)
    apart, aligned = (
        pointing_game(
            sonifier,
            layers,
            draw_pairs(
                recordings,
                seconds=seconds,
                sample_rate=rate,
                aligned=form,
                random_state=random_state,
            ),
            explanations,
            count=count,
            progress=progress,
        )
        for form in (False, True)
    )
    pairs = draw_pairs(recordings, seconds=seconds, sample_rate=rate, random_state=random_state + 1)
    mixtures = [pair.mixture for pair in islice(pairs, count if clips is None else clips)]
    told = self_identification(sonifier, layers, mixtures, explanations, progress=progress)
    identities = {(row.layer, row.explanation): row for row in told.table}
    rows = []
    for one, two in zip(apart.table, aligned.table, strict=True):
        identity = identities.get((one.layer, one.explanation))
        rows.append(
            Trust(
                layer=one.layer,
                explanation=one.explanation,
                pairs=one.pairs,
                pointing=one.pointing,
                aligned=two.pointing,
                within_frames=two.within_frames,
                identified=None
                if one.explanation == ORACLE or identity is None
                else identity.identified,
                in_minus_out=None if identity is None else identity.in_minus_out,
            )
        )
    return Table(rows, title="Trust")


def standard_explanations(sonifier: Sonifier, *, random_state: int = 0) -> dict[str, Explanation]:
    """The ways to listen that this package has, and their controls.

    Args:
        sonifier: Of the model.
        random_state: Of the controls' draws.
    """

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(random_state)

    return {
        "deconvnet": sonified(),
        "deconvnet, contrasted": sonified(contrast="channels"),
        "guided": sonified(method="guided"),
        "gradient": sonified(method="gradient"),
        "deconvnet x input, in cells": in_cells(sonified()),
        "integrated gradients minus rivals, in cells": in_cells(integrated_gradients(rivals=8)),
        GATE: gated,
        SEED_IN_CELLS: in_cells(randomly_seeded(generator())),
        TWIN: shuffled_twin(sonifier, generator()),
        RANDOM_CELLS: random_cells(generator()),
        LOUDEST_CELLS: in_cells(itself),
    }


def weights_hash(model: nn.Module) -> str:
    """Twelve hexadecimal digits that name a model's weights: SHA-256 of names, shapes and values.

    Args:
        model: On any device; its state dict is read.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
