"""The table of the ops between a layer's map and the waveform."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch.fx import Node

from deconv1d.mirror import Step
from deconv1d.record.receptive_fields import ReceptiveField
from deconv1d.rules.table import LAWS
from deconv1d.table import Table


@dataclass(frozen=True)
class PlanRow:
    """One op between a map and the waveform.

    Attributes:
        op: Module path and op.
        rule: Kind of rule (`deconv1d.rules.table`).
        law: What a test holds the rule to.
        reach: Kernel, stride and offset in samples of the op's input.
        source: Where the rule comes from.
        flagged: Whether only the op's gradient is known.
        line: Where the model calls it.
    """

    op: str
    rule: str
    law: str
    reach: str
    source: str
    flagged: bool
    line: str


def plan_of(steps: Iterable[Step], fields: Mapping[Node, ReceptiveField | None]) -> Table[PlanRow]:
    """A row for each op of a mirror, in its order.

    Args:
        steps: Of the mirror.
        fields: Of the capture that it mirrors.
    """
    return Table([_plan_row(step, fields) for step in steps])


def _plan_row(step: Step, fields: Mapping[Node, ReceptiveField | None]) -> PlanRow:
    meta = step.op.node.meta
    return PlanRow(
        op=meta["name"],
        rule=step.rule.kind,
        law=LAWS[step.rule.kind],
        reach=_reach(step, fields),
        source=step.rule.source,
        flagged=step.rule.flagged,
        line=meta["source"],
    )


def _reach(step: Step, fields: Mapping[Node, ReceptiveField | None]) -> str:
    # Of several live inputs, as in a sum, the first stands for all: they march in step or the
    # field is None.
    before = fields[step.op.dependent[0]]
    # The rule is asked anew: the plan shows what the mirror that was built would use.
    placed = None if before is None else step.rule.reach(step.op, before.axis)
    if placed is None:
        return "all"
    reach, _ = placed
    return f"{reach.kernel}, {reach.stride}, {reach.offset}"
