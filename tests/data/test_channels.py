"""Grey images and images of other channels: what is read, and what the transforms make of it."""

import io

import numpy as np
import pytest
from helpers import refused
from PIL import Image

from ppreplk.config import read_ops
from ppreplk.data import IMAGE, NORMALIZED_CHW, DecodeImage, build_transforms
from ppreplk.data.images import as_array, as_pillow
from ppreplk.data.resizing import make_resizer


def RNG(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def picture(*shape: int) -> np.ndarray:
    return RNG().integers(0, 256, shape, np.uint8)


def saved(image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture(params=["cv2", "pil"])
def backend(request):
    return request.param


def decoded(data: bytes, channels: int, backend: str = "pil") -> np.ndarray:
    return as_array(DecodeImage(backend=backend, image_channels=channels)(data, RNG()))


def test_a_grey_file_keeps_its_levels(backend):
    grey = picture(20, 30)
    assert (decoded(saved(grey), 1, backend) == grey[:, :, None]).all()
    deep = grey.astype(np.uint16) * 257
    assert (decoded(saved(Image.fromarray(deep)), 1, backend) == grey[:, :, None]).all()
    assert (decoded(npy(grey), 1, backend) == grey[:, :, None]).all()
    assert (decoded(npy(grey[:, :, None] / np.float32(255)), 1, backend) == grey[:, :, None]).all()


def test_colours_become_their_luma(backend):
    colours = picture(20, 30, 3)
    luma = colours @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decoded(saved(colours), 1, backend)[:, :, 0] - luma).max() <= 1
    turned = Image.Exif()
    turned[0x0112] = 6
    upright = decoded(saved(colours, exif=turned.tobytes()), 1, backend)
    assert (upright == np.rot90(decoded(saved(colours), 1, backend), -1)).all()
    transparent = np.dstack([colours, np.zeros((20, 30), np.uint8)])
    assert (decoded(saved(transparent), 1, backend) == 255).all()


def test_four_channels_are_left_as_they_are(backend):
    image = picture(20, 30, 4)
    image[:, :, 3] = 0  # as a transparency it would hide all others
    assert (decoded(saved(image), 4, backend) == image).all()
    assert (decoded(saved(image, "TIFF"), 4, backend) == image).all()
    assert (decoded(npy(image), 4, backend) == image).all()


@pytest.mark.parametrize("channels", [2, 5, 9])
def test_arrays_have_any_number_of_channels(backend, channels):
    image = picture(20, 30, channels)
    assert (decoded(npy(image), channels, backend) == image).all()
    assert (decoded(npy(image.astype(np.uint16) * 257), channels, backend) == image).all()
    show = DecodeImage(backend=backend, image_channels=channels).show
    assert (show(image) == image).all()


@pytest.mark.parametrize(
    "data, channels, code, parts",
    [
        (saved(picture(4, 4, 3)), 4, "data.other-channels", ["has 3 channels (R, G, B), but Arch.in_channels is 4"]),
        (npy(picture(4, 4, 3)), 4, "data.other-channels", ["the shape (4, 4, 3)", "in_channels is 4"]),
        (npy(picture(4, 4)), 2, "data.other-channels", ["the shape (4, 4)"]),
        (npy(np.full((4, 4, 2), 300.0)), 2, "data.unknown-range", ["from 300 to 300"]),
        (npy(np.array(["a"])), 3, "data.bad-array", ["expected an array of numbers"]),
        (npy(picture(4, 4, 2))[:-3], 2, "data.unreadable-image", ["cannot be decoded"]),
    ],
)
def test_what_does_not_fit_is_one_line(data, channels, code, parts):
    with refused(code, *parts):
        decoded(data, channels)


def test_an_array_of_objects_is_not_unpickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    with refused("data.unreadable-image", "cannot be decoded"):
        decoded(buffer.getvalue(), 1)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "area", "bicubic", "lanczos"])
@pytest.mark.parametrize("channels", [1, 3, 9, 600])
def test_opencv_resizes_each_channel_by_itself(interpolation, channels):
    image = picture(20, 30, channels)
    resize = make_resizer(interpolation, "cv2")
    resized = resize(image, 12, 9)
    assert resized.shape == (9, 12, channels)
    for number in (0, channels - 1):
        assert (resized[:, :, number] == resize(image[:, :, [number]], 12, 9)[:, :, 0]).all()


def pipeline(channels: int, backend: str, *more):
    statistics = {"mean": [0.5] * channels, "std": [0.25] * channels, "order": ""}
    ops = [
        {"DecodeImage": {"backend": backend}},
        {"RandomResizedCrop": {"size": 16}} if backend == "pil" else {"RandCropImage": {"size": 16}},
        *({"RandFlipImage": None} for _ in range(1)),
        {"NormalizeImage": statistics},
        {"RandomErasing": {"EPSILON": 1.0, "mode": "pixel"}},
        *more,
        "ToCHWImage",
    ]
    return build_transforms(read_ops(ops, "ops"), NORMALIZED_CHW, channels=channels)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_a_whole_pipeline(backend, channels):
    transforms = pipeline(channels, backend)
    for seed in range(5):
        image = transforms(npy(picture(40, 50, channels)), RNG(seed))
        assert image.shape == (channels, 16, 16) and image.dtype == np.float32


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_are_resized_like_those_of_rgb(backend, channels):
    """Each channel alone gives what it gives in an RGB image: a fourth one is no transparency."""
    colours = picture(40, 50, 3)
    many = np.dstack([colours, np.zeros((40, 50), np.uint8)])[:, :, -channels:] if channels > 1 else colours[:, :, :1]
    for op in (
        {"ResizeImage": {"size": 20, "interpolation": "bicubic", "backend": backend}},
        {"CropImage": {"size": 20}},
    ):
        rgb = as_array(build_transforms(read_ops([op], "ops"), IMAGE, start=IMAGE)(colours, RNG()))
        received = as_array(build_transforms(read_ops([op], "ops"), IMAGE, start=IMAGE, channels=channels)(many, RNG()))
        shared = min(channels, 3)
        assert received.shape == (20, 20, channels)
        assert (received[:, :, :shared] == rgb[:, :, :shared]).all()


@pytest.mark.parametrize(
    "channels, op, parts",
    [
        (1, {"TimmAutoAugment": None}, ["ops[0].TimmAutoAugment", "needs RGB images, but Arch.in_channels is 1"]),
        (4, {"ColorJitter": {"hue": 0.1}}, ["ops[0].ColorJitter", "Arch.in_channels is 4"]),
        (1, {"NormalizeImage": {"order": ""}}, ["mean and std need 1 (Arch.in_channels) numbers each", "0.485"]),
        (4, {"NormalizeImage": {"mean": [0.5] * 4, "std": [0.5] * 3, "order": ""}}, ["mean and std need 4"]),
        (1, {"RandomErasing": {"mean": [0.1, 0.2, 0.3]}}, ["mean needs 1 numbers"]),
        (1, {"DecodeImage": {"to_rgb": False, "backend": "pil"}}, ["to_rgb: False means BGR", "in_channels is 1"]),
    ],
)
def test_transforms_that_do_not_fit_the_channels(channels, op, parts):
    with refused(
        "data.needs-rgb" if "RGB images" in parts[-1] or "Jitter" in parts[0] else "data.bad-argument", *parts
    ):
        build_transforms(read_ops([op], "ops"), IMAGE, start=IMAGE, channels=channels)


def test_forms_of_a_grey_image():
    grey = picture(4, 5, 1)
    assert as_pillow(grey).mode == "L" and (as_array(as_pillow(grey)) == grey).all()
