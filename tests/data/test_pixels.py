"""What unusual image files look like once they are decoded: the same with both backends."""

import io
import warnings

import numpy as np
import pytest
from helpers import refused
from image_helpers import RNG
from PIL import Image, ImageCms

from ppreplk.config import read_ops
from ppreplk.data import IMAGE, build_transforms
from ppreplk.data.decoding import DecodeImage
from ppreplk.data.images import as_array

RAMP = np.linspace(0, 1, 64 * 64).reshape(64, 64)
CORNER = np.zeros((48, 64, 3), np.uint8)
CORNER[:16, :16] = (250, 120, 10)


@pytest.fixture(params=["pil", "cv2"])
def decode(request):
    """Bytes of a file -> (H, W, 3) uint8."""
    if request.param == "cv2":
        pytest.importorskip("cv2")
    decoder = DecodeImage(backend=request.param)
    return lambda data: as_array(decoder(data, RNG(0)))


def saved(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


DEEP = {
    "16-bit PNG": lambda: saved(Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG"),
    "16-bit TIFF": lambda: saved(Image.fromarray((RAMP * 65535).astype(np.uint16)), "TIFF"),
    "32-bit TIFF": lambda: saved(Image.fromarray((RAMP * 65535).astype(np.int32)), "TIFF"),
    "float TIFF": lambda: saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    "16-bit PGM": lambda: b"P5 64 64 65535\n" + (RAMP * 65535).astype(">u2").tobytes(),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_greys_are_scaled_by_their_range(decode, kind):
    received = decode(DEEP[kind]())
    assert received.dtype == np.uint8 and received.shape == (64, 64, 3)
    np.testing.assert_allclose(received[:, :, 0], RAMP * 255, atol=1)


@pytest.mark.parametrize(
    "levels, parts",
    [
        (np.array([[0.0, 300.0]], np.float32), ["floating-point", "0 to 300", "1 (white)"]),
        (np.array([[0.0, np.nan]], np.float32), ["nan"]),
        (np.array([[-5, 300]], np.int32), ["-5 to 300", "65535 (white)"]),
        (np.array([[0, 70000]], np.int32), ["0 to 70000"]),
    ],
)
def test_values_without_a_known_white_are_refused(decode, levels, parts):
    with refused("data.unknown-range", "convert the image to 8 bits", *parts):
        decode(saved(Image.fromarray(levels), "TIFF"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_images_are_turned_upright(decode, form, value):
    exif = Image.Exif()
    exif[0x0112] = value
    received = decode(saved(Image.fromarray(CORNER), form, exif=exif)).astype(int)
    assert received.shape[:2] == ((64, 48) if value >= 5 else (48, 64))
    bottom, right = value in (3, 4, 7, 8), value in (2, 3, 6, 7)
    corner = received[-10:, :] if bottom else received[:10, :]
    corner = corner[:, -10:] if right else corner[:, :10]
    assert np.abs(corner - (250, 120, 10)).max() < 30


@pytest.mark.parametrize("value", [1, 3, 6])
def test_a_random_crop_of_a_turned_photograph(value):
    y, x = np.mgrid[:1200, :1600]
    image = Image.fromarray(np.stack([y * 255 // 1200, x * 255 // 1600, 0 * x], 2).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = value
    data = saved(image, "JPEG", quality=95, exif=exif)
    pipeline = build_transforms(
        read_ops([{"DecodeImage": {"backend": "pil"}}, {"RandomResizedCrop": {"size": 64, "scale": [0.5, 1]}}], "ops"),
        IMAGE,
    )
    whole = DecodeImage(backend="pil")(data, RNG(0))
    for seed in range(5):
        expected = pipeline.transforms[0].random_crop(whole, RNG(seed))
        received = pipeline(data, RNG(seed))
        np.testing.assert_allclose(as_array(received).astype(int), as_array(expected).astype(int), atol=8)


def transparent(mode: str) -> Image.Image:
    """Black, its left half transparent."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    return image.convert(mode)


def palette_with_bytes() -> bytes:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 255, 0, 0, 0])
    image.paste(0, (0, 0, 4, 8))
    return saved(image, "PNG", transparency=bytes([0, 255]))


def key_colour(mode: str, key, other, form="PNG") -> bytes:
    image = Image.new(mode, (8, 8), other)
    image.paste(key, (0, 0, 4, 8))
    return saved(image, form, transparency=key)


TRANSPARENT = {
    "RGBA PNG": lambda: saved(transparent("RGBA"), "PNG"),
    "LA PNG": lambda: saved(transparent("LA"), "PNG"),
    "RGBA TIFF": lambda: saved(transparent("RGBA"), "TIFF"),
    "RGBA WebP": lambda: saved(transparent("RGBA"), "WEBP", lossless=True),
    "RGBA GIF": lambda: saved(transparent("RGBA"), "GIF"),
    "palette PNG": palette_with_bytes,
    "key colour, RGB": lambda: key_colour("RGB", (9, 9, 9), (0, 0, 0)),
    "key colour, grey": lambda: key_colour("L", 9, 0),
    "key colour, 16-bit grey": lambda: saved(
        Image.fromarray(np.uint16([[9] * 4 + [0] * 4] * 8)), "PNG", transparency=9
    ),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_parts_are_white(decode, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        received = decode(TRANSPARENT[kind]())
    assert (received[:, :4] == 255).all() and (received[:, 4:] == 0).all()


def test_half_transparent_is_mixed_with_white(decode):
    received = decode(saved(Image.new("RGBA", (4, 4), (200, 0, 0, 128)), "PNG"))
    np.testing.assert_allclose(received[0, 0], [227, 127, 127], atol=1)


def test_other_colour_spaces(decode):
    red = Image.new("RGB", (8, 8), (200, 30, 30))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(red, *profiles, outputMode="LAB")
    for data in (
        saved(lab, "TIFF"),
        saved(red.convert("CMYK"), "TIFF"),
        saved(red.convert("CMYK"), "JPEG", quality=100),
        saved(red.quantize(4), "GIF"),
        saved(red.quantize(4), "PNG"),
    ):
        np.testing.assert_allclose(decode(data)[4, 4], [200, 30, 30], atol=6)
    assert set(np.unique(decode(saved(Image.new("1", (8, 8), 1), "PNG")))) == {255}


def test_a_cut_off_jpeg_is_noticed(decode):
    data = saved(Image.fromarray(RNG(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)), "JPEG")
    assert decode(data).shape == (200, 200, 3)
    with refused("data.unreadable-image", "truncated"):
        decode(data[: len(data) // 2])


def test_broken_exif_does_no_harm(decode):
    data = saved(Image.fromarray(CORNER), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).shape == (48, 64, 3)


def test_a_decompression_bomb_is_told_what_to_do(decode, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with refused("data.too-many-pixels", "4096 pixels", "make it smaller"):
        decode(DEEP["16-bit PNG"]())


@pytest.mark.parametrize("backend", ["pil", "cv2"])
@pytest.mark.parametrize("size", [(1, 4000), (4000, 1)])
def test_a_thin_strip_is_refused_before_it_is_enlarged(backend, size):
    if backend == "cv2":
        pytest.importorskip("cv2")
    ops = [{"DecodeImage": {"backend": backend}}, {"ResizeImage": {"resize_short": 256, "backend": backend}}]
    pipeline = build_transforms(read_ops(ops, "ops"), IMAGE)
    with refused("data.thin-image", f"{size[0]}x{size[1]}", "resize_short 256", "leave it out"):
        pipeline(saved(Image.new("RGB", size), "PNG"), RNG(0))
    assert as_array(pipeline(saved(Image.new("RGB", (2, 200)), "PNG"), RNG(0))).shape == (25600, 256, 3)
