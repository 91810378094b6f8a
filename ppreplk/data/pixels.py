"""Any decoded file as an upright 8-bit image: orientation, transparency, deep greys, colour spaces, channels.

Both backends show a file in this way:

- It is turned as its EXIF orientation says.
- Transparent parts lie on white.
- Grey levels of 16 bits are divided by 257, so that the brightest possible one is 255. 32-bit whole numbers are taken
  as 16-bit ones. Floating-point numbers go from 0 (black) to 1 (white). Values outside these ranges are refused, since
  nothing in a file says which of them is white.
- Palettes, CMYK, YCbCr, HSV and Lab become RGB. A colour profile has no effect.
- A grey image is the luma of that (ITU-R 601). Grey files keep their levels.
- An image of another number of channels has them as the file has: nothing is known about their meaning.
"""

import numpy as np
from PIL import Image, ImageCms

from ..config import RGB
from ..utils.errors import UserError
from .images import GREY, ImageLike

ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # {orientation: what turns the image upright}
SIDEWAYS = (5, 6, 7, 8)
WHITE = 255
MAX_16_BITS = 65535


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, from 1 to 8; 1, which is upright, where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF raises many kinds, and says nothing about the pixels
        return 1
    return value if value in UPRIGHT else 1


def upright(image: Image.Image, value: int) -> Image.Image:
    """The image turned as an EXIF orientation says."""
    return image.transpose(UPRIGHT[value]) if value in UPRIGHT else image


def to_channels(image: Image.Image, channels: int) -> ImageLike:
    """A Pillow image of any mode, its pixels decoded, as an upright 8-bit one.

    Args:
        image: the image.
        channels: 3 for RGB and 1 for grey, both Pillow images; otherwise an array (H, W, channels).

    Raises:
        UserError: values without a known white, or channels that the image does not have.
    """
    turned = orientation(image)
    if channels == RGB:
        return upright(to_rgb(image), turned)
    if channels == GREY:
        return upright(to_rgb(image).convert("L"), turned)
    bands = image.getbands()
    if len(bands) != channels:
        raise _other_channels(f"{len(bands)} channels ({', '.join(bands)})", channels)
    return np.asarray(upright(image, turned))


def numbers_to_channels(array: np.ndarray, channels: int) -> ImageLike:
    """An array (H, W, C) or (H, W) as an 8-bit image, as :func:`to_channels` makes it.

    Levels of 16 bits are divided by 257, floating-point numbers go from 0 to 1.

    Raises:
        UserError: another shape or type, values outside the range of their type, or another number of channels.
    """
    if channels not in (RGB, GREY):
        if array.ndim != 3 or array.shape[2] != channels or not array.size:
            raise _other_channels(f"the shape {array.shape}", channels)
        return _levels(array)
    return to_channels(from_array(_levels(array)), channels)


def _levels(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "uif" or not array.size:
        received = f"{array.dtype} of shape {array.shape}"
        raise UserError(f"expected an array of numbers, got {received}", code="data.bad-array")
    return to_8_bits(array)


def _other_channels(received: str, channels: int) -> UserError:
    return UserError(f"has {received}, but Arch.in_channels is {channels}", code="data.other-channels")


def to_rgb(image: Image.Image) -> Image.Image:
    """A Pillow image of any mode, its pixels decoded, as an 8-bit RGB one.

    Raises:
        UserError: values without a known white.
    """
    transparency = image.info.get("transparency")
    if image.mode.startswith(("I", "F")):
        return _from_deep_grey(image, transparency)
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or transparency is not None:
        return _on_white(image.convert("LA" if image.mode == "La" else "RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def from_array(array: np.ndarray) -> Image.Image:
    """An array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8 or uint16 as a Pillow image of 8 bits.

    >>> from_array(np.full((2, 5, 1), 65535, np.uint16)).getpixel((0, 0))
    255

    Raises:
        UserError: another shape or type.
    """
    expected = "expected an array (H, W, 3) of uint8 in RGB"
    if array.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{expected}, got {array.dtype}", code="data.bad-array")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        hint = "; channels come last: image.transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] == 3 else ""
        hint = "; several images are a list: list(images)" if array.ndim == 4 else hint
        raise UserError(f"{expected}, got shape {array.shape}{hint}", code="data.bad-array")
    levels = array if array.dtype == np.uint8 else to_8_bits(array)
    return Image.fromarray(np.ascontiguousarray(levels[:, :, 0] if levels.shape[2:] == (1,) else levels))


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    opaque = image.convert("RGB")
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return opaque
    canvas = Image.new("RGB", image.size, (WHITE, WHITE, WHITE))
    canvas.paste(opaque, mask=alpha)
    return canvas


def _from_deep_grey(image: Image.Image, transparency: object) -> Image.Image:
    levels = np.asarray(image)
    grey = to_8_bits(levels)
    if isinstance(transparency, int):
        grey[levels == transparency] = WHITE
    return Image.fromarray(grey).convert("RGB")


def to_8_bits(levels: np.ndarray) -> np.ndarray:
    """Levels of any type, scaled from the range of their type to 0 to 255, rounded. The result is a new array.

    >>> to_8_bits(np.array([0, 257, 65535], np.uint16))
    array([  0,   1, 255], dtype=uint8)
    >>> to_8_bits(np.array([0.0, 0.5, 1.0], np.float32))
    array([  0, 128, 255], dtype=uint8)

    Raises:
        UserError: 32-bit whole numbers outside 0 to 65535, or floating-point numbers outside 0 to 1.
    """
    if levels.dtype == np.uint8:
        return levels.copy()
    low, high = levels.min(), levels.max()
    brightest, kind = (1, "floating-point") if levels.dtype.kind == "f" else (MAX_16_BITS, f"{levels.dtype}")
    if not (0 <= low and high <= brightest):  # NaN is outside too
        raise UserError(
            f"holds {kind} values from {low:g} to {high:g}, and which of them is white is not known: they must lie "
            f"between 0 (black) and {brightest} (white); convert the image to 8 bits",
            code="data.unknown-range",
        )
    return (levels * (255 / brightest) + 0.5).astype(np.uint8)


def _from_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None
    return converted
