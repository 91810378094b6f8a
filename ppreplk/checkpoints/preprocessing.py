"""The preprocessing that belongs to published weights, and whether a configuration has it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from ..config import Config, Op, Ops, read_ops, typed
from ..models.replknet.recognition import Architecture, infer
from ..utils.errors import UserError

logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALVES = (0.5, 0.5, 0.5)
STATISTICS = {"RepLKNetXL": (HALVES, HALVES)}  # mean and standard deviation; all others have ImageNet's
SIZES = {"RepLKNetXL": 320}  # pixels; all others are published for 224 or, by their names, for 384
CROPPED_SHARE = 0.875  # below WARPED_FROM, the crop over the shorter side it is cut from
WARPED_FROM = 384  # pixels; from here on images are resized to a square without cropping
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Preprocessing:
    """``mean`` and ``std`` of pixels between 0 and 1, and the side of the images in pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int

    def transforms(self) -> Ops:
        """The transforms of an evaluation or a prediction."""
        resize = {"interpolation": "bicubic", "backend": "pil"}
        if self.size >= WARPED_FROM:
            fit = [{"ResizeImage": {"size": self.size, **resize}}]
        else:
            shorter = int(self.size / CROPPED_SHARE)
            fit = [{"ResizeImage": {"resize_short": shorter, **resize}}, {"CropImage": {"size": self.size}}]
        normalize = {"scale": 1 / 255, "mean": list(self.mean), "std": list(self.std), "order": ""}
        decode = {"DecodeImage": {"backend": "pil"}}
        return read_ops([decode, *fit, {"NormalizeImage": normalize}, "ToCHWImage"], "preprocessing")


def published_preprocessing(architecture: Architecture, path: str | Path) -> Preprocessing:
    """What the published weights of this architecture expect; the file's name tells 384 from 224."""
    mean, std = STATISTICS.get(architecture.name, (IMAGENET_MEAN, IMAGENET_STD))
    named = re.search(r"[_-](224|320|384)(?:px)?(?![0-9])", Path(path).stem)
    return Preprocessing(tuple(mean), tuple(std), int(named[1]) if named else SIZES.get(architecture.name, 224))


def check_preprocessing(config: Config, state: Mapping[str, np.ndarray], path: str | Path, training: bool) -> None:
    """Warn where the transforms of ``config`` are not those the published weights expect.

    Args:
        config: with the transforms of training, evaluation and prediction, as far as it has them.
        state: the weights, under our names; of an unpublished architecture, nothing is expected.
        path: the file they come from.
        training: the weights are trained further, maybe at another resolution: then the configuration's own
            resolution counts instead of the weights'.
    """
    try:
        architecture = infer(state, str(path))
    except UserError:  # not a RepLKNet
        return
    if architecture.name is None or architecture.name == "RepLKNet13T":
        return
    expected = published_preprocessing(architecture, path)
    own_size = config.Global.image_shape[-1]
    size = max(own_size, expected.size) if not training and expected.size >= WARPED_FROM else own_size
    splits = {"DataLoader.Train": config.DataLoader.Train, "DataLoader.Eval": config.DataLoader.Eval}
    places = {f"{where}.dataset.transform_ops": s.dataset.transform_ops for where, s in splits.items() if s}
    if config.Infer is not None:
        places["Infer.transforms"] = config.Infer.transforms
    for where, ops in places.items():
        wrong = _statistics_other_than(expected, ops)
        if wrong:
            logger.warning(
                "%s: normalizes with %s; the published weights of %s expect %s, do those of %s?",
                *(where, wrong, architecture.name, _text(expected), path),
            )
        if size >= WARPED_FROM and "Train" not in where and not _is_warped(ops, size):
            logger.warning(
                "%s: weights for %dx%d expect images resized to that square without cropping (ResizeImage: {size: %d})",
                *(where, size, size, size),
            )


def _text(statistics: Preprocessing) -> str:
    return f"mean {list(statistics.mean)} and std {list(statistics.std)}"


def _statistics_other_than(expected: Preprocessing, ops: Ops) -> str | None:
    """The mean and standard deviation of NormalizeImage in words, if they are not the expected ones."""
    for op in ops:
        if op.name == "NormalizeImage":
            scale = 255 * _numbers(op, "scale", [1 / 255])[0]
            mean = tuple(value / scale for value in _numbers(op, "mean", IMAGENET_MEAN))
            std = tuple(value / scale for value in _numbers(op, "std", IMAGENET_STD))
            if not _close(mean, expected.mean) or not _close(std, expected.std):
                rounded = (tuple(round(value, 4) for value in values) for values in (mean, std))
                return _text(Preprocessing(*rounded, expected.size))
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
