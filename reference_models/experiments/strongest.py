"""The three clips that each filter of each layer answers most strongly, in Parquet."""

from collections import Counter
from typing import Any

from deconv1d.mining.mine import mine
from deconv1d.mining.mined import Mined, Ranking
from reference_models.experiments.comparison import differences
from reference_models.experiments.finding import Experiment, Finding, Row, numbers_of
from reference_models.experiments.hearing import (
    COMPARED,
    every_encoder,
    heard_clips,
    listen,
    network_of,
    whole_clip,
)
from reference_models.experiments.study import LAYERS, Study, every_nth, random_states

NAME = "top-3"
TOP = 3
UNITS = {"answering": "filters", "clips": "clips", "filters_of_commonest_clip": "filters"}


def strongest(study: Study, regime: str, random_state: int = 0) -> dict[str, Ranking]:
    """Each layer's ranking by peak activation, mined on first use and kept as Parquet.

    At most `Preset.mined` test clips are heard, spread evenly over the set.

    Args:
        study: The study.
        regime: Of `COMPARED`.
        random_state: Of the network.
    """
    path = study.folder / NAME / f"{regime}-s{random_state}.parquet"
    mined = Mined.read(path) if path.exists() else _mined(study, regime, random_state, path)
    return {layer: mined.rankings[f"features.{layer}"] for layer in LAYERS}


def answering(ranking: Ranking) -> list[int]:
    """The filters of a layer that answer as many clips as are ranked."""
    return [int(channel) for channel in (ranking.value > 0).all(1).nonzero()[0]]


def top_3(study: Study) -> Finding:
    """Ranks the clips, and counts how many filters and clips there are in the ranking."""
    rows = [
        _row(layer, regime, random_state, ranking)
        for regime in COMPARED
        for random_state in random_states(study.preset)
        for layer, ranking in strongest(study, regime, random_state).items()
    ]
    clips = min(study.preset.mined, len(heard_clips(study)))
    return Finding(
        rows,
        numbers=numbers_of(rows, ("regime", "layer"), UNITS),
        n=f"{study.preset.runs} networks of each regime, and the untrained encoders that they "
        f"started from; {clips} test clips, all filters; value, clip and moment of each of the "
        f"three are in the study's own folder, in {NAME}/contrastive-s0.parquet and so on",
        differs=f"{differences(study, 'audioset')} "
        "The paper does not say by what its inputs are ranked: here by a map's largest "
        "value. A filter that answers fewer than three clips is counted as not answering.",
    )


def _mined(study: Study, regime: str, random_state: int, path: Any) -> Mined:
    path.parent.mkdir(parents=True, exist_ok=True)
    clips = heard_clips(study)
    named = (
        (clips.ids[number], whole_clip(clips, number))
        for number in every_nth(clips, study.preset.mined)
    )
    return mine(
        listen(study, network_of(regime, random_state)), named, layers=LAYERS, k=TOP, path=path
    )


def _row(layer: str, regime: str, random_state: int, ranking: Ranking) -> Row:
    kept = answering(ranking)
    count = Counter(ranking.clip[kept].ravel().tolist())
    return {
        "regime": regime,
        "random_state": random_state,
        "layer": layer,
        "filters": len(ranking.value),
        "answering": len(kept),
        "clips": len(count),
        "filters_of_commonest_clip": max(count.values(), default=0),
    }


TOP_3 = Experiment(NAME, "Strongest inputs of each filter", every_encoder, top_3)
