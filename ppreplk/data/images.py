"""Images between transforms: their kinds, and the two forms of an 8-bit image.

An 8-bit image is a Pillow image or an array, whichever the last transform made: converting costs as much as a light
augmentation. :func:`as_pillow` and :func:`as_array` convert where a transform needs the other form.
"""

from types import ModuleType
from typing import Literal, Union

import numpy as np
from PIL import Image

from ..config import RGB
from ..utils.errors import UserError
from ..utils.optional import import_optional

ENCODED = "an encoded image"  # bytes
IMAGE = "an image"  # (H, W, C) uint8; with 3 channels or 1 also a Pillow image in mode RGB or L
NORMALIZED = "a normalized image"  # (H, W, C) float32
IMAGE_CHW = "a channel-first image"  # (C, H, W) uint8
NORMALIZED_CHW = "a normalized channel-first image"  # (C, H, W) float32
GREY = 1  # channels

ImageLike = Union[np.ndarray, Image.Image]
Backend = Literal["cv2", "pil"]


def as_pillow(image: ImageLike) -> Image.Image:
    """An (H, W, 3) or (H, W, 1) uint8 array as a Pillow image. A Pillow image is returned as it is."""
    if isinstance(image, Image.Image):
        return image
    return Image.fromarray(np.ascontiguousarray(image[:, :, 0] if image.shape[2] == GREY else image))


def as_array(image: ImageLike) -> np.ndarray:
    """A Pillow image as an (H, W, C) uint8 array. An array is returned as it is."""
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def size_of(image: ImageLike) -> tuple[int, int]:
    """Width and height."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def crop(image: ImageLike, left: int, top: int, width: int, height: int) -> ImageLike:
    """A part of an image, in the form of the image."""
    if isinstance(image, Image.Image):
        return image.crop((left, top, left + width, top + height))
    return image[top : top + height, left : left + width]


def check_rgb(channels: int) -> None:
    """Refuse images that are not RGB, for a transform that changes colours.

    Raises:
        UserError: another number of channels.
    """
    if channels != RGB:
        raise UserError(
            f"changes colours, so it needs RGB images, but Arch.in_channels is {channels}; leave it out",
            code="data.needs-rgb",
        )


def import_cv2() -> ModuleType:
    """OpenCV. Only ``backend: cv2`` needs it.

    Raises:
        UserError: it is missing or broken.
    """
    remedy = "use backend: pil, or run: pip install opencv-python-headless"
    cv2 = import_optional("cv2", "backend cv2 needs OpenCV", remedy, "data.missing-package")
    cv2.setNumThreads(0)  # the loader's processes are the parallelism
    return cv2
