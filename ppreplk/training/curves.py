"""Curves of a training for VisualDL."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..utils.errors import UserError
from ..utils.optional import import_problem


class Curves:
    """Scalars for VisualDL, written to ``folder``. A run that is resumed goes on in the same curves.

    Raises:
        UserError: VisualDL cannot be imported.
    """

    def __init__(self, folder: Path):
        problem = import_problem("visualdl")
        if problem is not None:
            message = f"curves need VisualDL ({problem}); run: pip install visualdl"
            raise UserError(message, code="training.no-visualdl", where="Global.use_visualdl")
        from visualdl import LogWriter

        self._writer = LogWriter(logdir=str(folder))

    def add(self, values: Mapping[str, float], step: int, prefix: str = "") -> None:
        """Add one point to the curve of each name, which is put after ``prefix``."""
        for name, value in values.items():
            self._writer.add_scalar(tag=prefix + name, value=value, step=step)

    def close(self) -> None:
        self._writer.close()
