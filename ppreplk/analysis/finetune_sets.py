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
TRAIN, VAL = "train", "val"


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
    if root.is_dir():
        return
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(images.labels), bool) if images.held_out is None else images.held_out
    train: list[int] = []
    for label in range(len(images.names)):
        candidates = np.flatnonzero((images.labels == label) & ~held_out)
        train += rng.permutation(candidates)[:shown].tolist()
    val = sorted(set(range(len(images.labels))) - set(train)) if images.held_out is None else np.flatnonzero(held_out)
    root.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(root, "images of a study", root.is_dir) as staging:
        for part, indices in {TRAIN: train, VAL: val}.items():
            for index in indices:
                folder = staging / part / images.names[images.labels[index]]
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images.images[index]).save(folder / f"{index:04d}.png")
