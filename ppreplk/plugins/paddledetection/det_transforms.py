"""The preprocessing that PaddleDetection stores beside a program, in NumPy alone.

It resizes 8-bit images and rounds the result, as PaddleDetection does with OpenCV.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np

from ..suite_images import read_transforms, resized

BILINEAR = 1  # OpenCV's number


class Prepared(NamedTuple):
    """An image on its way to a program.

    ``image`` is (H, W, 3), in the end (3, H, W) float32. ``shape`` is its height and width without padding, ``scale``
    how much larger it is than the original, down and across.
    """

    image: np.ndarray
    shape: tuple[float, float]
    scale: tuple[float, float]

    def batch(self) -> dict[str, np.ndarray]:
        """The inputs of a program, for one image."""
        image = self.image.astype(np.float32)
        rows = {"image": image, "im_shape": self.shape, "scale_factor": self.scale}
        return {name: np.ascontiguousarray(np.asarray(value, np.float32)[None]) for name, value in rows.items()}


Transform = Callable[[Prepared], Prepared]


class Preprocessing:
    """The section ``Preprocess`` of ``infer_cfg.yml``.

    Args:
        transforms: as they stand there, ``[{"type": "Resize", ...}, ...]``.
        where: the file, for messages.

    Raises:
        UserError: one that is not served here.
    """

    def __init__(self, transforms: Any, where: str):
        self._steps = read_transforms(transforms, TRANSFORMS, f"{where}: Preprocess")

    def __call__(self, image: np.ndarray) -> Prepared:
        """An image (H, W, 3) uint8 RGB, as a program reads it."""
        height, width = image.shape[:2]
        prepared = Prepared(image, (float(height), float(width)), (1.0, 1.0))
        for step in self._steps:
            prepared = step(prepared)
        return prepared


def _resize(target_size: Any, keep_ratio: bool = True, interp: Optional[int] = BILINEAR) -> Transform:
    if interp not in (BILINEAR, None):
        raise ValueError(f"interp {interp} is not served here, only {BILINEAR}")
    target = [target_size] * 2 if isinstance(target_size, int) else list(target_size)
    if len(target) != 2 or min(target) < 1:
        raise ValueError(f"target_size must be two sides in pixels, got {target_size}")

    def transform(prepared: Prepared) -> Prepared:
        sides = prepared.image.shape[:2]
        if keep_ratio:
            scale = min(target) / min(sides)
            if round(scale * max(sides)) > max(target):
                scale = max(target) / max(sides)
            scales = (scale, scale)
        else:
            scales = (target[0] / sides[0], target[1] / sides[1])
        size = (max(1, round(sides[0] * scales[0])), max(1, round(sides[1] * scales[1])))
        image = np.round(resized(prepared.image.astype(np.float32), size, scales)).clip(0, 255).astype(np.uint8)
        return Prepared(image, (float(size[0]), float(size[1])), scales)

    return transform


def _normalize(
    mean: Sequence[float], std: Sequence[float], is_scale: bool = True, norm_type: str = "mean_std"
) -> Transform:
    middle, deviation = np.array(mean, np.float32), np.array(std, np.float32)
    if not deviation.all():
        raise ValueError(f"std must not be 0, got {list(std)}")

    def transform(prepared: Prepared) -> Prepared:
        image = prepared.image.astype(np.float32) * np.float32(1 / 255 if is_scale else 1)
        return prepared._replace(image=(image - middle) / deviation if norm_type == "mean_std" else image)

    return transform


def _permute() -> Transform:
    return lambda prepared: prepared._replace(image=prepared.image.transpose(2, 0, 1))


def _pad_to_stride(stride: int) -> Transform:
    """Zeros at the right and below, until both sides are multiples of ``stride``; an image (3, H, W)."""

    def transform(prepared: Prepared) -> Prepared:
        if stride <= 0:
            return prepared
        margins = [(0, math.ceil(side / stride) * stride - side) for side in prepared.image.shape[1:]]
        return prepared._replace(image=np.pad(prepared.image, [(0, 0), *margins]))

    return transform


TRANSFORMS: Mapping[str, Callable[..., Transform]] = {
    "Resize": _resize,
    "NormalizeImage": _normalize,
    "Permute": _permute,
    "PadStride": _pad_to_stride,
}
