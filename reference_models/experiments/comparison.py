"""What the numbers of a study are compared with, and what sets it apart from the paper."""

import re
from collections.abc import Sequence

from reference_models.experiments.study import Network, Study

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


def spelled_out(text: str) -> str:
    """Text as readers see it: "head only", the encoder frozen, for the paper's word fonly."""
    return re.sub(r"\bfonly\b", "head only", text)


def metric_of(study: Study, data: str) -> str:
    """The metric by which networks are compared on a data set: mAP of events, accuracy of words."""
    return "mAP" if study.clips(data).multilabel else "accuracy"


def results(study: Study, networks: Sequence[Network], metric: str) -> list[float]:
    """A metric of trained networks on their test clips."""
    return [study.result(network)["test"][metric] for network in networks]


def chance(study: Study, data: str, split: str = "test") -> dict[str, float]:
    """What a network that hears nothing reaches on the clips of a split, by metric.

    Events: the expected average precision of a random order is about the share of clips that have
    the class. Words: the share of the commonest one.
    """
    labels = study.clips(data).subset(split).labels()
    if labels.ndim == 1:
        return {"accuracy": float(labels.bincount().max()) / len(labels)}
    share = labels.double().mean(dim=0)
    counted = share[(share > 0) & (share < 1)]
    return {"mAP": float(counted.mean()), "mAUC": 0.5, "dprime": 0.0}


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
    given = "audioset" if name == "balanced" else name
    source = study.sources.get(given) or study.sources["arabic"]
    if given not in study.sources:
        return f"recordings in '{source.name}' ({count}) in place of {NAMES[name]}"
    return f"{NAMES[name]} is what lies in '{source.name}' ({count})"
