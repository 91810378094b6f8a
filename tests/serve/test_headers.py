"""Headers of images that attack whoever reads them, and those that only look unusual."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from helpers import peak_memory
from PIL import Image
from services import chunk, picture

from ppreplk.data import DecodeImage
from ppreplk.serve.headers import MAX_CHUNKS, check_header
from ppreplk.serve.limits import Limits, Refused

MB = 1 << 20
UNDEFINED, LONG, RATIONAL = 7, 4, 5  # types of tags


def tags(entries, size: int) -> bytes:
    """A TIFF's directory of (tag, type, count, value), and bytes that it points at."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(4 + size)


def tiff(more, size: int = 1000) -> bytes:
    sizes = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    return tags([*sizes, (273, 4, 1, 8), (278, 4, 1, 8), (279, 4, 1, 64), *more], size)


def with_comment(pieces: bytes) -> bytes:
    data = picture(kind="GIF")
    place = 13 + 3 * (2 << (data[10] & 7))
    return data[:place] + b"\x21\xfe" + pieces + b"\0" + data[place:]


def png_with(kind: bytes, data: bytes, behind: bool = False, count: int = 1) -> bytes:
    plain = picture()
    place = plain.index(b"IEND") - 4 if behind else 33
    return plain[:place] + chunk(kind, data) * count + plain[place:]


def jpeg_with(segment: bytes, count: int = 1) -> bytes:
    plain = picture(kind="JPEG")
    return plain[:2] + segment * count + plain[2:]


EXIF = tags([(1000 + each, UNDEFINED, MB, 8) for each in range(5000)], MB)  # 5 GB, if every tag is copied
TEXT = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n9\n" + EXIF[: MB // 4].hex().encode())
ATTACKS = {
    "tags of a TIFF": lambda: tiff([(1000 + each, UNDEFINED, MB, 8) for each in range(5000)], MB),
    "a directory in a TIFF": lambda: tiff([(34665, LONG, 1, 122)]).replace(bytes(4 + 1000), b"\0\0\0\0" + EXIF[8:]),
    "a comment in tiny pieces": lambda: with_comment(b"\x01a" * MB),
    "tiny EXIF segments": lambda: jpeg_with(b"\xff\xe1\0\x09Exif\0\0a", MB // 8),
    "tiny segments": lambda: jpeg_with(b"\xff\xfe\0\2", MB),
    "fill": lambda: jpeg_with(b"\xff", MB),
    "chunks": lambda: png_with(b"prVt", b"", False, MAX_CHUNKS),
    "chunks behind the pixels": lambda: png_with(b"prVt", b"", True, MAX_CHUNKS),
    "EXIF in a PNG": lambda: png_with(b"eXIf", EXIF),
    "EXIF behind the pixels": lambda: png_with(b"eXIf", EXIF, True),
    "EXIF as text behind the pixels": lambda: png_with(b"zTXt", TEXT, True),
    "a long comment": lambda: b"P6 #" + b"a" * MB + b"\n1 1 255 abc",
    "levels that are scaled in Python": lambda: b"P6 2000 1000 100 " + bytes(6_000_000),
}
SKIPPED = ("tags of a TIFF", "a directory in a TIFF", "EXIF in a PNG", "EXIF behind the pixels")  # by newer Pillows


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(name):
    data = ATTACKS[name]()
    before, start = peak_memory(), time.monotonic()
    try:
        check_header(data, Limits())
    except Refused as error:
        assert (error.status, error.code) == (422, "serve.bad-image")
    else:
        assert name in SKIPPED
        DecodeImage(backend="pil")(data, np.random.default_rng(0))
    assert time.monotonic() - start < 3
    assert peak_memory() - before < 60 * MB


def saved(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(buffer, kind, **options)
    return buffer.getvalue()


def camera() -> Image.Exif:
    """EXIF data as cameras write it: an orientation, some texts, and a block of their own."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a maker of cameras"
    exif.get_ifd(0x8769)[0x927C] = bytes(40_000)
    return exif


GOOD = {
    "a JPEG of a camera": lambda: saved("JPEG", exif=camera()),
    "a JPEG with a profile": lambda: saved("JPEG", icc_profile=bytes(600_000)),
    "a PNG of a camera": lambda: saved("PNG", exif=camera()),
    "a PNG with a text": lambda: png_with(b"tEXt", b"a\0" + b"text " * 20_000, True),
    "a WebP of a camera": lambda: saved("WEBP", exif=camera()),
    "a TIFF of a camera": lambda: saved("TIFF", exif=camera()),
    "a TIFF with a large block": lambda: tiff([(37724, UNDEFINED, 8 * MB, 200)], 8 * MB),
    "a GIF with a comment": lambda: with_comment((b"\xff" + b"a" * 255) * 200),
    "a PPM": lambda: saved("PPM"),
    "broken EXIF": lambda: png_with(b"eXIf", b"II*\0nothing"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", GOOD)
def test_what_is_only_unusual(name):
    check_header(GOOD[name](), Limits())
