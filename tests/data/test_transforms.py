"""Resizing, cropping and normalization against their published definitions; pipelines."""

import math

import numpy as np
import pytest
from helpers import refused
from image_helpers import RNG, encoded, picture
from PIL import Image

from ppreplk.config import read_ops
from ppreplk.data import IMAGE_CHW, NORMALIZED, Pipeline, build_transforms
from ppreplk.data.images import as_array
from ppreplk.data.normalization import NormalizeImage
from ppreplk.data.resizing import CropImage, RandCropImage, RandomResizedCrop, ResizeImage


def test_evaluation_below_384_resizes_the_shorter_side_and_crops_the_centre():
    image = picture(300, 450)
    pipeline = Pipeline([ResizeImage(resize_short=256, interpolation="bicubic", backend="pil"), CropImage(224)])
    resized = Image.fromarray(image).resize((384, 256), Image.Resampling.BICUBIC)
    assert (as_array(pipeline(image, RNG(0))) == np.asarray(resized.crop((80, 16, 304, 240)))).all()


def test_evaluation_from_384_up_warps_to_a_square():
    image = picture(300, 450)
    received = ResizeImage(size=384, interpolation="bicubic", backend="pil")(image, RNG(0))
    assert (as_array(received) == np.asarray(Image.fromarray(image).resize((384, 384), Image.Resampling.BICUBIC))).all()


def test_crop_larger_than_the_image_is_refused():
    with refused("data.crop-too-large", "224x224", "53x37"):
        CropImage(224)(picture(), RNG(0))


def test_random_resized_crop_boxes_follow_the_definition():
    crop, rng = RandomResizedCrop(8, scale=(0.08, 1.0)), RNG(0)
    width, height = 500, 375
    boxes = np.array([crop.box(width, height, rng) for _ in range(4000)])
    left, top, w, h = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (left + w <= width).all() and (top + h <= height).all()
    areas, ratios = w * h / (width * height), w / h
    assert 0.07 < areas.min() < 0.1 and areas.max() > 0.9
    assert ratios.min() > 0.72 and ratios.max() < 1.37
    small = areas < 0.4  # boxes this small always fit, so nothing biases their ratios
    assert abs(np.log(ratios[small]).mean()) < 0.02, "log-uniform ratios have mean 1 on the logarithmic scale"
    assert np.log(ratios[small]).std() == pytest.approx(math.log(4 / 3) / math.sqrt(3), rel=0.05)


def test_random_resized_crop_falls_back_to_the_centre():
    crop = RandomResizedCrop(8, scale=(0.9, 1.0))
    assert crop.box(1000, 10, RNG(0)) == (493, 0, 13, 10)
    assert crop.box(10, 1000, RNG(0)) == (0, 493, 10, 13)


@pytest.mark.parametrize("use_log_aspect", [False, True])
def test_rand_crop_image_stays_inside(use_log_aspect):
    crop = RandCropImage([8, 6], use_log_aspect=use_log_aspect, backend="pil")
    for seed in range(200):
        assert crop(picture(5, 90), RNG(seed)).size == (8, 6)


@pytest.mark.parametrize(
    "transform, arguments, parts",
    [
        (ResizeImage, {}, ["size or resize_short"]),
        (ResizeImage, {"resize_short": 0}, ["resize_short", "0"]),
        (ResizeImage, {"size": [1, 2, 3]}, ["[width, height]", "[1, 2, 3]"]),
        (ResizeImage, {"size": 8, "backend": "pil", "interpolation": "area"}, ["'area'", "bicubic"]),
        (CropImage, {"size": 0}, ["[width, height]", "0"]),
        (RandomResizedCrop, {"size": 8, "scale": [1.0, 0.5]}, ["scale", "[1.0, 0.5]"]),
        (RandCropImage, {"size": 8, "ratio": [0, 1], "backend": "pil"}, ["ratio", "[0, 1]"]),
        (NormalizeImage, {"std": [1, 1, 0]}, ["std", "[1, 1, 0]"]),
    ],
)
def test_bad_arguments_are_quoted(transform, arguments, parts):
    with refused("data.bad-argument", *parts):
        transform(**arguments)


def test_normalization():
    image = picture()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    received = NormalizeImage(1 / 255, mean, std, order="")(image, RNG(0))
    assert received.dtype == np.float32
    np.testing.assert_allclose(received, (image / 255 - np.array(mean)) / np.array(std), atol=2e-6)
    chw = NormalizeImage(1 / 255, mean, std)(image.transpose(2, 0, 1), RNG(0))
    np.testing.assert_allclose(chw, received.transpose(2, 0, 1))


def test_pipeline_from_a_configuration():
    ops = [{"DecodeImage": {"backend": "pil"}}, {"ResizeImage": {"size": [20, 10], "backend": "pil"}}, "ToCHWImage"]
    received = build_transforms(read_ops(ops, "Infer.transforms"), IMAGE_CHW)(encoded(picture()), RNG(0))
    assert received.shape == (3, 10, 20)


@pytest.mark.parametrize(
    "names, parts",
    [
        ([], ["the list of transforms: ", "an encoded image", "a normalized image"]),
        (["DecodeImage"], ["ops[0].DecodeImage: ", "leaves an image"]),
        (["NormalizeImage"], ["ops[0].NormalizeImage: ", "takes a channel-first image", "gets an encoded image"]),
        (["DecodeImage", "NormalizeImage"], ["takes a channel-first image", "gets an image"]),
        (["DecodeImage", "RandomErasing"], ["RandomErasing: ", "takes a normalized image", "gets an image"]),
        (["DecodeImage", "ToCHWImage", "NormalizeImage", "TimmAutoAugment"], ["gets a normalized channel-first image"]),
    ],
)
def test_transforms_that_do_not_fit_one_another_are_refused(names, parts):
    with refused("data.transform-order", *parts):
        build_transforms(read_ops([{name: BACKEND.get(name)} for name in names], "ops"), NORMALIZED)


BACKEND = {"DecodeImage": {"backend": "pil"}}
