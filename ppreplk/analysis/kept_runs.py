"""Finished runs of a study, each kept in a file, so that a study that was stopped goes on where it was."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..utils.atomic import replacing
from ..utils.errors import UserError
from ..utils.log import progress

logger = logging.getLogger(__name__)

RESULTS = "runs"  # folder of the finished runs
Result = dict[str, Any]


class Named(Protocol):
    """A run of a study: one training, with a name of its own."""

    @property
    def name(self) -> str: ...


RunType = TypeVar("RunType", bound=Named)


def keep(result: Result, path: Path) -> None:
    """Write the result of a run, whole or not at all."""
    with replacing(path) as [partial]:
        partial.write_text(json.dumps(result, indent=1), encoding="utf-8")


def read_kept(path: Path, settings: Result, score: str) -> Result | None:
    """The result that an earlier run has kept, or None.

    Args:
        path: of the file.
        settings: what the run is made with, in a result under ``config``.
        score: key of the number that the run is for.

    Raises:
        UserError: the file is of other settings, or is no result.
    """
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        same = result["config"] == settings
        float(result[score])
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"not the result of a run ({error}); delete it"
        raise UserError(message, code="analysis.not-a-result", where=str(path)) from error
    if not same:
        message = "a run with other settings; name another --output, or delete it"
        raise UserError(message, code="analysis.other-settings", where=str(path))
    return result


def finish(
    runs: Sequence[RunType],
    kept: Callable[[RunType], Result | None],
    train: Callable[[RunType], Result],
    said: Callable[[Result], str],
    folder: Path,
) -> dict[str, Result]:
    """Train what is not kept yet, and log how long the rest takes.

    Args:
        runs: of the study, in the order to train them.
        kept: the result of an earlier run, if there is one.
        train: trains one, and keeps the result.
        said: the result in a few words.
        folder: of the results, for the log.

    Returns:
        {name of the run: its result}.
    """
    finished = {run.name: result for run in runs if (result := kept(run)) is not None}
    left = [run for run in runs if run.name not in finished]
    logger.info("%d runs, %d of them finished before, results in %s", len(runs), len(finished), folder)
    start = time.monotonic()
    with progress(left, len(left), "study") as bar:
        for number, run in enumerate(bar, 1):
            finished[run.name] = result = train(run)
            minutes = (time.monotonic() - start) / number * (len(left) - number) / 60
            logger.info(
                "%s: %s, %.0f s; %d of %d runs left, about %.0f min",
                *(run.name, said(result), result["seconds"], len(left) - number, len(runs), minutes),
            )
    return finished
