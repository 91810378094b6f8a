"""Effective receptive fields of several networks on the same images: maps, the paper's table 10, pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ..checkpoints.apply import load_weights
from ..checkpoints.convert import load_checkpoint
from ..config import ArchConfig, read_ops
from ..data import NORMALIZED_CHW, Pipeline, build_transforms, find_images, load_image
from ..models import architecture_of
from ..models.arch import build_network
from ..models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ..nn import fold
from ..utils import figures
from ..utils.atomic import creating, replacing
from ..utils.errors import UserError
from ..utils.log import progress
from ..utils.paths import user_path
from ..utils.tables import Table, write_table
from .receptive_field import SHARES, high_contribution_area, mean_contribution_map, scaled_scores

logger = logging.getLogger(__name__)

MAPS = ".npz"  # suffix of the file of maps


@dataclass(frozen=True)
class Subject:
    """A network of ours or of paddleclas, and the file of its weights, or None for random ones."""

    model: str
    weights: str | None

    @property
    def label(self) -> str:
        """What its row and its files are called."""
        return self.model if self.weights is None else f"{self.model}_{Path(self.weights).stem}"


@dataclass(frozen=True)
class Images:
    """What the networks look at.

    These are the first ``limit`` images of ``place`` (an image, a folder or a list), resized to ``size`` by ``size``
    pixels and normalized with ``mean`` and ``std``.
    """

    place: str
    size: int = 1024
    limit: int = 50
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD


def read_subject(text: str) -> Subject:
    """A subject from ``NAME`` or ``NAME=WEIGHTS``.

    >>> read_subject("RepLKNet31B=weights.pdparams")
    Subject(model='RepLKNet31B', weights='weights.pdparams')
    """
    model, equals, weights = text.partition("=")
    return Subject(model, user_path(weights) if equals else None)


def compare(subjects: Sequence[Subject], images: Images, output: str, layer: str | None = None) -> Table:
    """Compare the effective receptive fields of networks on the same images.

    Writes ``LABEL.npy`` and ``LABEL.png`` for each network, and ``erf.csv``, ``erf.md`` and ``erf.png`` for all.

    Args:
        subjects: the networks.
        images: what they look at.
        output: folder of the files.
        layer: name of the sublayer whose output to use, see :func:`ppreplk.erf.last_features`.

    Returns:
        For each network, the area in percent of the image that holds a share of the contribution, see
        :func:`area_table`.

    Raises:
        UserError: an unknown network, weights that do not fit, no images, no matplotlib, or an ``output`` that cannot
            be written.
    """
    figures.check_matplotlib()
    labels = [subject.label for subject in subjects]
    if len(set(labels)) < len(labels):
        message = f"the networks would share file names: {', '.join(labels)}; give each once"
        raise UserError(message, code="analysis.same-network")
    transforms = build_transforms(read_ops(preparation(images), "images"), NORMALIZED_CHW)
    paths = find_images(images.place)[: images.limit]
    models = {subject.label: trained(subject) for subject in subjects}  # all are checked before the first takes minutes
    folder = Path(output)
    maps = {}
    with creating(folder):
        for label, model in models.items():
            with progress(paths, len(paths), label) as bar:
                values = maps[label] = mean_contribution_map(model, _tensors(bar, transforms), layer)
            with replacing(folder / f"{label}.npy") as [partial], open(partial, "wb") as file:
                np.save(file, values)
            figures.heat_maps({label: scaled_scores(values)}, folder / f"{label}.png", outlines({label: values}))
    scores = {label: scaled_scores(values) for label, values in maps.items()}
    figures.heat_maps(scores, folder / "erf.png", outlines(maps))
    return write_fields(maps, folder / "erf", f"images: {len(paths)}, {images.size} pixels")


def write_fields(maps: Mapping[str, np.ndarray], path: Path, conditions: str) -> Table:
    """Write the areas of :func:`area_table` to ``.csv`` and ``.md``, and the maps as they are drawn to ``.npz``.

    Args:
        maps: {name of the row: contributions (H, W)}.
        path: of the files, without suffix.
        conditions: see :func:`area_table`.

    Returns:
        The table.

    Raises:
        UserError: a file cannot be written.
    """
    drawn = {label: figures.reduced(scaled_scores(values)).astype(np.float16) for label, values in maps.items()}
    with replacing(path.with_suffix(MAPS)) as [partial], open(partial, "wb") as file:
        np.savez_compressed(file, **drawn)
    table = area_table(maps, conditions)
    for suffix in (".csv", ".md"):
        write_table(table, path.with_suffix(suffix))
    return table


def area_table(maps: Mapping[str, np.ndarray], conditions: str) -> Table:
    """The paper's table 10, then the same areas without its logarithm, and the largest contribution.

    Args:
        maps: {name of the row: contributions (H, W)}.
        conditions: of the measurement, for the title.
    """
    rows = []
    for label, values in maps.items():
        areas = [
            f"{100 * high_contribution_area(values, share, logarithm)[1]:.1f}"
            for logarithm in (True, False)
            for share in SHARES
        ]
        rows.append([label, *areas, f"{values.max():.1e}"])
    title = (
        f"Area in % of the image that holds a share of the contribution, as the paper scores it and plain; {conditions}"
    )
    shares = [f"{share:.0%}" for share in SHARES]
    return Table(title, ["network", *shares, *(f"plain {share}" for share in shares), "largest contribution"], rows)


def outlines(maps: Mapping[str, np.ndarray]) -> dict[str, list[tuple[str, float]]]:
    """The areas of table 10 for :func:`~ppreplk.utils.figures.heat_maps`."""
    return {
        label: [(f"{share:.0%}", high_contribution_area(values, share)[1]) for share in SHARES]
        for label, values in maps.items()
    }


def preparation(images: Images) -> list[dict]:
    """The transforms of the published analysis: bicubic resizing to a square, without cropping."""
    return [
        {"DecodeImage": {"to_rgb": True, "channel_first": False, "backend": "pil"}},
        {"ResizeImage": {"size": images.size, "interpolation": "bicubic", "backend": "pil"}},
        {"NormalizeImage": {"scale": "1.0/255.0", "mean": [*images.mean], "std": [*images.std], "order": ""}},
        {"ToCHWImage": {}},
    ]


def _tensors(paths: Iterable[str], transforms: Pipeline) -> Iterator[tuple[str, paddle.Tensor]]:
    """Names and images (1, C, H, W), read one at a time."""
    rng = np.random.default_rng(0)
    for path in paths:
        yield path, paddle.to_tensor(load_image(path, transforms, rng)[None])


def trained(subject: Subject) -> nn.Layer:
    """The network with its weights, in eval mode. Ours are folded: the same function without BN, in less memory.

    Raises:
        UserError: an unknown network, or weights that do not fit.
    """
    paddle.seed(0)
    model = build_network(ArchConfig(where="--model", arguments={}, name=subject.model))
    if subject.weights is None:
        logger.warning("%s: no weights given (NAME=WEIGHTS), they are random", subject.model)
    else:
        load_weights(model, load_checkpoint(subject.weights), subject.weights, may_replace_head=True)
    model.eval()
    return model if architecture_of(model) is None else fold(model, inplace=True)
