"""Images for the programs of a suite: read, resized as OpenCV does, and a folder of them drawn. No network code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, TypeVar, Union

import numpy as np
from PIL import Image

from ..config import read_ops
from ..data import IMAGE, build_transforms, find_images, load_image
from ..utils.atomic import make_folder, replacing
from ..utils.errors import Incomplete, UserError, nearest

logger = logging.getLogger(__name__)

MAX_NAMED = 3
StepType = TypeVar("StepType")


def read_image(image: Union[str, Path, np.ndarray]) -> np.ndarray:
    """An image as (H, W, 3) uint8, RGB.

    Args:
        image: a file, or such an array.

    Raises:
        UserError: no such image, or another kind of array.
    """
    if not isinstance(image, np.ndarray):
        decode = build_transforms(read_ops([{"DecodeImage": {"backend": "pil"}}], "image"), IMAGE)
        return np.asarray(load_image(str(image), decode, np.random.default_rng(0)))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UserError(
            f"expected an array (H, W, 3) of uint8, got {image.shape} of {image.dtype}", code="plugins.bad-image"
        )
    return image


def read_transforms(transforms: Any, known: Mapping[str, Callable[..., StepType]], where: str) -> list[StepType]:
    """The preprocessing that a suite stored beside a program.

    Args:
        transforms: as they stand there, ``[{"type": "Resize", ...}, ...]``; None is none.
        known: {type: makes a transform of the keys beside it, or raises TypeError or ValueError}.
        where: file and key, for messages.

    Raises:
        UserError: one that is not served here.
    """
    if not isinstance(transforms, (list, type(None))):
        raise UserError(f"expected a list, got {transforms!r}", code="plugins.bad-transform", where=where)
    steps = []
    for index, entry in enumerate(transforms or []):
        place = f"{where}[{index}]"
        if not isinstance(entry, Mapping) or "type" not in entry:
            raise UserError(f"expected a mapping with type, got {entry!r}", code="plugins.bad-transform", where=place)
        kind, arguments = str(entry["type"]), {name: value for name, value in entry.items() if name != "type"}
        if kind not in known:
            raise UserError(
                f"{kind} is not served here{nearest(kind, known)}", code="plugins.bad-transform", where=place
            )
        try:
            steps.append(known[kind](**arguments))
        except (TypeError, ValueError) as error:
            raise UserError(f"{kind}: {error}", code="plugins.bad-transform", where=place) from error
    return steps


def resized(image: np.ndarray, size: tuple[int, int], scale: Optional[tuple[float, float]] = None) -> np.ndarray:
    """An array (H, W, C) float32 at another size, interpolated bilinearly between pixel centres.

    OpenCV does so too: without smoothing, also where the image gets smaller.

    Args:
        image: the array.
        size: height and width.
        scale: how much larger it gets, down and across, if that is not what the sizes say: rounding sides changes it.

    >>> resized(np.array([[[0.0], [1.0]]], np.float32), (1, 4))[0, :, 0].tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    for axis, length in enumerate(size):
        have = image.shape[axis]
        if have == length:
            continue
        step = have / length if scale is None else 1 / scale[axis]
        place = np.clip((np.arange(length) + 0.5) * step - 0.5, 0, have - 1)
        lower = np.minimum(place.astype(np.int64), max(have - 2, 0))
        share = (place - lower).astype(np.float32).reshape([-1 if each == axis else 1 for each in range(image.ndim)])
        upper = np.minimum(lower + 1, have - 1)
        image = image.take(lower, axis) * (1 - share) + image.take(upper, axis) * share
    return image


def draw_images(picture: Callable[[str], Image.Image], images: str, output: str) -> list[Path]:
    """Write a picture of each image.

    Args:
        picture: makes the picture of a file.
        images: a file or a folder.
        output: folder of the pictures, ``NAME.png`` for each image.

    Returns:
        The pictures.

    Raises:
        Incomplete: after all pictures, if images were left out.
        UserError: there are no images, or the folder cannot be written, or a picture would replace an image.
    """
    paths = find_images(images, where="--images")
    targets = list(_targets(paths, Path(output)))
    replaced = sorted({Path(path).resolve() for path in paths} & {target.resolve() for target in targets})
    if replaced:
        raise UserError(
            f"the picture would replace the image {replaced[0]}; name another folder",
            code="plugins.would-replace",
            where="--output",
        )
    make_folder(Path(output), "--output")
    written, failures = list[Path](), list[UserError]()
    for path, target in zip(paths, targets):
        try:
            drawn = picture(path)
        except UserError as error:
            failures.append(error.at(path) if path not in str(error) else error)
            continue
        with replacing(target) as [partial]:
            drawn.save(partial, format="PNG")
        written.append(target)
        logger.info("%s", target)
    if failures and not written:
        raise failures[0]
    if failures:
        raise Incomplete(
            f"{len(failures)} of {len(paths)} images could not be used, the others are drawn: "
            + "; ".join(map(str, failures[:MAX_NAMED])),
            code="plugins.unreadable-images",
        )
    return written


def _targets(paths: Sequence[str], folder: Path) -> Iterator[Path]:
    """A name for each picture: that of the image, with a number where two have the same."""
    taken: set[str] = set()
    for path in paths:
        name, number = Path(path).stem, 1
        while name in taken:
            number += 1
            name = f"{Path(path).stem}_{number}"
        taken.add(name)
        yield folder / f"{name}.png"
