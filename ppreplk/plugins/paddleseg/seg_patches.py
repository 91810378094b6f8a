"""What PaddleSeg needs to run with the installed Paddle. Its wheel 2.8.0 needs all of it, newer branches nothing.

Three come from Paddle 3: a sum is a tensor of no dimension there, and types are not mixed. The last is the wheel's own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Optional

import numpy as np
import paddle

from ..suites import Patch, apply_patches


def patch() -> list[str]:
    """Apply what is needed here; returns the names. A second call applies nothing."""
    return apply_patches(PATCHES)


def _fails(call: Callable[[], Any]) -> bool:
    try:
        with paddle.no_grad():
            call()
    except Exception:  # whatever the suite or Paddle raises: with the patch it does not
        return True
    return False


def _cross_entropy_fails() -> bool:
    from paddleseg.models.losses import CrossEntropyLoss

    return _fails(lambda: CrossEntropyLoss(weight=[1.0, 2.0])(paddle.zeros([1, 2, 2, 2]), paddle.zeros([1, 2, 2])))


def _patch_cross_entropy() -> None:
    from paddleseg.models.losses.cross_entropy_loss import CrossEntropyLoss

    CrossEntropyLoss._post_process_loss = averaged_loss


def averaged_loss(
    self: Any,
    logit: paddle.Tensor,
    label: paddle.Tensor,
    semantic_weights: Optional[paddle.Tensor],
    loss: paddle.Tensor,
) -> paddle.Tensor:
    """The average of the pixels' losses, as PaddleSeg's ``CrossEntropyLoss`` defines it, in one type of number.

    Args:
        self: the loss, with its settings.
        logit: (N, H, W, K).
        label: (N, H, W), int64.
        semantic_weights: a factor for each pixel.
        loss: of each pixel, (N, H, W) or (N, H, W, 1).
    """
    if loss.ndim > label.ndim:
        loss = loss.squeeze(-1)
    counted = label != self.ignore_index
    if not self.avg_non_ignore:
        counted = paddle.ones_like(counted)
    mask = counted.astype(loss.dtype)
    loss = loss * mask
    if semantic_weights is not None:
        loss = loss * semantic_weights
    share = mask
    if self.weight is not None:
        is_class = label != self.ignore_index  # ignored pixels, counted or not, have no class and so no weight
        weights = self.weight.astype(loss.dtype)[paddle.where(is_class, label, paddle.zeros_like(label))]
        share = mask * weights * is_class.astype(loss.dtype)
    share.stop_gradient = True
    if self.top_k_percent_pixels < 1.0:
        loss, hardest = paddle.topk(loss.flatten(), int(self.top_k_percent_pixels * loss.size))
        share = share.flatten()[hardest] if self.weight is not None else paddle.ones_like(loss)
    return loss.mean() / (share.mean() + self.EPS)


def _training_fails() -> bool:
    from paddleseg.core import train

    module = inspect.getmodule(train)
    logs_first_element = "l[0]" in inspect.getsource(train)
    return logs_first_element and not hasattr(module.loss_computation, "__wrapped__")  # type: ignore[union-attr]


def _patch_training() -> None:
    from paddleseg.core import train

    module: Any = inspect.getmodule(train)
    original = module.loss_computation

    @functools.wraps(original)
    def loss_computation(*arguments: Any, **named: Any) -> list[paddle.Tensor]:
        return [loss.reshape([1]) for loss in original(*arguments, **named)]

    module.loss_computation = loss_computation


def _areas_fail() -> bool:
    from paddleseg.utils import metrics

    label = paddle.zeros([1, 1, 2, 2], "int64")
    return _fails(lambda: metrics.calculate_area(label, label, 2))


def _patch_areas() -> None:
    from paddleseg.utils import metrics

    metrics.calculate_area = calculate_area


def calculate_area(
    pred: paddle.Tensor, label: paddle.Tensor, num_classes: int, ignore_index: int = 255
) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Pixels of each class: (num_classes,) int64 that prediction and label share, of the prediction, of the label.

    Args:
        pred, label: class maps, (N, 1, H, W) or (N, H, W).
        num_classes: classes.
        ignore_index: the label of pixels that do not count.

    Raises:
        ValueError: the maps have different sizes.
    """
    pred, label = (each.squeeze(1) if each.ndim == 4 else each for each in (pred, label))
    if pred.shape != label.shape:
        raise ValueError(f"prediction and label must have the same shape, got {pred.shape} and {label.shape}")
    counted = label != ignore_index
    areas = []
    for index in range(num_classes):
        predicted, labelled = (pred == index) & counted, label == index
        areas.append([each.astype("int64").sum() for each in (predicted & labelled, predicted, labelled)])
    shared, predicted, labelled = (paddle.stack(column) for column in zip(*areas))
    return shared, predicted, labelled


def _crops_lose_the_image() -> bool:
    from paddleseg.transforms import RandomPaddingCrop

    label = np.eye(4, dtype="uint8")
    crop = RandomPaddingCrop(crop_size=[3, 3], category_max_ratio=0.9)
    data = crop({"img": np.zeros([4, 4, 3], "float32"), "label": label, "gt_fields": ["label"]})
    return data["img"].shape != (3, 3, 3)


def _patch_crops() -> None:
    from paddleseg.transforms import RandomPaddingCrop

    RandomPaddingCrop.__call__ = padded_crop


def padded_crop(self: Any, data: dict[str, Any]) -> dict[str, Any]:
    """Crop an image and its masks at one random place, padded where they are too small.

    Below 1, ``category_max_ratio`` is the most that one class may have of the counted pixels; another place is drawn
    ``loop_times`` times at most, and the last one is taken.

    Args:
        self: the ``RandomPaddingCrop``, with its settings.
        data: ``img`` (H, W, C), and what ``gt_fields`` names, (H, W).
    """
    if tuple(data["img"].shape[:2]) == tuple(self.crop_size):
        return data
    data = self._padding(data)
    place = self._get_crop_coordinates(data["img"].shape[:2])
    if self.category_max_ratio < 1.0:
        for _ in range(self.loop_times):
            label = _cut(data["label"], place)
            counts = np.unique(label[label != self.ignore_index], return_counts=True)[1]
            if len(counts) > 1 and counts.max() < self.category_max_ratio * counts.sum():
                break
            place = self._get_crop_coordinates(data["img"].shape[:2])
    for name in ("img", *data.get("gt_fields", [])):
        data[name] = _cut(data[name], place)
    return data


def _cut(array: np.ndarray, place: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = place
    return array[top:bottom, left:right]


PATCHES = (
    Patch(
        "models.losses.CrossEntropyLoss",
        "it multiplies float32 by int64, which Paddle 3 refuses",
        _cross_entropy_fails,
        _patch_cross_entropy,
    ),
    Patch(
        "core.train.loss_computation",
        "the log takes the first element of a loss, which has no dimension in Paddle 3",
        _training_fails,
        _patch_training,
    ),
    Patch(
        "utils.metrics.calculate_area",
        "it concatenates sums, which have no dimension in Paddle 3",
        _areas_fail,
        _patch_areas,
    ),
    Patch(
        "transforms.RandomPaddingCrop",
        "with category_max_ratio it puts the mask in the place of the image",
        _crops_lose_the_image,
        _patch_crops,
    ),
)
