"""A quick look at the data when a training starts: what costs a moment however many images there are."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image

from .datasets import ImageDataset
from .scan import counted, named
from .survey_comparisons import IMBALANCE, imbalance, list_of_classes

logger = logging.getLogger(__name__)

STATS = 1000  # files whose size is asked for
HEADERS = 32  # images whose header is read
TIME = 2.0  # seconds; a slow file system ends the look


def first_look(images: ImageDataset, class_num: int, training: bool) -> None:
    """Log in a line or two what the images are, and what is odd about them. ``ppreplk check-data`` looks at all.

    Args:
        images: a data set.
        class_num: number of classes.
        training: whether it is trained on; a class without images is worth a warning then.
    """
    counts = images.class_counts(class_num).numbers
    sizes, modes, odd = _look(images)
    seen = ""
    if sizes:
        sizes.sort(key=_area)
        least, most = (f"{width}x{height}" for width, height in (sizes[0], sizes[-1]))
        kinds = ", ".join(f"{mode} {count}" for mode, count in modes.most_common())
        seen = f"; of {len(sizes)} looked at: {least if least == most else f'{least} to {most}'}, {kinds}"
    logger.info("%s: %d to %d images per class%s", images.source, counts.min(), counts.max(), seen)
    concerns = [f"odd files: {named(odd)}"] if odd else []
    if training and (counts == 0).any():
        concerns.append(
            f"{counted(int((counts == 0).sum()), 'class', 'classes')} of {class_num} without images: "
            + list_of_classes(counts, images.classes)
        )
    if imbalance(counts) >= IMBALANCE:
        concerns.append(f"the largest class has {imbalance(counts):.0f} times as many images as the smallest")
    if concerns:
        logger.warning("%s: %s; ppreplk check-data says more", images.source, "; ".join(concerns))


def _look(images: ImageDataset) -> tuple[list[tuple[int, int]], Counter[str], list[str]]:
    """Sizes and modes of a few images, and the files that are empty or no images."""
    end = time.monotonic() + TIME
    sizes: list[tuple[int, int]] = []
    modes: Counter[str] = Counter()
    odd: dict[str, str] = {}
    for path in _spread(images, STATS, end):
        try:
            if os.path.getsize(path) == 0:
                odd[path] = f"{path} is empty"
        except OSError as error:
            odd[path] = f"{path} ({error.strerror})"
    for path in _spread(images, HEADERS, end):
        try:
            width, height, mode = _header(path)
            sizes.append((width, height))
            modes[mode] += 1
        except Exception as error:  # a broken header raises many kinds
            odd.setdefault(path, f"{path} ({type(error).__name__})")
    return sizes, modes, list(odd.values())


def _spread(images: ImageDataset, most: int, end: float) -> Iterator[str]:
    """Paths of at most so many images, from all over the list, until a moment of ``time.monotonic``."""
    for number in np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).astype(np.int64)):
        if time.monotonic() > end:
            return
        yield images.samples.path(int(number))


def _header(path: str) -> tuple[int, int, str]:
    """Width, height and mode of an image file, or of an array that numpy has saved."""
    if path.lower().endswith(".npy"):
        height, width = np.load(path, mmap_mode="r", allow_pickle=False).shape[:2]
        return width, height, "npy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            return image.width, image.height, image.mode


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
