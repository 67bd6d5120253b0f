"""Records as a table, on a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar, overload

Row = TypeVar("Row")


class Table(Sequence[Row], Generic[Row]):
    """A sequence of records (dataclasses) that prints as a table, one column a field.

    None prints as "all", or as what a field's metadata says: `field(metadata={"none": "-"})`. A
    column with the metadata "optional" is left out where it is empty.
    """

    def __init__(self, rows: Sequence[Row], *, title: str = "") -> None:
        self.rows, self.title = tuple(rows), title

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Table[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Table[Row]:
        if isinstance(index, slice):
            return Table(self.rows[index], title=self.title)
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def _cells(self) -> list[list[str]]:
        if not self.rows:
            return []
        # The fields of the first record are the columns: all rows are of one class.
        columns = [
            f
            for f in fields(self.rows[0])  # type: ignore[arg-type]  # rows are records
            if not f.metadata.get("optional") or any(getattr(row, f.name) for row in self.rows)
        ]
        body = [
            [_text(getattr(row, f.name), f.metadata.get("none", "all")) for f in columns]
            for row in self.rows
        ]
        return [[f.name.replace("_", " ") for f in columns], *body]

    def __str__(self) -> str:
        cells = self._cells()
        # zip(*rows) turns rows into columns.
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        return "\n".join([printable(self.title), *lines] if self.title else lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from deconv1d.templates import rendered

        head, *rows = self._cells() or [[]]
        return rendered("table.html", title=self.title, head=head, rows=rows)


def _text(value: Any, none: str) -> str:
    if value is None:
        return none
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.3g}" if isinstance(value, float) else printable(str(value))


def printable(text: str) -> str:
    """A text that can be printed: halves of characters, as in names of some files, are escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
