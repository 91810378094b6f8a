"""``metrics.csv``: the numbers of a training for any tool that plots."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ..utils.atomic import replacing
from ..utils.errors import UserError


class Row(NamedTuple):
    """One number. ``step`` counts updates of the weights, ``split`` says of what and ``name`` which one."""

    epoch: int
    step: int
    split: str
    name: str
    value: float


class MetricsFile:
    """One row for each number. Rows of one moment are written at once, as whole lines, and never change.

    A run that is resumed goes on in the same file. Rows of later steps are dropped, and so is a last line that was not
    finished. Then no number of a step comes twice. A new run begins a new file.

    Args:
        path: of the file.
        resumed: step that the run goes on from; None for a new run.

    Raises:
        UserError: the file cannot be read or written.
    """

    def __init__(self, path: Path, resumed: int | None):
        self.path = path
        rows = [] if resumed is None else [row for row in read_metrics(path) if row.step <= resumed]
        self._last_steps = {(row.split, row.name): row.step for row in rows}
        with replacing(path) as [partial]:
            partial.write_bytes(_lines([Row._fields, *rows]))
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise self._cannot_write(error) from error

    def add(self, epoch: int, step: int, split: str, values: Mapping[str, float]) -> None:
        """Write the numbers of one moment. Those that the file has of this step already are left out.

        Raises:
            UserError: the file cannot be written.
        """
        rows = [
            Row(epoch, step, split, name, float(value))
            for name, value in values.items()
            if self._last_steps.get((split, name), -1) < step
        ]
        self._last_steps.update({(row.split, row.name): row.step for row in rows})
        content = _lines(rows)
        try:
            while content:
                content = content[os.write(self._file, content) :]
        except OSError as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        os.close(self._file)

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self.path} ({error.strerror or error})", code="training.cannot-write")


def read_metrics(path: Path) -> list[Row]:
    """The rows of a file, without lines that are not whole; empty if there is no such file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        message = f"cannot read {path} ({error.strerror or error})"
        raise UserError(message, code="training.cannot-read") from error
    return list(_rows(text[: text.rfind("\n") + 1]))


def _rows(text: str) -> Iterator[Row]:
    for fields in csv.reader(io.StringIO(text)):
        try:
            epoch, step, split, name, value = fields
            yield Row(int(epoch), int(step), split, name, float(value))
        except ValueError:  # the head, or no line of ours
            continue


def _lines(rows: list) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
