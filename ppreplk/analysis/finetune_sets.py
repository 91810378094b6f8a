"""Small sets of real images that come inside packages, as one folder per class: for the study of fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.digits import GREY_LEVELS, NAMES, is_held_out, new_folder, read_digits
from ..utils.optional import import_optional

PATCH = 32  # pixels of a texture
TRAIN, VAL, TEST = "train", "val", "test"
TEST_SEED = 2022  # of the half that is for tests: the same in every draw


@dataclass(frozen=True)
class ImageSet:
    """Grey images of classes.

    Args:
        images: (N, H, W) uint8.
        labels: (N,) class indices.
        names: of the classes, in the order in which folders are numbered.
        held_out: (N,) bool, images that are never trained on; None where any may be.
    """

    images: np.ndarray
    labels: np.ndarray
    names: Sequence[str]
    held_out: np.ndarray | None = None


def digits(wanted: Sequence[int]) -> ImageSet:
    """Some of the handwritten digits inside scikit-learn, 8x8 pixels.

    Raises:
        UserError: scikit-learn is missing or broken.
    """
    images, labels = read_digits()
    kept = np.isin(labels, wanted)
    names = sorted(NAMES[digit] for digit in wanted)  # folders are numbered in the order of their names
    ranks = np.array([names.index(NAMES[digit]) for digit in labels[kept]])
    grey = np.round(images[kept] * (255 / GREY_LEVELS)).astype(np.uint8)
    return ImageSet(grey, ranks, names)


def source_digits() -> ImageSet:
    """The digits zero to four, to train on before the others come. Every fifth image is held out."""
    source = digits(range(5))
    return ImageSet(source.images, source.labels, source.names, is_held_out(len(source.labels)))


def other_digits() -> ImageSet:
    """The digits five to nine."""
    return digits(range(5, 10))


def faces() -> ImageSet:
    """100 faces and 100 other pieces of the photographs Labeled Faces in the Wild, inside scikit-image, 25x25 pixels.

    Raises:
        UserError: scikit-image is missing or broken.
    """
    images = _skimage().lfw_subset()
    return ImageSet(_to_bytes(images), np.repeat([0, 1], 100), ["face", "other"])


def textures() -> ImageSet:
    """Pieces of three photographs inside scikit-image: brick, grass and gravel. The right halves are held out.

    Raises:
        UserError: scikit-image is missing or broken.
    """
    data, names = _skimage(), ["brick", "grass", "gravel"]
    photographs = np.stack([getattr(data, name)() for name in names])  # (3, 512, 512)
    count, side = len(names), photographs.shape[-1] // PATCH
    pieces = photographs.reshape(count, side, PATCH, side, PATCH).transpose(0, 1, 3, 2, 4)
    column = np.tile(np.arange(side), count * side)
    labels = np.repeat(np.arange(count), side * side)
    return ImageSet(pieces.reshape(-1, PATCH, PATCH), labels, names, column >= side // 2)


def _skimage():  # type: ignore[no-untyped-def]
    return import_optional(
        "skimage.data",
        "faces and textures come with scikit-image, which is missing or broken",
        "pip install scikit-image",
        "analysis.missing-package",
    )


def _to_bytes(images: np.ndarray) -> np.ndarray:
    return images if images.dtype == np.uint8 else np.round(255 * images).astype(np.uint8)


SETS: dict[str, Callable[[], ImageSet]] = {"digits": other_digits, "faces": faces, "textures": textures}


def write_split(root: Path, images: ImageSet, shown: int | None, seed: int) -> None:
    """Write ``root/train/CLASS/*.png`` and ``root/val/CLASS/*.png``, unless ``root`` is there.

    Args:
        root: the folder.
        images: the set.
        shown: images of each class that are drawn for training; None for all that are not held out. The others, or
            those held out, are for evaluation.
        seed: of the draw.

    Raises:
        UserError: the folder cannot be written.
    """
    held_out = np.zeros(len(images.labels), bool) if images.held_out is None else images.held_out
    train = _draw(images.labels, ~held_out, shown, seed)
    val = ~train if images.held_out is None else held_out
    _write(root, images, {TRAIN: train, VAL: val})


def write_three_parts(root: Path, images: ImageSet, shown: int, seed: int) -> None:
    """Write ``root/train``, ``root/val`` and ``root/test``, unless ``root`` is there.

    Half of the images of each class are for tests, the same in every draw. Of the others some are drawn for training,
    and what is left is for choosing a learning rate.

    Args:
        root: the folder.
        images: the set.
        shown: images of each class that are drawn for training.
        seed: of that draw.

    Raises:
        UserError: the folder cannot be written.
    """
    half = int(np.bincount(images.labels).min()) // 2
    test = _draw(images.labels, np.ones(len(images.labels), bool), half, TEST_SEED)
    train = _draw(images.labels, ~test, shown, seed)
    _write(root, images, {TRAIN: train, VAL: ~test & ~train, TEST: test})


def _draw(labels: np.ndarray, allowed: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """(N,) bool: ``count`` of the allowed images of each class, or all of them."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        drawn[rng.permutation(np.flatnonzero((labels == label) & allowed))[:count]] = True
    return drawn


def _write(root: Path, images: ImageSet, parts: dict[str, np.ndarray]) -> None:
    """``root/PART/CLASS/*.png``, whole or not at all."""
    if root.is_dir():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(root, "images of a study", root.is_dir) as staging:
        for part, chosen in parts.items():
            for index in np.flatnonzero(chosen):
                folder = staging / part / images.names[images.labels[index]]
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images.images[index]).save(folder / f"{index:04d}.png")
