"""A picture of the curves of a training, from its ``metrics.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..utils.figures import new_figure, save_figure
from .metrics_file import Row

COLOURS = {
    "train": "tab:gray",
    "train_epoch": "tab:gray",
    "eval": "tab:blue",
    "eval_raw": "tab:blue",
    "eval_averaged": "tab:orange",
}
LABELS = {
    "train": "training",
    "train_epoch": "training",
    "eval": "evaluation",
    "eval_raw": "raw weights",
    "eval_averaged": "averaged weights",
}


def draw_curves(rows: Sequence[Row], steps: int, path: Path) -> None:
    """Draw loss, accuracy and learning rate over the epochs.

    Training has one point for each epoch, the average over it, or for each log line if there is one epoch only.

    Args:
        rows: of ``metrics.csv``.
        steps: of an epoch.
        path: a ``.png`` or ``.svg`` file.

    Raises:
        UserError: it cannot be written.
    """
    epochs = {row.epoch for row in rows if row.split == "train_epoch"}
    training = "train_epoch" if len(epochs) > 1 else "train"
    splits = [training, "eval", "eval_raw", "eval_averaged"]
    accuracies = sorted({row.name for row in rows if row.name.startswith("top")}, key=lambda name: int(name[3:]))
    panels = {"loss": ["loss"], "accuracy": accuracies, "learning rate": ["lr"]}
    panels = {title: names for title, names in panels.items() if any(row.name in names for row in rows)}
    if not panels:
        return
    figure = new_figure(4.6 * len(panels), 4.0)
    for axis, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for name, style in zip(names, ["-", "--", ":", "-."]):
            for split in ["train"] if title == "learning rate" else splits:
                points = [(row.step / steps, row.value) for row in rows if (row.split, row.name) == (split, name)]
                label = f"{LABELS[split]}, {name}" if len(names) > 1 else LABELS[split]
                _line(axis, points, label, style, COLOURS[split])
        axis.set(title=title, xlabel="epoch")
        axis.set_xlim(left=0.0)
        axis.grid(alpha=0.3)
        if title != "learning rate":  # below, where it covers no curve
            axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.17), ncol=max(2, len(names)))
    save_figure(figure, path)


def _line(axis: Any, points: Sequence[tuple[float, float]], label: str, style: str, colour: str) -> None:
    if points:
        marker = "o" if len(points) < 15 else ""
        axis.plot(*zip(*points), linestyle=style, marker=marker, markersize=3, color=colour, label=label)
