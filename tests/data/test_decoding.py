"""Decoding, alone and together with a random crop."""

import io

import numpy as np
import pytest
from helpers import refused
from image_helpers import RNG, encoded, picture
from PIL import Image
from sklearn.datasets import load_sample_image

from ppreplk.config import read_ops
from ppreplk.data import IMAGE, Pipeline, build_transforms
from ppreplk.data.decoding import DecodeImage
from ppreplk.data.images import as_array


@pytest.mark.parametrize("backend", ["pil", "cv2"])
def test_decoding(backend):
    if backend == "cv2":
        pytest.importorskip("cv2")
    image = picture()
    assert (as_array(DecodeImage(backend=backend)(encoded(image), RNG(0))) == image).all()
    assert (DecodeImage(backend=backend, to_rgb=False)(encoded(image), RNG(0)) == image[:, :, ::-1]).all()
    with refused("data.unreadable-image", "cannot be decoded"):
        DecodeImage(backend=backend)(b"no image", RNG(0))


def test_grey_images_become_three_channels():
    grey = picture()[:, :, 0]
    assert (as_array(DecodeImage(backend="pil")(encoded(grey), RNG(0))) == grey[:, :, None]).all()


def photograph(width, height):
    """A JPEG."""
    image = Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


CROPS = {"RandomResizedCrop": {"size": 64, "scale": [0.3, 1.0]}, "RandCropImage": {"size": 64, "backend": "pil"}}


@pytest.mark.parametrize("name", CROPS)
def test_a_large_jpeg_is_decoded_small_and_looks_the_same(name, monkeypatch):
    data, decoded = photograph(1600, 1200), []

    def record(self, image):
        image.load()
        decoded.append(image.size)
        return image

    monkeypatch.setattr(DecodeImage, "pixels", record)
    ops = read_ops([{"DecodeImage": {"backend": "pil"}}, {name: CROPS[name]}], "ops")
    pipeline = build_transforms(ops, IMAGE)
    whole = Pipeline([DecodeImage(backend="pil"), pipeline.transforms[0].random_crop])
    for seed in range(20):
        decoded.clear()
        received, expected = pipeline(data, RNG(seed)), whole(data, RNG(seed))
        assert decoded[0][0] < decoded[1][0] == 1600, "the second one decodes everything"
        box = whole.transforms[1].box(1600, 1200, RNG(seed))
        assert min(box[2:]) * decoded[0][0] / 1600 >= 2 * 64 - 2
        difference = as_array(received).astype(float) - as_array(expected)
        assert 10 * np.log10(255**2 / np.mean(difference**2)) > 36, "peak signal-to-noise ratio in dB"


def test_a_small_jpeg_is_decoded_whole():
    data = photograph(500, 375)
    ops = read_ops([{"DecodeImage": {"backend": "pil"}}, {"RandomResizedCrop": {"size": 224}}], "ops")
    pipeline = build_transforms(ops, IMAGE)
    whole = Pipeline([DecodeImage(backend="pil"), pipeline.transforms[0].random_crop])
    for seed in range(5):
        assert (as_array(pipeline(data, RNG(seed))) == as_array(whole(data, RNG(seed)))).all()
    with refused("data.unreadable-image", "cannot be decoded"):
        pipeline(data[: len(data) // 2], RNG(0))
