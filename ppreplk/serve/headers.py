"""An encoded image before its pixels are decoded: is it one, how large is it, and does its header attack the reader?

A header alone can cost minutes and gigabytes: ten thousand tags that all name the same megabytes, a comment in millions
of pieces. Newer Pillows bound some of that. So headers are read here through a file that counts, before anybody else
reads them.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

from PIL import Image

from .limits import Limits, Refused

logger = logging.getLogger(__name__)

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM")  # Pillow's names
MAX_SCANS = 100  # of a JPEG; cameras and libraries write a dozen, and each one costs a pass over all pixels
START_OF_SCAN = b"\xff\xda"
MAX_READS = 20_000  # of a header; a few hundred are usual
MAX_CHUNKS = 20_000  # of a PNG; at 8 KiB each, which is usual, these are 160 MiB
SLOW_DECODERS = ("ppm", "ppm_plain", "bmp_rle")  # Pillow's names of those written in Python
MAX_SLOW_BYTES = 4 << 20  # about two seconds
EXIF_PREFIX, EXIF_TEXT = b"Exif\0\0", "Raw profile type exif"
SUB_DIRECTORIES = (34665, 34853)  # tags of a TIFF that name further tags: EXIF and GPS


class _TooLong(Exception):
    """A header takes too many reads, or too many bytes of them."""


class _Counted(io.BytesIO):
    """A file whose reader is stopped when it reads too often, or the same bytes again and again."""

    def __init__(self, data: bytes):
        super().__init__(data)
        self._reads = MAX_READS
        self._bytes = 4 * len(data) + (1 << 20)

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self._reads -= 1
        self._bytes -= len(piece)
        if self._reads < 0 or self._bytes < 0:
            raise _TooLong
        return piece


def check_header(data: bytes, limits: Limits) -> None:
    """Check an encoded image before its pixels are decoded.

    Raises:
        Refused: not an image of the formats in :data:`FORMATS`, too many pixels, or a header that takes too much work.
    """
    if not data:
        raise _bad("is empty")
    try:
        with Image.open(_Counted(data), formats=_formats()) as image:
            _check_image(image, data, limits)
    except Refused:
        raise
    except _TooLong as error:
        raise _bad("has a header of too many parts") from error
    except Image.DecompressionBombError as error:
        raise Refused(413, f"has too many pixels ({error})", "serve.too-many-pixels") from error
    except Image.UnidentifiedImageError as error:
        raise _bad(f"is not an image in a known format; these are served: {', '.join(FORMATS)}") from error
    except Exception as error:  # readers of headers raise many kinds
        raise _bad(f"cannot be read as an image ({error})") from error


def _bad(message: str) -> Refused:
    return Refused(422, message, "serve.bad-image")


def _formats() -> list[str]:
    """Those of :data:`FORMATS` that this Pillow reads. MPO is not among them: it begins as a JPEG."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_image(image: Image.Image, data: bytes, limits: Limits) -> None:
    kind, (width, height) = image.format, image.size
    if width * height > limits.pixels:
        message = f"has {width}x{height} pixels, more than {limits.pixels} (--max-pixels)"
        raise Refused(413, message, "serve.too-many-pixels")
    if kind in ("JPEG", "MPO") and data.count(START_OF_SCAN) > MAX_SCANS:
        raise _bad(f"is a JPEG of more than {MAX_SCANS} scans")
    if len(data) > MAX_SLOW_BYTES and any(tile[0] in SLOW_DECODERS for tile in getattr(image, "tile", [])):
        raise _bad(
            f"is a {kind} file of a kind that is decoded slowly, of more than {MAX_SLOW_BYTES} bytes; send a PNG"
        )
    if kind == "PNG":
        _check_chunks(data)
    for exif in _exif_of(image):
        _check_tags(exif)
    if kind == "TIFF":
        tags = image.getexif()
        for number in SUB_DIRECTORIES:
            tags.get_ifd(number)


def _check_chunks(data: bytes) -> None:
    """Check the chunks of a PNG, also those behind the pixels, which are read with them."""
    place, count, has_pixels = 8, 0, False
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        has_pixels = has_pixels or kind == b"IDAT"
        count += 1
        if count > MAX_CHUNKS:
            raise _TooLong
        if kind == b"eXIf":
            _check_tags(data[place + 8 : place + 8 + length])
        elif has_pixels and kind[1:] in (b"EXt", b"TXt") and data.startswith(EXIF_TEXT.encode(), place + 8):
            raise _bad("is a PNG with EXIF data in a text behind its pixels")
        place += 12 + length


def _exif_of(image: Image.Image) -> Iterator[bytes]:
    """What Pillow takes the orientation from, other than the tags of a TIFF."""
    yield image.info.get("exif") or b""
    text = image.info.get(EXIF_TEXT)
    if text:
        try:
            yield bytes.fromhex("".join(text.split("\n")[3:]))
        except ValueError:  # no EXIF data, then
            pass


def _check_tags(exif: bytes) -> None:
    while exif.startswith(EXIF_PREFIX):
        exif = exif[len(EXIF_PREFIX) :]
    if not exif:
        return
    try:
        Image.Exif().load_from_fp(_Counted(exif))
    except _TooLong:
        raise
    except Exception as error:  # broken tags say nothing about the pixels, and are left out when those are decoded
        logger.debug("tags that cannot be read: %s", error)
