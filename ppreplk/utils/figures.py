"""Figures in PNG and SVG files. They need matplotlib, which ``pip install "ppreplk[figures]"`` brings."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .atomic import check_output, replacing
from .errors import UserError
from .optional import import_problem

DPI = 110
SUFFIXES = (".png", ".svg")
HEAT_COLOURS = "viridis"
HEAT_SHADES = 128  # in a PNG
OUTLINES = ("red", "orange", "white", "cyan")  # of squares on a map, from the smallest on
MAPS_A_ROW = 5
MAP_PIXELS = 128  # larger maps are drawn as means of blocks: a small file, and less noise


def matplotlib_problem() -> str | None:
    """Why no figure can be drawn here, and what to do about it; None if it can."""
    problem = import_problem("matplotlib.figure") or import_problem("matplotlib.backends.backend_agg")
    if problem is None:
        return None
    if importlib.util.find_spec("matplotlib") is None:
        return 'figures need matplotlib, which is not installed; pip install "ppreplk[figures]"'
    return f"figures need matplotlib, which is broken here ({problem}); pip install --force-reinstall matplotlib"


def check_matplotlib() -> None:
    """Check, before the work is done, that its result can be drawn.

    Raises:
        UserError: matplotlib is not installed, or it is broken.
    """
    problem = matplotlib_problem()
    if problem is not None:
        raise UserError(problem, code="utils.no-matplotlib")


def check_figure(path: str) -> Path:
    """Check that a figure can be drawn, and written to ``path``, a ``.png`` or ``.svg`` file in a folder that exists.

    Raises:
        UserError: another suffix, no such folder, or no working matplotlib.
    """
    checked = check_output(path, "figure", SUFFIXES)
    check_matplotlib()
    return checked


def new_figure(width: float, height: float) -> Any:
    """An empty figure of ``width`` by ``height`` inches that needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # its remarks on fonts are none of the user's
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path, colours: int | None = None) -> None:
    """Write a ``.png`` or ``.svg`` file, whole or not at all.

    Args:
        figure: of :func:`new_figure`.
        path: the file.
        colours: of a PNG, at most 256, which makes noisy pictures several times smaller; None for all.

    Raises:
        UserError: it cannot be written.
    """
    with replacing(path) as [partial]:
        if colours is None or path.suffix != ".png":
            figure.savefig(partial, format=path.suffix[1:], dpi=DPI)
        else:
            figure.set_dpi(DPI)
            figure.canvas.draw()
            picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
            picture.quantize(colours).save(partial, format="png", optimize=True)


def heat_maps(
    scores: Mapping[str, np.ndarray],
    path: Path,
    squares: Mapping[str, Sequence[tuple[str, float]]] | None = None,
    label: str = "score, largest = 1",
) -> None:
    """Draw square maps with entries from 0 to 1 side by side, with one colour bar for all.

    Colours follow the cube root, so that weak contributions can be seen beside a strong centre.

    Args:
        scores: {title: (H, H)}. Maps of more than :data:`MAP_PIXELS` a side are drawn smaller. More than
            :data:`MAPS_A_ROW` make several rows.
        path: a ``.png`` or ``.svg`` file.
        squares: {title: [(label, area)]}, centred squares to outline, the area relative to the map. Their areas are
            written below the map.
        label: of the colour bar.

    Raises:
        UserError: it cannot be written.
    """
    from matplotlib.colors import PowerNorm

    columns = len(scores) if len(scores) <= MAPS_A_ROW else -(-len(scores) // -(-len(scores) // MAPS_A_ROW))
    rows = -(-len(scores) // columns)
    figure = new_figure(3.1 * columns + 0.7, (3.75 if squares else 3.4) * rows + (0.3 if squares else 0.0))
    axes = figure.subplots(rows, columns, squeeze=False)
    lines: dict[str, Any] = {}
    for axis in axes.flat[len(scores) :]:
        axis.axis("off")
    for axis, (title, values) in zip(axes.flat, scores.items()):
        shown = reduced(values)
        picture = axis.imshow(shown, norm=PowerNorm(1 / 3, vmin=0.0, vmax=1.0), cmap=HEAT_COLOURS)
        axis.set(title=title, facecolor="0.6", xticks=[], yticks=[])
        outlined = (squares or {}).get(title, [])
        for colour, (name, area) in zip(OUTLINES, outlined):
            lines[name] = _outline(axis, len(shown), area, colour)
        if outlined:
            halves = [outlined[: len(outlined) // 2], outlined[len(outlined) // 2 :]]
            text = "\n".join(", ".join(f"{name} in {100 * area:.1f}%" for name, area in half) for half in halves)
            axis.set_xlabel(text, fontsize="small")
    figure.colorbar(picture, ax=axes, label=label, ticks=[0, 0.001, 0.01, 0.1, 0.3, 1])
    if lines:
        title = "the square holds this share of the contribution; below, its area in % of the image"
        figure.legend(
            lines.values(),
            lines,
            loc="outside upper center",
            ncols=len(lines),
            title=title,
            fontsize="small",
            facecolor="0.6",
        )
    save_figure(figure, path, HEAT_SHADES)


def _outline(axis: Any, side: int, area: float, colour: str) -> Any:
    """Draw a centred square of a relative ``area`` on a map of ``side`` pixels; returns its edge."""
    from matplotlib.patches import Rectangle

    width = side * area**0.5
    corner = (side - width) / 2 - 0.5
    shape = Rectangle((corner, corner), width, width, fill=False, edgecolor=colour, linewidth=1.4, clip_on=False)
    return axis.add_patch(shape)


def reduced(values: np.ndarray) -> np.ndarray:
    """Average a square map over square blocks, so that it has at most :data:`MAP_PIXELS` a side.

    Rows and columns that do not fill a block are left out.
    """
    block = -(-len(values) // MAP_PIXELS)
    side = len(values) // block
    return values[: side * block, : side * block].reshape(side, block, side, block).mean(axis=(1, 3))


def dot_rows(
    panels: Mapping[str, Sequence[tuple[str, float, Sequence[float]]]], labels: Sequence[str], path: Path
) -> None:
    """Draw one panel per table: published values as diamonds on the left, measured ones as dots on the right.

    Args:
        panels: {title: rows}. A row is a label, the published value, and the measured values.
        labels: of the two axes, the one of the published and the one of the measured values.
        path: a ``.png`` or ``.svg`` file.

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
