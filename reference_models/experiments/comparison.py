"""Networks compared on the same clips, and what sets a study apart from the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reference_models.evaluate import metrics, resample
from reference_models.experiments.study import Study

DRAWS = 1000  # bootstrap samples

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


@dataclass(frozen=True)
class Bootstrap:
    """A metric of several networks on the same clips, and on bootstrap samples of these.

    Attributes:
        values: On all clips, by the network's name.
        draws: On each sample, by the same names; a sample has the same clips for all networks.
        clips: Number of clips.
    """

    values: Mapping[str, float]
    draws: Mapping[str, Sequence[float]]
    clips: int

    def interval(self, name: str) -> tuple[float, float]:
        """The ends of a network's 95 % interval."""
        low, high = np.percentile(self.draws[name], [2.5, 97.5])
        return float(low), float(high)

    def difference(self, ours: Sequence[str], theirs: Sequence[str]) -> Difference:
        """The mean metric of some networks minus that of others, both on the same samples."""

        def gain(held: Mapping[str, float | Sequence[float]]) -> np.ndarray:
            one, two = (np.mean([held[name] for name in side], axis=0) for side in (ours, theirs))
            return one - two

        low, high = np.percentile(gain(self.draws), [2.5, 97.5])
        return Difference(float(gain(self.values)), float(low), float(high), self.clips)


def bootstrap(
    metric: str, scores: Mapping[str, Tensor], labels: Tensor, *, device: str = "cpu"
) -> Bootstrap:
    """Measures networks on the same clips, and on `DRAWS` bootstrap samples of them.

    Args:
        metric: One of `evaluate.metrics`.
        scores: Outputs of each network, (clips, classes), by name.
        labels: Of the clips.
        device: Where to do it.
    """

    def measure(stacked: Tensor, labels: Tensor) -> list[float]:
        return [metrics(one, labels)[metric] for one in stacked.unbind(1)]

    stacked, labels = torch.stack(list(scores.values()), dim=1).to(device), labels.to(device)
    values = measure(stacked, labels)
    draws = resample(measure, stacked, labels, draws=DRAWS).T.tolist()
    return Bootstrap(
        dict(zip(scores, values, strict=True)),
        dict(zip(scores, draws, strict=True)),
        len(labels),
    )


def all_hold(verdicts: Sequence[bool | None]) -> bool | None:
    """What follows for a claim of several parts: it fails with one, and is open if one is."""
    if False in verdicts:
        return False
    return None if None in verdicts else True


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
