"""docs/rules.md says what the table says."""

from benchmarks.rules import PAGE, body, rules_by_op
from deconv1d.rules.table import RULES


def test_the_page_is_up_to_date():
    written = PAGE.read_text(encoding="utf-8")
    assert body() in written, "run: python -m benchmarks.rules"


def test_every_op_of_the_table_is_on_it():
    assert [op for op, rules in rules_by_op().items() if not rules] == []
    assert len(rules_by_op()) == len(RULES)
