"""Section 3.3.2 in numbers: how alike the labels are of the clips that a filter answers most."""

import math
from collections.abc import Sequence
from statistics import mean

import torch
from torch import Tensor

from deconv1d.mining.mined import Ranking
from reference_models.data import ClipSet
from reference_models.experiments.comparison import differences
from reference_models.experiments.finding import (
    Claim,
    Experiment,
    Finding,
    Row,
    numbers_of,
    over_layers,
    paired,
)
from reference_models.experiments.hearing import (
    COMPARED,
    DEEP,
    beyond_untrained,
    every_encoder,
    heard_clips,
)
from reference_models.experiments.strongest import TOP, TOP_3, answering, strongest
from reference_models.experiments.study import REGIMES, Study, every_nth, random_states

NAME = "label-entropy"
TRIPLES = 2000
"""Random triples of clips, whose mean entropy is what filters that know no label would have."""


def label_entropy(labels: Tensor) -> Tensor:
    """Entropy in bits of the labels of some clips: 0 if all have one and the same.

    Every clip counts the same, and its labels share it equally; a clip without any does not count.

    Args:
        labels: Multi-hot, (..., clips, classes).

    Returns:
        Shape (...).
    """
    of_clip = labels.double() / labels.sum(-1, keepdim=True).clamp(min=1)
    pooled = of_clip.sum(-2)
    shares = pooled / pooled.sum(-1, keepdim=True).clamp(min=1)
    return torch.special.entr(shares).sum(-1) / math.log(2)


def labels_of_strongest(study: Study) -> Finding:
    """The entropy of each layer and regime beside those of random triples."""
    clips = heard_clips(study)
    mined = every_nth(clips, study.preset.mined)
    random = random_entropy(clips.multi_hot(mined), torch.ones(len(mined)))
    rows = []
    for regime in COMPARED:
        for random_state in random_states(study.preset):
            for layer, ranking in strongest(study, regime, random_state).items():
                labels, among = _labels(clips, ranking)
                entropies = label_entropy(labels).tolist()
                place = {
                    "regime": regime,
                    "random_state": random_state,
                    "layer": layer,
                    "filters": len(entropies),
                }
                bits = mean(entropies) if entropies else None
                rows.append(
                    place | {"entropy_bits": bits, "random_bits": random, "layer_bits": among}
                )
    return Finding(
        rows,
        claims=[claim_k(rows)],
        numbers=[
            *numbers_of(
                rows,
                ("regime", "layer"),
                dict.fromkeys(("entropy_bits", "layer_bits", "random_bits"), "bits"),
            ),
            *beyond_untrained(rows, "entropy_bits", "bits"),
        ],
        n=f"{study.preset.runs} networks of each regime, and the untrained encoders that they "
        f"started from; the filters that answer three clips or more, of {len(mined)} test clips; "
        f"{TRIPLES} random triples of these (random_bits), and as many of the clips that are among "
        "the layer's strongest, each as often as it is (layer_bits)",
        differs=f"{differences(study, 'audioset')} "
        "The paper says it of what was listened to, without numbers. Entropy here is of "
        "the labels of a filter's three strongest clips pooled, each clip counting the same; there "
        f"are {len(clips.classes)} classes here, the paper's AudioSet has 527.",
    )


def random_entropy(labels: Tensor, weights: Tensor, random_state: int = 0) -> float:
    """Mean entropy of triples of different clips.

    Args:
        labels: Multi-hot, (clips, classes).
        weights: How likely each clip is to be drawn, (clips,).
        random_state: Of the draws.
    """
    draws = torch.Generator().manual_seed(random_state)
    count = min(TOP, int((weights > 0).sum()))
    triples = torch.multinomial(weights.expand(TRIPLES, -1), count, generator=draws)
    return float(label_entropy(labels[triples]).mean())


def _labels(clips: ClipSet, ranking: Ranking) -> tuple[Tensor, float | None]:
    """Labels of each answering filter's clips, and the entropy of triples of all of these."""
    number = {name: i for i, name in enumerate(clips.ids)}
    chosen = torch.tensor(
        [[number[name] for name in ranking.clip[channel]] for channel in answering(ranking)],
        dtype=torch.int64,
    ).reshape(-1, ranking.clip.shape[1])
    labels = clips.multi_hot()
    among = chosen.flatten().bincount(minlength=len(clips)).double()
    return labels[chosen], random_entropy(labels, among) if len(chosen) else None


def claim_k(rows: Sequence[Row]) -> Claim:
    """Claim k: entropy in layers 8 to 11, supervised minus contrastive."""
    contrastive, supervised = (
        over_layers(rows, "entropy_bits", DEEP, regime=regime) for regime in REGIMES
    )
    name = "label entropy, layers 8 to 11, supervised minus contrastive"
    return Claim("k", [paired(name, "bits", supervised, contrastive)])


LABELS = Experiment(
    NAME,
    "Section 3.3.2: labels of the strongest inputs",
    every_encoder,
    labels_of_strongest,
    after=(TOP_3.name,),
)
