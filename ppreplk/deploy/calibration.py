"""Images that an int8 program is calibrated with: some of the user's, as the program will get them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..config import Config
from ..utils.errors import UserError
from .verify import prepared_images, spaced_images

logger = logging.getLogger(__name__)

BATCH_PIXELS = 8 * 224 * 224  # of the images that are computed together


class CalibrationImages(NamedTuple):
    """Which images, always the same for a configuration.

    Args:
        split: ``"DataLoader.Train"`` or ``"DataLoader.Eval"``.
        paths: as many as ``Global.export_calibration_images`` says, or all, at equal distances in the split's list.
        why: for ``"DataLoader.Eval"``, why there are none of ``"DataLoader.Train"``; else empty.
    """

    split: str
    paths: list[str]
    why: str = ""


def calibration_images(config: Config) -> CalibrationImages:
    """Images of ``DataLoader.Train``, or of ``DataLoader.Eval`` if there are none.

    Raises:
        UserError: there are none in either.
    """
    reasons = []
    for name in ("Train", "Eval"):
        split = getattr(config.DataLoader, name)
        if split is None:
            reasons.append(f"there is no DataLoader.{name}")
            continue
        try:
            paths = spaced_images(config, split, config.Global.export_calibration_images)
        except UserError as error:
            place = f"DataLoader.{name}"
            reasons.append(str(error if str(error).startswith(place) else error.at(place)))
            continue
        if paths:
            return CalibrationImages(f"DataLoader.{name}", paths, "; ".join(reasons))
        reasons.append(f"DataLoader.{name} lists none")
    raise UserError(
        f"an int8 program needs images of yours to calibrate with: {'; '.join(reasons)}",
        code="deploy.no-calibration-images",
        where="DataLoader",
    )


def calibration_batches(config: Config, chosen: CalibrationImages | None) -> Iterator[np.ndarray]:
    """The chosen images after ``Infer.transforms``, (N, C, H, W) float32, some at a time.

    Raises:
        UserError: none of them can be read, or the transforms make other shapes.
    """
    if chosen is None:
        return
    split, paths, _ = chosen
    height, width = config.Global.image_shape[1:]
    size = max(BATCH_PIXELS // (height * width), 1)
    readable = 0
    for start in range(0, len(paths), size):
        images = prepared_images(config, paths[start : start + size], "calibration")
        readable += len(images)
        if images:
            yield np.stack(images)
    if not readable:
        raise UserError(
            f"none of the {len(paths)} calibration images can be read", code="deploy.no-calibration-images", where=split
        )
