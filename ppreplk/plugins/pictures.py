"""Pictures of what a suite's network says: class masks and detections drawn over the image.

Functions of arrays that give a Pillow image. Neither a suite nor a network is needed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..utils.errors import UserError

COLOURS = 256  # distinct ones; they repeat after that
OPACITY = 0.5
MARGIN = 4  # pixels around a text
TEXT_SHARE = 40  # a text is this many times lower than the image, if that can be read
MIN_TEXT = 11  # pixels
THICKNESS_SHARE = 250  # a box's line is this many times thinner than the image
BLACK, WHITE, PAPER = (0, 0, 0), (255, 255, 255), (255, 255, 255)


class Detections(NamedTuple):
    """What a detector found on one image.

    ``boxes`` is (N, 4) float: left, top, right and bottom edge in pixels. ``classes`` is (N,) int, counted from 0.
    ``scores`` is (N,) float. ``masks``, if the detector makes some, is (N, H, W), true or non-zero inside the object.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    masks: Optional[np.ndarray] = None


def class_palette(classes: int = COLOURS) -> np.ndarray:
    """A colour for each class: (classes, 3) uint8.

    Each colour is, of a grid of colours, the one that is farthest from those before it, and from black, white and grey.
    So a class keeps its colour whatever the number of classes, and the first ones differ most. They repeat after
    256 classes.

    >>> class_palette(3).tolist() == class_palette(150)[:3].tolist()
    True
    """
    levels = np.linspace(0, 255, 10).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    weights = np.array([2.0, 4.0, 3.0])  # the eye tells greens apart best, reds worst
    distance = np.full(len(grid), np.inf)
    for grey in (0, 128, 255):
        distance = np.minimum(distance, ((grid - grey) ** 2 * weights).sum(axis=1))
    chosen = np.empty((COLOURS, 3), np.uint8)
    for index in range(COLOURS):
        colour = grid[int(distance.argmax())]
        chosen[index] = colour
        distance = np.minimum(distance, ((grid - colour) ** 2 * weights).sum(axis=1))
    return chosen[np.arange(classes) % COLOURS]


def draw_mask(
    image: np.ndarray,
    mask: np.ndarray,
    names: Sequence[str] = (),
    palette: Optional[np.ndarray] = None,
    opacity: float = OPACITY,
    ignored: int = 255,
    legend: bool = True,
) -> Image.Image:
    """Blend a class mask over an image, and put a legend of the classes that it has at the right.

    Args:
        image: (H, W, 3) uint8, RGB.
        mask: (H, W), whole numbers: the class of each pixel.
        names: of the classes; one without a name is called by its number.
        palette: (classes, 3) uint8, the classes' colours; those of :func:`class_palette` unless given.
        opacity: share of the colour in a painted pixel, from 0 to 1.
        ignored: the number of pixels that belong to no class; they stay as they are.
        legend: whether there is one. It begins with the class that has most pixels.

    Returns:
        The picture, of the image's size, or wider by the legend.

    Raises:
        UserError: shapes or values that do not fit.
    """
    image, mask = _checked_image(image), np.asarray(mask)
    if mask.shape != image.shape[:2]:
        raise _bad_shape(f"the mask is {_size(mask)}, its image {_size(image)}; they must have the same size")
    if not np.issubdtype(mask.dtype, np.integer):
        raise UserError(f"a mask holds whole numbers, got {mask.dtype}", code="plugins.picture-values")
    painted = mask != ignored
    present, which, counts = np.unique(mask[painted], return_inverse=True, return_counts=True)
    colours = _colours(palette, present)
    picture = image.copy()
    picture[painted] = _blend(image[painted], colours[which], opacity)
    drawn = Image.fromarray(picture)
    if not legend or not len(present):
        return drawn
    order = np.argsort(-counts, kind="stable")
    return _with_legend(drawn, [(_name(names, int(present[i])), tuple(map(int, colours[i]))) for i in order])


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    names: Sequence[str] = (),
    palette: Optional[np.ndarray] = None,
    threshold: float = 0.5,
    opacity: float = OPACITY,
) -> Image.Image:
    """Draw boxes with class and score over an image, and blend the masks if there are some.

    The best are drawn last, so that they lie on top. What is outside of the image is cut off.

    Args:
        image: (H, W, 3) uint8, RGB.
        detections: see :class:`Detections`; none of them is fine.
        names, palette, opacity: see :func:`draw_mask`.
        threshold: what has a lower score is left out.

    Returns:
        The picture, of the image's size.

    Raises:
        UserError: shapes or values that do not fit.
    """
    image = _checked_image(image)
    boxes, classes, scores, masks = _checked_detections(detections, image)
    order = [index for index in np.argsort(scores, kind="stable") if scores[index] >= threshold]
    colours = _colours(palette, classes)
    picture = image.copy()
    if masks is not None:
        for index in order:
            inside = masks[index].astype(bool)
            picture[inside] = _blend(picture[inside], colours[index], opacity)
    drawn = Image.fromarray(picture)
    for index in order:
        label = f"{_name(names, int(classes[index]))} {scores[index]:.2f}"
        _draw_box(drawn, boxes[index], label, tuple(map(int, colours[index])))
    return drawn


def _draw_box(picture: Image.Image, box: np.ndarray, label: str, colour: tuple[int, ...]) -> None:
    """A rectangle, and its label above it, or inside where there is no room above."""
    width, height = picture.size
    left, right = (int(value) for value in np.clip(np.round(box[[0, 2]]), 0, width))
    top, bottom = (int(value) for value in np.clip(np.round(box[[1, 3]]), 0, height))
    if right <= left or bottom <= top:  # outside of the image, or without a pixel
        return
    draw, font = ImageDraw.Draw(picture), _font(picture.size)
    thickness = max(1, round(min(width, height) / THICKNESS_SHARE))
    draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=thickness)
    text_width, text_height = _text_size(draw, label, font)
    x = max(0, min(left, width - text_width - 2))
    y = top - text_height - 2 if top >= text_height + 2 else top
    draw.rectangle((x, y, x + text_width + 1, y + text_height + 1), fill=colour)
    bright = float(np.dot(colour, [0.299, 0.587, 0.114])) > 140
    draw.text((x + 1, y + 1), label, fill=BLACK if bright else WHITE, font=font)


def _with_legend(picture: Image.Image, entries: Sequence[tuple[str, tuple[int, ...]]]) -> Image.Image:
    """The picture, and at its right a field of colour and a name for each entry, in as many columns as it takes."""
    font = _font(picture.size)
    draw = ImageDraw.Draw(picture)
    sizes = [_text_size(draw, name, font) for name, _ in entries]
    field = max(height for _, height in sizes)
    column = max(width for width, _ in sizes) + field + 3 * MARGIN
    rows = max(1, (picture.height - MARGIN) // (field + MARGIN))
    columns = -(-len(entries) // rows)
    height = max(picture.height, field + 2 * MARGIN)
    canvas = Image.new("RGB", (picture.width + columns * column + MARGIN, height), PAPER)
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for index, (name, colour) in enumerate(entries):
        x = picture.width + MARGIN + index // rows * column
        y = MARGIN + index % rows * (field + MARGIN)
        draw.rectangle((x, y, x + field - 1, y + field - 1), fill=colour)
        draw.text((x + field + MARGIN, y), name, fill=BLACK, font=font)
    return canvas


def _font(size: tuple[int, int]) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font. Older versions of Pillow have it in one size."""
    pixels = max(MIN_TEXT, min(size) // TEXT_SHARE)
    try:
        return ImageFont.load_default(pixels)
    except (TypeError, ImportError):
        return ImageFont.load_default()


def _text_size(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> tuple[int, int]:
    """Width and height of a text that is drawn at (0, 0), with room for letters below the line."""
    right = draw.textbbox((0, 0), text, font=font)[2]
    bottom = draw.textbbox((0, 0), "Ag", font=font)[3]
    return int(np.ceil(right)), int(np.ceil(bottom))


def _name(names: Sequence[str], index: int) -> str:
    """The name of a class, with a question mark for what Pillow's font has no letter for."""
    name = names[index] if index < len(names) else str(index)
    return name.encode("latin-1", "replace").decode("latin-1")


def _blend(pixels: np.ndarray, colours: np.ndarray, opacity: float) -> np.ndarray:
    if not 0.0 <= opacity <= 1.0:
        raise UserError(f"opacity goes from 0 to 1, got {opacity}", code="plugins.picture-values")
    return np.round(pixels * (1.0 - opacity) + colours.astype(np.float64) * opacity).astype(np.uint8)


def _colours(palette: Optional[np.ndarray], classes: np.ndarray) -> np.ndarray:
    """The colour of each of ``classes`` (N,): (N, 3) uint8.

    Raises:
        UserError: a negative class, one that the palette has no colour for, or no palette.
    """
    if len(classes) and classes.min() < 0:
        raise UserError(f"classes count from 0, got {classes.min()}", code="plugins.picture-values")
    if palette is None:
        return class_palette()[classes.astype(np.int64) % COLOURS]
    palette = np.asarray(palette)
    if palette.ndim != 2 or palette.shape[1] != 3:
        raise _bad_shape(f"a palette is (classes, 3), got {palette.shape}")
    if len(classes) and classes.max() >= len(palette):
        raise UserError(
            f"the palette has {len(palette)} colours, and there is a class {classes.max()}",
            code="plugins.picture-palette",
        )
    return palette.astype(np.uint8)[classes]


def _checked_image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise _bad_shape(f"an image is (H, W, 3) uint8, got {image.shape} {image.dtype}")
    return image


def _checked_detections(
    detections: Detections, image: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Optional[np.ndarray]]:
    classes, scores = np.asarray(detections.classes).reshape(-1), np.asarray(detections.scores, float).reshape(-1)
    boxes = np.asarray(detections.boxes, float).reshape(-1, 4) if not len(classes) else np.asarray(detections.boxes)
    if boxes.shape != (len(classes), 4) or len(scores) != len(classes):
        raise _bad_shape(
            f"detections are boxes (N, 4), classes (N,) and scores (N,), got {boxes.shape}, {classes.shape} and "
            f"{scores.shape}"
        )
    if not len(classes):
        classes = classes.astype(np.int64)
    elif not np.issubdtype(classes.dtype, np.integer):
        raise UserError(f"classes are whole numbers, got {classes.dtype}", code="plugins.picture-values")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise UserError("boxes or scores are not finite numbers", code="plugins.picture-values")
    masks = None if detections.masks is None or not len(classes) else np.asarray(detections.masks)
    if masks is not None and masks.shape != (len(classes), *image.shape[:2]):
        raise _bad_shape(
            f"masks are (N, H, W), here ({len(classes)}, {image.shape[0]}, {image.shape[1]}), got {masks.shape}"
        )
    return boxes, classes, scores, masks


def _size(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape[:2]))


def _bad_shape(message: str) -> UserError:
    return UserError(message, code="plugins.picture-shape")
