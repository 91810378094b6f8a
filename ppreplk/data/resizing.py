"""Resizing and cropping.

Type hints here are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Callable, Optional, Union

import numpy as np
from PIL import Image

from ..utils.errors import UserError
from .images import IMAGE, NORMALIZED, Backend, Picture, as_array, as_pillow, crop, import_cv2, size_of

Size = Union[int, Sequence[int]]

PIL_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
}
CV2_FILTERS = {
    "nearest": "INTER_NEAREST",
    "bilinear": "INTER_LINEAR",
    "area": "INTER_AREA",
    "bicubic": "INTER_CUBIC",
    "lanczos": "INTER_LANCZOS4",
}


def _pair(size: Size, order: str) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise UserError(f"size must be one positive number or {order}, got {size}")
    return pair


def _resizer(interpolation: Optional[str], backend: str) -> Callable[..., Picture]:
    """A function (image, width, height) -> image. Pillow antialiases when it shrinks, OpenCV does not.

    Pillow's takes a fourth argument, the part to resize: left, top, right, bottom in fractions of pixels.
    """
    filters = PIL_FILTERS if backend == "pil" else CV2_FILTERS
    name = interpolation or "bilinear"
    if name not in filters:
        raise UserError(f"interpolation must be one of {', '.join(filters)} with backend {backend}, got {name!r}")
    if backend == "pil":
        resample = PIL_FILTERS[name]
        return lambda image, width, height, box=None: as_pillow(image).resize((width, height), resample, box)
    cv2 = import_cv2()
    flag = getattr(cv2, CV2_FILTERS[name])
    return lambda image, width, height: cv2.resize(as_array(image), (width, height), interpolation=flag)


class ResizeImage:
    """Resize to ``size`` (number or [width, height]), or the shorter side to ``resize_short``."""

    kinds = {IMAGE: IMAGE}

    def __init__(
        self,
        size: Optional[Size] = None,
        resize_short: Optional[int] = None,
        interpolation: Optional[str] = None,
        backend: Backend = "cv2",
    ):
        if resize_short is None and size is None:
            raise UserError("give size or resize_short")
        if resize_short is not None and resize_short < 1:
            raise UserError(f"resize_short must be positive, got {resize_short}")
        self.resize_short = resize_short
        self.size = None if size is None else _pair(size, "[width, height]")
        self.resize = _resizer(interpolation, backend)

    def __call__(self, image: Picture, rng: np.random.Generator) -> Picture:
        if self.resize_short is None:
            return self.resize(image, *self.size)
        width, height = size_of(image)
        scale = self.resize_short / min(width, height)
        return self.resize(image, max(1, round(width * scale)), max(1, round(height * scale)))


class CropImage:
    """The central ``size`` (number or [width, height]) of the image."""

    kinds = {IMAGE: IMAGE, NORMALIZED: NORMALIZED}

    def __init__(self, size: Size):
        self.size = _pair(size, "[width, height]")

    def __call__(self, image: Picture, rng: np.random.Generator) -> Picture:
        width, height = size_of(image)
        left, top = (width - self.size[0]) // 2, (height - self.size[1]) // 2
        if left < 0 or top < 0:
            raise UserError(f"CropImage {self.size[0]}x{self.size[1]} is larger than the image, {width}x{height}")
        return crop(image, left, top, *self.size)


class RandomCrop(ABC):
    """A random part of the image, resized to ``size``: what the two variants below share.

    Args:
        size: width and height of the result.
        interpolation, backend: of the resizing.
    """

    kinds = {IMAGE: IMAGE}

    def __init__(self, size: tuple[int, int], interpolation: Optional[str], backend: str):
        self.size = size
        self.backend = backend
        self.resize = _resizer(interpolation, backend)

    @abstractmethod
    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """left, top, width and height of the part to keep of a ``width`` x ``height`` image."""

    def __call__(self, image: Picture, rng: np.random.Generator) -> Picture:
        return self.resize(crop(image, *self.box(*size_of(image), rng)), *self.size)


class RandCropImage(RandomCrop):
    """A random part of the image, resized to ``size``: PaddleClas's variant, which bounds the area.

    ``scale`` is the range of the relative area, ``ratio`` of width / height, drawn uniformly or, with
    ``use_log_aspect``, log-uniformly.
    """

    def __init__(
        self,
        size: Size,
        scale: Optional[Sequence[float]] = None,
        ratio: Optional[Sequence[float]] = None,
        interpolation: Optional[str] = None,
        use_log_aspect: bool = False,
        backend: Backend = "cv2",
    ):
        super().__init__(_pair(size, "[width, height]"), interpolation, backend)
        self.scale = _interval(scale or (0.08, 1.0), "scale")
        self.ratio = _interval(ratio or (3 / 4, 4 / 3), "ratio")
        self.use_log_aspect = use_log_aspect

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        aspect = log_uniform(rng, self.ratio) if self.use_log_aspect else rng.uniform(*self.ratio)
        bound = min(width / height / aspect, height / width * aspect)
        area = width * height * rng.uniform(min(self.scale[0], bound), min(self.scale[1], bound))
        w = min(max(int(math.sqrt(area * aspect)), 1), width)
        h = min(max(int(math.sqrt(area / aspect)), 1), height)
        return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h


class RandomResizedCrop(RandomCrop):
    """A random part of the image, resized to ``size`` ([height, width]): the variant of torchvision and timm.

    Ten tries at a box of relative area in ``scale`` and width / height in ``ratio``, drawn log-uniformly;
    then the largest central box whose ratio is allowed. Resized with Pillow.
    """

    def __init__(
        self,
        size: Size,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
    ):
        height, width = _pair(size, "[height, width]")
        super().__init__((width, height), interpolation, "pil")
        self.scale = _interval(scale, "scale")
        self.ratio = _interval(ratio, "ratio")

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            aspect = log_uniform(rng, self.ratio)
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
        w, h = width, height
        if width / height < self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(height * self.ratio[1])
        return (width - w) // 2, (height - h) // 2, w, h


def _interval(values: Sequence[float], name: str) -> tuple[float, float]:
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise UserError(f"{name} must be two positive numbers in order, got {list(values)}")
    return values[0], values[1]


def log_uniform(rng: np.random.Generator, interval: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(interval[0]), math.log(interval[1])))
