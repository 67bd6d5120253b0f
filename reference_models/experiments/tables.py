"""Tables A.1 to A.6: how well the networks do, beside the paper's numbers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from reference_models.evaluate import metrics, predict
from reference_models.experiments.comparison import chance, differences, metric_of, results
from reference_models.experiments.finding import Claim, Experiment, Finding, Number, Row, part
from reference_models.experiments.study import (
    Network,
    Preset,
    Study,
    finetuned,
    of_sweep,
    pretrained,
    untrained,
    untrained_random_states,
)
from reference_models.statistics import DRAWS, Estimate, compare, over_clips, over_networks

EVENTS = ("mAP", "mAUC", "dprime")
WAYS = (("fonly", True), ("full", False))
DASH = "-"
BARE = re.compile(r"True|False|None|[\d.]+")
"""Settings that say nothing without the name of their column."""


@dataclass(frozen=True)
class Line:
    """One row of a table: what the paper prints there, and our networks that belong there.

    Attributes:
        settings: Its first columns.
        paper: Its numbers as printed, by metric.
        networks: One for each random state; none where the paper cites others' work.
        chance: Whether it is what a network that hears nothing reaches.
    """

    settings: Mapping[str, str]
    paper: Mapping[str, str]
    networks: tuple[Network, ...] = ()
    chance: bool = False

    @property
    def name(self) -> str:
        """Its settings as one text, with the column of what is `BARE`."""
        return ", ".join(
            f"{column} {text}" if BARE.fullmatch(text) else text
            for column, text in self.settings.items()
            if text not in ("NA", DASH)
        )


Lines = Callable[[Preset], Sequence[Line]]

# --- the tables as the paper prints them ---------------------------------------------------------

# Table A.1: the setting, tau, what it changes in SimCLR, mAP of fonly and of full.
STEPS: tuple[tuple[str, str, dict[str, Any], str, str], ...] = (
    ("CNN12 with randomgain", "0.1", {"augmentations": 1}, "0.112 ± 0.002", "0.203 ± 0.001"),
    ("+ gaussiannoise", "0.1", {"augmentations": 2}, "0.142 ± 0.001", "0.210 ± 0.003"),
    ("+ timemask", "0.1", {"augmentations": 3}, "0.142 ± 0.001", "0.211 ± 0.002"),
    ("+ random SNR", "0.1", {}, "0.148 ± 0.003", "0.215 ± 0.001"),
    ("CNN12 (all)", "0.2", {"temperature": 0.2}, "0.120 ± 0.001", "0.205 ± 0.002"),
    ("CNN12 (all)", "0.3", {"temperature": 0.3}, "0.105 ± 0.001", "0.200 ± 0.001"),
    ("CNN12_x2 (all)", "0.1", {"wider": 2}, "0.151 ± 0.003", "0.217 ± 0.005"),
)
# Claim "j": which of these rows is said to be better than which.
BETTER = ((1, 0), (2, 1), (3, 2), (3, 4), (4, 5))
CHANCE, UNTRAINED_ROW = "chance", "untrained CNN12, fitted probe"

CITED_ON_AUDIOSET = (
    ("CNN14 (Kong et al., 2020)", "80M", "16 kHz", "log-melspec", "0.431", "0.973", "2.732"),
    ("CNN14 (Kong et al., 2020)", "80M", "8 kHz", "log-melspec", "0.406", "0.97", "2.654"),
    ("CNN14 (Zeghidour et al., 2021)", "80M", "16 kHz", "SincNet", DASH, "0.97", "2.66"),
    ("CNN14 (Zeghidour et al., 2021)", "80M", "16 kHz", "LEAF", DASH, "0.974", "2.74"),
    ("CNN14 (Zeghidour et al., 2021)", "80M", "16 kHz", "Wavegram", DASH, "0.961", "2.5"),
    ("1D+2D ResNet (Chen et al., 2019)", DASH, "16 kHz", "raw signal", "0.372", "0.968", "2.614"),
)
CITED_ON_FSD50K = (
    ("CRNN (Fonseca et al., 2020)", "0.96M", "22.05 kHz", "log-melspec", "0.417", "2.068"),
    ("VGG-like (Fonseca et al., 2020)", "0.27M", "22.05 kHz", "log-melspec", "0.434", "2.167"),
    ("ResNet-18 (Fonseca et al., 2020)", "11.3M", "22.05 kHz", "log-melspec", "0.373", "1.883"),
    ("DenseNet-121 (Fonseca et al., 2020)", "12.5M", "22.05 kHz", "log-melspec", "0.425", "2.112"),
    ("Large Transformer (Verma & Berger, 2021)", "2.3M", "16 kHz", "raw signal", "0.537", DASH),
)
CITED_ON_WORDS = (
    ("EfficientNet-B0 (Saeed et al., 2021)", "16 kHz", "log-mel", "95.5 %"),
    ("EfficientNet-B0 (Zeghidour et al., 2021)", "16 kHz", "LEAF", "93.4 %"),
)


def _a1(preset: Preset) -> list[Line]:
    return [
        Line(
            {"setting": setting, "tau": tau, "trained": way},
            {"mAP": paper},
            tuple(
                finetuned("balanced", of_sweep(preset, random_state, **changes), frozen=frozen)
                for random_state in range(preset.sweep)
            ),
        )
        for setting, tau, changes, *printed in STEPS
        for (way, frozen), paper in zip(WAYS, printed, strict=True)
    ]


def _a2(preset: Preset) -> list[Line]:
    def line(
        model: str, start: str, fonly: str, networks: tuple[Network, ...], *paper: str
    ) -> Line:
        settings = {"model": model, "pretraining": start, "fonly": fonly}
        return Line(settings, dict(zip(EVENTS, paper, strict=True)), networks)

    scratch = tuple(pretrained("supervised", random_state) for random_state in range(preset.runs))
    frozen = _from("audioset", "contrastive", preset.runs, frozen=True)
    full = _from("audioset", "contrastive", preset.runs)
    return [
        line("CNN12", "False", "NA", scratch, "0.299 ± 0.001", "0.954 ± 0.000", "2.378 ± 0.007"),
        line("CNN12", "True", "True", frozen, "0.197 ± 0.003", "0.918 ± 0.006", "1.966 ± 0.057"),
        line("CNN12", "True", "False", full, "0.327 ± 0.009", "0.958 ± 0.001", "2.436 ± 0.011"),
        line(
            *("CNN12_x2", "True", "False", _wide(preset, "audioset")),
            *("0.332 ± 0.005", "0.959 ± 0.001", "2.438 ± 0.020"),
        ),
    ]


def _a3(preset: Preset) -> list[Line]:
    ours = _from("audioset", "contrastive", preset.runs)
    cited = (
        *((*row, ()) for row in CITED_ON_AUDIOSET),
        ("CNN12", "14M", "8 kHz", "raw signal", "0.323", "0.957", "2.436", ours),
        (
            "CNN12_x2",
            "53M",
            "8 kHz",
            "raw signal",
            "0.332",
            "0.959",
            "2.438",
            _wide(preset, "audioset"),
        ),
    )
    return [_compared(*row[:4], dict(zip(EVENTS, row[4:7], strict=True)), row[7]) for row in cited]


def _a4(preset: Preset) -> list[Line]:
    def line(start: str, fonly: str, networks: tuple[Network, ...], *paper: str) -> Line:
        model = "CNN12" if networks[0].wider == 1 else "CNN12_x2"
        settings = {"model": model, "pretraining": start, "fonly": fonly}
        return Line(settings, dict(zip(EVENTS, paper, strict=True)), networks)

    runs = preset.runs
    scratch = tuple(
        finetuned("fsd50k", None, random_state=random_state) for random_state in range(runs)
    )
    contrastive = [_from("fsd50k", "contrastive", runs, frozen=frozen) for _, frozen in WAYS]
    supervised = [_from("fsd50k", "supervised", runs, frozen=frozen) for _, frozen in WAYS]
    wide = [_wide(preset, "fsd50k", frozen=frozen) for _, frozen in WAYS]
    by_contrast, by_labels = "Contrastive", "Supervised"
    return [
        line("None", "NA", scratch, "0.362 ± 0.006", "0.909 ± 0.001", "1.889 ± 0.010"),
        line(
            by_contrast, "True", contrastive[0], "0.306 ± 0.007", "0.873 ± 0.003", "1.611 ± 0.024"
        ),
        line(
            by_contrast, "False", contrastive[1], "0.424 ± 0.004", "0.921 ± 0.001", "2.001 ± 0.006"
        ),
        line(by_labels, "True", supervised[0], "0.463 ± 0.002", "0.935 ± 0.001", "2.144 ± 0.015"),
        line(by_labels, "False", supervised[1], "0.448 ± 0.004", "0.928 ± 0.003", "2.068 ± 0.028"),
        line(by_contrast, "True", wide[0], "0.307 ± 0.006", "0.869 ± 0.004", "1.584 ± 0.020"),
        line(by_contrast, "False", wide[1], "0.432 ± 0.003", "0.924 ± 0.001", "2.032 ± 0.004"),
    ]


def _a5(preset: Preset) -> list[Line]:
    frozen = _from("fsd50k", "supervised", preset.runs, frozen=True)
    full = _from("fsd50k", "contrastive", preset.runs)
    cited = (
        *((*row, ()) for row in CITED_ON_FSD50K),
        ("CNN12 (supervised-fonly)", "14M", "8 kHz", "raw signal", "0.463", "2.144", frozen),
        ("CNN12 (contrastive)", "14M", "8 kHz", "raw signal", "0.424", "2.001", full),
    )
    return [_compared(*row[:4], {"mAP": row[4], "dprime": row[5]}, row[6]) for row in cited]


def _a6(preset: Preset) -> list[Line]:
    runs = preset.runs
    scratch = tuple(
        finetuned("words", None, random_state=random_state) for random_state in range(runs)
    )
    supervised = [_from("words", "supervised", runs, frozen=frozen) for _, frozen in WAYS]
    contrastive = [_from("words", "contrastive", runs, frozen=frozen) for _, frozen in WAYS]
    rows: tuple[tuple[str, str, str, str, tuple[Network, ...]], ...] = (
        *((*row, ()) for row in CITED_ON_WORDS),
        ("CNN12", "8 kHz", "raw signal", "92.3 ± 0.5 %", scratch),
        ("CNN12 (Supervised-fonly)", "8 kHz", "raw signal", "36.0 ± 1.4 %", supervised[0]),
        ("CNN12 (Supervised-full)", "8 kHz", "raw signal", "92.9 ± 0.7 %", supervised[1]),
        ("CNN12 (Contrastive-fonly)", "8 kHz", "raw signal", "29.5 ± 0.6 %", contrastive[0]),
        ("CNN12 (Contrastive-full)", "8 kHz", "raw signal", "93.4 ± 0.7 %", contrastive[1]),
    )
    return [
        Line({"model": model, "F_s": rate, "features": features}, {"accuracy": paper}, networks)
        for model, rate, features, paper, networks in rows
    ]


def _from(data: str, regime: Any, runs: int, **changes: Any) -> tuple[Network, ...]:
    """Networks finetuned from pretrained weights, one for each random state."""
    return tuple(
        finetuned(data, pretrained(regime, random_state), **changes) for random_state in range(runs)
    )


def _wide(preset: Preset, data: str, **changes: Any) -> tuple[Network, ...]:
    """CNN12_x2, finetuned from contrastive weights with one random state: of table A.1."""
    return (finetuned(data, of_sweep(preset, wider=2), **changes),)


def _compared(
    model: str, size: str, rate: str, features: str, paper: dict[str, str], networks: Any
) -> Line:
    """A line of tables A.3 and A.5."""
    settings = {"model": model, "parameters in the paper": size, "F_s": rate, "features": features}
    return Line(settings, paper, networks)


def beside(lines: Sequence[Line], data: str, preset: Preset) -> list[Line]:
    """The lines of a table with two of ours before them: chance, and untrained encoders.

    Args:
        lines: As the paper prints them.
        data: What they are evaluated on.
        preset: Of the study.
    """
    first, *others = lines[0].settings
    blank, paper = dict.fromkeys(others, DASH), dict.fromkeys(lines[0].paper, DASH)
    drawn = tuple(
        finetuned(data, untrained(random_state), frozen=True)
        for random_state in untrained_random_states(preset)
    )
    return [
        Line({first: CHANCE, **blank}, paper, chance=True),
        Line({first: UNTRAINED_ROW, **blank}, paper, drawn),
        *lines,
    ]


# --- what stands in them here --------------------------------------------------------------------


def _row(study: Study, line: Line, metric: str, estimate: Estimate | None) -> Row:
    """One row: the paper's columns, and ours."""
    parameters = None
    if line.networks:
        parameters = sum(p.numel() for p in study.classifier(line.networks[0]).parameters())
    held = asdict(estimate) if estimate else dict.fromkeys(("mean", "low", "high", "n", "over"))
    ours = {"ours": str(estimate) if estimate else None, "parameters": parameters}
    paper = line.paper.get(metric, DASH)
    return {**line.settings, "metric": metric, "paper": paper, **ours, **held}


def _estimate(study: Study, table: str, data: str, line: Line, metric: str) -> Estimate | None:
    """Our number in one row: over the networks, or over the clips of a single one."""
    if line.chance:
        return Estimate(chance(study, data)[metric], None, None, 0)
    if not line.networks:
        return None
    if len(line.networks) > 1:
        return over_networks(results(study, line.networks, metric))
    (network,) = line.networks
    key = f"clips-{network.name}-{metric}"
    return Estimate(**part(study, table, key, lambda: _over_clips(study, network, metric)))


def _over_clips(study: Study, network: Network, metric: str) -> dict[str, Any]:
    clips = study.clips(network.data).subset("test")

    def measured(scores: Tensor, labels: Tensor) -> float:
        return metrics(scores, labels)[metric]

    scores = predict(study.classifier(network), clips)
    draws = DRAWS if study.preset.evidence else DRAWS // 20
    return asdict(over_clips(measured, scores, clips.labels(), draws=draws))


def _measured(study: Study, data: str, lines: Sequence[Line]) -> list[str]:
    """The metrics of a table: the paper's, or accuracy where clips have one label here."""
    printed = list(lines[0].paper)
    return printed if metric_of(study, data) in printed else [metric_of(study, data)]


def _counted(study: Study, data: str, lines: Sequence[Line]) -> str:
    """What N is."""
    counts = " or ".join(map(str, sorted({len(line.networks) for line in lines if line.networks})))
    clips = len(study.clips(data).subset("test"))
    return (
        f"{counts} networks a row, {clips} test clips; intervals are 95 % t intervals over "
        "networks, and of a single one BCa intervals over its clips"
    )


def claim_j(study: Study, lines: Sequence[Line]) -> Claim:
    """Claim j: each augmentation helps, and a low temperature, in table A.1, frozen and full."""
    comparisons = []
    for one, two in BETTER:
        for way in range(len(WAYS)):
            better, other = (lines[len(WAYS) * step + way] for step in (one, two))
            comparisons.append(compare_lines(study, better, other))
    return Claim("j", comparisons)


def in_order(study: Study, letter: str, lines: Sequence[Line]) -> Claim:
    """The claim that rows come in the paper's order.

    Compared are neighbours in that order whose printed intervals do not touch: of the others the
    paper itself does not say which is ahead. CNN12_x2, of which there is one network here, is left
    out.

    Args:
        study: The study.
        letter: Of the claim.
        lines: The table as the paper prints it.
    """
    metric = next(iter(lines[0].paper))
    ours = [line for line in lines if line.networks and line.networks[0].wider == 1]
    ranked = sorted(ours, key=lambda line: printed(line.paper[metric])[0], reverse=True)
    apart = [
        (better, other) for better, other in pairwise(ranked) if _gap(better, other, metric) > 0
    ]
    return Claim(letter, [compare_lines(study, *pair) for pair in apart])


def printed(text: str) -> tuple[float, float]:
    """Mean and half width of "0.299 ± 0.001" or "92.3 ± 0.5 %"; without "±" the width is 0."""
    mean, *half_width = map(float, re.findall(r"\d+\.\d+", text))
    return mean, half_width[0] if half_width else 0.0


def _gap(better: Line, other: Line, metric: str) -> float:
    """How far apart the printed intervals of two rows are."""
    (high, one), (low, two) = (printed(line.paper[metric]) for line in (better, other))
    return high - one - (low + two)


def compare_lines(study: Study, better: Line, other: Line) -> Any:
    """Two lines of a table, paired by their networks."""
    metric = metric_of(study, better.networks[0].data)
    sides = (results(study, line.networks, metric) for line in (better, other))
    return compare(f"{better.name} over {other.name}", metric, *sides)


def _shorter(preset: Preset, lines: Sequence[Line]) -> str:
    """Which rows rest on networks that were pretrained for fewer epochs, in one sentence."""
    starts = {line.name: line.networks[0].start for line in lines if line.networks}
    trained = {name: start for name, start in starts.items() if start and not start.untrained}
    short = [name for name, start in trained.items() if start.epochs]
    if not short:
        return ""
    which = "all rows" if len(short) == len(trained) else "; ".join(short)
    return f" Pretrained for {preset.sweep_epochs} epochs: {which}."


def _no_claims(study: Study, lines: Sequence[Line]) -> Sequence[Claim]:
    return ()


def _experiment(
    number: int,
    title: str,
    lines: Lines,
    data: tuple[str, ...],
    *,
    claims: Callable[[Study, Sequence[Line]], Sequence[Claim]] = _no_claims,
    also: str = "",
) -> Experiment:
    """The experiment that fills one table; it is evaluated on the last data set of `data`."""
    name, on = f"table-a{number}", data[-1]

    def networks(preset: Preset) -> list[Network]:
        every = beside(lines(preset), on, preset)
        return list(dict.fromkeys(n for line in every for n in line.networks))

    def run(study: Study) -> Finding:
        printed_lines = lines(study.preset)
        ours = beside(printed_lines, on, study.preset)
        places = [(line, metric) for line in ours for metric in _measured(study, on, ours)]
        estimates = [_estimate(study, name, on, *place) for place in places]
        return Finding(
            [
                _row(study, line, metric, estimate)
                for (line, metric), estimate in zip(places, estimates, strict=True)
            ],
            claims(study, printed_lines),
            numbers=[
                Number(line.name, metric, estimate, line.paper.get(metric, DASH))
                for (line, metric), estimate in zip(places, estimates, strict=True)
                if estimate
            ],
            n=_counted(study, on, ours),
            differs=f"{differences(study, *data)}{_shorter(study.preset, ours)}{also}",
        )

    return Experiment(name, title, networks, run)


def _ordered(letter: str) -> Callable[[Study, Sequence[Line]], Sequence[Claim]]:
    return lambda study, lines: (in_order(study, letter, lines),)


TABLES: tuple[Experiment, ...] = (
    _experiment(
        1,
        "Table A.1: contrastive pretraining, evaluated on the balanced list",
        _a1,
        ("audioset", "balanced"),
        claims=lambda study, lines: (claim_j(study, lines),),
    ),
    _experiment(2, "Table A.2: AudioSet", _a2, ("audioset",), claims=_ordered("o")),
    _experiment(
        3,
        "Table A.3: AudioSet, beside others' networks",
        _a3,
        ("audioset",),
        also=" For CNN12 the paper prints an mAP of 0.323 here and 0.327 in table A.2.",
    ),
    _experiment(
        4, "Table A.4: transfer to FSD50K", _a4, ("audioset", "fsd50k"), claims=_ordered("p")
    ),
    _experiment(5, "Table A.5: FSD50K, beside others' networks", _a5, ("audioset", "fsd50k")),
    _experiment(
        6,
        "Table A.6: transfer to Speech Commands",
        _a6,
        ("audioset", "words"),
        claims=_ordered("q"),
    ),
)
