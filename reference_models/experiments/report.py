"""The report of a study: what each experiment found, beside the paper's numbers."""

import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deconv1d.audio import write_whole
from reference_models.experiments.comparison import NAMES
from reference_models.experiments.finding import CLAIMS, FINDING, Experiment, read_rows
from reference_models.experiments.study import Study

VERDICTS = {True: "holds", False: "fails", None: "undecided"}
PACKAGES = ("deconv1d", "torch", "numpy", "scipy")
DATA = {name: NAMES[name] for name in ("audioset", "fsd50k", "words")}
SHOWN = 60
"""Rows of a table in the report; the CSV file has all."""


def write_report(study: Study, experiments: Sequence[Experiment]) -> Path:
    """Writes `report.html` and `report.md` into the study's folder; returns the page's path.

    Args:
        study: Its experiments are done, or left out.
        experiments: In the order of the report.
    """
    content = {
        "title": "Revisiting transposed convolutions: this reproduction beside the paper",
        "facts": _facts(study),
        "data": [_data(study, name) for name in DATA],
        "claims": _claims(study, experiments),
        "sections": [_section(study, e) for e in experiments if _found(study, e)],
        "left_out": [_left_out(e) for e in experiments if not _found(study, e)],
    }
    for name in ("report.md", "report.html"):
        write_whole(study.folder / name, _render(name, content).encode())
    return study.folder / "report.html"


def _found(study: Study, experiment: Experiment) -> dict[str, Any] | None:
    path = study.folder / experiment.name / FINDING
    return json.loads(path.read_text()) if path.exists() else None


def _facts(study: Study) -> dict[str, str]:
    """Date, commit, versions and sizes."""
    preset = study.preset
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return {
        "date": str(datetime.date.today()),
        "commit": _commit(),
        "versions": f"Python {platform.python_version()}, {versions}",
        "width": f"{preset.width:g} of the paper's CNN12",
        "pretraining": f"{preset.contrastive.epochs} epochs, "
        f"2 x {preset.contrastive.seconds:g} s, batches of {preset.contrastive.batch_size}",
        "runs": f"{preset.runs} seeds for tables A.2, A.4, A.6 and figures 6 and 7; elsewhere one",
    }


def _commit() -> str:
    """The commit of this code, with a mark if files have changed since; "none" outside of git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude", "*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return described.stdout.strip()


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


def _claims(study: Study, experiments: Sequence[Experiment]) -> list[dict[str, str]]:
    """Each of the paper's claims, and what every experiment that looks at it says."""
    said: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for experiment in experiments:
        for claim in (_found(study, experiment) or {"claims": []})["claims"]:
            said.setdefault(claim["letter"], []).append((experiment.title, claim))
    return [
        {
            "letter": letter,
            "claim": claim,
            "verdict": " / ".join(VERDICTS[c["holds"]] for _, c in said.get(letter, []))
            or "not looked at",
            "evidence": " ".join(f"{title}: {c['evidence']}" for title, c in said.get(letter, [])),
        }
        for letter, claim in CLAIMS.items()
    ]


def _section(study: Study, experiment: Experiment) -> dict[str, Any]:
    """One experiment: its table, pictures, sounds, and what it says."""
    found = _found(study, experiment) or {}
    rows = read_rows(study.folder / experiment.name / "numbers.csv")
    claims = [claim | {"verdict": VERDICTS[claim["holds"]]} for claim in found["claims"]]
    return found | {
        "name": experiment.name,
        "title": experiment.title,
        "claims": claims,
        "columns": list(rows[0]),
        "rows": [[_short(*cell) for cell in row.items()] for row in rows[:SHOWN]],
        "more": max(0, len(rows) - SHOWN),
    }


def _short(column: str, cell: str) -> str:
    """A number with three digits that count; text, and what the paper prints, as it is."""
    if column == "paper":
        return cell
    try:
        number = float(cell)
    except ValueError:
        return cell
    return cell if number.is_integer() else f"{number:.3g}"


def _left_out(experiment: Experiment) -> str:
    return f"{experiment.title}: left out, for want of {', '.join(experiment.needs)}"


def _render(template: str, content: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return pages.get_template(template).render(**content)
