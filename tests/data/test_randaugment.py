"""RandAugment against timm's definitions."""

import numpy as np
import pytest
from image_helpers import RNG, picture
from PIL import Image, ImageEnhance, ImageOps

from ppreplk.data.randaugment import MAX_LEVEL, OpContext, RandAugment, operators


class NeverNegative(OpContext):
    """A context in which every magnitude stays positive."""

    def randomly_negate(self, value):
        return value


def apply(name, level, image, increasing=True):
    context = NeverNegative(RNG(0), [Image.Resampling.BICUBIC], (124, 116, 104))
    return np.asarray(operators(increasing)[name](image, level, context))


# timm's definitions at level 9 of 10, "inc" variants, positive sign
EXPECTED_AT_9 = {
    "AutoContrast": lambda im: ImageOps.autocontrast(im),
    "Equalize": lambda im: ImageOps.equalize(im),
    "Invert": lambda im: ImageOps.invert(im),
    "Rotate": lambda im: im.rotate(27, Image.Resampling.BICUBIC, fillcolor=(124, 116, 104)),
    "Posterize": lambda im: ImageOps.posterize(im, 1),
    "Solarize": lambda im: ImageOps.solarize(im, 256 - 230),
    "SolarizeAdd": lambda im: Image.fromarray(
        np.where((a := np.asarray(im).astype(int)) < 128, np.minimum(a + 99, 255), a).astype("uint8")
    ),
    "Color": lambda im: ImageEnhance.Color(im).enhance(1.81),
    "Contrast": lambda im: ImageEnhance.Contrast(im).enhance(1.81),
    "Brightness": lambda im: ImageEnhance.Brightness(im).enhance(1.81),
    "Sharpness": lambda im: ImageEnhance.Sharpness(im).enhance(1.81),
    "ShearX": lambda im: affine(im, 1, 0.27, 0, 0, 1, 0),
    "ShearY": lambda im: affine(im, 1, 0, 0, 0.27, 1, 0),
    "TranslateXRel": lambda im: affine(im, 1, 0, 0.405 * im.size[0], 0, 1, 0),
    "TranslateYRel": lambda im: affine(im, 1, 0, 0, 0, 1, 0.405 * im.size[1]),
}


def affine(image, *matrix):
    kind, kernel = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    return image.transform(image.size, kind, matrix, kernel, fillcolor=(124, 116, 104))


def test_randaugment_operators_at_level_9():
    image = Image.fromarray(picture())
    assert set(operators(True)) == set(EXPECTED_AT_9) and len(EXPECTED_AT_9) == 15
    for name, expected in EXPECTED_AT_9.items():
        assert (apply(name, 9.0, image) == np.asarray(expected(image))).all(), name


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("name", EXPECTED_AT_9)
def test_randaugment_operators_survive_every_level(name, increasing):
    image = Image.fromarray(picture())
    for level in np.linspace(0, MAX_LEVEL, 21):
        assert apply(name, float(level), image, increasing).shape == (37, 53, 3)


def test_posterize_to_no_bits_is_black():
    assert (apply("Posterize", MAX_LEVEL, Image.fromarray(picture())) == 0).all()


def test_randaugment_draws_two_layers_each_with_probability_one_half():
    augment = RandAugment("rand-m9-mstd0.5-inc1", [Image.Resampling.BICUBIC], (124, 116, 104))
    calls, levels = [], []
    for index in range(len(augment.operators)):
        augment.operators[index] = lambda image, level, context, i=index: (
            calls.append(i) or levels.append(level) or image
        )
    for seed in range(3000):
        augment(None, RNG(seed))
    assert len(calls) == pytest.approx(3000, rel=0.05)
    counts = np.bincount(calls, minlength=15)
    assert counts.min() > 140 and counts.max() < 260
    assert max(levels) <= MAX_LEVEL
    clipped = np.minimum(RNG(1).normal(9, 0.5, 100000), 10)
    assert np.mean(levels) == pytest.approx(clipped.mean(), abs=0.03)
    assert np.std(levels) == pytest.approx(clipped.std(), abs=0.03)
