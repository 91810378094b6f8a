"""RandAugment with the operators and magnitudes of timm (``rand-m9-mstd0.5-inc1``).

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2019. A magnitude is a
level from 0 to 10. It is drawn from a normal distribution and clipped. ``inc1`` chooses the variants whose strength
grows with the level.
"""

import re
from collections.abc import Sequence
from typing import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ..utils.errors import UserError

MAX_LEVEL = 10.0
OP_PROB = 0.5
TRANSLATE_PCT = 0.45  # of the image's side, at the highest level


class OpContext:
    """What an operator may use besides its image and level: random numbers, resampling filters, a fill colour."""

    def __init__(self, rng: np.random.Generator, filters: Sequence[Image.Resampling], fill: tuple[int, ...]):
        self.rng = rng
        self.filters = filters
        self.fill = fill

    def randomly_negate(self, value: float) -> float:
        """``value`` or ``-value``, with probability 0.5 each."""
        return -value if self.rng.random() < 0.5 else value

    def affine(self, image: Image.Image, *matrix: float) -> Image.Image:
        """``image`` under the affine map of Pillow's six numbers ``matrix``."""
        return image.transform(image.size, Image.Transform.AFFINE, matrix, self.filter(), fillcolor=self.fill)

    def filter(self) -> Image.Resampling:
        """One of the resampling filters."""
        return self.filters[self.rng.integers(len(self.filters))]


AugmentOp = Callable[[Image.Image, float, OpContext], Image.Image]


def _enhance(enhancer: Callable, increasing: bool) -> AugmentOp:
    def apply(image: Image.Image, level: float, context: OpContext) -> Image.Image:
        factor = 1.0 + context.randomly_negate(level / MAX_LEVEL * 0.9) if increasing else level / MAX_LEVEL * 1.8 + 0.1
        return enhancer(image).enhance(factor)

    return apply


def _posterize(increasing: bool) -> AugmentOp:
    def apply(image: Image.Image, level: float, context: OpContext) -> Image.Image:
        bits = int(level / MAX_LEVEL * 4)
        bits = 4 - bits if increasing else bits
        mask = 256 - 2 ** (8 - bits)  # with no bits left the image is black; ImageOps.posterize refuses that
        return image.point([value & mask for value in range(256)] * len(image.getbands()))

    return apply


def _solarize(increasing: bool) -> AugmentOp:
    def apply(image: Image.Image, level: float, context: OpContext) -> Image.Image:
        threshold = int(level / MAX_LEVEL * 256)
        return ImageOps.solarize(image, 256 - threshold if increasing else threshold)

    return apply


def _solarize_add(image: Image.Image, level: float, context: OpContext) -> Image.Image:
    add = int(level / MAX_LEVEL * 110)
    table = [min(255, value + add) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _rotate(image: Image.Image, level: float, context: OpContext) -> Image.Image:
    return image.rotate(context.randomly_negate(level / MAX_LEVEL * 30.0), context.filter(), fillcolor=context.fill)


def _shear_x(image: Image.Image, level: float, context: OpContext) -> Image.Image:
    return context.affine(image, 1, context.randomly_negate(level / MAX_LEVEL * 0.3), 0, 0, 1, 0)


def _shear_y(image: Image.Image, level: float, context: OpContext) -> Image.Image:
    return context.affine(image, 1, 0, 0, context.randomly_negate(level / MAX_LEVEL * 0.3), 1, 0)


def _translate_x(image: Image.Image, level: float, context: OpContext) -> Image.Image:
    pixels = context.randomly_negate(level / MAX_LEVEL * TRANSLATE_PCT) * image.size[0]
    return context.affine(image, 1, 0, pixels, 0, 1, 0)


def _translate_y(image: Image.Image, level: float, context: OpContext) -> Image.Image:
    pixels = context.randomly_negate(level / MAX_LEVEL * TRANSLATE_PCT) * image.size[1]
    return context.affine(image, 1, 0, 0, 0, 1, pixels)


def operators(increasing: bool) -> dict[str, AugmentOp]:
    """{name: operator}: the fifteen that RandAugment chooses from.

    Args:
        increasing: the variants whose strength grows with the level.
    """
    return {
        "AutoContrast": lambda image, level, context: ImageOps.autocontrast(image),
        "Equalize": lambda image, level, context: ImageOps.equalize(image),
        "Invert": lambda image, level, context: ImageOps.invert(image),
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
    """``num_layers`` random operators per image, each applied with probability 0.5.

    Args:
        config_str: ``rand``, then in any order and joined by ``-``: ``m`` (magnitude, default 10), ``n`` (number of
            layers, default 2), ``mstd`` (standard deviation of the magnitude, default 0), ``inc`` (1: strength grows
            with the magnitude). For example ``rand-m9-mstd0.5-inc1``.
        filters: Pillow's resampling filters to draw from.
        fill: colour of the pixels that a geometric operator uncovers.

    Raises:
        UserError: ``config_str`` is not of this form.
    """

    def __init__(self, config_str: str, filters: Sequence[Image.Resampling], fill: tuple[int, ...]):
        family, *sections = config_str.split("-")
        if family != "rand":
            raise UserError(
                f"config_str: only RandAugment ('rand-...') is served, got {config_str!r}", code="data.not-served"
            )
        values = {"m": MAX_LEVEL, "n": 2.0, "mstd": 0.0, "inc": 0.0}
        for section in sections:
            match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", section)
            if not match or match[1] not in values:
                raise UserError(
                    f"config_str: {section!r} in {config_str!r} is none of m, n, mstd, inc with a number",
                    code="data.bad-argument",
                )
            values[match[1]] = float(match[2])
        if values["m"] > MAX_LEVEL or values["n"] < 1:
            raise UserError(
                f"config_str: m must be at most 10 and n at least 1, got {config_str!r}", code="data.bad-argument"
            )
        self.magnitude = values["m"]
        self.num_layers = int(values["n"])
        self.magnitude_std = values["mstd"]
        self.operators = list(operators(increasing=bool(values["inc"])).values())
        self.filters = list(filters)
        self.fill = fill

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        context = OpContext(rng, self.filters, self.fill)
        for index in rng.integers(len(self.operators), size=self.num_layers):
            if rng.random() < OP_PROB:
                level = rng.normal(self.magnitude, self.magnitude_std) if self.magnitude_std else self.magnitude
                image = self.operators[index](image, min(max(level, 0.0), MAX_LEVEL), context)
        return image
