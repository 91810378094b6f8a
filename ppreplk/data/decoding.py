"""Decoding image files.

Type hints here are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from PIL import Image

from ..config import RGB
from ..utils.errors import UserError
from .images import ENCODED, GREY, IMAGE, Backend, ImageLike, as_array, as_pillow, crop, import_cv2
from .pixels import SIDEWAYS, from_array, numbers_to_channels, orientation, to_channels, upright
from .resizing import RandomCrop

REDUCING_GAP = 2.0  # at twice the size that is needed, Pillow's documentation calls the difference hardly visible
JPEGS = ("JPEG", "MPO")  # Pillow's names of the formats; an MPO is several JPEGs
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
NPY = b"\x93NUMPY"  # begins an array that numpy has saved


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn whatever a decoder raises for a broken image into a :class:`UserError`, and keep its warnings quiet.

    A loader process would print them anew in each epoch.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"has more pixels than Pillow decodes ({error}); if it is no attack, make it smaller with another program, "
            "or leave it out",
            code="data.too-many-pixels",
        ) from error
    except Image.UnidentifiedImageError as error:  # its own text names a buffer in memory
        raise UserError("cannot be decoded: not an image in a known format", code="data.unreadable-image") from error
    except Exception as error:  # decoders raise many kinds for broken data
        raise UserError(f"cannot be decoded as an image ({error})", code="data.unreadable-image") from error


class DecodeImage:
    """Encoded bytes to an image: RGB with ``to_rgb``, BGR without.

    The image is upright, on white and 8 bits deep, whatever the file holds: see :mod:`ppreplk.data.pixels`. The
    backends agree. OpenCV decodes 8-bit JPEGs, and what Pillow does not know; Pillow decodes the rest.

    PaddleClas's ``to_np: False`` makes Pillow images. They are always RGB and need ``backend: pil``.

    With ``Arch.in_channels`` 1 images are grey, and with another number they have the channels of the file. Besides
    image files, arrays that numpy has saved (``.npy``) are read, (H, W, C).
    """

    kinds = {ENCODED: IMAGE}

    def __init__(
        self,
        to_np: bool = True,
        to_rgb: bool = True,
        channel_first: Literal[False] = False,
        backend: Backend = "cv2",
        image_channels: int = RGB,
    ):
        if not to_np and backend != "pil":
            raise UserError("to_np: False needs backend: pil", code="data.bad-argument")
        if not to_rgb and image_channels != RGB:
            raise UserError(
                f"to_rgb: False means BGR, but Arch.in_channels is {image_channels}", code="data.bad-argument"
            )
        self.to_rgb = to_rgb or not to_np
        self.backend = backend
        self.channels = image_channels
        self.cv2: Any = import_cv2() if backend == "cv2" else None

    def __call__(self, data: bytes, rng: np.random.Generator) -> ImageLike:
        with _decoding():
            if data.startswith(NPY):
                image = numbers_to_channels(np.load(io.BytesIO(data), allow_pickle=False), self.channels)
            else:
                image = self._opencv(data) if self.backend == "cv2" else self.pixels(self.header(data))
        return image if self.to_rgb else as_array(image)[:, :, ::-1]

    def show(self, image: ImageLike) -> ImageLike:
        """An image that somebody else has decoded, as this transform leaves it.

        Args:
            image: a Pillow image of any mode, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8 or uint16
                whose colours are RGB. With ``Arch.in_channels`` other than 3 and 1, an array (H, W, in_channels), or
                an image of so many bands.

        Raises:
            UserError: an array of another shape or type, or a Pillow image whose white is not known.
        """
        with _decoding():
            if isinstance(image, Image.Image) or self.channels in (RGB, GREY):
                shown = self.pixels(image if isinstance(image, Image.Image) else from_array(image))
            else:
                shown = numbers_to_channels(image, self.channels)
        return shown if self.to_rgb else as_array(shown)[:, :, ::-1]

    def _opencv(self, data: bytes) -> ImageLike:
        try:
            header = self.header(data)
        except Image.UnidentifiedImageError:
            return self._unknown_to_pillow(data)
        is_plain = header.format in JPEGS and header.mode in ("RGB", "L") and self.channels == RGB
        if not is_plain or not _is_complete_jpeg(data):
            return self.pixels(header)
        flags = self.cv2.IMREAD_COLOR | self.cv2.IMREAD_IGNORE_ORIENTATION
        image = self.cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if image is None:
            raise OSError("OpenCV cannot decode it")
        image, turned = image[:, :, ::-1], orientation(header)
        return image if turned == 1 else as_array(upright(as_pillow(image), turned))

    def _unknown_to_pillow(self, data: bytes) -> ImageLike:
        image = self.cv2.imdecode(np.frombuffer(data, np.uint8), self.cv2.IMREAD_COLOR | self.cv2.IMREAD_ANYDEPTH)
        if image is None:
            raise OSError("neither Pillow nor OpenCV knows its format")
        return numbers_to_channels(image[:, :, ::-1], self.channels)

    @staticmethod
    def header(data: bytes) -> Image.Image:
        """An image whose size and mode are known and whose pixels are not decoded yet."""
        if not data:
            raise UserError("cannot be decoded: the file is empty", code="data.unreadable-image")
        return Image.open(io.BytesIO(data))

    def pixels(self, image: Image.Image) -> ImageLike:
        """Decode the pixels, upright, to a Pillow image in RGB or grey, or to an array of other channels."""
        image.load()
        return to_channels(image, self.channels)


def _is_complete_jpeg(data: bytes) -> bool:
    """Whether the end of the image follows its last scan. OpenCV fills what is missing with grey, without a word."""
    return data.rfind(END_OF_IMAGE) > data.rfind(START_OF_SCAN) > 0


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
            and decode.channels in (RGB, GREY)
        )

    def __call__(self, data: bytes, rng: np.random.Generator) -> ImageLike:
        if data.startswith(NPY):
            return self.random_crop(self.decode(data, rng), rng)
        with _decoding():
            header = self.decode.header(data)
            can_shrink = header.format in JPEGS
            image = header if can_shrink else as_pillow(self.decode.pixels(header))
            sideways = can_shrink and orientation(header) in SIDEWAYS
        width, height = image.size[::-1] if sideways else image.size
        left, top, w, h = self.random_crop.box(width, height, rng)
        result = self.random_crop.size
        if can_shrink:
            needed = (_reduced(width, w, result[0]), _reduced(height, h, result[1]))
            with _decoding():
                header.draft(header.mode, needed[::-1] if sideways else needed)
                image = as_pillow(self.decode.pixels(header))
        if image.size == (width, height):
            return self.random_crop.resize(crop(image, left, top, w, h), *result)
        x, y = image.size[0] / width, image.size[1] / height
        return self.random_crop.resize(image, *result, (left * x, top * y, (left + w) * x, (top + h) * y))


def _reduced(side: int, part: int, result: int) -> int:
    """The side that an image needs so that ``part`` of its full ``side`` is large enough for ``result``."""
    return min(side, math.ceil(side * REDUCING_GAP * result / part))
