"""Decoding image files.

Type hints here are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from PIL import Image

from ..utils.errors import UserError
from .images import ENCODED, IMAGE, Backend, ImageLike, as_array, crop, import_cv2
from .resizing import RandomCrop

REDUCING_GAP = 2.0  # at twice the size that is needed, Pillow's documentation calls the difference hardly visible


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn whatever a decoder raises for a broken image into a :class:`UserError`."""
    try:
        yield
    except Image.UnidentifiedImageError as error:  # its own text names a buffer in memory
        raise UserError("cannot be decoded: not an image in a known format", code="data.unreadable-image") from error
    except Exception as error:  # decoders raise many kinds for broken data
        raise UserError(f"cannot be decoded as an image ({error})", code="data.unreadable-image") from error


class DecodeImage:
    """Encoded bytes to an image: RGB with ``to_rgb``, BGR without.

    PaddleClas's ``to_np: False`` makes Pillow images. They are always RGB and need ``backend: pil``.
    """

    kinds = {ENCODED: IMAGE}

    def __init__(
        self,
        to_np: bool = True,
        to_rgb: bool = True,
        channel_first: Literal[False] = False,
        backend: Backend = "cv2",
    ):
        if not to_np and backend != "pil":
            raise UserError("to_np: False needs backend: pil", code="data.bad-argument")
        self.to_rgb = to_rgb or not to_np
        self.backend = backend
        self.cv2: Any = import_cv2() if backend == "cv2" else None

    def __call__(self, data: bytes, rng: np.random.Generator) -> ImageLike:
        with _decoding():
            image = self._opencv(data) if self.backend == "cv2" else self.pixels(self.header(data))
        return image if self.to_rgb else as_array(image)[:, :, ::-1]

    def _opencv(self, data: bytes) -> ImageLike:
        image = self.cv2.imdecode(np.frombuffer(data, np.uint8), self.cv2.IMREAD_COLOR)
        if image is None:
            raise OSError("OpenCV cannot decode it")
        return image[:, :, ::-1]

    @staticmethod
    def header(data: bytes) -> Image.Image:
        """An image whose size and mode are known and whose pixels are not decoded yet."""
        return Image.open(io.BytesIO(data))

    @staticmethod
    def pixels(image: Image.Image) -> Image.Image:
        """Decode the pixels, to RGB."""
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")


class DecodeRandomCrop:
    """``DecodeImage`` with Pillow and the random crop that follows it, in one step.

    The box is drawn before the pixels are decoded. A JPEG whose box is much larger than the result is decoded at 1/2,
    1/4 or 1/8 of its size, which leaves the box at least :data:`REDUCING_GAP` times as large as the result.
    """

    kinds = {ENCODED: IMAGE}

    def __init__(self, decode: DecodeImage, random_crop: RandomCrop):
        self.decode = decode
        self.random_crop = random_crop

    @staticmethod
    def serves(decode: Any, random_crop: Any) -> bool:
        """Whether two neighbours of a pipeline can be done in one step."""
        return (
            isinstance(decode, DecodeImage)
            and isinstance(random_crop, RandomCrop)
            and decode.backend == random_crop.backend == "pil"
            and decode.to_rgb
        )

    def __call__(self, data: bytes, rng: np.random.Generator) -> ImageLike:
        with _decoding():
            image = self.decode.header(data)
        width, height = image.size
        left, top, w, h = self.random_crop.box(width, height, rng)
        result = self.random_crop.size
        needed = (_reduced(width, w, result[0]), _reduced(height, h, result[1]))
        with _decoding():
            image.draft(image.mode, needed)
            image = self.decode.pixels(image)
        if image.size == (width, height):
            return self.random_crop.resize(crop(image, left, top, w, h), *result)
        x, y = image.size[0] / width, image.size[1] / height
        return self.random_crop.resize(image, *result, (left * x, top * y, (left + w) * x, (top + h) * y))


def _reduced(side: int, part: int, result: int) -> int:
    """The side that an image needs so that ``part`` of its full ``side`` is large enough for ``result``."""
    return min(side, math.ceil(side * REDUCING_GAP * result / part))
