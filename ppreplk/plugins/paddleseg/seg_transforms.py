"""The preprocessing that PaddleSeg stores beside a program, and the way back to the image's size, in NumPy alone.

Images are read as PaddleSeg reads them, RGB in float32 from 0 to 255, and resized as its OpenCV does: bilinearly, with
no smoothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Optional

import numpy as np

from ...utils.errors import UserError
from ..suite_images import read_transforms, resized

Size = tuple[int, int]  # height and width


class Step(NamedTuple):
    """One change of size. ``before`` is the size that it had, ``(height, width)``."""

    kind: Literal["resize", "padding"]
    before: Size


def _nearest(classes: np.ndarray, size: Size) -> np.ndarray:
    rows, columns = ((np.arange(length) * (have / length)).astype(int) for length, have in zip(size, classes.shape))
    return classes[rows[:, None], columns[None, :]]


class Preprocessing:
    """The transforms of ``deploy.yaml``.

    Args:
        transforms: as they stand there, ``[{"type": "Normalize", ...}, ...]``.
        where: the file, for messages.

    Raises:
        UserError: one that is not served here.
    """

    def __init__(self, transforms: Any, where: str):
        self._steps = read_transforms(transforms, TRANSFORMS, f"{where}: transforms")

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, list[Step]]:
        """An image (H, W, 3) uint8 RGB as the program reads it, (3, H', W') float32, and the changes of its size.

        Raises:
            UserError: it is larger than it is to be padded to.
        """
        array, steps = image.astype(np.float32), list[Step]()
        for transform in self._steps:
            array, changes = transform(array)
            steps += changes
        return np.ascontiguousarray(array.transpose(2, 0, 1), np.float32), steps


def restored(output: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """What a program says about an image, at the size that the image had: (H, W) classes.

    Scores are resized before the best class is taken, as PaddleSeg does; classes keep to the nearest pixel.

    Args:
        output: classes (H', W'), or a score for each class (K, H', W').
        steps: of :class:`Preprocessing`.
    """
    scores = output.astype(np.float32).transpose(1, 2, 0) if output.ndim == 3 else None
    classes = output
    for step in reversed(steps):
        if step.kind == "padding":
            keep = tuple(slice(0, side) for side in step.before)
            classes, scores = classes[keep], None if scores is None else scores[keep]
        elif scores is not None:
            scores = resized(scores, step.before)
        else:
            classes = _nearest(classes, step.before)
    return (classes if scores is None else scores.argmax(-1)).astype(np.int64)


def _resizing(size: Callable[[Size], Size]) -> Callable[[np.ndarray], tuple[np.ndarray, list[Step]]]:
    def transform(image: np.ndarray) -> tuple[np.ndarray, list[Step]]:
        before = (image.shape[0], image.shape[1])
        return resized(image, size(before)), [Step("resize", before)]

    return transform


def _resize(
    target_size: Sequence[int] = (512, 512),
    keep_ratio: bool = False,
    size_divisor: Optional[int] = None,
    interp: str = "LINEAR",
) -> Callable:
    if interp != "LINEAR":
        raise ValueError(f"interp {interp} is not served here, only LINEAR")
    width, height = target_size

    def size(before: Size) -> Size:
        after = [height, width]
        if keep_ratio:
            scale = min(max(target_size) / max(before), min(target_size) / min(before))
            after = [round(side * scale) for side in before]
        if size_divisor:
            after = [math.ceil(side / size_divisor) * size_divisor for side in after]
        return after[0], after[1]

    return _resizing(size)


def _scaled(before: Size, scale: float) -> Size:
    return round(before[0] * scale), round(before[1] * scale)


def _resize_by_long(long_size: int) -> Callable:
    return _resizing(lambda before: _scaled(before, long_size / max(before)))


def _resize_by_short(short_size: int, max_size: float = 1e10) -> Callable:
    def size(before: Size) -> Size:
        short = short_size
        if short / min(before) * max(before) > max_size:
            short = int(max_size / max(before) * min(before))
        return _scaled(before, short / min(before))

    return _resizing(size)


def _limit_long(max_long: Optional[int] = None, min_long: Optional[int] = None) -> Callable:
    def size(before: Size) -> Size:
        longest = max(before)
        target = min(longest, max_long or longest)
        target = max(target, min_long) if min_long is not None and longest < min_long else target
        return _scaled(before, target / longest) if target != longest else before

    return _resizing(size)


def _normalize(mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.5,)) -> Callable:
    middle, deviation = np.array(mean, np.float64), np.array(std, np.float64)
    if not deviation.all():
        raise ValueError(f"std must not be 0, got {list(std)}")
    return lambda image: (((image / 255.0 - middle) / deviation).astype(np.float32), [])


def _padding(target_size: Any, im_padding_value: float = 127.5, label_padding_value: int = 255) -> Callable:
    width, height = (target_size, target_size) if isinstance(target_size, int) else target_size

    def transform(image: np.ndarray) -> tuple[np.ndarray, list[Step]]:
        rows, columns = image.shape[:2]
        if rows > height or columns > width:
            raise UserError(
                f"is {columns}x{rows}, larger than the {width}x{height} it is padded to", code="plugins.bad-image"
            )
        margin = ((0, height - rows), (0, width - columns), (0, 0))
        padded = np.pad(image, margin, constant_values=im_padding_value)
        return padded, [Step("padding", (rows, columns))]

    return transform


TRANSFORMS: Mapping[str, Callable[..., Callable]] = {
    "Resize": _resize,
    "ResizeByLong": _resize_by_long,
    "ResizeByShort": _resize_by_short,
    "LimitLong": _limit_long,
    "Normalize": _normalize,
    "Padding": _padding,
}
