"""Tables of results: Markdown on the terminal, Markdown or CSV in files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .atomic import check_output, replacing

SUFFIXES = (".md", ".csv")


class Table(NamedTuple):
    """A title that states the conditions, column names, rows of text, and notes below them, such as what is missing.

    >>> print(Table("Times", ["layer", "ms"], [["stem", "1.5"]]).markdown(), end="")
    **Times**
    <BLANKLINE>
    | layer | ms |
    | - | - |
    | stem | 1.5 |
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """The title in bold, the table, and the notes as a list."""
        lines = [f"**{self.title}**", "", _line(self.columns), _line(["-"] * len(self.columns))]
        lines += map(_line, self.rows)
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Columns and rows, without title and notes."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([self.columns, *self.rows])
        return buffer.getvalue()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def check_destination(path: str) -> Path:
    """Check that a table can be written to ``path``, a ``.md`` or ``.csv`` file in a folder that exists.

    Raises:
        UserError: another suffix, or no such folder.
    """
    return check_output(path, "table", SUFFIXES)


def write_table(table: Table, path: Path) -> None:
    """Write to a ``.md`` or ``.csv`` file, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with replacing(path) as [partial]:
        partial.write_text(table.csv() if path.suffix == ".csv" else table.markdown(), encoding="utf-8")
