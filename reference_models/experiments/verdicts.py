"""Verdicts on the paper's claims: what the experiments compared, once the gates are known."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reference_models.experiments.claims import CLAIMS
from reference_models.experiments.finding import FINDING, Claim, Experiment, Gate
from reference_models.experiments.study import Study
from reference_models.statistics import (
    Comparison,
    Estimate,
    Verdict,
    corrected,
    judge,
    networks_needed,
    verdict_of,
)


@dataclass(frozen=True)
class Judged:
    """One line of the report's first page.

    Attributes:
        letter: Of `CLAIMS`.
        experiment: The name of the experiment that looked.
        of: What it is about, where that is not the study's own networks.
        verdict: The verdict.
        comparisons: What it rests on, with Holm's adjusted p values.
        gates: By name whether each gate that it needs is passed.
        takes: What a test would take, where it is not testable here; else empty.
    """

    letter: str
    experiment: str
    of: str
    verdict: Verdict
    comparisons: Sequence[Comparison]
    gates: Mapping[str, bool]
    takes: str

    @property
    def text(self) -> str:
        """The claim in a few words."""
        text = CLAIMS[self.letter].text
        return f"{text} ({self.of})" if self.of else text

    @property
    def said(self) -> str:
        """The verdict as printed: it names the unit where that is not the network."""
        over = {comparison.estimate.over for comparison in self.comparisons}
        one = "clips of one network" in over and self.verdict is not Verdict.UNTESTABLE
        return f"{self.verdict} (over clips of one network)" if one else str(self.verdict)

    @property
    def line(self) -> str:
        """The evidence in one line: the comparison that decided."""
        if self.takes:
            return f"It takes {self.takes}."
        if not self.comparisons:
            return "Nothing to compare."
        deciding = next(
            (c for c in self.comparisons if verdict_of(c) is self.verdict), self.comparisons[0]
        )
        count = len(self.comparisons)
        return f"{deciding}" + (f"; one of {count} comparisons" if count > 1 else "")


def findings(study: Study, experiments: Sequence[Experiment]) -> dict[str, dict[str, Any]]:
    """What the finished experiments wrote, by name."""
    paths = {e.name: study.folder / e.name / FINDING for e in experiments}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def read_gates(findings: Mapping[str, Mapping[str, Any]]) -> dict[str, Gate]:
    """All gates that were measured, by name."""
    gates = (gate for facts in findings.values() for gate in facts["gates"])
    return {
        gate["name"]: Gate(**gate | {"comparisons": _comparisons(gate["comparisons"])})
        for gate in gates
    }


def judged(findings: Mapping[str, Mapping[str, Any]]) -> list[Judged]:
    """Every claim that was looked at, in the order of `CLAIMS`."""
    gates = read_gates(findings)
    lines = [
        judge_claim(name, _claim(claim), gates)
        for name, facts in findings.items()
        for claim in facts["claims"]
    ]
    order = list(CLAIMS)
    return sorted(lines, key=lambda line: order.index(line.letter))


def judge_claim(experiment: str, claim: Claim, gates: Mapping[str, Gate]) -> Judged:
    """The verdict on a claim: not testable where a gate that it needs is not passed.

    Args:
        experiment: The name of the one that looked.
        claim: What it compared.
        gates: Those that were measured, by name; one that was not is not passed.
    """
    names = CLAIMS[claim.letter].gates if claim.gates is None else claim.gates
    passed = {name: name in gates and gates[name].passed for name in names}
    takes = takes_of({name: gates.get(name) for name in names})
    verdict = judge(claim.comparisons) if all(passed.values()) else Verdict.UNTESTABLE
    return Judged(
        claim.letter,
        experiment,
        claim.of,
        verdict,
        corrected(claim.comparisons),
        passed,
        takes,
    )


def takes_of(gates: Mapping[str, Gate | None]) -> str:
    """What it would take to pass gates, in one line; nothing where all of them are passed.

    Args:
        gates: By name; None for one that was not measured.
    """
    closed = {name: gate for name, gate in gates.items() if gate is None or not gate.passed}
    measured = [gate for gate in closed.values() if gate]
    open_ = [
        comparison
        for gate in measured
        for comparison in corrected(gate.comparisons)
        if verdict_of(comparison) is not Verdict.HOLDS
    ]
    wanting = [f"the gate '{name}' to be measured" for name, gate in closed.items() if not gate]
    wanting += [f"more than {gate.unmet.partition(',')[0]}" for gate in measured if gate.unmet]
    training = [comparison for comparison in open_ if comparison.estimate.mean <= 0]
    if networks := [networks_needed(c) for c in open_ if c.estimate.mean > 0]:
        count = None if None in networks else max(filter(None, networks))
        wanting.append(f"about {count} networks of each regime" if count else "more networks")
    if training:
        wanting.append("longer training, or more clips to learn from")
    return ", ".join(dict.fromkeys(wanting))


def _claim(held: Mapping[str, Any]) -> Claim:
    gates = held["gates"] if held["gates"] is None else tuple(held["gates"])
    return Claim(held["letter"], _comparisons(held["comparisons"]), held["of"], gates)


def _comparisons(held: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    return [Comparison(**{**one, "estimate": Estimate(**one["estimate"])}) for one in held]
