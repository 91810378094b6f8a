"""What the study of the guidelines found: scores beside the published ones, and differences with intervals."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..utils.atomic import replacing
from ..utils.errors import UserError
from ..utils.tables import Table, write_table
from .guideline_study import TASKS, TASKS_OF, TOP1, GuidelineRun
from .intervals import interval
from .rows import ROWS, SUBJECTS, Row

FILE = "guidelines"
PUBLISHED = {"top-1": "ImageNet top-1", "mIoU": "Cityscapes mIoU"}
CONFIRMED, OPPOSITE, OPEN = "as published", "opposite", "open"
FEWEST = 3  # seeds for a verdict
Scores = Mapping[GuidelineRun, float]


class Effect(NamedTuple):
    """What one change of the paper is worth: a sum of scores of networks of one table.

    Args:
        table: number of the paper's table.
        label: of the change.
        gains, losses: labels of the rows whose scores are added and subtracted.
    """

    table: int
    label: str
    gains: Sequence[str]
    losses: Sequence[str]


_SHORTCUTS = {size: (size, f"{size}, no shortcut") for size in ("3x3", "13x13")}
EFFECTS = (
    *(Effect(2, f"the shortcut at {size}", [with_it], [without]) for size, (with_it, without) in _SHORTCUTS.items()),
    Effect(2, "at 13x13 more than at 3x3", ["13x13", "3x3, no shortcut"], ["13x13, no shortcut", "3x3"]),
    *(Effect(3, f"a 3x3 kernel beside {size}", [f"{size} with 3x3"], [size]) for size in ("9x9", "13x13")),
    *(Effect(4, f"{size} on the last maps", [f"{size} with 3x3, last stage"], ["3x3"]) for size in ("7x7", "13x13")),
    *(
        Effect(11, f"{size} instead of dilation {dilation}", [size], [f"3x3, dilation {dilation}"])
        for size, dilation in (("9x9", 4), ("13x13", 6))
    ),
)


def row_of(table: int, label: str) -> Row:
    """The row of a table of the paper."""
    (row,) = (row for row in ROWS if (row.table, row.label) == (table, label))
    return row


def published(row: Row, task: str) -> float | None:
    """The paper's score that belongs to a task: top-1 on ImageNet, or mIoU where there is one."""
    return row.top1 if TASKS[task].measure == TOP1 else row.miou


def scores_of(scores: Scores, row: Row, task: str) -> list[float]:
    """Percent of each seed, in the order of the seeds."""
    found = {run.seed: score for run, score in scores.items() if (run.row.network, run.task) == (row.network, task)}
    return [found[seed] for seed in sorted(found)]


def effect_found(scores: Scores, effect: Effect, task: str) -> list[float]:
    """What a change is worth with each seed, in points; nothing if a run is missing."""
    signs = [*((1, label) for label in effect.gains), *((-1, label) for label in effect.losses)]
    values = [[sign * score for score in scores_of(scores, row_of(effect.table, label), task)] for sign, label in signs]
    return [math.fsum(seed) for seed in zip(*values)]


def effect_published(effect: Effect, task: str) -> float | None:
    """The same from the paper's scores; None where it gives none."""
    gains = [published(row_of(effect.table, label), task) for label in effect.gains]
    losses = [published(row_of(effect.table, label), task) for label in effect.losses]
    if None in gains or None in losses:
        return None
    return math.fsum(value for value in gains if value) - math.fsum(value for value in losses if value)


def effects_shown(effect: Effect) -> list[tuple[str, float]]:
    """The tasks on which an effect is measured and published, each with what is published."""
    found = [(task, effect_published(effect, task)) for task in TASKS_OF[effect.table]]
    return [(task, value) for task, value in found if value is not None]


def verdict(seeds: Sequence[float], expected: float) -> str:
    """Whether the 95% interval of a difference lies on the side of zero that the published one is on.

    Args:
        seeds: the difference with each seed. Fewer than :data:`FEWEST` decide nothing: two may agree by chance.
        expected: the published difference.

    >>> verdict([2.0, 3.0, 2.5], 0.4), verdict([-2.0, -3.0, -2.5], 0.4), verdict([2.0, -1.0, 0.5], 0.4)
    ('as published', 'opposite', 'open')
    """
    found = interval(seeds)
    if len(seeds) < FEWEST or not found.decided:
        return OPEN
    return CONFIRMED if (found.mean > 0) == (expected > 0) else OPPOSITE


def effect_table(scores: Scores) -> Table:
    """What every change is worth, published and measured with its interval, and a verdict."""
    lines = []
    for effect in EFFECTS:
        for task, expected in effects_shown(effect):
            seeds = effect_found(scores, effect, task)
            if seeds:
                cells = [
                    effect.label,
                    TASKS[task].measure,
                    f"{expected:+.2f}",
                    interval(seeds).text(),
                    verdict(seeds, expected),
                ]
                lines.append([str(effect.table), *cells])
    title = f"What each change is worth, in points; {conditions(scores)}, ± is half the 95% interval of the mean"
    return Table(title, ["table", "change", "measure", "published", "measured", "verdict"], lines)


def score_tables(scores: Scores) -> list[Table]:
    """A table for each one of the paper that is complete, with its scores and ours."""
    tables = []
    for number, tasks in TASKS_OF.items():
        rows = [row for row in ROWS if row.table == number]
        if not all(scores_of(scores, row, task) for row in rows for task in tasks):
            continue
        measures = list(dict.fromkeys(TASKS[task].measure for task in tasks))
        lines = []
        for row in rows:
            values = [published(row, next(task for task in tasks if TASKS[task].measure == each)) for each in measures]
            cells = ["" if value is None else f"{value:.2f}" for value in values]
            lines.append([row.label, *cells, *(interval(scores_of(scores, row, task)).text("") for task in tasks)])
        columns = [f"{PUBLISHED[each]}, published" for each in measures]
        columns += [f"digits, {TASKS[task].measure}" for task in tasks]
        title = (
            f"Table {number}: {SUBJECTS[number]}; in %, {conditions(scores)}, ± is half the 95% interval of the mean"
        )
        tables.append(Table(title, ["network", *columns], lines))
    return tables


def conditions(scores: Scores) -> str:
    """Seeds and steps, for titles."""
    seeds = len({run.seed for run in scores})
    longer = {run.longer for run in scores}
    trained = f", trained {max(longer)} times as long" if longer != {1} else ""
    return f"{seeds} seed{'s' if seeds > 1 else ''}{trained}"


def write_guidelines(scores: Scores, output: str | Path) -> list[Table]:
    """Write every run to ``guidelines.csv``, and the tables to ``guidelines.md``; returns the tables.

    Raises:
        UserError: a file cannot be written.
    """
    folder = Path(output)
    lines = [
        [run.name, run.row.label, run.task, str(run.seed), str(run.longer), f"{score:.2f}"]
        for run, score in scores.items()
    ]
    write_table(Table("", COLUMNS, lines), folder / f"{FILE}.csv")
    tables = [*score_tables(scores), effect_table(scores)]
    with replacing(folder / f"{FILE}.md") as [partial]:
        partial.write_text("\n".join(table.markdown() for table in tables), encoding="utf-8")
    return tables


COLUMNS = ["run", "network", "task", "seed", "longer", "score"]


def read_guidelines(path: Path) -> dict[GuidelineRun, float]:
    """The scores that :func:`write_guidelines` wrote to a ``.csv`` file.

    Raises:
        UserError: it is no such file.
    """
    rows = {Path(row.recipe).name: row for row in ROWS}
    scores = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                recipe = line["run"].split("-")[0]
                scores[GuidelineRun(rows[recipe], line["task"], int(line["seed"]), int(line["longer"]))] = float(
                    line["score"]
                )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"not a table of the study ({error})", code="analysis.not-a-study", where=str(path)) from error
    return scores
