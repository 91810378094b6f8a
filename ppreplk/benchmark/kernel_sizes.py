"""A figure: time of a depthwise layer against its kernel size."""

from __future__ import annotations

from pathlib import Path

from ..deploy.lowering import NATIVE
from ..ops import IMPLEMENTATIONS
from ..utils.figures import new_figure, save_figure
from ..utils.tables import Table


def plot_kernel_sizes(table: Table, path: Path) -> None:
    """Draw median milliseconds against kernel size, one line for each contestant.

    Args:
        table: what :func:`ppreplk.benchmark.layers.measure_layers` returned for layers that differ in kernel size.
        path: a ``.png`` or ``.svg`` file.

    Raises:
        UserError: the file cannot be written.
    """
    layer, name, median = (table.columns.index(column) for column in ("C, H=W, K", "what", "median ms"))
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in table.rows:
        lines.setdefault(row[name], []).append((int(row[layer].rsplit(", ", 1)[1]), float(row[median])))
    figure = new_figure(8, 5)
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="kernel size", ylabel="milliseconds (median)")
    for contestant, points in lines.items():
        implementation = contestant.partition(",")[0]
        ours = implementation in IMPLEMENTATIONS and implementation != NATIVE
        axes.plot(*zip(*sorted(points)), marker="o", markersize=3, linewidth=2 if ours else 1, label=contestant)
    sizes = sorted({size for points in lines.values() for size, _ in points})
    axes.set_xticks(sizes, [str(size) for size in sizes], fontsize=8)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(table.title.replace("; ", "\n"), fontsize=9)
    save_figure(figure, path)
