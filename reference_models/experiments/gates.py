"""Gates: what must be true of the networks before the paper's claims can be tested on them."""

import math
from collections.abc import Sequence
from statistics import fmean

from reference_models.experiments.comparison import chance, differences, metric_of, results
from reference_models.experiments.finding import Experiment, Finding, Gate, Number, Row
from reference_models.experiments.hearing import every_network, of_regime
from reference_models.experiments.study import (
    REGIMES,
    Network,
    Preset,
    Regime,
    Study,
    finetuned,
    pretrained,
    random_states,
    untrained,
    untrained_random_states,
)
from reference_models.statistics import (
    Comparison,
    Estimate,
    Verdict,
    compare,
    compare_over_clips,
    corrected,
    networks_needed,
    over_networks,
    verdict_of,
)

NAME = "gates"
TASKS = {"fsd50k": "sound events", "words": "words"}
MODES = {"fonly": True, "full": False}
ENOUGH = 300
"""Test clips below which a recogniser's mAP says too little."""
TIMES = 3
"""How many times chance a recogniser must reach."""


def networks(preset: Preset) -> list[Network]:
    """Frozen probes on every encoder, trained and untrained, and the recognisers of figure 6."""
    drawn = [untrained(random_state) for random_state in untrained_random_states(preset)]
    starts = every_network(preset) + drawn
    probes = [finetuned(data, start, frozen=True) for data in TASKS for start in starts]
    return probes + recognisers(preset, "full")


def recognisers(preset: Preset, mode: str) -> list[Network]:
    """The classifiers of `Preset.recognised` that figure 6 listens to, from contrastive weights."""
    return [recogniser(preset, random_state, mode) for random_state in random_states(preset)]


def recogniser(preset: Preset, random_state: int, mode: str) -> Network:
    """One of them."""
    start = pretrained("contrastive", random_state)
    return finetuned(preset.recognised, start, frozen=MODES[mode])


def gates(study: Study) -> Finding:
    """Gate 1 by regime and task, and gate 2 by mode."""
    learnt = [gate for regime in REGIMES for gate in gates_1(study, regime)]
    rows, numbers = _table(study)
    return Finding(
        rows,
        gates=[*learnt, *(gate_2(study, mode) for mode in MODES)],
        numbers=numbers,
        n=f"{study.preset.runs} networks of each regime and "
        f"{len(untrained_random_states(study.preset))} "
        "untrained encoders; probes on the whole encoder, test clips",
        differs=f"{differences(study, *TASKS)} The paper has no untrained encoder.",
    )


def gates_1(study: Study, regime: Regime) -> list[Gate]:
    """Gate 1: fitted probes on a regime's encoders beat those on the encoders it started from.

    One gate for each task, for claims about the task, and one that is passed if either is, Holm's
    correction over the two: then the regime has learnt something. It shows the one that is passed,
    or the one that fewer networks would decide.
    """
    parts = {data: _over_untrained(study, regime, data) for data in TASKS}
    text = "a fitted probe beats the one on untrained encoders"
    either = corrected(list(parts.values()))
    passing = [part for part in either if verdict_of(part) is Verdict.HOLDS]
    nearest = min(either, key=lambda part: networks_needed(part) or math.inf)
    return [
        Gate(regime, f"{text}, {regime}", passing[:1] or [nearest]),
        *(
            Gate(f"{regime}, {TASKS[data]}", f"{text}, {regime}, {TASKS[data]}", [part])
            for data, part in parts.items()
        ),
    ]


def gate_2(study: Study, mode: str) -> Gate:
    """Gate 2: the recogniser of figure 6 beats untrained features, and three times chance."""
    data = study.preset.recognised
    metric, clips = metric_of(study, data), len(study.clips(data).subset("test"))
    ours = results(study, recognisers(study.preset, mode), metric)
    theirs = results(study, _on_untrained(study, data), metric)[: len(ours)]
    least = TIMES * chance(study, data)[metric]
    few = f"{clips} test clips, expected {ENOUGH} or more"
    return Gate(
        f"recogniser, {mode}",
        f"the recogniser of {TASKS[data]} ({mode}) beats untrained features and {TIMES} times "
        "chance",
        [
            compare(f"{mode} minus untrained", metric, ours, theirs, margin=0),
            compare(f"{mode} minus {TIMES} times chance", metric, ours, least, margin=0),
        ],
        unmet="" if clips >= ENOUGH else few,
    )


def gate_over_clips(
    name: str,
    listener: str,
    right: Sequence[float],
    untrained: Sequence[Sequence[float]],
    least: float,
) -> Gate:
    """Gate 2 for one listener, over clips: it beats untrained features, and three times chance.

    Args:
        name: Of the gate.
        listener: As its text calls it.
        right: How much of each clip it names rightly, 0 to 1.
        untrained: The same of each draw of untrained features, with a probe as the listener's.
        least: Accuracy of a listener that hears nothing.
    """
    drawn = [fmean(of_clip) for of_clip in zip(*untrained, strict=True)]
    sides = {"untrained features": drawn, f"{TIMES} times chance": TIMES * least}
    few = f"{len(right)} test clips, expected {ENOUGH} or more"
    return Gate(
        name,
        f"{listener} names recordings better than untrained features and {TIMES} times chance",
        [
            compare_over_clips(f"minus {side}", "accuracy", right, theirs, margin=0)
            for side, theirs in sides.items()
        ],
        unmet="" if len(right) >= ENOUGH else few,
    )


def _over_untrained(study: Study, regime: Regime, data: str) -> Comparison:
    metric = metric_of(study, data)
    ours = _probed(study, data, of_regime(study.preset, regime), metric)
    theirs = results(study, _on_untrained(study, data), metric)[: len(ours)]
    name = f"{regime} minus untrained, {TASKS[data]}"
    return compare(name, metric, ours, theirs, margin=0)


def _on_untrained(study: Study, data: str) -> list[Network]:
    return [
        finetuned(data, untrained(random_state), frozen=True)
        for random_state in untrained_random_states(study.preset)
    ]


def _table(study: Study) -> tuple[list[Row], list[Number]]:
    """Chance, untrained encoders and both regimes, on both tasks."""
    numbers = []
    for data, task in TASKS.items():
        metric = metric_of(study, data)

        def add(name: str, estimate: Estimate, task: str = task, metric: str = metric) -> None:
            numbers.append(Number(f"{task}, {name}", metric, estimate))

        add("chance", Estimate(chance(study, data)[metric], None, None, 0))
        add("untrained", over_networks(results(study, _on_untrained(study, data), metric)))
        for regime in REGIMES:
            starts = of_regime(study.preset, regime)
            add(regime, over_networks(_probed(study, data, starts, metric)))
    rows = [
        {
            "features": number.name,
            "metric": number.unit,
            "mean": number.estimate.mean,
            "low": number.estimate.low,
            "high": number.estimate.high,
            "networks": number.estimate.n,
        }
        for number in numbers
    ]
    return rows, numbers


def _probed(study: Study, data: str, starts: Sequence[Network], metric: str) -> list[float]:
    return results(study, [finetuned(data, start, frozen=True) for start in starts], metric)


GATES = Experiment(NAME, "Gates: have the networks learnt enough?", networks, gates)
