"""Pictures in files. They need matplotlib, which ``pip install "ppreplk[figures]"`` brings."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .atomic import replacing
from .errors import UserError

DPI = 110
HEAT_COLOURS = "viridis"
MAP_PIXELS = 128  # larger maps are drawn as means of blocks: a small file, and less noise


def missing() -> str | None:
    """Why no picture can be drawn here, and what to do; None where everything is there."""
    if importlib.util.find_spec("matplotlib") is None:
        return 'pictures need matplotlib, which is not installed; pip install "ppreplk[figures]"'
    return None


def require() -> None:
    """Refuse to go on where no picture can be drawn.

    Raises:
        UserError: see :func:`missing`.
    """
    reason = missing()
    if reason is not None:
        raise UserError(reason)


def new_figure(width: float, height: float) -> Any:
    """An empty figure of ``width`` by ``height`` inches that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with replacing(path) as [partial]:
        figure.savefig(partial, format="png", dpi=DPI)


def heat_maps(scores: Mapping[str, np.ndarray], path: Path) -> None:
    """Maps with entries from 0 to 1 side by side, at reduced resolution, one colour bar for all, to a PNG.

    Colours follow the cube root, so that weak contributions are seen beside a strong centre.

    Args:
        scores: {title: (H, H)}, all drawn in one size.
        path: of the PNG.

    Raises:
        UserError: it cannot be written.
    """
    from matplotlib.colors import PowerNorm

    figure = new_figure(3.1 * len(scores) + 0.7, 3.4)
    axes = figure.subplots(1, len(scores), squeeze=False)[0]
    for axis, (title, values) in zip(axes, scores.items()):
        picture = axis.imshow(reduced(values), norm=PowerNorm(1 / 3, vmin=0.0, vmax=1.0), cmap=HEAT_COLOURS)
        axis.set(title=title, xticks=[], yticks=[])
    figure.colorbar(picture, ax=list(axes), label="score, largest = 1", ticks=[0, 0.001, 0.01, 0.1, 0.3, 1])
    save_figure(figure, path)


def reduced(values: np.ndarray) -> np.ndarray:
    """A square map as means of square blocks, at most :data:`MAP_PIXELS` a side; what is left over is cut off."""
    block = -(-len(values) // MAP_PIXELS)
    side = len(values) // block
    return values[: side * block, : side * block].reshape(side, block, side, block).mean(axis=(1, 3))


def dot_rows(panels: Mapping[str, Sequence[tuple[str, float, Sequence[float]]]], labels: Sequence[str], path: Path):
    """One panel per table: published values as diamonds on the left, measured ones as dots on the right, to a PNG.

    Args:
        panels: {title: rows}, each a label, the published value, and the measured values.
        labels: of the axis of the published and of the measured values.
        path: of the PNG.

    Raises:
        UserError: it cannot be written.
    """
    heights = [len(rows) + 1.3 for rows in panels.values()]
    figure = new_figure(9.0, 0.27 * sum(heights) + 0.5)
    axes = figure.subplots(len(panels), 2, squeeze=False, height_ratios=heights)
    for (title, rows), (left, right) in zip(panels.items(), axes):
        places = range(len(rows))
        left.plot([published for _, published, _ in rows], places, "D", color="tab:gray", markersize=5)
        for place, (_, _, values) in zip(places, rows):
            right.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.45, markersize=5)
            right.plot(np.mean(values), place, "|", color="black", markersize=13)
        left.set_yticks(places, [label for label, _, _ in rows])
        right.set_yticks(places, [])
        left.set_title(title, loc="left", fontsize="medium")
        for axis in (left, right):
            axis.set_ylim(len(rows) - 0.5, -0.5)
            axis.grid(axis="x", alpha=0.3)
    for axis, label in zip(axes[-1], labels):
        axis.set_xlabel(label)
    save_figure(figure, path)
