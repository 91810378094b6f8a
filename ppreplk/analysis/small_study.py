"""The paper's tables at small scale: narrow networks, small images, a few epochs, several seeds, on two CPU cores.

The rows of a table differ in what the paper changes. Everything else is shrunk alike. Every finished run is kept in a
file, so that a study that was stopped can be resumed.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import load_config, override, read_yaml
from ..training import train
from ..utils import figures
from ..utils.atomic import make_folder, replacing
from ..utils.log import PACKAGE_LOGGER
from ..utils.tables import Table, write_table
from .guideline_study import CLASSIFICATION, GuidelineRun
from .guideline_tables import effect_table
from .kept_runs import RESULTS, finish, keep, read_kept
from .rows import MOBILENET, ROWS, SUBJECTS, TABLES, Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scale:
    """How one kind of network is shrunk: by arguments of ``Arch``, and by images of ``side`` by ``side`` pixels."""

    arch: dict[str, Any]
    side: int


# MobileNetV2 keeps its maps of 14x14 and 7x7, and skips the larger ones: the stem makes 14x14 of 28x28.
MOBILENET_SCALE = Scale({"width": 0.25, "strides": [2, 1, 1, 2, 1, 1, 2, 1]}, side=28)
# RepLKNet's stages have maps of 14, 7, 4 and 2 pixels instead of the paper's 56, 28, 14 and 7.
KERNEL_STUDY_SCALE = Scale(
    {"layers": [1, 1, 2, 1], "channels": [16, 32, 64, 128], "drop_path_rate": 0.0},
    side=56,
)
EPOCHS = 4
OPTIMIZER = {  # MobileNetV2 gets AdamW too: in so few steps its own SGD hardly trains kernels of 9x9 and more
    "name": "AdamW",
    "weight_decay": 0.05,
    "one_dim_param_no_weight_decay": True,
    "lr": {"name": "Cosine", "learning_rate": 2e-3, "warmup_epoch": 1},
}


@dataclass(frozen=True)
class Run:
    """One training: a row's network with one seed, and the overrides that make its configuration."""

    row: Row
    seed: int
    overrides: list[str]

    @property
    def name(self) -> str:
        return f"{Path(self.row.recipe).name}-seed{self.seed}"


def plan(tables: Sequence[int], seeds: int, overrides: Sequence[str] = ()) -> list[Run]:
    """The trainings that ``tables`` need, ordered by seed. Rows with the same network share their trainings.

    Args:
        tables: numbers of the paper's tables.
        seeds: number of trainings per network.
        overrides: ``Key.sub=value``, applied last to every run.
    """
    networks: dict[tuple, Row] = {}
    for row in ROWS:  # of all tables, so that the names of the runs do not depend on the choice
        networks.setdefault(row.network, row)
    wanted = {row.network for row in ROWS if row.table in tables}
    return [
        Run(row, seed, [*small_overrides(row, seed), *overrides])
        for seed in range(seeds)
        for network, row in networks.items()
        if network in wanted
    ]


def small_overrides(row: Row, seed: int) -> list[str]:
    """The overrides that turn ``configs/digits.yaml`` into the configuration of ``row``."""
    scale = MOBILENET_SCALE if row.model == MOBILENET else KERNEL_STUDY_SCALE
    arch = {"name": row.model, "class_num": 10, **scale.arch, **row.arguments}
    return [
        f"Arch={json.dumps(arch)}",
        f"Optimizer={json.dumps(OPTIMIZER)}",
        f"Global.epochs={EPOCHS}",
        f"Global.seed={seed}",
        "Global.eval_interval=1000000",  # only the last epoch, which is always evaluated
        f"DataLoader.Train.dataset.transform_ops.1.RandomResizedCrop.size={scale.side}",
        f"DataLoader.Eval.dataset.transform_ops.1.ResizeImage.size={scale.side}",
    ]


def study(config: str, tables: Sequence[int], seeds: int, output: str, overrides: Sequence[str] = ()) -> list[Table]:
    """Train what is not trained yet, then write ``study.csv``, ``study.md`` and ``study.png``.

    Args:
        config: the base configuration, ``configs/digits.yaml``.
        tables: numbers of the paper's tables.
        seeds: trainings per network.
        output: folder of the results.
        overrides: ``Key.sub=value``, applied to every run.

    Returns:
        One table per table of the paper, and one of what each change is worth.

    Raises:
        UserError: a configuration that does not fit, a run that diverges, or results of other settings in ``output``.
    """
    runs = plan(tables, seeds, overrides)
    for run in runs[: len(runs) // seeds]:
        load_config(config, run.overrides)  # all are checked before the first is trained
    folder = Path(output) / RESULTS
    make_folder(folder)
    finished = finish(
        runs,
        lambda run: read_result(run, config, folder),
        lambda run: train_run(run, config, folder),
        lambda result: f"top-1 {100 * result['top1']:.2f}%",
        folder,
    )
    return write_report(runs, {name: round(100 * result["top1"], 2) for name, result in finished.items()}, Path(output))


def train_run(run: Run, config: str, folder: Path) -> dict[str, Any]:
    """Train, write the result to a file in ``folder``, and return it.

    Returns:
        ``top1``, the share of held-out images that are right after the last epoch, ``seconds`` and ``config``.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, only_warnings():
        state = train(load_config(config, [*run.overrides, f"Global.output_dir={scratch}"]))
    seconds = round(time.monotonic() - start, 1)
    result = {"top1": state.best_metric, "seconds": seconds, "config": resolved(run, config)}
    keep(result, folder / f"{run.name}.json")
    return result


def read_result(run: Run, config: str, folder: Path) -> dict[str, Any] | None:
    """The result that an earlier call of :func:`train_run` wrote, or None.

    Raises:
        UserError: the file is of another configuration, or is no result.
    """
    return read_kept(folder / f"{run.name}.json", resolved(run, config), "top1")


def resolved(run: Run, config: str) -> dict[str, Any]:
    """The whole configuration of a run before it is checked, as it looks when it is read back from JSON."""
    raw = read_yaml(config)
    for text in run.overrides:
        override(raw, text)
    return json.loads(json.dumps(raw))


@contextmanager
def only_warnings() -> Iterator[None]:
    """Log nothing but warnings inside the block."""
    level = PACKAGE_LOGGER.level
    PACKAGE_LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        PACKAGE_LOGGER.setLevel(level)


def report_tables(runs: Sequence[Run], top1: dict[str, float]) -> list[Table]:
    """The tables of the paper for which ``runs`` have all networks, and what each change is worth, with intervals.

    Args:
        runs: finished trainings.
        top1: {name of the run: percent}.
    """
    values = by_network(runs, top1)
    tables = [table_of(rows, values) for rows in complete_tables(values).values()]
    effects = effect_table(as_scores(runs, top1))
    return [*tables, effects] if effects.rows else tables


def as_scores(runs: Sequence[Run], top1: dict[str, float]) -> dict[GuidelineRun, float]:
    """The same runs for :mod:`~ppreplk.analysis.guideline_tables`, which compares networks seed by seed."""
    return {GuidelineRun(run.row, CLASSIFICATION, run.seed): top1[run.name] for run in runs}


def complete_tables(networks: Container[tuple[str, str]]) -> dict[int, list[Row]]:
    """{number: rows} of the paper's tables that need no other networks than these."""
    tables = {table: [row for row in ROWS if row.table == table] for table in TABLES}
    return {table: rows for table, rows in tables.items() if all(row.network in networks for row in rows)}


def by_network(runs: Sequence[Run], top1: dict[str, float]) -> dict[tuple[str, str], list[float]]:
    """{network: percent for each seed}."""
    values: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        values.setdefault(run.row.network, []).append(top1[run.name])
    return values


def write_report(runs: Sequence[Run], top1: dict[str, float], output: Path) -> list[Table]:
    """Write every run to ``study.csv``, and :func:`report_tables` to ``study.md`` and ``study.png``, in ``output``."""
    tables = report_tables(runs, top1)
    lines = [[run.name, run.row.label, str(run.seed), f"{top1[run.name]:.2f}"] for run in runs]
    write_table(Table("", ["run", "network", "seed", "digits top-1"], lines), output / "study.csv")
    with replacing(output / "study.md") as [partial]:
        partial.write_text("\n".join(table.markdown() for table in tables), encoding="utf-8")
    problem = figures.matplotlib_problem()
    if problem is not None:
        logger.warning("%s; study.png is not written, the tables are", problem)
        return tables
    values = by_network(runs, top1)
    panels = {
        f"Table {table}: {SUBJECTS[table]}": [(row.label, row.top1, values[row.network]) for row in rows]
        for table, rows in complete_tables(values).items()
    }
    labels = ["ImageNet top-1, % (published)", "digits top-1, % (measured, a dot per seed)"]
    figures.dot_rows(panels, labels, output / "study.png")
    return tables


def table_of(rows: Sequence[Row], values: dict[tuple[str, str], list[float]]) -> Table:
    """One table of the paper with the published and the measured values.

    Args:
        rows: of the table.
        values: {network: percent for each seed}.
    """
    seeds = max(len(values[row.network]) for row in rows)
    lines = []
    for row in rows:
        measured = values[row.network]
        spread = statistics.stdev(measured) if len(measured) > 1 else 0.0
        ends = f"{min(measured):.2f} to {max(measured):.2f}"
        lines.append([row.label, f"{row.top1:.2f}", f"{statistics.mean(measured):.2f} ± {spread:.2f}", ends])
    number = rows[0].table
    title = f"Table {number}: {SUBJECTS[number]}; top-1 in %, {seeds} seeds, ± is the standard deviation over them"
    return Table(title, ["network", "ImageNet, published", "digits, measured", "lowest to highest"], lines)
