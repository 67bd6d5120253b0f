"""Networks compared on the same clips, and what sets a study apart from the paper."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reference_models.evaluate import metrics, over_clips, predict
from reference_models.experiments.study import Network, Study

Metric = Callable[[Tensor, Tensor], float]

NAMES = {
    "audioset": "AudioSet",
    "balanced": "AudioSet's balanced list",
    "fsd50k": "FSD50K",
    "words": "Speech Commands",
}
STAND_INS = {
    "audioset": "rendered events of group A",
    "balanced": "a share of the rendered events of group A",
    "fsd50k": "rendered events of group B",
    "words": "rendered words",
}


class Difference(NamedTuple):
    """How much better one side is than the other, and how sure that is over the clips.

    Attributes:
        mean: Of the metric's differences.
        low: Lower end of the 95 % bootstrap interval over clips.
        high: Its upper end.
        clips: Number of clips.
    """

    mean: float
    low: float
    high: float
    clips: int

    def __str__(self) -> str:
        """As claims print it: "+0.021 (+0.003 to +0.040, 160 clips)"."""
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f}, {self.clips} clips)"

    @property
    def above(self) -> bool | None:
        """Whether it is above 0: None if the interval has 0 in it."""
        if self.low <= 0 <= self.high:
            return None
        return self.low > 0


def compare(
    metric: Metric, ours: Sequence[Tensor], theirs: Sequence[Tensor], labels: Tensor
) -> Difference:
    """The mean difference of a metric between pairs of outputs for the same clips.

    In each bootstrap sample all outputs are of the same clips.

    Args:
        metric: Scores and labels to a number.
        ours: Outputs, (clips, classes) each, of one network or of several.
        theirs: As many.
        labels: Of the clips.
    """
    pairs = torch.stack([torch.stack(list(side), dim=1) for side in (ours, theirs)], dim=1)

    def mean_difference(scores: Tensor, labels: Tensor) -> float:
        one, two = ([metric(s, labels) for s in side.unbind(1)] for side in scores.unbind(1))
        return (sum(one) - sum(two)) / len(one)

    low, high = over_clips(mean_difference, pairs, labels)
    return Difference(mean_difference(pairs, labels), low, high, len(labels))


def all_hold(verdicts: Sequence[bool | None]) -> bool | None:
    """What follows for a claim of several parts: it fails with one, and is open if one is."""
    if False in verdicts:
        return False
    return None if None in verdicts else True


def metric_named(name: str) -> Metric:
    """One of `evaluate.metrics`, as a function of scores and labels."""
    return lambda scores, labels: metrics(scores, labels)[name]


def scores_on_test(study: Study, network: Network) -> Tensor:
    """The outputs of a trained classifier for the test clips of its data set."""
    return predict(study.classifier(network), study.clips(network.data).subset("test"))


def differences(study: Study, *data: str) -> str:
    """One sentence on what sets a study's data and networks apart from the paper's.

    Args:
        study: The study.
        data: Names of the data sets that matter.
    """
    preset = study.preset.contrastive
    facts = [_of_data(study, name) for name in data]
    facts.append(f"networks of width {preset.width:g} after {preset.epochs} epochs")
    sentence = "; ".join(facts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _of_data(study: Study, name: str) -> str:
    count = f"{len(study.clips(name))} clips"
    if study.is_rendered(name):
        return f"{STAND_INS[name]} ({count}) in place of {NAMES[name]}"
    source = study.sources["audioset" if name == "balanced" else name]
    return f"{NAMES[name]} is what lies in '{source.name}' ({count})"
