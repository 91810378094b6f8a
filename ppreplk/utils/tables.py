"""Results as Markdown on the terminal, as Markdown or CSV in files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .atomic import replacing
from .errors import UserError


class Table(NamedTuple):
    """A title that states the conditions, column names, and rows of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [f"**{self.title}**", "", _line(self.columns), _line(["-"] * len(self.columns))]
        return "\n".join([*lines, *map(_line, self.rows)]) + "\n"

    def csv(self) -> str:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerows([self.columns, *self.rows])
        return buffer.getvalue()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def check_destination(path: str, what: str = "table", suffixes: Sequence[str] = (".md", ".csv")) -> Path:
    """``path`` as one that a table, or a figure, can be written to.

    Raises:
        UserError: another suffix, or its folder does not exist.
    """
    if Path(path).suffix not in suffixes:
        raise UserError(f"a {what} is written to a {' or '.join(suffixes)} file, got {path}")
    if not Path(path).absolute().parent.is_dir():
        raise UserError(f"the folder of {path} does not exist")
    return Path(path)


def write_table(table: Table, path: Path) -> None:
    """Write to a ``.md`` or ``.csv`` file, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with replacing(path) as [partial]:
        partial.write_text(table.csv() if path.suffix == ".csv" else table.markdown(), encoding="utf-8")
