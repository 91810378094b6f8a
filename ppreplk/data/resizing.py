"""Resizing and cropping.

Type hints here are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Callable, Optional

import numpy as np
from PIL import Image

from ..config import RGB
from ..utils.errors import UserError
from .argument_checks import Size, check_range, check_size
from .images import GREY, IMAGE, NORMALIZED, Backend, ImageLike, as_array, as_pillow, crop, import_cv2, size_of

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
CV2_CHANNELS = 4  # that every filter of OpenCV takes at once
CROP_ATTEMPTS = 10
MAX_ENLARGED_PIXELS = 2**25  # a strip of 1 x 4000 pixels would become 256 x 1,024,000


def log_uniform(rng: np.random.Generator, interval: tuple[float, float]) -> float:
    """A number whose logarithm is uniform between those of the ends of ``interval``."""
    return math.exp(rng.uniform(math.log(interval[0]), math.log(interval[1])))


def make_resizer(interpolation: Optional[str], backend: str) -> Callable[..., ImageLike]:
    """A function (image, width, height) -> image. Pillow antialiases when it shrinks an image, OpenCV does not.

    Pillow's takes a fourth argument, the part to resize: left, top, right, bottom in fractions of pixels.

    Raises:
        UserError: no such interpolation.
    """
    filters = PIL_FILTERS if backend == "pil" else CV2_FILTERS
    name = interpolation or "bilinear"
    if name not in filters:
        raise UserError(
            f"interpolation must be one of {', '.join(filters)} with backend {backend}, got {name!r}",
            code="data.bad-argument",
        )
    if backend == "pil":
        resample = PIL_FILTERS[name]
        return lambda image, width, height, box=None: _resize_with_pillow(image, (width, height), resample, box)
    cv2 = import_cv2()
    flag = getattr(cv2, CV2_FILTERS[name])

    def resize(image: ImageLike, width: int, height: int) -> ImageLike:
        pixels = as_array(image)
        parts = []
        for start in range(0, pixels.shape[2], CV2_CHANNELS):
            part = np.ascontiguousarray(pixels[:, :, start : start + CV2_CHANNELS])
            parts.append(as_array(cv2.resize(part, (width, height), interpolation=flag)))  # it drops a single channel
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    return resize


def _resize_with_pillow(image: ImageLike, size: tuple[int, int], resample: Any, box: Any) -> ImageLike:
    """Channels that are no colours are resized one by one: Pillow would multiply them by a fourth, as transparency."""
    if isinstance(image, Image.Image) or image.shape[2] in (RGB, GREY):
        return as_pillow(image).resize(size, resample, box)
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in image.transpose(2, 0, 1)]
    return np.stack([np.asarray(plane.resize(size, resample, box)) for plane in planes], axis=2)


class ResizeImage:
    """Resize to ``size`` (a number or [width, height]), or the shorter side to ``resize_short``.

    Raises:
        UserError: at a call, ``resize_short`` makes more than :data:`MAX_ENLARGED_PIXELS` of a smaller image.
    """

    kinds = {IMAGE: IMAGE}

    def __init__(
        self,
        size: Optional[Size] = None,
        resize_short: Optional[int] = None,
        interpolation: Optional[str] = None,
        backend: Backend = "cv2",
    ):
        if resize_short is None and size is None:
            raise UserError("give size or resize_short", code="data.bad-argument")
        if resize_short is not None and resize_short < 1:
            raise UserError(f"resize_short must be positive, got {resize_short}", code="data.bad-argument")
        self.resize_short = resize_short
        self.size = None if size is None else check_size(size, "[width, height]")
        self.resize = make_resizer(interpolation, backend)

    def __call__(self, image: ImageLike, rng: np.random.Generator) -> ImageLike:
        width, height = size_of(image)
        if self.resize_short is not None:
            scale = self.resize_short / min(width, height)
            new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
            if new_width * new_height > max(width * height, MAX_ENLARGED_PIXELS):
                raise UserError(
                    f"a strip of {width}x{height} pixels would become one of {new_width}x{new_height} with "
                    f"resize_short {self.resize_short}; cut it into pieces, or leave it out",
                    code="data.thin-image",
                )
            return self.resize(image, new_width, new_height)
        assert self.size is not None
        return self.resize(image, *self.size)


class CropImage:
    """The central part of the image, of ``size`` (a number or [width, height])."""

    kinds = {IMAGE: IMAGE, NORMALIZED: NORMALIZED}

    def __init__(self, size: Size):
        self.size = check_size(size, "[width, height]")

    def __call__(self, image: ImageLike, rng: np.random.Generator) -> ImageLike:
        width, height = size_of(image)
        left, top = (width - self.size[0]) // 2, (height - self.size[1]) // 2
        if left < 0 or top < 0:
            raise UserError(
                f"CropImage {self.size[0]}x{self.size[1]} is larger than the image, {width}x{height}",
                code="data.crop-too-large",
            )
        return crop(image, left, top, *self.size)


class RandomCrop(ABC):
    """A random part of the image, resized to ``size``. The base of the two variants below.

    Args:
        size: width and height of the result.
        interpolation, backend: of the resizing.
    """

    kinds = {IMAGE: IMAGE}

    def __init__(self, size: tuple[int, int], interpolation: Optional[str], backend: str):
        self.size = size
        self.backend = backend
        self.resize = make_resizer(interpolation, backend)

    @abstractmethod
    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Left, top, width and height of the part to keep of a ``width`` x ``height`` image."""

    def __call__(self, image: ImageLike, rng: np.random.Generator) -> ImageLike:
        return self.resize(crop(image, *self.box(*size_of(image), rng)), *self.size)


class RandCropImage(RandomCrop):
    """A random part of the image, resized to ``size`` ([width, height]): PaddleClas's variant.

    The relative area is limited so that a box of the drawn ratio fits into the image.

    Args:
        size: a number or [width, height].
        scale: range of the relative area.
        ratio: range of width / height.
        interpolation, backend: of the resizing.
        use_log_aspect: draw the ratio log-uniformly instead of uniformly.
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
        super().__init__(check_size(size, "[width, height]"), interpolation, backend)
        self.scale = check_range(scale or (0.08, 1.0), "scale")
        self.ratio = check_range(ratio or (3 / 4, 4 / 3), "ratio")
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

    Up to ten boxes are drawn until one fits into the image. If none does, the largest central box of an allowed ratio
    is used. Resizing is Pillow's.

    Args:
        size: a number or [height, width].
        scale: range of the relative area, drawn uniformly.
        ratio: range of width / height, drawn log-uniformly.
        interpolation: of the resizing.
    """

    def __init__(
        self,
        size: Size,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
    ):
        height, width = check_size(size, "[height, width]")
        super().__init__((width, height), interpolation, "pil")
        self.scale = check_range(scale, "scale")
        self.ratio = check_range(ratio, "ratio")

    def box(self, width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        for _ in range(CROP_ATTEMPTS):
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
