"""Image transforms under PaddleClas's names, arguments and defaults.

A transform is called with an image and a ``numpy.random.Generator`` and returns an image. What it takes and
gives is one of the kinds below, checked when a pipeline is built. All randomness comes from the generator,
which the dataset seeds per image: results do not depend on worker processes.

An 8-bit image is a Pillow image or an array, whichever the last transform made: converting costs as much as a
light augmentation. :func:`as_pillow` and :func:`as_array` convert where a transform needs the other form.

Type hints here are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable, Literal, Optional, Union

import numpy as np
from PIL import Image, ImageEnhance

from ..config import Ops, construct, find_op
from ..utils.errors import UserError
from .randaugment import RandAugment

ENCODED = "an encoded image"  # bytes
IMAGE = "an image"  # (H, W, 3) uint8, or a Pillow image in mode RGB
NORMALIZED = "a normalized image"  # (H, W, 3) float32
IMAGE_CHW = "a channel-first image"  # (3, H, W) uint8
NORMALIZED_CHW = "a normalized channel-first image"  # (3, H, W) float32

Size = Union[int, Sequence[int]]
Picture = Union[np.ndarray, Image.Image]
Transform = Callable[[Any, np.random.Generator], Any]

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


def as_pillow(image: Picture) -> Image.Image:
    """(H, W, 3) uint8, or a Pillow image, as a Pillow image."""
    return image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))


def as_array(image: Picture) -> np.ndarray:
    """A Pillow image, or an array, as an array."""
    return np.asarray(image)


def size_of(image: Picture) -> tuple[int, int]:
    """Width and height."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def crop(image: Picture, left: int, top: int, width: int, height: int) -> Picture:
    """The part of an image, in its own form."""
    if isinstance(image, Image.Image):
        return image.crop((left, top, left + width, top + height))
    return image[top : top + height, left : left + width]


def _cv2():
    """OpenCV, which paddleclas brings along; only ``backend: cv2`` needs it."""
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"backend cv2 needs OpenCV ({error}); use backend: pil, or run: pip install opencv-python-headless"
        ) from error
    cv2.setNumThreads(0)  # the loader's processes are the parallelism
    return cv2


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
    cv2 = _cv2()
    flag = getattr(cv2, CV2_FILTERS[name])
    return lambda image, width, height: cv2.resize(as_array(image), (width, height), interpolation=flag)


Backend = Literal["cv2", "pil"]


class DecodeImage:
    """Encoded bytes to an image, RGB with ``to_rgb`` and BGR without.

    ``to_np: False``, Pillow images in PaddleClas, is always RGB and needs ``backend: pil``.
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
            raise UserError("to_np: False needs backend: pil")
        self.to_rgb = to_rgb or not to_np
        self.backend = backend
        self.cv2 = _cv2() if backend == "cv2" else None

    def __call__(self, data: bytes, rng: np.random.Generator) -> Picture:
        with _decoding():
            image = self._opencv(data) if self.backend == "cv2" else self.pixels(self.header(data))
        return image if self.to_rgb else as_array(image)[:, :, ::-1]

    def _opencv(self, data: bytes) -> np.ndarray:
        image = self.cv2.imdecode(np.frombuffer(data, np.uint8), self.cv2.IMREAD_COLOR)
        if image is None:
            raise OSError("OpenCV cannot decode it")
        return image[:, :, ::-1]

    @staticmethod
    def header(data: bytes) -> Image.Image:
        """Size and mode; the pixels are decoded when they are asked for."""
        return Image.open(io.BytesIO(data))

    @staticmethod
    def pixels(image: Image.Image) -> Image.Image:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def _decoding() -> Iterator[None]:
    """Whatever a decoder raises for a broken image is a :class:`UserError`."""
    try:
        yield
    except Image.UnidentifiedImageError as error:  # its own text names a buffer in memory
        raise UserError("cannot be decoded: not an image in a known format") from error
    except Exception as error:  # decoders raise many kinds for broken data
        raise UserError(f"cannot be decoded as an image ({error})") from error


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
        aspect = _log_uniform(rng, self.ratio) if self.use_log_aspect else rng.uniform(*self.ratio)
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
            aspect = _log_uniform(rng, self.ratio)
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
        w, h = width, height
        if width / height < self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(height * self.ratio[1])
        return (width - w) // 2, (height - h) // 2, w, h


REDUCING_GAP = 2.0  # at twice the size that is needed, Pillow's documentation calls the difference hardly visible


class DecodeRandomCrop:
    """``DecodeImage`` with Pillow and the random crop behind it, in one step.

    The box is drawn before the pixels are decoded: a JPEG whose box is much larger than the result is decoded at
    1/2, 1/4 or 1/8 of its size, which leaves the box at least :data:`REDUCING_GAP` times as large as the result.
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

    def __call__(self, data: bytes, rng: np.random.Generator) -> Picture:
        with _decoding():
            image = self.decode.header(data)
        width, height = image.size
        left, top, w, h = self.random_crop.box(width, height, rng)
        result = self.random_crop.size
        needed = [
            min(full, math.ceil(full * REDUCING_GAP * wanted / part))
            for full, part, wanted in zip((width, height), (w, h), result)
        ]
        with _decoding():
            image.draft(image.mode, tuple(needed))
            image = self.decode.pixels(image)
        if image.size == (width, height):
            return self.random_crop.resize(crop(image, left, top, w, h), *result)
        x, y = image.size[0] / width, image.size[1] / height
        return self.random_crop.resize(image, *result, (left * x, top * y, (left + w) * x, (top + h) * y))


def _interval(values: Sequence[float], name: str) -> tuple[float, float]:
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise UserError(f"{name} must be two positive numbers in order, got {list(values)}")
    return values[0], values[1]


def _probability(value: float, name: str) -> float:
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{name} is a probability, between 0 and 1, got {value}")
    return value


def _log_uniform(rng: np.random.Generator, interval: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(interval[0]), math.log(interval[1])))


class RandFlipImage:
    """Flip with probability 0.5: horizontally (``flip_code`` 1), vertically (0), both (-1)."""

    kinds = {IMAGE: IMAGE, NORMALIZED: NORMALIZED}

    def __init__(self, flip_code: Literal[1, 0, -1] = 1):
        self.slices = {1: np.s_[:, ::-1], 0: np.s_[::-1], -1: np.s_[::-1, ::-1]}[flip_code]
        transpose = Image.Transpose
        self.transpose = {1: transpose.FLIP_LEFT_RIGHT, 0: transpose.FLIP_TOP_BOTTOM, -1: transpose.ROTATE_180}[
            flip_code
        ]

    def __call__(self, image: Picture, rng: np.random.Generator) -> Picture:
        if rng.random() >= 0.5:
            return image
        return image.transpose(self.transpose) if isinstance(image, Image.Image) else image[self.slices]


class TimmAutoAugment:
    """RandAugment as in timm, for example ``rand-m9-mstd0.5-inc1``.

    ``img_size`` and ``mean`` are PaddleClas's: the first scales translations given in pixels, which no op
    of RandAugment is; the second is the colour that fills what a geometric op uncovers.
    """

    kinds = {IMAGE: IMAGE}

    def __init__(
        self,
        prob: float = 1.0,
        config_str: str = "rand-m9-mstd0.5-inc1",
        interpolation: Literal["bilinear", "bicubic", "lanczos", "hamming", "random"] = "bicubic",
        img_size: Size = 224,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
    ):
        self.prob = _probability(prob, "prob")
        if len(mean) != 3:
            raise UserError(f"mean needs three numbers, got {list(mean)}")
        fill = tuple(min(255, round(255 * channel)) for channel in mean)
        names = ("bilinear", "bicubic") if interpolation == "random" else (interpolation,)
        self.augment = RandAugment(config_str, [PIL_FILTERS[name] for name in names], fill)

    def __call__(self, image: Picture, rng: np.random.Generator) -> Picture:
        return self.augment(as_pillow(image), rng) if rng.random() < self.prob else image


class ColorJitter:
    """Random brightness, contrast, saturation and hue, in random order.

    The first three are factors drawn from [max(0, 1 - value), 1 + value]; ``hue`` is a shift drawn from
    [-hue, hue], in turns of the colour wheel. A value of 0 leaves its property alone.

    Args:
        prob: probability of the whole operator; PaddleClas's default is above 1, always.
        brightness, contrast, saturation: not negative.
        hue: at most 0.5.
    """

    kinds = {IMAGE: IMAGE}

    def __init__(
        self,
        prob: float = 2,
        brightness: float = 0,
        contrast: float = 0,
        saturation: float = 0,
        hue: float = 0,
    ):
        if min(prob, brightness, contrast, saturation, hue) < 0 or hue > 0.5:
            raise UserError("prob, brightness, contrast, saturation and hue must not be negative, hue at most 0.5")
        self.prob = prob
        self.factors = {
            ImageEnhance.Brightness: brightness,
            ImageEnhance.Contrast: contrast,
            ImageEnhance.Color: saturation,
        }
        self.hue = hue

    def __call__(self, image: Picture, rng: np.random.Generator) -> Picture:
        if rng.random() >= self.prob:
            return image
        picture = as_pillow(image)
        steps = [step for step, value in {**self.factors, "hue": self.hue}.items() if value]
        for index in rng.permutation(len(steps)):
            if steps[index] == "hue":
                picture = _shift_hue(picture, rng.uniform(-self.hue, self.hue))
            else:
                value = self.factors[steps[index]]
                picture = steps[index](picture).enhance(rng.uniform(max(0.0, 1.0 - value), 1.0 + value))
        return picture


def _shift_hue(picture: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    shift = round(turns * 256)
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


class NormalizeImage:
    """``(image * scale - mean) / std`` per channel, to float32. ``order`` is ``chw``, or ``hwc`` or empty."""

    def __init__(
        self,
        scale: Optional[float] = None,
        mean: Optional[Sequence[float]] = None,
        std: Optional[Sequence[float]] = None,
        order: Literal["chw", "hwc", ""] = "chw",
        output_fp16: Literal[False] = False,
        channel_num: Literal[3] = 3,
    ):
        self.kinds = {IMAGE_CHW: NORMALIZED_CHW} if order == "chw" else {IMAGE: NORMALIZED}
        self.channel_first = order == "chw"
        mean, std = mean or (0.485, 0.456, 0.406), std or (0.229, 0.224, 0.225)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise UserError(f"mean and std need three numbers each, std positive, got {list(mean)} and {list(std)}")
        std = np.asarray(std, np.float64).reshape(3, 1, 1)
        self.factor = ((1 / 255 if scale is None else scale) / std).astype(np.float32)
        self.offset = (np.asarray(mean, np.float64).reshape(3, 1, 1) / std).astype(np.float32)

    def __call__(self, image: Picture, rng: np.random.Generator) -> np.ndarray:
        planes = as_array(image) if self.channel_first else as_array(image).transpose(2, 0, 1)
        # channel-first in memory in either case: faster here, and what the network takes in the end
        planes = np.multiply(planes, self.factor, order="C")
        planes -= self.offset
        return planes if self.channel_first else planes.transpose(1, 2, 0)


class ToCHWImage:
    """(H, W, 3) to (3, H, W)."""

    kinds = {IMAGE: IMAGE_CHW, NORMALIZED: NORMALIZED_CHW}

    def __call__(self, image: Picture, rng: np.random.Generator) -> np.ndarray:
        return as_array(image).transpose(2, 0, 1)


class RandomErasing:
    """Replace a random rectangle of a normalized image, with probability ``EPSILON``.

    Args:
        EPSILON: probability.
        sl, sh: range of the relative area.
        r1: height / width is drawn between this and its reciprocal.
        mean: colour in mode ``const``.
        attempt: tries at a rectangle that fits.
        use_log_aspect: draw the ratio log-uniformly.
        mode: ``const`` fills with ``mean``, ``rand`` with one normal colour, ``pixel`` with normal noise.
    """

    kinds = {NORMALIZED: NORMALIZED}

    def __init__(
        self,
        EPSILON: float = 0.5,
        sl: float = 0.02,
        sh: float = 0.4,
        r1: float = 0.3,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        attempt: int = 100,
        use_log_aspect: bool = False,
        mode: Literal["const", "rand", "pixel"] = "const",
    ):
        if not 0 < r1 <= 1 or not 0 < sl <= sh:
            raise UserError(f"r1 must be in (0, 1] and 0 < sl <= sh, got r1 {r1}, sl {sl}, sh {sh}")
        if len(mean) != 3 or attempt < 1:
            raise UserError(f"mean needs three numbers and attempt at least 1, got {list(mean)} and {attempt}")
        self.probability = _probability(EPSILON, "EPSILON")
        self.area = (sl, sh)
        self.ratio = (r1, 1 / r1)
        self.colour = np.asarray(mean, np.float32)
        self.attempts = attempt
        self.use_log_aspect = use_log_aspect
        self.mode = mode

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.probability:
            return image
        height, width = image.shape[:2]
        for _ in range(self.attempts):
            area = rng.uniform(*self.area) * height * width
            aspect = _log_uniform(rng, self.ratio) if self.use_log_aspect else rng.uniform(*self.ratio)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                image = image.copy(order="K")
                image[top : top + h, left : left + w] = self._pixels(h, w, rng)
                break
        return image

    def _pixels(self, h: int, w: int, rng: np.random.Generator) -> np.ndarray:
        if self.mode == "const":
            return self.colour
        return rng.standard_normal((h, w, 3) if self.mode == "pixel" else 3, np.float32)


TRANSFORMS: dict[str, Callable[..., Transform]] = {
    cls.__name__: cls
    for cls in (
        DecodeImage,
        ResizeImage,
        CropImage,
        RandCropImage,
        RandomResizedCrop,
        RandFlipImage,
        TimmAutoAugment,
        ColorJitter,
        NormalizeImage,
        ToCHWImage,
        RandomErasing,
    )
}
UNSERVED_TRANSFORMS = dict.fromkeys(
    (
        "AugMix AutoAugment CenterCrop CropImageAtRatio CropWithPadding Cutout GridMask HideAndSeek "
        "Normalize Pad Padv2 PCALighting RandAugment RandAugmentV2 RandAugmentV3 RandAugmentV4 RandCropImageV2 "
        "RandomApply RandomCropImage RandomGrayscale RandomHorizontalFlip RandomInterpolationAugment RandomRot90 "
        "RandomRotation Resize ToTensor"
    ).split(),
    "the recipes do not use it",
)


ORDER = (
    "the usual order is DecodeImage, resizing and cropping, augmentation, NormalizeImage with order: '', "
    "RandomErasing, and in Infer ToCHWImage last"
)


class Pipeline:
    """Transforms one after the other."""

    def __init__(self, transforms: Sequence[Transform]):
        self.transforms = list(transforms)

    def __call__(self, data: Any, rng: np.random.Generator) -> Any:
        for transform in self.transforms:
            data = transform(data, rng)
        return data


def build_transforms(ops: Ops, result: str, start: str = ENCODED) -> Pipeline:
    """The transforms of ``transform_ops`` or ``Infer.transforms``.

    Args:
        ops: the transforms.
        result: the kind of image that must come out, such as :data:`NORMALIZED`.
        start: the kind that goes in.

    Raises:
        UserError: unknown transforms or arguments, or transforms that do not fit one another.
    """
    transforms, kind = [], start
    for op in ops:
        transform = construct(find_op(op, TRANSFORMS, UNSERVED_TRANSFORMS, "transform"), op.arguments, op.where)
        if kind not in transform.kinds:
            raise UserError(f"{op.where}: takes {' or '.join(transform.kinds)}, but here it gets {kind}; {ORDER}")
        kind = transform.kinds[kind]
        transforms.append(transform)
    if len(transforms) > 1 and DecodeRandomCrop.serves(*transforms[:2]):
        transforms[:2] = [DecodeRandomCrop(*transforms[:2])]
    if kind != result:
        where = ops[-1].where if ops else "the list of transforms"
        raise UserError(f"{where}: leaves {kind}, but {result} is needed at the end; {ORDER}")
    return Pipeline(transforms)
