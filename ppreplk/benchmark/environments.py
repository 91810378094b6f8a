"""Python interpreters of other environments, with this package in them and nothing else of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..utils.errors import UserError

PACKAGE = Path(__file__).parents[1]
SECONDS = 900  # for one reader and all images
# Names in argv that cannot be found; parents are not imported
MISSING = """
import importlib.util, json, sys
print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]))
"""


@dataclass(frozen=True)
class Environment:
    """A Python interpreter.

    Args:
        python: its path, from the root.
        folder: where its processes run; it gets a link to this package.
    """

    python: str
    folder: Path

    def variables(self, **further: str) -> dict[str, str]:
        """Environment variables in which it finds this package, but not those installed beside it here."""
        link = self.folder / PACKAGE.name
        if not link.exists():
            link.symlink_to(PACKAGE, target_is_directory=True)
        paths = [str(self.folder)]
        if self.python == sys.executable and os.environ.get("PYTHONPATH"):
            paths.append(os.environ["PYTHONPATH"])
        quiet = {"PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True", "PADDLE_PDX_CACHE_HOME": str(self.folder / "paddlex")}
        return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "1000", **further}

    def command(self, *arguments: object) -> list[str]:
        return [self.python, "-W", "ignore", *map(str, arguments)]

    def run(self, *arguments: object, variables: Mapping[str, str] | None = None, both: bool = False) -> str:
        """What a process of it prints to standard output, and to standard error too if ``both``.

        Raises:
            UserError: it ends with an error.
        """
        given = self.variables(**(variables or {}))
        try:
            process = subprocess.run(
                self.command(*arguments),
                env=given,
                cwd=self.folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=SECONDS,
            )
        except OSError as error:
            raise UserError(
                f"cannot be started ({error.strerror})", code="benchmark.bad-python", where=self.python
            ) from error
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"no answer after {SECONDS} s", code="benchmark.reader-failed", where=self.python
            ) from error
        if process.returncode != 0:
            lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
            raise UserError(lines[-1], code="benchmark.reader-failed", where=self.python)
        return process.stdout + process.stderr if both else process.stdout

    def missing(self, packages: Sequence[str]) -> list[str]:
        """Those of ``packages`` that it does not have.

        Raises:
            UserError: it is no Python interpreter.
        """
        return json.loads(self.run("-c", MISSING, *packages))
