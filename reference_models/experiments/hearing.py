"""Listening to a study's networks: test clips, and what their filters make of them."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from deconv1d import Sonifier
from deconv1d.errors import SilenceWarning
from deconv1d.sonification import Sonification
from reference_models.cnn12 import CNN12, pad_to_shortest
from reference_models.data import ClipSet
from reference_models.data.index import SAMPLE_RATE
from reference_models.experiments.finding import Number, Row, over_layers, paired
from reference_models.experiments.study import (
    LAYERS,
    REGIMES,
    Network,
    Preset,
    Regime,
    Study,
    pretrained,
    random_states,
    untrained,
)

DEEP = LAYERS[7:]
"""Layers 8 to 11, the paper's deep ones."""
UNTRAINED = "untrained"
COMPARED = (*REGIMES, UNTRAINED)
"""What a table by regime compares: both, and the encoders that their networks started from."""


def first_networks(_: Preset) -> list[Network]:
    """The first network of each regime."""
    return [pretrained(regime) for regime in REGIMES]


def of_regime(preset: Preset, regime: Regime) -> list[Network]:
    """A regime's networks, by rising random state."""
    return [pretrained(regime, random_state) for random_state in random_states(preset)]


def every_network(preset: Preset) -> list[Network]:
    """All networks of both regimes."""
    return [network for regime in REGIMES for network in of_regime(preset, regime)]


def every_encoder(preset: Preset) -> list[Network]:
    """All networks of both regimes, and the encoders that they started from."""
    return every_network(preset) + [
        untrained(random_state) for random_state in random_states(preset)
    ]


def network_of(regime: str, random_state: int) -> Network:
    """The network of a regime, or the encoder that both started from: of `COMPARED`."""
    if regime == UNTRAINED:
        return untrained(random_state)
    return pretrained("contrastive" if regime == "contrastive" else "supervised", random_state)


def beyond_untrained(rows: Sequence[Row], column: str, unit: str) -> list[Number]:
    """What training adds to a column of layers 8 to 11: each network minus what it started from.

    Args:
        rows: Of `COMPARED`, with the columns "regime", "random_state" and "layer".
        column: Which.
        unit: Of its numbers.
    """
    drawn = over_layers(rows, column, DEEP, regime=UNTRAINED)
    numbers = []
    for regime in REGIMES:
        name = f"{regime} minus {UNTRAINED}, layers 8 to 11, {column}"
        found = paired(name, unit, over_layers(rows, column, DEEP, regime=regime), drawn, margin=0)
        numbers.append(Number(name, unit, found.estimate))
    return numbers


def heard_clips(study: Study) -> ClipSet:
    """The clips that sonifications are made of: AudioSet's evaluation set."""
    return study.clips("audioset").subset("test")


def whole_clip(clips: ClipSet, number: int) -> Tensor:
    """A clip, (samples,), zero-padded if the network could not hear it otherwise."""
    return pad_to_shortest(clips.waveform(number))


def listen(study: Study, network: Network, epoch: int | None = None) -> Sonifier:
    """A sonifier of a trained network's encoder, or of what it was after some epoch."""
    return Sonifier(study.encoder(network, epoch), sample_rate=SAMPLE_RATE)


def filters(sonifier: Sonifier, layer: str) -> int:
    """How many filters a layer of an encoder has."""
    encoder = sonifier.model
    assert isinstance(encoder, CNN12)
    return int(encoder.features.get_submodule(layer).weight.shape[0])


def sonified(
    sonifier: Sonifier, x: Any, *, layer: str, channel: Any, method: str = "deconvnet"
) -> Sonification:
    """A sonification in which dead maps are silent without a warning."""
    with _silence():
        return sonifier.programs.sonify(x, layer=layer, channel=channel, method=method)


def masked(
    sonifier: Sonifier, x: Any, *, layers: Sequence[str], channel: Any
) -> list[Sonification]:
    """Masked recordings of several layers, silent without a warning where a map is dead."""
    with _silence():
        return sonifier.listen(x, layers=layers, channel=channel, progress=False)


@contextmanager
def _silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SilenceWarning)
        yield
