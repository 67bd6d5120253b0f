"""What an experiment finds: numbers, pictures, sounds and what they say of the paper's claims."""

import csv
import datetime
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from deconv1d.audio import write_audio, write_whole
from deconv1d.render import save_figure
from reference_models.checkpoint import write_json
from reference_models.experiments.settled import settled_curve
from reference_models.experiments.study import Network, Preset, Study
from reference_models.statistics import (
    Comparison,
    Estimate,
    Verdict,
    compare,
    judge,
    over_networks,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, str | int | float | None]
FINDING = "finding.json"


@dataclass(frozen=True)
class Claim:
    """What an experiment has to say on one of the paper's claims.

    Attributes:
        letter: Of `claims.CLAIMS`.
        comparisons: What it rests on; the claim says all of them at once.
        of: What it is about, where that is not the study's own networks.
        gates: Names of gates that are required instead of those of `CLAIMS`.
    """

    letter: str
    comparisons: Sequence[Comparison]
    of: str = ""
    gates: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Gate:
    """What must be true of the networks before claims about them can be tested.

    Attributes:
        name: As `CLAIMS` asks for it.
        text: What must be true, in a few words.
        comparisons: All of them must hold.
        unmet: What else is wanting, such as clips; empty if nothing is.
    """

    name: str
    text: str
    comparisons: Sequence[Comparison]
    unmet: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is passed."""
        return not self.unmet and judge(self.comparisons) is Verdict.HOLDS


@dataclass(frozen=True)
class Number:
    """One number of a table or a curve, with its interval.

    Attributes:
        name: Where it stands, "CNN12, fonly" and so on.
        unit: Of the number.
        estimate: The number.
        paper: What the paper prints there.
    """

    name: str
    unit: str
    estimate: Estimate
    paper: str = ""


@dataclass
class Finding:
    """What one experiment found.

    Attributes:
        rows: Its numbers, one row of the CSV file each; all rows have the same columns. A column
            "paper" is the paper's own number.
        claims: What they say of the paper's claims.
        gates: Gates that it measures.
        numbers: Its tables and curves over networks, with intervals.
        figures: By file name without its ending.
        sounds: Waveform, (time,), and sample rate, by title; the page plays them.
        n: What was counted: runs, clips, channels.
        differs: One plain sentence on what differs from the paper's experiment.
    """

    rows: Sequence[Row]
    claims: Sequence[Claim] = ()
    gates: Sequence[Gate] = ()
    numbers: Sequence[Number] = ()
    figures: Mapping[str, "Figure"] = field(default_factory=dict)
    sounds: Mapping[str, tuple[Any, int]] = field(default_factory=dict)
    n: str = ""
    differs: str = ""


@dataclass(frozen=True)
class Experiment:
    """One table or figure of the paper.

    Attributes:
        name: Of its folder, "table-a1" and so on.
        title: What the report calls it.
        networks: Which networks it needs, trained.
        run: Does it. What it computes step by step it may keep with `part`, so that a killed run
            goes on where it was.
        needs: Names in `Study.sources` without which it is left out.
        after: Experiments whose files it reads.
    """

    name: str
    title: str
    networks: Callable[[Preset], Sequence[Network]]
    run: Callable[[Study], Finding]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def is_finished(experiment: Experiment, study: Study) -> bool:
    """Whether an experiment was performed before."""
    facts = _whole_json(path := study.folder / experiment.name / FINDING)
    if facts is None and not path.exists():
        return False
    if isinstance(facts, dict) and facts.keys() >= {"title", "claims", "gates", "numbers", "made"}:
        return True
    print(f"{path} is no finding and is made anew.", file=sys.stderr)
    return False


def _whole_json(path: Path) -> Any:
    """What a file says; None if there is none, or if it is damaged: then it is named and goes."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # empty or cut: the disk was full, or the machine went down
        print(f"{path} is damaged ({error}) and is made anew.", file=sys.stderr)
        path.unlink()
        return None


def perform(experiment: Experiment, study: Study) -> None:
    """Runs an experiment whose networks are trained, and writes what it found, the mark last.

    An experiment that is finished is not run again. What a report says of its networks is written
    down with it, so that it outlives them.
    """
    if is_finished(experiment, study):
        return
    folder = study.folder / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    finding = experiment.run(study)
    write_whole(folder / "numbers.csv", _csv(finding.rows).encode())
    for name, figure in finding.figures.items():
        save_figure(figure, folder / f"{name}.png")
    sounds = {}
    for number, (title, (waveform, rate)) in enumerate(finding.sounds.items()):
        sounds[title] = f"sound-{number:02d}.flac"
        write_audio(folder / sounds[title], _quiet(waveform), rate, subtype="PCM_16")
    facts = {
        "title": experiment.title,
        "claims": [asdict(claim) for claim in finding.claims],
        "gates": [asdict(gate) for gate in finding.gates],
        "numbers": [asdict(number) for number in finding.numbers],
        "figures": [f"{name}.png" for name in finding.figures],
        "sounds": sounds,
        "n": finding.n,
        "differs": finding.differs,
        "made": {"date": str(datetime.date.today()), "commit": commit()},
        **_of_networks(study, experiment.networks(study.preset)),
    }
    write_json(folder / FINDING, facts)


def _of_networks(study: Study, networks: Sequence[Network]) -> dict[str, Any]:
    """How many encoders were trained, and long enough; of frozen ones which probes converged."""
    results = {n: study.result(n) for n in networks if study.is_trained(n)}
    curves = [settled_curve(study, n) for n in results if not (n.frozen or n.untrained)]
    return {
        "trained": {"networks": len(curves), "long_enough": sum(c.settled for c in curves)},
        "probes": {n.name: r["probe"]["converged"] for n, r in results.items() if n.frozen},
    }


def commit() -> str:
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


def part(study: Study, experiment: str, key: str, compute: Callable[[], Any]) -> Any:
    """The result of one step of an experiment, computed unless it was before.

    Args:
        study: The study.
        experiment: Its name.
        key: Of the step; part of a file name.
        compute: Gives what JSON can say.
    """
    path = study.folder / experiment / "parts" / f"{key}.json"
    if (found := _whole_json(path)) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(compute()).encode())
        found = json.loads(path.read_text(encoding="utf-8"))
    return found


def numbers_of(
    rows: Sequence[Row], where: Sequence[str], units: Mapping[str, str], by: str = "random_state"
) -> list[Number]:
    """The numbers of rows, averaged for each network and then over the networks.

    Args:
        rows: The rows; what has none (a silent sonification) is left out.
        where: Columns that say where a number stands.
        units: By column the unit of its numbers.
        by: The column that tells networks apart.
    """
    places: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        places.setdefault(tuple(row[column] for column in where), []).append(row)
    numbers = []
    for place, rows_there in places.items():
        for column, unit in units.items():
            held = [row for row in rows_there if row[column] is not None]
            by_network = [
                fmean(row[column] for row in held if row[by] == network)
                for network in sorted({row[by] for row in held})
            ]
            if by_network:
                name = ", ".join(map(str, (*place, column)))
                numbers.append(Number(name, unit, over_networks(by_network)))
    return numbers


def over_layers(
    rows: Sequence[Row], column: str, layers: Sequence[str] | None = None, **where: Any
) -> list[float]:
    """A column's mean over layers, one number for each network, by rising random state.

    Args:
        rows: With the columns "layer" and "random_state", and those of `where`.
        column: Whose numbers; where a row has none (dead layers), it is left out.
        layers: Which layers; None: all.
        where: What other columns must say.

    Returns:
        As many numbers as there are random states; NaN for a network without any.
    """
    rows_there = [
        row
        for row in rows
        if all(row[name] == value for name, value in where.items())
        and (layers is None or row["layer"] in layers)
    ]
    random_states = sorted({row["random_state"] for row in rows_there})
    by_random_state = [
        [r[column] for r in rows_there if r["random_state"] == random_state]
        for random_state in random_states
    ]
    kept = [[value for value in values if value is not None] for values in by_random_state]
    return [fmean(values) if values else math.nan for values in kept]


def paired(
    name: str, unit: str, ours: Sequence[float], theirs: Sequence[float] | float = 0.0, **how: Any
) -> Comparison:
    """As `statistics.compare`, without the networks that have no number on either side."""
    others = [theirs] * len(ours) if isinstance(theirs, int | float) else theirs
    kept = [(a, b) for a, b in zip(ours, others, strict=True) if math.isfinite(a - b)]
    if not kept:
        nothing = Estimate(0.0, None, None, 0)
        return Comparison(name, unit, nothing, how.get("claimed", "above"), 0.0, 1.0, 1.0)
    return compare(name, unit, *zip(*kept, strict=True), **how)


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _quiet(waveform: Any) -> Any:
    """The waveform with a peak of at most 1."""
    peak = float(abs(waveform).max())
    return waveform / peak if peak > 1 else waveform


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file that an experiment wrote."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
