"""`results.json`: every number of a report with unit, N, interval, gates and verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from reference_models.experiments.claims import CLAIMS
from reference_models.experiments.verdicts import Judged, read_gates, takes_of
from reference_models.statistics import Comparison, Estimate, judge, verdict_of


def results_of(
    facts: Mapping[str, Any], findings: Mapping[str, Mapping[str, Any]], lines: Sequence[Judged]
) -> dict[str, Any]:
    """What `results.json` says.

    Args:
        facts: Of the study: date, commit, sizes.
        findings: What the experiments wrote, by name.
        lines: The verdicts on the claims; none where the preset is no evidence.
    """
    return {
        "study": dict(facts),
        "experiments": {name: held["made"] | held["trained"] for name, held in findings.items()},
        "gates": [
            {
                "name": gate.name,
                "text": gate.text,
                "passed": gate.passed,
                "verdict": str(judge(gate.comparisons)),
                "unmet": gate.unmet,
                "takes": takes_of({gate.name: gate}),
                "comparisons": [_comparison(one) for one in gate.comparisons],
            }
            for gate in read_gates(findings).values()
        ],
        "claims": [
            {
                "letter": line.letter,
                "claim": line.text,
                "source": CLAIMS[line.letter].source,
                "experiment": line.experiment,
                "verdict": str(line.verdict),
                "gates": dict(line.gates),
                "takes": line.takes,
                "comparisons": [_comparison(one) for one in line.comparisons],
            }
            for line in lines
        ],
        "numbers": [
            {
                "experiment": name,
                "name": number["name"],
                "unit": number["unit"],
                "paper": number["paper"],
                **_estimate(Estimate(**number["estimate"])),
                **_of_experiment([line for line in lines if line.experiment == name]),
            }
            for name, held in findings.items()
            for number in held["numbers"]
        ],
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "name": comparison.name,
        "unit": comparison.unit,
        **_estimate(comparison.estimate),
        "claimed": comparison.claimed,
        "margin": comparison.margin,
        "p_differs": comparison.p_differs,
        "p_equal": comparison.p_equal,
        "verdict": str(verdict_of(comparison)),
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    held = asdict(estimate)
    return {name: held[name] for name in ("mean", "low", "high", "n", "over")}


def _of_experiment(lines: Sequence[Judged]) -> dict[str, Any]:
    """The gates and verdicts of the claims that an experiment looks at."""
    gates = {name: passed for line in lines for name, passed in line.gates.items()}
    letters = dict.fromkeys(line.letter for line in lines)
    verdicts = {
        letter: [str(line.verdict) for line in lines if line.letter == letter] for letter in letters
    }
    return {"gates": gates, "verdicts": verdicts}
