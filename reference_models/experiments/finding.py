"""What an experiment finds: numbers, pictures, sounds and what they say of the paper's claims."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconv1d.audio import write_audio, write_whole
from deconv1d.render import save_figure
from reference_models.checkpoint import write_json
from reference_models.evaluate import Interval, over_runs
from reference_models.experiments.study import Network, Preset, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, str | int | float | None]
FINDING = "finding.json"

CLAIMS = {
    "a": "removing sonifications hurts more than the controls do",
    "b": "coherence falls with depth",
    "c": "it falls faster for supervised than for contrastive networks",
    "d": "deep contrastive layers are more active than supervised ones",
    "e": "early layers transfer better from contrastive weights",
    "f": "pooling beats stride",
    "g": "removal varies less over the layers for fonly; full is more robust",
    "h": "supervised weights overtake in deep layers on sound events",
    "i": "frozen, a middle layer beats the top one on words",
    "j": "each augmentation helps, and a temperature of 0.1 beats 0.2, and 0.2 beats 0.3",
    "k": "deep contrastive filters' strongest inputs share more labels",
}


@dataclass(frozen=True)
class Claim:
    """Whether one of the paper's claims holds here.

    Attributes:
        letter: Of `CLAIMS`.
        holds: True, False, or None where the interval contains both.
        evidence: A plain sentence with the numbers, their intervals and N.
    """

    letter: str
    holds: bool | None
    evidence: str


@dataclass
class Finding:
    """What one experiment found.

    Attributes:
        rows: Its numbers, one row of the CSV file each; all rows have the same columns. A column
            "paper" is the paper's own number.
        claims: What they say of the paper's claims.
        figures: By file name without its ending.
        sounds: Waveform, (time,), and sample rate, by title; the page plays them.
        n: What was counted: runs, clips, channels.
        differs: One plain sentence on what differs from the paper's experiment.
    """

    rows: Sequence[Row]
    claims: Sequence[Claim] = ()
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
    return (study.folder / experiment.name / FINDING).exists()


def perform(experiment: Experiment, study: Study) -> None:
    """Runs an experiment whose networks are trained, and writes what it found, the mark last.

    An experiment that is finished is not run again.
    """
    if is_finished(experiment, study):
        return
    folder = study.folder / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    found = experiment.run(study)
    write_whole(folder / "numbers.csv", _csv(found.rows).encode())
    for name, figure in found.figures.items():
        save_figure(figure, folder / f"{name}.png")
    sounds = {}
    for number, (title, (waveform, rate)) in enumerate(found.sounds.items()):
        sounds[title] = f"sound-{number:02d}.flac"
        write_audio(folder / sounds[title], _quiet(waveform), rate, subtype="PCM_16")
    facts = {
        "title": experiment.title,
        "claims": [asdict(claim) for claim in found.claims],
        "figures": [f"{name}.png" for name in found.figures],
        "sounds": sounds,
        "n": found.n,
        "differs": found.differs,
    }
    write_json(folder / FINDING, facts)


def part(study: Study, experiment: str, key: str, compute: Callable[[], Any]) -> Any:
    """The result of one step of an experiment, computed unless it was before.

    Args:
        study: The study.
        experiment: Its name.
        key: Of the step; part of a file name.
        compute: Gives what JSON can say.
    """
    path = study.folder / experiment / "parts" / f"{key}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(compute()).encode())
    return json.loads(path.read_text())


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """The mean of the paired differences of two series of runs, layers or clips."""
    return over_runs([a - b for a, b in zip(ours, theirs, strict=True)])


def above(interval: Interval) -> bool | None:
    """Whether a difference is above 0: None if its interval has 0 in it."""
    if not math.isfinite(interval.half_width):
        return interval.mean > 0
    if abs(interval.mean) <= interval.half_width:
        return None
    return interval.mean > 0


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
