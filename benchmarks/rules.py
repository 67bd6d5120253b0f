"""The op table as a page: each op's rules, read from the table itself. Writes docs/rules.md.

An op may have several rules, chosen by how it is called (a clamp at zero rectifies, one on both
sides does not). They are collected by running every case of `tests/cases.py`, which has at least
one for each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from benchmarks.reporting import HERE, table, write_page
from deconv1d.rules.op import Op
from deconv1d.rules.table import LAWS, RULES, Rule, packet, rule_for

sys.path.append(str(HERE.parent / "tests"))
from cases import CASES
from oracles import captured

PAGE = HERE.parent / "docs" / "rules.md"
HEAD = ("op", "kind", "law", "reach", "channel axis", "block goes on", "gate", "source")


def rules_by_op() -> dict[str, list[Rule]]:
    """The rules that each op of the table has in any case, in the table's order."""
    by_op: dict[str, list[Rule]] = {op.__name__: [] for op in RULES}
    for case in CASES:
        for node in captured(case.run, case.x).graph.nodes:
            op = Op.of(node)
            name = getattr(packet(node), "__name__", "")
            if op.dependent and name in by_op:
                by_op[name].append(rule_for(RULES, op))
    return by_op


def row(op: str, rule: Rule) -> tuple[str, ...]:
    """One line of the table."""
    return (
        f"`{op}`",
        rule.kind,
        LAWS[rule.kind],
        _named(rule.reach),
        _named(rule.channels) if rule.channels else "",
        "yes" if rule.block else "",
        "yes" if rule.gate else "",
        rule.source,
    )


def _named(function: Callable[..., Any]) -> str:
    return function.__name__.replace("_", " ")


def _meanings(functions: set[Callable[..., Any]]) -> str:
    """What each name of a column means: the first line of the function's docstring."""
    lines = {_named(f): (f.__doc__ or "").strip().splitlines()[0] for f in functions}
    return "\n".join(f"- *{name}*: {meaning}" for name, meaning in sorted(lines.items()))


def body() -> str:
    """The page without its title and date."""
    by_op = rules_by_op()
    rows = [r for op, rules in by_op.items() for r in dict.fromkeys(row(op, one) for one in rules)]
    every = [rule for rules in by_op.values() for rule in rules]
    return (
        f"The {len(by_op)} ops of `deconv1d/rules/table.py`. Any other op is carried by its exact "
        "gradient and flagged. A column that is empty says no; an op without a channel axis leaves "
        "channels where its reach puts their axis.\n\n"
        "A test holds every rule to its law; how each kind carries a signal stands at the top of "
        "the table.\n\n"
        f"Reach, what an output reads of time:\n\n{_meanings({rule.reach for rule in every})}\n\n"
        "Channel axis, where an op counts channels of its own making:\n\n"
        f"{_meanings({rule.channels for rule in every if rule.channels})}\n\n"
        f"{table(HEAD, rows)}"
    )


def main() -> None:
    """Writes docs/rules.md."""
    write_page(PAGE, "Rules", "python -m benchmarks.rules", body(), ("torch",))


if __name__ == "__main__":
    main()
