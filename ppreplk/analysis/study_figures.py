"""The pictures of docs/large_kernels.md, drawn from the files that the studies and ``ppreplk erf`` have written."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..utils import figures
from ..utils.errors import UserError
from .dense_study import SEGMENTATION as DENSE_SEGMENTATION
from .dense_study import TASKS as DENSE_TASKS
from .guideline_study import CLASSIFICATION, TASKS, GuidelineRun
from .guideline_tables import EFFECTS, FILE, Scores, effect_found, effects_shown, read_guidelines, verdict
from .intervals import Interval, interval, paired
from .receptive_field import SHARES
from .rows import ROWS, SUBJECTS

PUBLISHED, MEASURED = "tab:gray", "tab:blue"
LINEAR = 1.0  # points around zero within which the common axis is linear


def draw_figures(folder: str | Path) -> list[Path]:
    """Draw a picture for each file of results in a folder, beside it.

    Args:
        folder: with some of ``guidelines.csv``, ``study.csv``, ``dense.csv``, ``erf.npz`` and ``field.npz``.

    Returns:
        The pictures.

    Raises:
        UserError: none of these files is there, one is broken, or matplotlib is missing.
    """
    figures.check_matplotlib()
    makers: dict[str, Callable[[Path, Path], Path]] = {
        f"{FILE}.csv": lambda source, target: draw_effects(read_guidelines(source), target),
        "study.csv": lambda source, target: draw_effects(read_study(source), target.with_stem("study_effects")),
        "dense.csv": lambda source, target: draw_gains(read_dense(source), target),
        "erf.npz": draw_maps,
        "field.npz": draw_maps,
    }
    drawn = []
    for name, draw in makers.items():
        source = Path(folder) / name
        if source.is_file():
            drawn.append(draw(source, source.with_suffix(".png")))
    if not drawn:
        message = f"no results to draw; it needs one of {', '.join(makers)}"
        raise UserError(message, code="analysis.no-results", where=str(folder))
    return drawn


# ----------------------------------------------------------------------------------------------------------------------
# What the changes of the guidelines are worth


def read_study(path: Path) -> dict[GuidelineRun, float]:
    """The scores in the ``study.csv`` of ``ppreplk study run``.

    Raises:
        UserError: it is no such file.
    """
    rows = {Path(row.recipe).name: row for row in ROWS}
    scores = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                row = rows[line["run"].rpartition("-seed")[0]]
                scores[GuidelineRun(row, CLASSIFICATION, int(line["seed"]))] = float(line["digits top-1"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"not a table of the study ({error})", code="analysis.not-a-study", where=str(path)) from error
    return scores


class Bar(NamedTuple):
    """A line of :func:`draw_effects`: a change, its published worth, and the measured one with all seeds."""

    label: str
    published: float
    measured: Interval
    seeds: Sequence[float]


def bars_of(scores: Scores, table: int) -> list[Bar]:
    """The changes of one table, in the order in which they are drawn."""
    return [
        Bar(f"{effect.label}; {TASKS[task].measure}", expected, interval(seeds), seeds)
        for effect in EFFECTS
        if effect.table == table
        for task, expected in effects_shown(effect)
        if (seeds := effect_found(scores, effect, task))
    ]


def takeaway(bars: Sequence[Bar]) -> str:
    """The verdicts of a panel in a few words.

    >>> takeaway([Bar("a", 1.0, interval(seeds), seeds) for seeds in ([2.0, 3.0, 2.5], [2.0, -3.0, 2.5])])
    '1 as published, 1 open'
    """
    verdicts = [verdict(bar.seeds, bar.published) for bar in bars]
    return ", ".join(f"{verdicts.count(each)} {each}" for each in dict.fromkeys(verdicts))


def draw_effects(scores: Scores, path: Path) -> Path:
    """A panel for each table: what every change is worth, published and measured, on one axis for all."""
    panels = {table: bars for table in SUBJECTS if (bars := bars_of(scores, table))}
    heights = [len(bars) + 1.1 for bars in panels.values()]
    figure = figures.new_figure(10.0, 0.31 * sum(heights) + 1.1)
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axis, (table, bars) in zip(axes, panels.items()):
        for place, bar in enumerate(bars):
            axis.plot(bar.seeds, [place] * len(bar.seeds), ".", color=MEASURED, alpha=0.35, label="one seed")
            half = 0.0 if np.isnan(bar.measured.half) else bar.measured.half
            style = {"fmt": "o", "color": MEASURED, "capsize": 3, "markersize": 5}
            axis.errorbar(bar.measured.mean, place, xerr=half, label="measured, with its 95% interval", **style)
            axis.plot(bar.published, place, "D", color=PUBLISHED, markersize=5, label="published")
            text = f"{bar.measured.text()}  {verdict(bar.seeds, bar.published)}"
            axis.text(1.01, place, text, transform=axis.get_yaxis_transform(), va="center", fontsize="small")
        axis.set_title(f"Table {table}, {SUBJECTS[table]}: {takeaway(bars)}", loc="left", fontsize="medium")
        axis.set_xscale("symlog", linthresh=LINEAR)
        axis.set_yticks(range(len(bars)), [bar.label for bar in bars], fontsize="small")
        axis.set_ylim(len(bars) - 0.5, -0.5)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.grid(axis="x", alpha=0.3)
    ticks = [-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50]
    axes[-1].set_xticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks])
    axes[-1].set_xlabel(f"points that the change is worth (logarithmic beyond {LINEAR:g})")
    _legend(figure, axes[0])
    figures.save_figure(figure, path)
    return path


def _legend(figure: Any, axis: Any) -> None:
    """One legend above all panels, each kind of mark once."""
    handles = dict(zip(*reversed(axis.get_legend_handles_labels())))
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), fontsize="small")


# ----------------------------------------------------------------------------------------------------------------------
# Kernel sizes: mIoU beside accuracy


def read_dense(path: Path) -> dict[tuple[str, int], list[float]]:
    """{(task, kernel): percent for each seed} of ``dense.csv``.

    Raises:
        UserError: it is no such file.
    """
    values: dict[tuple[str, int], list[float]] = {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                values.setdefault((line["task"], int(line["kernel"])), []).append(float(line["score"]))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"not a table of the study ({error})", code="analysis.not-a-study", where=str(path)) from error
    return values


def gains(values: dict[tuple[str, int], list[float]], task: str) -> list[tuple[int, Interval]]:
    """What each kernel gains over the smallest, seed by seed: (kernel, points with a 95% interval)."""
    kernels = sorted(kernel for name, kernel in values if name == task)
    base = values[task, kernels[0]]
    return [
        (
            kernel,
            paired(values[task, kernel], base) if kernel != kernels[0] else Interval(0, 0),
        )
        for kernel in kernels
    ]


def draw_gains(values: dict[tuple[str, int], list[float]], path: Path) -> Path:
    """Left what the paper's tables 3 and 5 gain over 3x3 in accuracy and mIoU, right the same of the dense study."""
    figure = figures.new_figure(10.0, 3.9)
    left, right = figure.subplots(1, 2)
    for table, line, marker in ((5, "-", "o"), (3, "--", "s")):
        rows = [row for row in ROWS if row.table == table and row.miou is not None]
        if table == 3:
            rows = [row for row in rows if row.label == "3x3" or "with" in row.label]
        sizes = [_largest(row.label) for row in rows]
        names = {3: ("MobileNetV2, ImageNet top-1", "MobileNetV2, Cityscapes mIoU")}
        labels = names.get(table, ("RepLKNet, ImageNet top-1", "RepLKNet, ADE20K mIoU"))
        tops, mious = [row.top1 for row in rows], [float(row.miou or 0) for row in rows]
        for series, colour, label in zip((tops, mious), (PUBLISHED, "tab:orange"), labels):
            left.plot(sizes, [value - series[0] for value in series], line, marker=marker, color=colour, label=label)
    for task, colour in zip(DENSE_TASKS, ("tab:orange", PUBLISHED)):
        found = gains(values, task)
        label = "segmentation, mIoU" if task == DENSE_SEGMENTATION else "classification, top-1"
        right.errorbar(
            [kernel for kernel, _ in found],
            [each.mean for _, each in found],
            [each.half for _, each in found],
            marker="o",
            capsize=3,
            color=colour,
            label=label,
        )
        for kernel, each in found[1:]:
            right.annotate(each.text(), (kernel, each.mean), (4, 4), textcoords="offset points", fontsize="small")
    left.set_title("Published: mIoU gains more than accuracy", fontsize="medium")
    most = [gains(values, task)[-1][1].mean for task in DENSE_TASKS]
    right.set_title(
        f"Scenes of digits, measured: {most[0]:+.1f} of mIoU, {most[1]:+.1f} of accuracy", fontsize="medium"
    )
    for axis in (left, right):
        axis.set(xlabel="largest kernel size", ylabel="points gained over 3x3", xlim=(0, 34))
        axis.axhline(0, color="black", linewidth=0.8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figures.save_figure(figure, path)
    return path


def _largest(label: str) -> int:
    """The largest kernel that a row's label names.

    >>> _largest("31-29-27-13"), _largest("9x9 with 3x3")
    (31, 9)
    """
    return max(int(part) for part in label.replace("x", "-").split(" ")[0].split("-"))


# ----------------------------------------------------------------------------------------------------------------------
# Effective receptive fields


def draw_maps(source: Path, target: Path) -> Path:
    """The maps of a ``.npz`` file, with the areas in the ``.csv`` file beside it outlined and written below.

    Raises:
        UserError: one of the files is missing or another.
    """
    try:
        with np.load(source) as file:
            maps = {name: file[name].astype(np.float64) for name in file.files}
        with open(source.with_suffix(".csv"), encoding="utf-8", newline="") as table:
            areas = {line["network"]: line for line in csv.DictReader(table)}
        squares = {
            name: [(f"{share:.0%}", float(areas[name][f"{share:.0%}"]) / 100) for share in SHARES] for name in maps
        }
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"no maps with areas ({error})", code="analysis.not-a-study", where=str(source)) from error
    figures.heat_maps(maps, target, squares)
    return target
