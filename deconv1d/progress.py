"""Progress with the time that is left: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

EVERY = 5.0
"""Seconds between two lines, and before the first: what is done sooner prints none."""
LINE = "{desc}: {n_fmt} of {total_fmt} {unit}, {remaining} left"


def bar(
    items: Iterable[Any] | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    shown: bool = True,
    **options: Any,
) -> Any:
    """A tqdm bar on stderr; where stderr is no terminal, one line every few seconds.

    Args:
        items: What to go through; None: `update` counts.
        desc: What is going on.
        unit: What is counted, in the plural.
        total: How many there are; None: `len(items)`.
        shown: Whether to show anything.
        options: As for tqdm.

    Returns:
        A `tqdm.tqdm`.
    """
    from tqdm import tqdm

    if shown and not sys.stderr.isatty():
        options |= {"file": _Lines(), "mininterval": EVERY, "delay": EVERY, "bar_format": LINE}
        options["position"] = 0  # a bar within a bar would move the cursor
    return tqdm(
        items, desc=desc, unit=f" {unit}" if sys.stderr.isatty() else unit, total=total,
        disable=not shown, **options,
    )  # fmt: skip


class _Lines:
    """Where tqdm writes one line over the other, as lines that stay."""

    def __init__(self) -> None:
        self._last = ""

    def write(self, text: str) -> None:
        # tqdm goes back to the line's start, and covers what it wrote there with spaces. At its end
        # it writes the last line once more.
        line = text.strip()
        if line and line != self._last:
            sys.stderr.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
        sys.stderr.flush()
