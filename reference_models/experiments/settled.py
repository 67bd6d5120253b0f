"""Whether a network was trained long enough, by what validation clips said after each epoch."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

SETTLED = 0.01
RULE = (
    "trained long enough: the best validation metric of the last fifth of the epochs is at most "
    f"{SETTLED} above the best of those before; for the contrastive loss, at most {SETTLED} below"
)
METRICS = {"accuracy": 1, "mAP": 1, "val_loss": -1}
"""What validation says of an epoch, and whether more of it is better."""
SPELLED_OUT = {"val_loss": "contrastive loss"}


class Curve(NamedTuple):
    """How a network did on the validation clips.

    Attributes:
        metric: Of `METRICS`.
        values: After each epoch.
    """

    metric: str
    values: Sequence[float]

    @property
    def unit(self) -> str:
        """The metric as reports name it."""
        return SPELLED_OUT.get(self.metric, self.metric)

    @property
    def last(self) -> int:
        """How many epochs are the last fifth."""
        return max(1, len(self.values) // 5)

    @property
    def gained(self) -> float | None:
        """How much better the best of the last fifth is; None: there are no epochs before."""
        good = [METRICS[self.metric] * value for value in self.values]
        before, after = good[: -self.last], good[-self.last :]
        return max(after) - max(before) if before else None

    @property
    def settled(self) -> bool:
        """Whether training was long enough, by `RULE`."""
        return self.gained is not None and self.gained <= SETTLED


def curve_of(history: Sequence[Mapping[str, float]]) -> Curve:
    """The curve of a run's history, by the metric that its kind of network has."""
    metric = next(name for name in METRICS if name in history[0])
    return Curve(metric, [epoch[metric] for epoch in history])
