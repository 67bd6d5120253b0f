"""The report of a study: a first page of verdicts, then what each experiment found."""

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deconv1d.audio import write_whole
from reference_models.experiments.claims import CLAIMS
from reference_models.experiments.comparison import NAMES, spelled_out
from reference_models.experiments.finding import Experiment, commit, read_rows
from reference_models.experiments.learning import LEARNING
from reference_models.experiments.results import results_of
from reference_models.experiments.study import (
    REGIMES,
    Study,
    pretrained,
    size_of,
)
from reference_models.experiments.verdicts import Judged, findings, judged, read_gates, takes_of
from reference_models.statistics import MARGINS, Verdict, verdict_of

PACKAGES = ("deconv1d", "torch", "numpy", "scipy")
DATA = {name: NAMES[name] for name in ("audioset", "fsd50k", "words")}
SHOWN = 60
"""Rows of a table in the report; the CSV file has all."""
NO_EVIDENCE = (
    "This is the smoke preset. It shows that the programs run; its numbers are no evidence for or "
    "against anything, and no verdicts are given."
)


def write_report(
    study: Study, experiments: Sequence[Experiment], *, with_sounds: bool = True
) -> Path:
    """Writes `report.html`, `report.md` and `results.json` into the study's folder.

    Args:
        study: Its experiments are done, or left out.
        experiments: In the order of the report.
        with_sounds: False for a report that goes where the recordings may not.

    Returns:
        The path of the page.
    """
    by_name = findings(study, experiments)
    done = [experiment for experiment in experiments if experiment.name in by_name]
    lines = judged(by_name) if study.preset.evidence else []
    facts = _facts(study, by_name)
    content = {
        "title": "Revisiting transposed convolutions: this reproduction beside the paper",
        "no_evidence": "" if study.preset.evidence else NO_EVIDENCE,
        "counts": _counts(lines),
        "penalties": _penalties(study),
        "trained": by_name.get(LEARNING.name, {}).get("trained"),
        "facts": facts,
        "data": [_data(study, name) for name in DATA],
        "claims": [_line(line) for line in lines],
        "unseen": [claim.text for letter, claim in CLAIMS.items() if not _seen(letter, lines)]
        if study.preset.evidence
        else [],
        "gates": _gates(by_name) if study.preset.evidence else [],
        "margins": ", ".join(f"{margin:g} {unit}" for unit, margin in MARGINS.items()),
        "sections": [
            _section(study, e, by_name[e.name], lines, with_sounds=with_sounds) for e in done
        ],
        "left_out": [_left_out(study, e) for e in experiments if e.name not in by_name],
    }
    for name in ("report.md", "report.html"):
        write_whole(study.folder / name, render(name, content).encode())
    results = results_of(facts, by_name, lines)
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    write_whole(study.folder / "results.json", text.encode())
    return study.folder / "report.html"


def _counts(lines: Sequence[Judged]) -> str:
    """How often each verdict is given, as one sentence's list."""
    counts = {verdict: sum(line.verdict is verdict for line in lines) for verdict in Verdict}
    return ", ".join(f"{verdict} {count}" for verdict, count in counts.items() if count)


def _seen(letter: str, lines: Sequence[Judged]) -> bool:
    return any(line.letter == letter for line in lines)


def _line(line: Judged) -> dict[str, str]:
    """One claim on the first page."""
    return {
        "letter": line.letter,
        "claim": line.text,
        "source": CLAIMS[line.letter].source,
        "verdict": line.said,
        "kind": line.verdict.name.lower(),
        "evidence": line.line,
        "experiment": line.experiment,
    }


def _gates(by_name: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Each gate with its comparisons and, where it is not passed, what it would take."""
    return [
        {
            "name": gate.name,
            "text": gate.text,
            "passed": "passed" if gate.passed else "not passed",
            "evidence": "; ".join(filter(None, [*map(str, gate.comparisons), gate.unmet])),
            "takes": takes_of({gate.name: gate}),
        }
        for gate in read_gates(by_name).values()
    ]


def _facts(study: Study, by_name: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Date, commit, versions and sizes, and how networks and probes were trained."""
    preset = study.preset
    contrastive, supervised = (asdict(study.settings(pretrained(regime))) for regime in REGIMES)
    ours = ", batch normalisation in the projection head" * contrastive["head_norm"]
    ours += ", each batch of one speaker's clips" * contrastive["one_speaker"]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    rendered = [DATA[name] for name in DATA if study.is_rendered(name)]
    return {
        "date": str(datetime.date.today()),
        "commit": commit(),
        "versions": f"Python {platform.python_version()}, {versions}",
        "preset": size_of(preset),
        "source": f"rendered in place of {', '.join(rendered)}" if rendered else "recordings",
        "width": f"{preset.width:g} of the paper's CNN12",
        "pretraining": f"{preset.contrastive.epochs} epochs, "
        f"2 x {preset.contrastive.seconds:g} s, batches of {preset.contrastive.batch_size}{ours}",
        "weight decay": f"{contrastive['weight_decay']:g} (contrastive) and "
        f"{supervised['weight_decay']:g} (supervised); the paper's is 0.001",
        "probes": f"the penalty chosen on validation clips; {_converged(by_name)} converged",
        "networks": f"{preset.runs} of each regime, {preset.sweep} of each setting of table A.1",
    }


def _penalties(study: Study) -> str:
    """The weight decay of the regimes, where it differs: a claim that compares them needs it."""
    decays = [study.settings(pretrained(regime)).weight_decay for regime in REGIMES]
    return " and ".join(f"{decay:g}" for decay in decays) if len(set(decays)) > 1 else ""


def _converged(by_name: Mapping[str, Mapping[str, Any]]) -> str:
    """How many probes on whole encoders converged, of how many; each counts once."""
    probes: dict[str, bool] = {}
    for finding in by_name.values():
        probes |= finding["probes"]
    return f"{sum(probes.values())} of {len(probes)}"


def _long_enough(finding: Mapping[str, Any]) -> str:
    """How many of an experiment's networks were trained long enough, in one sentence."""
    count, enough = finding["trained"]["networks"], finding["trained"]["long_enough"]
    ours = f"Of its {count} networks whose encoder is trained, {enough}"
    return f"{ours} were trained long enough" if count else ""


def _data(study: Study, name: str) -> dict[str, Any]:
    """What stands for one of the paper's data sets: clips by split, classes, hash."""
    facts = study.clips(name).index.summary()
    splits = ", ".join(f"{sum(n.values())} {split}" for split, n in facts["splits"].items())
    rendered = study.is_rendered(name)
    return {
        "paper": DATA[name],
        "here": facts["name"] if rendered else f"recordings in the layout of {facts['name']}",
        "clips": f"{facts['clips']} ({splits})",
        "classes": facts["classes"],
        "clip_hash": facts["clip_hash"],
    }


def _section(
    study: Study,
    experiment: Experiment,
    finding: dict[str, Any],
    lines: Sequence[Judged],
    *,
    with_sounds: bool,
) -> dict[str, Any]:
    """One experiment: its pictures, sounds, what it says, and its table."""
    rows = read_rows(study.folder / experiment.name / "numbers.csv")
    claims = [line for line in lines if line.experiment == experiment.name]
    return finding | {
        "name": experiment.name,
        "title": experiment.title,
        "claims": [_line(line) | {"comparisons": _compared(line)} for line in claims],
        "sounds": finding["sounds"] if with_sounds else {},
        "unheard": 0 if with_sounds else len(finding["sounds"]),
        "training": "" if experiment is LEARNING else _long_enough(finding),
        "columns": [column.replace("_", " ") for column in rows[0]],
        "rows": [[_short(*cell) for cell in row.items()] for row in rows[:SHOWN]],
        "count": len(rows),
        "more": max(0, len(rows) - SHOWN),
    }


def _compared(line: Judged) -> list[str]:
    """Each comparison of a claim, with what it says alone."""
    return [f"{comparison}: {verdict_of(comparison)}" for comparison in line.comparisons]


def _short(column: str, cell: str) -> str:
    """A number with three digits that count; text, and what the paper prints, as it is."""
    if column == "paper":
        return cell
    try:
        number = float(cell)
    except ValueError:
        return cell
    return cell if number.is_integer() else f"{number:.3g}"


def _left_out(study: Study, experiment: Experiment) -> str:
    wanting = [need for need in experiment.needs if need not in study.sources]
    reason = f"for want of {', '.join(wanting)}" if wanting else "as asked with --without"
    return f"{experiment.title}: left out, {reason}"


def _spelled_out(value: Any) -> Any:
    """What a template shows, with the paper's abbreviations in words."""
    # Text that is HTML already is left alone: Jinja escapes a str that comes out of here.
    return spelled_out(value) if type(value) is str else value


def render(template: str, content: dict[str, Any]) -> str:
    """Fills a template that lies beside this file; in HTML every text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_spelled_out,
    )
    return pages.get_template(template).render(**content)
