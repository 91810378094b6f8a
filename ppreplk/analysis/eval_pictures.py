"""Pictures of an evaluation: which classes are confused, how sure is how right, and the worst errors.

They need matplotlib. Names may be in any script: where no installed font has a name's letters, the number of the class
stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..data.decoding import DecodeImage
from ..data.images import as_pillow
from ..utils.errors import UserError
from ..utils.figures import DPI, new_figure
from .eval_numbers import BINS, Bins

NUMBERED = 20  # a confusion matrix of so many classes shows counts
NAME_LENGTH = 20  # letters of a name in a picture
COLUMNS, TILE = 6, 160  # of the sheet of errors, and pixels of an image in it
FIRST_FONT = "DejaVu Sans"  # comes with matplotlib
FURTHER_FONTS = (  # for Chinese, Japanese and Korean; the first that is installed is used
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Microsoft YaHei", "SimHei", "PingFang SC", "Heiti SC", "Noto Sans CJK JP", "Noto Serif CJK SC"),
    *("Noto Serif CJK JP", "Droid Sans Fallback", "Arial Unicode MS"),
)


class Mistake(NamedTuple):
    """An image that was taken for another class: its file, the two classes, and the probability of the wrong one."""

    path: str
    true: int
    predicted: int
    probability: float


class Labels:
    """Names of classes as pictures can show them.

    Args:
        names: of all classes.
    """

    def __init__(self, names: Sequence[str]):
        self._names = names
        self.families = [FIRST_FONT]
        self._fonts = [_font(FIRST_FONT)]
        if not all(self._is_drawable(name) for name in names):
            self.families += _installed(FURTHER_FONTS)[:1]
            self._fonts = [_font(family) for family in self.families]

    def __getitem__(self, number: int) -> str:
        """The name of a class, or its number where the name cannot be drawn."""
        name = self._names[number]
        if not self._is_drawable(name):
            return str(number)
        return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"

    def _is_drawable(self, name: str) -> bool:
        return all(any(font.get_char_index(ord(letter)) for font in self._fonts) for letter in name)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Draw with fonts that have the names' letters; a ``$`` is a letter as any other."""
        from matplotlib import rc_context

        with rc_context({"font.family": self.families, "text.parse_math": False}):
            yield


def _font(family: str) -> Any:
    from matplotlib import font_manager

    return font_manager.get_font(font_manager.findfont(family))


def _installed(families: Sequence[str]) -> list[str]:
    """Those of the families that are installed, in their order.

    matplotlib remembers which fonts it has found at its first use. Those that were installed later are added.
    """
    from matplotlib import font_manager

    manager = font_manager.fontManager
    known = {entry.fname for entry in manager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            with suppress(Exception):  # a broken font may raise anything
                manager.addfont(path)
    names = {entry.name for entry in manager.ttflist}
    return [family for family in families if family in names]


def draw_confusions(matrix: np.ndarray, shown: np.ndarray, labels: Labels, title: str, path: Path) -> None:
    """Draw a confusion matrix: a row for each true class, coloured by the shares of its images.

    Args:
        matrix: (C, C) counts.
        shown: (C,) numbers of the classes.
        labels: names of all classes.
        title: what is shown.
        path: a ``.png`` or ``.svg`` file.

    Raises:
        OSError: it cannot be written.
    """
    count = len(shown)
    side = max(4.0, 0.24 * count)
    size = "medium" if count <= NUMBERED else "small"
    with labels.drawing():
        figure = new_figure(side + 2.2, side + 1.6)
        axis = figure.subplots()
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        picture = axis.imshow(shares, vmin=0.0, vmax=1.0, cmap="Blues")
        texts = [labels[number] for number in shown]
        axis.set_xticks(range(count), texts, rotation=90, fontsize=size)
        axis.set_yticks(range(count), texts, fontsize=size)
        axis.set(xlabel="predicted", ylabel="true")
        axis.set_title(title, fontsize="medium")
        if count <= NUMBERED:
            _write_counts(axis, matrix, shares)
        figure.colorbar(picture, label="share of the row", shrink=0.7)
        figure.savefig(path, dpi=DPI)


def _write_counts(axis: Any, matrix: np.ndarray, shares: np.ndarray) -> None:
    for row, column in zip(*(places.tolist() for places in np.nonzero(matrix))):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize="small")


def draw_reliability(panels: Sequence[tuple[str, Bins]], path: Path) -> None:
    """Draw how often predictions of each confidence are right, side by side, with the images of each bin below.

    Args:
        panels: titles and bins.
        path: a ``.png`` or ``.svg`` file.

    Raises:
        OSError: it cannot be written.
    """
    figure = new_figure(3.9 * len(panels), 4.6)
    axes = figure.subplots(2, len(panels), squeeze=False, sharex=True, height_ratios=[3, 1])
    edges = np.arange(BINS) / BINS
    for (title, bins), above, below in zip(panels, axes[0], axes[1]):
        filled = bins.images > 0
        style = {"width": 1 / BINS, "align": "edge", "edgecolor": "white"}
        above.bar(edges[filled], bins.accuracy[filled], color="tab:blue", label="accuracy", **style)
        above.plot(
            bins.confidence[filled],
            bins.accuracy[filled],
            "o",
            color="tab:orange",
            markersize=4,
            label="mean confidence",
        )
        above.plot([0, 1], [0, 1], "--", color="tab:gray", linewidth=1, label="calibrated")
        above.set(title=title, ylim=(0, 1.02), xlim=(0, 1), ylabel="accuracy")
        below.bar(edges, bins.images, color="tab:gray", **style)
        below.set(xlabel="confidence", ylabel="images", yscale="symlog", ylim=(0, None))
    axes[0][-1].legend(loc="upper left", fontsize="small")  # calibrated bars follow the diagonal and leave room there
    figure.savefig(path, dpi=DPI)


def draw_errors(mistakes: Sequence[Mistake], labels: Labels, title: str, path: Path) -> None:
    """Draw images with their true class, and the wrong one with its probability.

    Args:
        mistakes: what to draw, in this order.
        labels: names of all classes.
        title: what is shown.
        path: a ``.png`` or ``.svg`` file.

    Raises:
        OSError: it cannot be written.
    """
    columns = min(max(len(mistakes), 3), COLUMNS)
    rows = math.ceil(len(mistakes) / columns)
    with labels.drawing():
        figure = new_figure(2.25 * columns, 2.8 * rows + 0.5)
        figure.suptitle(title, fontsize="medium")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        for number, (mistake, axis) in enumerate(zip(mistakes, axes), 1):
            axis.imshow(_thumbnail(mistake.path), interpolation="nearest")
            lines = [f"true: {labels[mistake.true]}", f"predicted: {labels[mistake.predicted]}"]
            text = "\n".join([f"{number}. probability {mistake.probability:.3f}", *lines])
            axis.set_title(text, fontsize="small", loc="left")
        figure.savefig(path, dpi=DPI)


def _thumbnail(path: str) -> np.ndarray:
    """An image as the loader sees it before it is resized, small; grey where no picture can be made of the file."""
    try:
        decoded = DecodeImage(to_np=False, backend="pil")(Path(path).read_bytes(), np.random.default_rng(0))
        image = as_pillow(decoded)
        image.thumbnail((TILE, TILE), Image.Resampling.BICUBIC)
        return np.asarray(image)
    except (UserError, OSError):
        return np.full((TILE, TILE, 3), 160, np.uint8)
