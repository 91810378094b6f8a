"""Images of a training that cannot be used: skipped, named and counted, up to a limit."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np

from ..utils.distributed import gather_rows
from ..utils.errors import UserError
from .datasets import ImageDataset
from .scan import counted

logger = logging.getLogger(__name__)

# what is wrong with an image, and not with the configuration
UNUSABLE = (
    "data.unreadable-image",
    "data.too-many-pixels",
    "data.unknown-range",
    "data.bad-array",
    "data.other-channels",
    "data.thin-image",
)


class BadImage(NamedTuple):
    """An image that was skipped: its number in the data set, and the message that names it."""

    number: int
    message: str


class BadImages:
    """The images that a training has skipped. It counts files, not attempts: each epoch tries them anew.

    Args:
        limit: how many may be skipped in the whole training, over all processes; 0 skips none.
        paths: those skipped so far. The list grows; it belongs to the training's state.
    """

    def __init__(self, limit: int, paths: list[str]):
        self.limit = limit
        self.paths = paths
        self._known = set(paths)
        self._own: list[int] = []  # numbers of those that other processes do not know yet

    def skips(self, error: UserError) -> bool:
        """Whether an image with this error is to be left out of its batch."""
        return self.limit > 0 and error.code in UNUSABLE

    def ending(self, error: UserError) -> UserError:
        """The error that ends a training which skips no image; it says what would let it go on."""
        if error.code not in UNUSABLE:
            return error
        advice = "Global.max_bad_images=N leaves up to N such images out, ppreplk check-data names them all"
        return UserError(f"{error}; {advice}", code=error.code)

    def add(self, bad: BadImage, dataset: ImageDataset) -> None:
        """Count an image that was left out, and name it the first time.

        Raises:
            UserError: there are more than ``limit``.
        """
        path = dataset.samples[bad.number].path
        if path not in self._known:
            self._own.append(bad.number)
            self._count(path, bad.message)
        self._check(bad.message)

    def share(self, dataset: ImageDataset) -> None:
        """Count the images of all processes together. All of them must call this at the same moment.

        Raises:
            UserError: together they are more than ``limit``. Every process raises it.
        """
        if self.limit == 0:
            return
        numbers, self._own = gather_rows(np.asarray(self._own, np.int64)), []
        for number in numbers:
            path, origin = dataset.samples[number].path, dataset.samples[number].origin
            if path not in self._known:
                self._count(path, f"{origin}: {path}: another process cannot use it")
            self._check(f"{origin}: {path}")

    def _count(self, path: str, message: str) -> None:
        self._known.add(path)
        self.paths.append(path)
        if len(self.paths) <= self.limit:  # what is beyond it ends the training and is named there
            logger.warning("%s; skipped, number %d of at most %d", message, len(self.paths), self.limit)

    def _check(self, message: str) -> None:
        if len(self.paths) > self.limit:
            raise UserError(
                f"{message}; with it {counted(len(self.paths), 'image')} could not be used, and Global.max_bad_images "
                f"allows {self.limit}; ppreplk check-data names them all",
                code="data.too-many-bad-images",
            )
