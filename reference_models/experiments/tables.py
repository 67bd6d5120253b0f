"""Tables A.1 to A.6: how well the networks do, beside the paper's numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reference_models.evaluate import over_runs, predict
from reference_models.experiments.comparison import Bootstrap, all_hold, bootstrap, differences
from reference_models.experiments.finding import Claim, Experiment, Finding, Row, part
from reference_models.experiments.study import (
    Network,
    Preset,
    Study,
    finetuned,
    pretrained,
)

EVENTS = ("mAP", "mAUC", "dprime")
WAYS = (("fonly", True), ("full", False))
DASH = "-"


@dataclass(frozen=True)
class Line:
    """One row of a table: what the paper prints there, and our networks that belong there.

    Attributes:
        settings: Its first columns.
        paper: Its numbers as printed, by metric.
        networks: One for each seed; none where the paper cites others' work.
    """

    settings: Mapping[str, str]
    paper: Mapping[str, str]
    networks: tuple[Network, ...] = ()


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
            (finetuned("balanced", pretrained("contrastive", **changes), frozen=frozen),),
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

    scratch = tuple(pretrained("supervised", seed) for seed in range(preset.runs))
    frozen = _from("audioset", "contrastive", preset.runs, frozen=True)
    full = _from("audioset", "contrastive", preset.runs)
    return [
        line("CNN12", "False", "NA", scratch, "0.299 ± 0.001", "0.954 ± 0.000", "2.378 ± 0.007"),
        line("CNN12", "True", "True", frozen, "0.197 ± 0.003", "0.918 ± 0.006", "1.966 ± 0.057"),
        line("CNN12", "True", "False", full, "0.327 ± 0.009", "0.958 ± 0.001", "2.436 ± 0.011"),
        line(
            *("CNN12_x2", "True", "False", _wide("audioset")),
            *("0.332 ± 0.005", "0.959 ± 0.001", "2.438 ± 0.020"),
        ),
    ]


def _a3(preset: Preset) -> list[Line]:
    ours = _from("audioset", "contrastive", preset.runs)
    cited = (
        *((*row, ()) for row in CITED_ON_AUDIOSET),
        ("CNN12", "14M", "8 kHz", "raw signal", "0.323", "0.957", "2.436", ours),
        ("CNN12_x2", "53M", "8 kHz", "raw signal", "0.332", "0.959", "2.438", _wide("audioset")),
    )
    return [_compared(*row[:4], dict(zip(EVENTS, row[4:7], strict=True)), row[7]) for row in cited]


def _a4(preset: Preset) -> list[Line]:
    def line(start: str, fonly: str, networks: tuple[Network, ...], *paper: str) -> Line:
        model = "CNN12" if networks[0].wider == 1 else "CNN12_x2"
        settings = {"model": model, "pretraining": start, "fonly": fonly}
        return Line(settings, dict(zip(EVENTS, paper, strict=True)), networks)

    runs = preset.runs
    scratch = tuple(finetuned("fsd50k", None, seed=seed) for seed in range(runs))
    contrastive = [_from("fsd50k", "contrastive", runs, frozen=frozen) for _, frozen in WAYS]
    supervised = [_from("fsd50k", "supervised", runs, frozen=frozen) for _, frozen in WAYS]
    wide = [_wide("fsd50k", frozen=frozen) for _, frozen in WAYS]
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
    scratch = tuple(finetuned("words", None, seed=seed) for seed in range(runs))
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
    """Networks finetuned from pretrained weights, one for each seed."""
    return tuple(finetuned(data, pretrained(regime, seed), **changes) for seed in range(runs))


def _wide(data: str, **changes: Any) -> tuple[Network, ...]:
    """CNN12_x2, finetuned from contrastive weights with one seed."""
    return (finetuned(data, pretrained("contrastive", wider=2), **changes),)


def _compared(
    model: str, size: str, rate: str, features: str, paper: dict[str, str], networks: Any
) -> Line:
    """A line of tables A.3 and A.5."""
    settings = {"model": model, "parameters in the paper": size, "F_s": rate, "features": features}
    return Line(settings, paper, networks)


# --- what stands in them here --------------------------------------------------------------------


def _numbers(study: Study, line: Line, metric: str, held: Mapping[str, Bootstrap]) -> Row:
    """Our columns of one row: over the runs, or of a single run over the test clips."""
    names = ("parameters", "ours", "mean", "half_width", "runs", "low", "high")
    if not line.networks:
        return dict.fromkeys(names)
    ours = over_runs([study.result(network)["test"][metric] for network in line.networks])
    parameters = sum(p.numel() for p in study.classifier(line.networks[0]).parameters())
    if ours.runs > 1:
        values = (parameters, str(ours), *ours, None, None)
    else:
        low, high = held[metric].interval(line.networks[0].name)
        text = f"{ours.mean:.3f}, {low:.3f} to {high:.3f} over clips (N=1)"
        values = (parameters, text, ours.mean, None, 1, low, high)
    return dict(zip(names, values, strict=True))


def _over_clips(study: Study, table: str, lines: Sequence[Line]) -> dict[str, Bootstrap]:
    """By metric, how sure the numbers of the networks with a single run are."""
    singles = [line.networks[0] for line in lines if len(line.networks) == 1]

    def compute() -> dict[str, Any]:
        clips = study.clips(singles[0].data).subset("test")
        scores = {network.name: predict(study.classifier(network), clips) for network in singles}
        return {
            metric: asdict(bootstrap(metric, scores, clips.labels(), device=study.device))
            for metric in lines[0].paper
        }

    held = part(study, table, "clips", compute) if singles else {}
    return {metric: Bootstrap(**numbers) for metric, numbers in held.items()}


def _counted(study: Study, lines: Sequence[Line]) -> str:
    """What N is."""
    runs = sorted({len(line.networks) for line in lines if line.networks})
    data = next(line.networks[0].data for line in lines if line.networks)
    clips = len(study.clips(data).subset("test"))
    return (
        f"{' or '.join(map(str, runs))} runs a row, {clips} test clips; ± is the 95 % t interval "
        "over runs, and of a single run the 95 % bootstrap interval over clips is given"
    )


def claim_j(lines: Sequence[Line], held: Mapping[str, Bootstrap]) -> Claim:
    """Whether each augmentation helps, and a low temperature, in table A.1.

    All five steps are looked at, frozen and full. It holds if all ten differences are above 0,
    and fails if one of them is below.

    Args:
        lines: Of table A.1.
        held: Its networks on bootstrap samples, by metric.
    """
    verdicts, said = [], []
    for one, two in BETTER:
        for way in range(len(WAYS)):
            better, other = (lines[len(WAYS) * step + way] for step in (one, two))
            gain = held["mAP"].difference(*([side.networks[0].name] for side in (better, other)))
            verdicts.append(gain.above)
            said.append(f"{better.settings['trained']}: {_step(better)} over {_step(other)} {gain}")
    return Claim("j", all_hold(verdicts), f"mAP, one run each: {'; '.join(said)}.")


def _step(line: Line) -> str:
    return f"{line.settings['setting']} (tau {line.settings['tau']})"


def _no_claims(lines: Sequence[Line], held: Mapping[str, Bootstrap]) -> Sequence[Claim]:
    return ()


def _experiment(
    number: int,
    title: str,
    lines: Lines,
    data: tuple[str, ...],
    *,
    claims: Callable[[Sequence[Line], Mapping[str, Bootstrap]], Sequence[Claim]] = _no_claims,
    also: str = "",
) -> Experiment:
    """The experiment that fills one table."""
    name = f"table-a{number}"

    def networks(preset: Preset) -> list[Network]:
        return list(dict.fromkeys(n for line in lines(preset) for n in line.networks))

    def run(study: Study) -> Finding:
        ours = lines(study.preset)
        held = _over_clips(study, name, ours)
        rows = [
            {**line.settings, "metric": metric, "paper": paper}
            | _numbers(study, line, metric, held)
            for line in ours
            for metric, paper in line.paper.items()
        ]
        said = f"{differences(study, *data)}{also}"
        return Finding(rows, claims(ours, held), n=_counted(study, ours), differs=said)

    return Experiment(name, title, networks, run)


TABLES: tuple[Experiment, ...] = (
    _experiment(
        1,
        "Table A.1: contrastive pretraining, evaluated on the balanced list",
        _a1,
        ("audioset", "balanced"),
        claims=lambda lines, held: (claim_j(lines, held),),
    ),
    _experiment(2, "Table A.2: AudioSet", _a2, ("audioset",)),
    _experiment(
        3,
        "Table A.3: AudioSet, beside others' networks",
        _a3,
        ("audioset",),
        also=" For CNN12 the paper prints an mAP of 0.323 here and 0.327 in table A.2.",
    ),
    _experiment(4, "Table A.4: transfer to FSD50K", _a4, ("audioset", "fsd50k")),
    _experiment(5, "Table A.5: FSD50K, beside others' networks", _a5, ("audioset", "fsd50k")),
    _experiment(6, "Table A.6: transfer to Speech Commands", _a6, ("audioset", "words")),
)
