"""Figure B.3: whether a sonification moves with its input; and of a network that strides."""

import math
from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deconv1d import Sonifier
from deconv1d.render import plot_spectrograms
from reference_models.cnn12 import HALVING_BLOCKS, SHORTEST
from reference_models.data.index import SAMPLE_RATE
from reference_models.evaluate import Interval, over_runs
from reference_models.experiments.comparison import differences, metric_of, results
from reference_models.experiments.curves import plot_curves
from reference_models.experiments.finding import (
    Claim,
    Experiment,
    Finding,
    Number,
    Row,
    numbers_of,
    over_layers,
    paired,
    part,
)
from reference_models.experiments.hearing import (
    every_network,
    heard_clips,
    listen,
    sonified,
)
from reference_models.experiments.study import (
    LAYERS,
    REGIMES,
    Network,
    Preset,
    Regime,
    Study,
    every_nth,
    pretrained,
    random_states,
)
from reference_models.statistics import over_networks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME, TWIN = "figure-b3", "strided-twin"
LENGTH = 24_000
EDGE = 2 * SHORTEST
"""Samples at either end that may differ: one receptive field on the way up, one on the way down."""
PAPER = 8645
ANY = (1, 37, PAPER)
WHOLE = (256, 1024, 8448)
"""Multiples of the stride of all pools together."""
OFFSETS = (*WHOLE, 128, *ANY)
RECORDINGS = 4
BATCH = 4
PICTURED = "conv8"
POOLINGS: dict[str, dict[str, str]] = {"pooling": {}, "stride": {"pooling": "stride"}}
COLUMNS = {"shift error": "share of the peak", "coherence": "coherence"}
EXACT = 1e-6
"""Share of the peak below which a sonification counts as moved exactly."""

Numbers = dict[str, list[float]]


def aligned(
    sonifier: Sonifier, recording: Tensor, *, layer: str, channel: int, shifts: Sequence[int]
) -> dict[int, tuple[Tensor, Tensor]]:
    """The same moments of two sonifications: of a recording's beginning, and of a later part.

    All parts are `LENGTH` samples long, and of each only what no end is near is returned.

    Args:
        sonifier: Of the network.
        recording: (time,), at least LENGTH + the largest shift.
        layer: The layer.
        channel: Its map.
        shifts: Samples from the recording's beginning to the later parts' beginnings, each below
            LENGTH - 2 * EDGE.

    Returns:
        Raw, by shift a pair of (time,).
    """
    parts = torch.stack([recording[start : start + LENGTH] for start in (0, *shifts)])
    first, *later = sonified(sonifier, parts[:, None], layer=layer, channel=channel).raw[:, 0]
    pairs = {}
    for shift, second in zip(shifts, later, strict=True):
        middle = first[shift + EDGE : LENGTH - EDGE]
        pairs[shift] = middle, second[EDGE : EDGE + len(middle)]
    return pairs


def shift_errors(
    sonifier: Sonifier, recording: Tensor, *, layer: str, channel: int, shifts: Sequence[int]
) -> dict[int, float | None]:
    """Largest difference of each pair of `aligned`, over the first's peak; None if it is silent.

    Args:
        sonifier: As for `aligned`.
        recording: As for `aligned`.
        layer: As for `aligned`.
        channel: As for `aligned`.
        shifts: As for `aligned`.
    """
    pairs = aligned(sonifier, recording, layer=layer, channel=channel, shifts=shifts)
    return {
        shift: float((one - other).abs().max() / one.abs().max()) if one.any() else None
        for shift, (one, other) in pairs.items()
    }


def loudest_map(sonifier: Sonifier, recording: Tensor, *, layer: str) -> int:
    """The most active map on a recording's beginning."""
    return int(sonified(sonifier, recording[:LENGTH], layer=layer, channel="most_active").channel)


def figure_b3(study: Study) -> Finding:
    """Shift errors by layer of both regimes, and a sonification before and after a shift."""
    rows = [
        _row(study, regime, random_state, layer)
        for regime in REGIMES
        for random_state in random_states(study.preset)
        for layer in LAYERS
    ]
    sounds = _moved(study)
    return Finding(
        rows=rows,
        claims=[claim_m(rows), claim_n(rows)],
        numbers=numbers_of(
            rows,
            ("regime", "layer"),
            {f"shift {shift}": "share of the peak" for shift in OFFSETS},
        ),
        figures={NAME: plot_spectrograms(sounds, SAMPLE_RATE)},
        sounds={title: (sound, SAMPLE_RATE) for title, sound in sounds.items()},
        n=f"{study.preset.runs} networks of each regime; "
        f"{len(_recordings(study))} test clips, the most active map of each, float64",
        differs=f"{differences(study, 'audioset')} The paper shows pictures of a shift by {PAPER} "
        "samples and says that any shift moves the sonification alike. Numbers are the largest "
        "difference over the peak, away from the ends: 0 for multiples of the stride of the pools "
        "up to a layer, and not for others.",
    )


def strided_twin(study: Study) -> Finding:
    """Shift error and coherence by layer of CNN12 and of its twin that strides."""
    rows = [
        _twin(study, name, random_state, layer)
        for name in POOLINGS
        for random_state in random_states(study.preset)
        for layer in LAYERS
    ]
    metric = metric_of(study, "audioset")
    recognition = {
        name: over_networks(
            results(study, [_pooled(name, n) for n in random_states(study.preset)], metric)
        )
        for name in POOLINGS
    }
    return Finding(
        rows=rows,
        claims=[claim_f(rows)],
        numbers=[
            *numbers_of(rows, ("network", "layer"), COLUMNS),
            *(Number(f"{n}, recognition", metric, one) for n, one in recognition.items()),
        ],
        figures={TWIN: _curves(rows)},
        n=f"{study.preset.runs} networks each; shift error: {len(_recordings(study))} test clips "
        f"and shifts by {', '.join(map(str, ANY))} samples; coherence: "
        f"{len(_chosen(study))} test clips; {metric} on all of them: "
        + ", ".join(f"{name} {one}" for name, one in recognition.items()),
        differs=f"{differences(study, 'audioset')} The paper gives no numbers and does not say how "
        "its strided network was built.",
    )


def claim_m(rows: Sequence[Row]) -> Claim:
    """Claim m: at the paper's own shift the error is 0, within the margin."""
    return _unmoved("m", rows, (PAPER,))


def claim_n(rows: Sequence[Row]) -> Claim:
    """Claim n: at multiples of 256 samples the error is 0, but for rounding."""
    return _unmoved("n", rows, WHOLE, margin=EXACT)


def _unmoved(letter: str, rows: Sequence[Row], shifts: Sequence[int], **how: Any) -> Claim:
    """The claim that errors are 0, over the networks of both regimes: it is about neither."""
    unit, comparisons = "share of the peak", []
    for shift in shifts:
        errors = [e for r in REGIMES for e in over_layers(rows, f"shift {shift}", regime=r)]
        comparisons.append(
            paired(f"error at a shift of {shift}", unit, errors, claimed="equal", **how)
        )
    return Claim(letter, comparisons)


def claim_f(rows: Sequence[Row]) -> Claim:
    """Claim f: the strided network errs more and is less coherent, mean of the layers."""
    error, coherence = (
        {name: over_layers(rows, column, network=name) for name in POOLINGS} for column in COLUMNS
    )
    return Claim(
        "f",
        [
            paired(
                "shift error, stride minus pooling",
                COLUMNS["shift error"],
                error["stride"],
                error["pooling"],
            ),
            paired(
                "coherence with the input, pooling minus stride",
                COLUMNS["coherence"],
                coherence["pooling"],
                coherence["stride"],
            ),
        ],
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _interval(values: Sequence[float]) -> Interval:
    return over_runs(values) if values else Interval(math.nan, math.inf, 0)


def _row(study: Study, regime: Regime, random_state: int, layer: str) -> Row:
    errors = _errors(study, pretrained(regime, random_state), layer)
    means = {f"shift {shift}": _mean(errors[str(shift)]) for shift in OFFSETS}
    stride = 2 ** min(LAYERS.index(layer) + 1, HALVING_BLOCKS)
    return {
        "regime": regime,
        "random_state": random_state,
        "layer": layer,
        "stride": stride,
        **means,
    }


def _errors(study: Study, network: Network, layer: str) -> Numbers:
    """Shift errors of the recordings that are not silent, by shift."""

    def compute() -> Numbers:
        sonifier = _exact(study, network)
        errors: Numbers = {str(shift): [] for shift in OFFSETS}
        for recording in _recordings(study):
            channel = loudest_map(sonifier, recording, layer=layer)
            errors_of_layer = shift_errors(
                sonifier, recording, layer=layer, channel=channel, shifts=OFFSETS
            )
            for shift, error in errors_of_layer.items():
                errors[str(shift)] += [] if error is None else [error]
        return errors

    return part(study, NAME, f"{network.name}-{layer}", compute)


def _twin(study: Study, name: str, random_state: int, layer: str) -> Row:
    """Mean shift error and coherence of one of the two networks of a random state."""
    network = _pooled(name, random_state)
    errors = _errors(study, network, layer)
    compute = partial(_coherences, study, network, layer)
    coherent = part(study, TWIN, f"{name}-s{random_state}-{layer}", compute)
    return {
        "network": name,
        "random_state": random_state,
        "layer": layer,
        "shift error": _mean([e for n in ANY for e in errors[str(n)]]),
        "coherence": _mean(coherent),
    }


def _pooled(name: str, random_state: int) -> Network:
    return pretrained("supervised", random_state, **POOLINGS[name])


def _curves(rows: Sequence[Row]) -> "Figure":
    def curve(name: str, column: str) -> list[Interval]:
        own = [row for row in rows if row["network"] == name]
        by_layer = [[r[column] for r in own if r["layer"] == layer] for layer in LAYERS]
        return [_interval([v for v in values if v is not None]) for values in by_layer]

    panels = {column: {name: curve(name, column) for name in POOLINGS} for column in COLUMNS}
    return plot_curves(panels, LAYERS, ("share of the peak", "mean top-5 coherence"))


def twins(preset: Preset) -> list[Network]:
    """Of every random state the supervised network and its twin that strides."""
    return [
        _pooled(name, random_state) for random_state in random_states(preset) for name in POOLINGS
    ]


def _coherences(study: Study, network: Network, layer: str) -> list[float]:
    """Of each clip and its most active map's sonification."""
    sonifier, values = listen(study, network), []
    for _, x in heard_clips(study).whole(_chosen(study), batch_size=BATCH, shortest=SHORTEST):
        x = x.to(study.device)
        sonification = sonified(sonifier, x, layer=layer, channel="most_active")
        values += sonification.coherence().tolist()
    return values


def _chosen(study: Study) -> list[int]:
    return every_nth(heard_clips(study), study.preset.clips)


def _exact(study: Study, network: Network) -> Sonifier:
    return Sonifier(study.encoder(network), sample_rate=SAMPLE_RATE, dtype=torch.float64)


def _recordings(study: Study) -> list[Tensor]:
    """Test clips in float64, from their beginning again until they are long enough."""
    clips, needed = heard_clips(study), LENGTH + max(OFFSETS)
    chosen = every_nth(clips, min(RECORDINGS, study.preset.clips))
    played = (clips.waveform(n).double().to(study.device) for n in chosen)
    return [x.repeat(-(-needed // len(x)))[:needed] for x in played]


def _moved(study: Study) -> dict[str, Tensor]:
    """A clip, its sonification, that of the shifted clip moved back, and their difference."""
    sonifier, recording = _exact(study, pretrained("contrastive")), _recordings(study)[0]
    channel = loudest_map(sonifier, recording, layer=PICTURED)
    pairs = aligned(sonifier, recording, layer=PICTURED, channel=channel, shifts=[PAPER])
    one, other = pairs[PAPER]
    peak = one.abs().max().clamp(min=torch.finfo().tiny)
    title = f"sonification of {PICTURED}, filter {channel}"
    return {
        "input": recording[PAPER + EDGE : LENGTH - EDGE],
        title: one / peak,
        f"{title}, of the input from sample {PAPER} on, moved back": other / peak,
        "difference of the two": (one - other) / peak,
    }


SHIFTS = Experiment(NAME, "Figure B.3: shifts of input and sonification", every_network, figure_b3)
STRIDED = Experiment(TWIN, "Section 3.2: pooling and stride", twins, strided_twin)
