"""Random changes to an image that keep its size: flips, affine maps, RandAugment, colours, erasing.

Type hints here are evaluated at run time, so they keep to what Python 3.9 can evaluate.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageEnhance

from ..config import RGB
from ..utils.errors import UserError
from .argument_checks import Size, check_fraction, check_range
from .images import GREY, IMAGE, NORMALIZED, ImageLike, as_pillow, check_rgb, size_of
from .randaugment import RandAugment
from .resizing import PIL_FILTERS, log_uniform


class RandFlipImage:
    """Flip with probability 0.5: horizontally (``flip_code`` 1), vertically (0), or both (-1)."""

    kinds = {IMAGE: IMAGE, NORMALIZED: NORMALIZED}

    def __init__(self, flip_code: Literal[1, 0, -1] = 1):
        slices: dict[int, Any] = {1: np.s_[:, ::-1], 0: np.s_[::-1], -1: np.s_[::-1, ::-1]}
        transposes = {
            1: Image.Transpose.FLIP_LEFT_RIGHT,
            0: Image.Transpose.FLIP_TOP_BOTTOM,
            -1: Image.Transpose.ROTATE_180,
        }
        self.slices = slices[flip_code]
        self.transpose = transposes[flip_code]

    def __call__(self, image: ImageLike, rng: np.random.Generator) -> ImageLike:
        if rng.random() >= 0.5:
            return image
        return image.transpose(self.transpose) if isinstance(image, Image.Image) else image[self.slices]


class TimmAutoAugment:
    """RandAugment as in timm, for example ``rand-m9-mstd0.5-inc1``.

    Args:
        prob: probability of the whole operator.
        config_str: see :class:`~ppreplk.data.randaugment.RandAugment`.
        interpolation: of the geometric operators; ``random`` draws bilinear or bicubic.
        img_size: PaddleClas's argument, without effect: it scales translations in pixels, and RandAugment has none.
        mean: colour, from 0 to 1 per channel, of the pixels that a geometric operator uncovers.
    """

    kinds = {IMAGE: IMAGE}

    def __init__(
        self,
        prob: float = 1.0,
        config_str: str = "rand-m9-mstd0.5-inc1",
        interpolation: Literal["bilinear", "bicubic", "lanczos", "hamming", "random"] = "bicubic",
        img_size: Size = 224,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        image_channels: int = RGB,
    ):
        check_rgb(image_channels)
        self.prob = check_fraction(prob, "prob")
        if len(mean) != 3:
            raise UserError(f"mean needs three numbers, got {list(mean)}", code="data.bad-argument")
        fill = tuple(min(255, round(255 * channel)) for channel in mean)
        names = ("bilinear", "bicubic") if interpolation == "random" else (interpolation,)
        self.augment = RandAugment(config_str, [PIL_FILTERS[name] for name in names], fill)

    def __call__(self, image: ImageLike, rng: np.random.Generator) -> ImageLike:
        return self.augment(as_pillow(image), rng) if rng.random() < self.prob else image


class RandomAffine:
    """Turn, shear, scale and shift an image at random, about its centre. Its size stays.

    All numbers are drawn uniformly. Arguments as in torchvision's transform of this name; PaddleClas has none.

    Args:
        degrees: turned by at most this, either way.
        translate: largest shift to the right or left, and down or up, as fractions of width and height.
        scale: range of the factor; above 1 the content grows.
        shear: horizontal shear by at most this angle in degrees, either way.
        interpolation: of Pillow.
        fill: level from 0 to 255, in all channels, of the pixels that are uncovered.

    Raises:
        UserError: a value out of range.
    """

    kinds = {IMAGE: IMAGE}

    def __init__(
        self,
        degrees: float = 0.0,
        translate: Sequence[float] = (0.0, 0.0),
        scale: Sequence[float] = (1.0, 1.0),
        shear: float = 0.0,
        interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear",
        fill: int = 0,
    ):
        if not 0 <= degrees <= 180 or not 0 <= shear < 90 or not 0 <= fill <= 255:
            raise UserError(
                f"degrees must lie between 0 and 180, shear from 0 to below 90, fill between 0 and 255, got "
                f"{degrees}, {shear} and {fill}",
                code="data.bad-argument",
            )
        if len(translate) != 2 or not all(0 <= part <= 1 for part in translate):
            raise UserError(
                f"translate must be two fractions between 0 and 1, got {list(translate)}", code="data.bad-argument"
            )
        self.degrees = degrees
        self.translate = tuple(translate)
        self.scale = check_range(scale, "scale")
        self.shear = shear
        self.filter = PIL_FILTERS[interpolation]
        self.fill = fill

    def __call__(self, image: ImageLike, rng: np.random.Generator) -> ImageLike:
        angle, shear = np.radians([rng.uniform(-bound, bound) for bound in (self.degrees, self.shear)])
        factor = rng.uniform(*self.scale)
        size = size_of(image)
        shift = [rng.uniform(-part, part) * length for part, length in zip(self.translate, size)]
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        back = np.linalg.inv(factor * turn @ np.array([[1.0, math.tan(shear)], [0.0, 1.0]]))
        centre = np.array(size) / 2  # of Pillow's coordinates, in which pixels have their centres at one half
        offset = centre - back @ (centre + shift)
        matrix = (*back[0], offset[0], *back[1], offset[1])  # from a place in the result to one in the image

        def move(plane: Image.Image) -> Image.Image:
            fill = self.fill if len(plane.getbands()) == 1 else (self.fill,) * len(plane.getbands())
            return plane.transform(plane.size, Image.Transform.AFFINE, matrix, self.filter, fillcolor=fill)

        if isinstance(image, Image.Image) or image.shape[2] in (RGB, GREY):
            return move(as_pillow(image))
        return np.stack([np.asarray(move(as_pillow(image[:, :, i : i + 1]))) for i in range(image.shape[2])], axis=2)


class ColorJitter:
    """Random brightness, contrast, saturation and hue, in random order.

    The first three are factors drawn from [max(0, 1 - value), 1 + value]. The hue is shifted by a number drawn from
    [-hue, hue], in turns of the colour wheel. A value of 0 leaves its property as it is.

    Args:
        prob: probability of the whole operator. PaddleClas's default is above 1, which means always.
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
        image_channels: int = RGB,
    ):
        check_rgb(image_channels)
        if min(prob, brightness, contrast, saturation, hue) < 0 or hue > 0.5:
            raise UserError(
                "prob, brightness, contrast, saturation and hue must not be negative, hue at most 0.5",
                code="data.bad-argument",
            )
        self.prob = prob
        self.hue = hue
        self.factors: dict[Any, float] = {
            ImageEnhance.Brightness: brightness,
            ImageEnhance.Contrast: contrast,
            ImageEnhance.Color: saturation,
        }

    def __call__(self, image: ImageLike, rng: np.random.Generator) -> ImageLike:
        if rng.random() >= self.prob:
            return image
        changed = as_pillow(image)
        steps = [step for step, value in {**self.factors, "hue": self.hue}.items() if value]
        for index in rng.permutation(len(steps)):
            if steps[index] == "hue":
                changed = _shift_hue(changed, rng.uniform(-self.hue, self.hue))
            else:
                value = self.factors[steps[index]]
                changed = steps[index](changed).enhance(rng.uniform(max(0.0, 1.0 - value), 1.0 + value))
        return changed


def _shift_hue(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shift = round(turns * 256)
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


class RandomErasing:
    """Replace a random rectangle of a normalized image, with probability ``EPSILON``.

    Zhong et al., "Random Erasing Data Augmentation", 2017.

    Args:
        EPSILON: probability.
        sl, sh: range of the relative area.
        r1: height / width is drawn between this and its reciprocal.
        mean: colour in mode ``const``.
        attempt: how many rectangles are tried until one fits.
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
        image_channels: int = RGB,
    ):
        if not 0 < r1 <= 1 or not 0 < sl <= sh:
            raise UserError(
                f"r1 must be in (0, 1] and 0 < sl <= sh, got r1 {r1}, sl {sl}, sh {sh}", code="data.bad-argument"
            )
        if tuple(mean) == (0.0, 0.0, 0.0):
            mean = (0.0,) * image_channels
        if len(mean) != image_channels or attempt < 1:
            many = "three" if image_channels == RGB else image_channels
            raise UserError(
                f"mean needs {many} numbers and attempt at least 1, got {list(mean)} and {attempt}",
                code="data.bad-argument",
            )
        self.prob = check_fraction(EPSILON, "EPSILON")
        self.area = (sl, sh)
        self.ratio = (r1, 1 / r1)
        self.colour = np.asarray(mean, np.float32)
        self.attempts = attempt
        self.use_log_aspect = use_log_aspect
        self.mode = mode

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.prob:
            return image
        height, width = image.shape[:2]
        for _ in range(self.attempts):
            area = rng.uniform(*self.area) * height * width
            aspect = log_uniform(rng, self.ratio) if self.use_log_aspect else rng.uniform(*self.ratio)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                image = image.copy(order="K")
                image[top : top + h, left : left + w] = self._fill(h, w, rng)
                break
        return image

    def _fill(self, h: int, w: int, rng: np.random.Generator) -> np.ndarray:
        if self.mode == "const":
            return self.colour
        channels = len(self.colour)
        return rng.standard_normal((h, w, channels) if self.mode == "pixel" else channels, np.float32)
