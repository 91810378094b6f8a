"""Pictures of networks: their layers, and a large kernel before and after its parallel kernel is merged into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..checkpoints.convert import load_checkpoint
from ..models import architecture_of, build_model
from ..nn.fusion import pad_kernel
from ..nn.merge import ORIGIN, SMALL, fused_weight_bias
from ..utils.atomic import check_output, replacing
from ..utils.errors import UserError, nearest
from ..utils.figures import check_figure, new_figure, save_figure
from ..utils.tables import Table

PART = ".lkb_origin"
COLOURS = "RdBu_r"  # red is positive, white is zero


def draw_network(name: str, size: int, output: str) -> Path:
    """Draw a network of ours as an SVG file.

    Args:
        name: of the model.
        size: height and width of the image.
        output: a ``.svg`` file in a folder that exists.

    Returns:
        The file.

    Raises:
        UserError: there is no such network, or none that can be drawn; the file cannot be written.
    """
    path = check_output(output, "drawing", (".svg",))
    model = build_model(name)
    architecture = architecture_of(model)
    if architecture is None or architecture.picture is None:
        raise UserError(f"there is no drawing of {name}", code="analysis.no-drawing")
    with replacing(path) as [partial]:
        partial.write_text(architecture.picture(model, size), encoding="utf-8")
    return path


class Branches(NamedTuple):
    """A large kernel and its parallel kernel, (C, K, K) each, batch normalization fused, the latter in zeros."""

    layer: str
    small_size: int
    large: np.ndarray
    small: np.ndarray

    @property
    def merged(self) -> np.ndarray:
        return self.large + self.small


def branches_of(weights: Mapping[str, np.ndarray], layer: str | None, where: str) -> Branches:
    """The branches of one large kernel.

    Args:
        weights: in train form, under our names.
        layer: name of the layer, ``stages.0.blocks.0.large_kernel`` for example; None is the first one.
        where: the weights come from, for messages.

    Raises:
        UserError: there is no such layer, or none with a parallel kernel.
    """
    names = [name[: -len(ORIGIN)] for name in weights if name.endswith(ORIGIN)]
    names = [name for name in names if f"{name}{SMALL}.conv.weight" in weights]
    if not names:
        message = "holds no large kernel beside a parallel one: it is merged already, or was trained without"
        raise UserError(message, code="analysis.no-branches", where=where)
    if layer is not None and layer not in names:
        message = f"holds no layer {layer!r} with a parallel kernel{nearest(layer, names)}"
        raise UserError(message, code="analysis.no-branches", where=where)
    layer = layer or names[0]
    large, _ = fused_weight_bias(weights, layer + PART)
    small, _ = fused_weight_bias(weights, layer + SMALL)
    padded = pad_kernel(small, large.shape[-1])
    return Branches(layer, small.shape[-1], large[:, 0], padded[:, 0])


def draw_merge(weights: str, layer: str | None, channels: int, output: str) -> Table:
    """Draw a large kernel, its parallel kernel and their sum, for the channels where the parallel kernel is strongest.

    Args:
        weights: a checkpoint in train form, of any layout.
        layer: see :func:`branches_of`.
        channels: how many to draw.
        output: a ``.png`` or ``.svg`` file in a folder that exists.

    Returns:
        The largest entries of both kernels, by channel.

    Raises:
        UserError: the weights cannot be read, hold no such layer, or the picture cannot be drawn.
    """
    path = check_figure(output)
    branches = branches_of(load_checkpoint(weights), layer, weights)
    strength = np.abs(branches.small).max(axis=(1, 2))
    drawn = np.argsort(-strength, kind="stable")[:channels].tolist()
    _draw_kernels(branches, drawn, path)
    size = branches.large.shape[-1]
    columns = ["channel", f"largest of the {size}x{size} kernel", f"of the {branches.small_size}x{branches.small_size}"]
    lines = [[str(each), f"{np.abs(branches.large[each]).max():.3f}", f"{strength[each]:.3f}"] for each in drawn]
    everywhere = float(np.mean(strength / np.abs(branches.merged).max(axis=(1, 2))))
    note = f"over all {len(strength)} channels the parallel kernel reaches {everywhere:.2f} of the merged one's largest"
    return Table(f"{branches.layer}, absolute values, batch normalization fused", columns, lines, [note])


def _draw_kernels(branches: Branches, channels: list[int], path: Path) -> None:
    size, middle = branches.large.shape[-1], branches.large.shape[-1] // 2
    titles = [f"{size}x{size}, BN fused", f"{branches.small_size}x{branches.small_size}, BN fused, in zeros", "merged"]
    figure = new_figure(9.6, 2.5 * len(channels) + 0.3)
    axes = figure.subplots(len(channels), 4, squeeze=False)
    for row, channel in zip(axes, channels):
        kernels = [branches.large[channel], branches.small[channel], branches.merged[channel]]
        bound = max(float(np.abs(kernel).max()) for kernel in kernels)
        for axis, kernel, title in zip(row, kernels, titles):
            picture = axis.imshow(kernel, cmap=COLOURS, vmin=-bound, vmax=bound)
            axis.set(xticks=[], yticks=[])
            if channel == channels[0]:
                axis.set_title(title, fontsize="medium")
        row[0].set_ylabel(f"channel {channel}")
        figure.colorbar(picture, ax=row[2], shrink=0.8)
        places = np.arange(size) - middle
        row[3].plot(places, kernels[0][middle], "o-", color="tab:gray", markersize=3, label=titles[0])
        row[3].plot(places, kernels[2][middle], "o-", color="tab:red", markersize=3, label=titles[2])
        row[3].axhline(0, color="black", linewidth=0.5)
        row[3].set_ylim(-1.15 * bound, 1.6 * bound)
    axes[0][3].set_title("middle row", fontsize="medium")
    axes[0][3].legend(fontsize="small", loc="upper left")
    save_figure(figure, path)
