"""Whether a network was trained long enough, by what validation clips said while it was trained."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from reference_models.checkpoint import read_json, write_json
from reference_models.experiments.study import Network, Study, every_nth
from reference_models.probing import BLOCKS, probe_blocks

SETTLED = 0.01
LOOKS = 5
"""Epochs after which a contrastive network is probed, at the most."""
PROBED = BLOCKS[-1]
PROBE = f"probe of block {PROBED}"
RULE = (
    "trained long enough: the best validation metric of the last fifth of the epochs is at most "
    f"{SETTLED} above the best of those before; of contrastive networks it is the metric of a "
    f"fitted {PROBE}, at up to {LOOKS} of the epochs"
)
"""The contrastive loss does not serve: it goes on falling when what a probe finds has settled."""
METRICS = {"accuracy": 1, "mAP": 1, "val_loss": -1}
"""What validation says of an epoch, and whether more of it is better."""
SPELLED_OUT = {"val_loss": "contrastive loss"}


class Curve(NamedTuple):
    """How a network did on the validation clips.

    Attributes:
        metric: Of `METRICS`.
        values: After some epochs.
        epochs: After which, the last of the run among them.
    """

    metric: str
    values: Sequence[float]
    epochs: Sequence[int]

    @property
    def unit(self) -> str:
        """The metric as reports name it."""
        return SPELLED_OUT.get(self.metric, self.metric)

    @property
    def end(self) -> int:
        """The epoch that the last fifth comes after."""
        return self.epochs[-1] - max(1, self.epochs[-1] // 5)

    @property
    def gained(self) -> float | None:
        """How much better the best of the last fifth is; None: there are no epochs before."""
        good = [METRICS[self.metric] * value for value in self.values]
        before, after = [], []
        for epoch, value in zip(self.epochs, good, strict=True):
            (after if epoch > self.end else before).append(value)
        return max(after) - max(before) if before else None

    @property
    def settled(self) -> bool:
        """Whether training was long enough, by `RULE`."""
        return self.gained is not None and self.gained <= SETTLED


def settled_curve(study: Study, network: Network) -> Curve:
    """The curve of a trained network that `RULE` is about."""
    if network.regime == "contrastive":
        return probed_curve(study, network)
    return history_curve(study.result(network)["history"])


def history_curve(history: Sequence[Mapping[str, float]]) -> Curve:
    """The curve of a run's history, by the metric that its kind of network has."""
    metric = next(name for name in METRICS if name in history[0])
    return Curve(metric, [epoch[metric] for epoch in history], range(1, len(history) + 1))


def probed_curve(study: Study, network: Network) -> Curve:
    """What a fitted probe of block 11 finds in a contrastive network after some of its epochs.

    It is of the clips that the network was trained on, with the labels that training did not look
    at. It is computed once and kept beside the weights.
    """
    path = study.checkpoint(network).parent / "probed.json"
    if not path.exists():
        kept = [epoch for epoch in study.epochs(network) if epoch > 0]
        epochs = [kept[n] for n in every_nth(kept, LOOKS)]
        clips = study.clips(network.data)
        probes = [
            probe_blocks(study.encoder(network, epoch), clips, blocks=[PROBED])[PROBED]
            for epoch in epochs
        ]
        metric = probes[0]["fit"]["metric"]
        values = [probe["val"][metric] for probe in probes]
        write_json(path, Curve(metric, values, epochs)._asdict())
    return Curve(**read_json(path))
