"""Whether a configuration has the preprocessing that its published weights expect."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from ..config import RGB, Config, Op, Ops, typed
from ..models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, MIN_WARPED_SIZE, Preprocessing
from ..models.registry import recognise
from ..utils.errors import UserError

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3


def check_preprocessing(config: Config, state: Mapping[str, np.ndarray], path: str | Path, training: bool) -> None:
    """Warn where the transforms of ``config`` are not those the published weights expect.

    Args:
        config: with the transforms of training, evaluation and prediction, as far as it has them.
        state: the weights, under our names; of an unpublished architecture, nothing is expected.
        path: the file they come from.
        training: the weights are trained further, maybe at another resolution: then the configuration's own
            resolution counts instead of the weights'.
    """
    if config.Arch.in_channels != RGB:  # then other numbers belong to it, and only its owner knows them
        return
    try:
        network = recognise(state, str(path))
    except UserError:  # of an architecture without published weights
        return
    expected = network.preprocessing(path)
    if expected is None:
        return
    own_size = config.Global.image_shape[-1]
    size = max(own_size, expected.size) if not training and expected.size >= MIN_WARPED_SIZE else own_size
    splits = {"DataLoader.Train": config.DataLoader.Train, "DataLoader.Eval": config.DataLoader.Eval}
    places = {f"{where}.dataset.transform_ops": s.dataset.transform_ops for where, s in splits.items() if s}
    if config.Infer is not None:
        places["Infer.transforms"] = config.Infer.transforms
    for where, ops in places.items():
        wrong = _statistics_other_than(expected, ops)
        if wrong:
            logger.warning(
                "%s: normalizes with %s, but the published weights of %s expect %s; check whether %s holds them",
                *(where, wrong, network.name, expected, path),
            )
        if size >= MIN_WARPED_SIZE and "Train" not in where and not _is_warped(ops, size):
            logger.warning(
                "%s: weights for %dx%d expect images resized to that square without cropping (ResizeImage: {size: %d})",
                *(where, size, size, size),
            )


def _statistics_other_than(expected: Preprocessing, ops: Ops) -> str | None:
    """The mean and standard deviation of NormalizeImage in words, if they are not the expected ones."""
    for op in ops:
        if op.name == "NormalizeImage":
            scale = 255 * _numbers(op, "scale", [1 / 255])[0]
            if scale == 0:
                return "scale 0"
            mean = tuple(value / scale for value in _numbers(op, "mean", IMAGENET_MEAN))
            std = tuple(value / scale for value in _numbers(op, "std", IMAGENET_STD))
            if not _close(mean, expected.mean) or not _close(std, expected.std):
                mean, std = (tuple(round(value, 4) for value in values) for values in (mean, std))
                return str(Preprocessing(mean, std))
    return None


def _numbers(op: Op, key: str, default: Sequence[float]) -> Sequence[float]:
    value = op.arguments.get(key)
    if key == "scale":
        value = typed(value, Optional[float], f"{op.where}.{key}")
        return list(default) if value is None else [value]
    return typed(value, Optional[list[float]], f"{op.where}.{key}") or default


def _close(received: Sequence[float], expected: Sequence[float]) -> bool:
    return len(received) == len(expected) and bool(np.allclose(received, expected, rtol=0, atol=TOLERANCE))


def _is_warped(ops: Ops, size: int) -> bool:
    by_name = {op.name: op.arguments for op in ops}
    resized = by_name.get("ResizeImage", {}).get("size")
    return "CropImage" not in by_name and resized in (size, [size, size])
