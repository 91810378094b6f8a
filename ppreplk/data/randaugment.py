"""RandAugment with the operators and magnitudes of timm (``rand-m9-mstd0.5-inc1``).

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2019. A
magnitude is a level from 0 to 10, drawn from a normal distribution and clipped; ``inc1`` chooses the
variants whose strength grows with it.
"""

import re
from collections.abc import Sequence
from typing import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ..utils.errors import UserError

MAX_LEVEL = 10.0
LAYER_PROBABILITY = 0.5
TRANSLATE_SHARE = 0.45  # of the image's side, at the highest level


class Draw:
    """What an operator may use besides its image and level."""

    def __init__(self, rng: np.random.Generator, filters: Sequence[int], fill: tuple[int, ...]):
        self.rng = rng
        self.filters = filters
        self.fill = fill

    def signed(self, value: float) -> float:
        """``value`` or its negative, evenly."""
        return -value if self.rng.random() < 0.5 else value

    def affine(self, image: Image.Image, *matrix: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, self.filter(), fillcolor=self.fill)

    def filter(self) -> int:
        return self.filters[self.rng.integers(len(self.filters))]


Operator = Callable[[Image.Image, float, Draw], Image.Image]


def _enhance(enhancer: Callable, increasing: bool) -> Operator:
    def apply(image: Image.Image, level: float, draw: Draw) -> Image.Image:
        factor = 1.0 + draw.signed(level / MAX_LEVEL * 0.9) if increasing else level / MAX_LEVEL * 1.8 + 0.1
        return enhancer(image).enhance(factor)

    return apply


def _posterize(increasing: bool) -> Operator:
    def apply(image: Image.Image, level: float, draw: Draw) -> Image.Image:
        bits = int(level / MAX_LEVEL * 4)
        bits = 4 - bits if increasing else bits
        mask = 256 - 2 ** (8 - bits)  # with no bits left the image is black; ImageOps.posterize refuses that
        return image.point([value & mask for value in range(256)] * len(image.getbands()))

    return apply


def _solarize(increasing: bool) -> Operator:
    def apply(image: Image.Image, level: float, draw: Draw) -> Image.Image:
        threshold = int(level / MAX_LEVEL * 256)
        return ImageOps.solarize(image, 256 - threshold if increasing else threshold)

    return apply


def _solarize_add(image: Image.Image, level: float, draw: Draw) -> Image.Image:
    add = int(level / MAX_LEVEL * 110)
    table = [min(255, value + add) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _rotate(image: Image.Image, level: float, draw: Draw) -> Image.Image:
    return image.rotate(draw.signed(level / MAX_LEVEL * 30.0), draw.filter(), fillcolor=draw.fill)


def _shear_x(image: Image.Image, level: float, draw: Draw) -> Image.Image:
    return draw.affine(image, 1, draw.signed(level / MAX_LEVEL * 0.3), 0, 0, 1, 0)


def _shear_y(image: Image.Image, level: float, draw: Draw) -> Image.Image:
    return draw.affine(image, 1, 0, 0, draw.signed(level / MAX_LEVEL * 0.3), 1, 0)


def _translate_x(image: Image.Image, level: float, draw: Draw) -> Image.Image:
    return draw.affine(image, 1, 0, draw.signed(level / MAX_LEVEL * TRANSLATE_SHARE) * image.size[0], 0, 1, 0)


def _translate_y(image: Image.Image, level: float, draw: Draw) -> Image.Image:
    return draw.affine(image, 1, 0, 0, 0, 1, draw.signed(level / MAX_LEVEL * TRANSLATE_SHARE) * image.size[1])


def operators(increasing: bool) -> dict[str, Operator]:
    """{name: operator}, the fifteen that RandAugment chooses from."""
    return {
        "AutoContrast": lambda image, level, draw: ImageOps.autocontrast(image),
        "Equalize": lambda image, level, draw: ImageOps.equalize(image),
        "Invert": lambda image, level, draw: ImageOps.invert(image),
        "Rotate": _rotate,
        "Posterize": _posterize(increasing),
        "Solarize": _solarize(increasing),
        "SolarizeAdd": _solarize_add,
        "Color": _enhance(ImageEnhance.Color, increasing),
        "Contrast": _enhance(ImageEnhance.Contrast, increasing),
        "Brightness": _enhance(ImageEnhance.Brightness, increasing),
        "Sharpness": _enhance(ImageEnhance.Sharpness, increasing),
        "ShearX": _shear_x,
        "ShearY": _shear_y,
        "TranslateXRel": _translate_x,
        "TranslateYRel": _translate_y,
    }


class RandAugment:
    """``layers`` random operators per image, each applied with probability 0.5.

    Args:
        config_str: ``rand``, then in any order ``m`` (level, default 10), ``n`` (layers, default 2), ``mstd``
            (standard deviation of the level), ``inc`` (1: strength grows with the level).
        filters: Pillow's resampling filters to draw from.
        fill: colour of what geometric operators uncover.

    Raises:
        UserError: a string that is not of this form.
    """

    def __init__(self, config_str: str, filters: Sequence[int], fill: tuple[int, ...]):
        family, *sections = config_str.split("-")
        if family != "rand":
            raise UserError(f"config_str: only RandAugment ('rand-...') is served, got {config_str!r}")
        values = {"m": MAX_LEVEL, "n": 2.0, "mstd": 0.0, "inc": 0.0}
        for section in sections:
            match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", section)
            if not match or match[1] not in values:
                raise UserError(f"config_str: {section!r} in {config_str!r} is none of m, n, mstd, inc with a number")
            values[match[1]] = float(match[2])
        if values["m"] > MAX_LEVEL or values["n"] < 1:
            raise UserError(f"config_str: m must be at most 10 and n at least 1, got {config_str!r}")
        self.level = values["m"]
        self.layers = int(values["n"])
        self.deviation = values["mstd"]
        self.operators = list(operators(increasing=bool(values["inc"])).values())
        self.filters = list(filters)
        self.fill = fill

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        draw = Draw(rng, self.filters, self.fill)
        for index in rng.integers(len(self.operators), size=self.layers):
            if rng.random() < LAYER_PROBABILITY:
                level = rng.normal(self.level, self.deviation) if self.deviation else self.level
                image = self.operators[index](image, min(max(level, 0.0), MAX_LEVEL), draw)
        return image
