"""Flips, colour jitter and random erasing against their definitions."""

import numpy as np
import pytest
from helpers import refused
from image_helpers import RNG, picture

from ppreplk.data.augmentation import ColorJitter, RandFlipImage, RandomAffine, RandomErasing, TimmAutoAugment
from ppreplk.data.images import as_array, as_pillow


@pytest.mark.parametrize("form", [as_array, as_pillow])
def test_flip_is_even_and_horizontal(form):
    image, flip = picture(), RandFlipImage()
    outcomes = [as_array(flip(form(image), RNG(seed))) for seed in range(400)]
    flipped = sum((outcome == image[:, ::-1]).all() for outcome in outcomes)
    assert all((o == image).all() or (o == image[:, ::-1]).all() for o in outcomes)
    assert 160 < flipped < 240
    for code, slices in {0: np.s_[::-1], -1: np.s_[::-1, ::-1]}.items():
        outcomes = [as_array(RandFlipImage(code)(form(image), RNG(seed))) for seed in range(20)]
        assert any((outcome == image[slices]).all() for outcome in outcomes)


def test_random_erasing_statistics():
    erase = RandomErasing(EPSILON=0.25, sl=0.02, sh=1 / 3, r1=0.3, attempt=10, use_log_aspect=True, mode="pixel")
    image = np.full((224, 224, 3), 7.0, np.float32)
    areas, ratios, noise = [], [], []
    for seed in range(4000):
        erased = erase(image, RNG(seed))
        if erased is not image:
            changed = (erased != 7.0).any(2)
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            h, w = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert changed.sum() == h * w, "one rectangle"
            areas.append(h * w / 224**2)
            ratios.append(h / w)
            noise.append(erased[changed][:50])
    assert (image == 7.0).all(), "the input is left alone"
    assert len(areas) / 4000 == pytest.approx(0.25, abs=0.02)
    assert min(areas) > 0.018 and max(areas) < 0.34
    assert min(ratios) > 0.28 and max(ratios) < 3.5 and abs(np.log(ratios).mean()) < 0.05
    noise = np.concatenate(noise)
    assert abs(noise.mean()) < 0.01 and noise.std() == pytest.approx(1, abs=0.01)


def test_color_jitter_bounds():
    image = np.full((4, 5, 3), 100, np.uint8)
    values = [int(as_array(ColorJitter(brightness=0.4)(image, RNG(seed)))[0, 0, 0]) for seed in range(300)]
    assert 60 <= min(values) < 65 and 135 < max(values) <= 140
    for idle in (ColorJitter(), ColorJitter(prob=0, hue=0.5)):
        assert (as_array(idle(image, RNG(0))) == image).all()
    red = np.zeros((2, 2, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    turned = np.array([as_array(ColorJitter(hue=0.5)(red, RNG(seed)))[0, 0] for seed in range(60)])
    assert (turned.max(1) == 200).all() and (turned.argmax(1) == 2).any() and (turned.argmax(1) == 1).any()
    greyest = min((as_array(ColorJitter(saturation=1.0)(red, RNG(seed)))[0, 0] for seed in range(200)), key=np.ptp)
    assert np.ptp(greyest) < 10, "a factor near 0 takes the colour away"


def moments(image):
    """Mass, centre of mass (x, y) and covariance of the levels of an image."""
    level = as_array(image)[:, :, 0].astype(float)
    places = np.stack(np.meshgrid(np.arange(level.shape[1]), np.arange(level.shape[0])), -1).reshape(-1, 2)
    weights = level.reshape(-1) / level.sum()
    centre = weights @ places
    return level.sum(), centre, (places - centre).T @ ((places - centre) * weights[:, None])


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_affine_maps_move_the_mass_of_an_image_as_their_definition_says(channels):
    image = np.zeros((64, 80, channels), np.uint8)
    image[26:38, 20:60] = 200
    mass, centre, spread = moments(image)

    def drawn(seeds=60, **arguments):
        results = [RandomAffine(**arguments)(image, RNG(seed)) for seed in range(seeds)]
        assert all(as_array(result).shape == image.shape for result in results)
        return [moments(result) for result in results]

    assert (as_array(RandomAffine()(image, RNG(0))) == image).all()
    shifts = np.array([moved[1] - centre for moved in drawn(translate=[0.2, 0.1])])
    assert 14 < abs(shifts[:, 0]).max() < 16.1 and 5.5 < abs(shifts[:, 1]).max() < 6.5
    for moved in drawn(20, scale=[0.8, 1.2]):
        assert 0.62 < moved[0] / mass < 1.46 and np.allclose(moved[1], centre, atol=0.3)
        assert np.allclose(moved[2] / spread[0, 0] * mass / moved[0], spread / spread[0, 0], atol=0.03)
    angles = []
    for moved in drawn(degrees=15):
        angles.append(np.degrees(0.5 * np.arctan2(2 * moved[2][0, 1], moved[2][0, 0] - moved[2][1, 1])))
        assert moved[0] == pytest.approx(mass, rel=0.02) and np.allclose(moved[1], centre, atol=0.3)
    assert 13.5 < max(angles) < 15.5 and -15.5 < min(angles) < -13.5
    slopes = [moved[2][0, 1] / moved[2][1, 1] for moved in drawn(shear=20)]
    assert 0.3 < max(slopes) < np.tan(np.radians(21)) and -np.tan(np.radians(21)) < min(slopes) < -0.3


def test_affine_maps_fill_what_they_uncover():
    corners = as_array(RandomAffine(scale=[0.5, 0.5], fill=77)(picture(), RNG(0)))[[0, -1], [0, -1]]
    assert (corners == 77).all()


@pytest.mark.parametrize(
    "transform, arguments, parts",
    [
        (ColorJitter, {"hue": 0.6}, ["hue at most 0.5"]),
        (RandomAffine, {"degrees": -1}, ["degrees", "-1"]),
        (RandomAffine, {"shear": 90}, ["shear", "90"]),
        (RandomAffine, {"translate": [0.1]}, ["translate", "[0.1]"]),
        (RandomAffine, {"scale": [1.2, 0.8]}, ["scale", "[1.2, 0.8]"]),
        (RandomErasing, {"EPSILON": 1.5}, ["EPSILON", "1.5"]),
        (RandomErasing, {"r1": 2}, ["r1 2"]),
        (RandomErasing, {"attempt": 0}, ["attempt", "0"]),
        (TimmAutoAugment, {"prob": -1}, ["prob", "-1"]),
        (TimmAutoAugment, {"mean": [0.5]}, ["mean", "[0.5]"]),
        (TimmAutoAugment, {"config_str": "rand-m11"}, ["config_str", "'rand-m11'"]),
        (TimmAutoAugment, {"config_str": "rand-x3"}, ["'x3'"]),
    ],
)
def test_bad_arguments_are_quoted(transform, arguments, parts):
    with refused("data.bad-argument", *parts):
        transform(**arguments)


def test_only_randaugment_is_served():
    with refused("data.not-served", "'original-mstd0.5'"):
        TimmAutoAugment(config_str="original-mstd0.5")
