"""What PaddleDetection needs to run with what is installed: its wheel 2.6.0 with Paddle 3, and both with Pillow."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
from PIL import Image, ImageDraw

from ..pictures import Detections, draw_detections
from ..suites import Patch, apply_patches


def patch() -> list[str]:
    """Apply what is needed here; returns the names. A second call applies nothing."""
    return apply_patches(PATCHES)


class PaddleOfBefore(types.ModuleType):
    """Paddle, except that ``concat`` takes tensors of no dimension, as it did when they had one.

    >>> PaddleOfBefore().concat([paddle.ones([]), paddle.zeros([])]).tolist()
    [1.0, 0.0]
    """

    def __init__(self) -> None:
        super().__init__("paddle")

    def __getattr__(self, name: str) -> Any:
        return getattr(paddle, name)

    @staticmethod
    def concat(x: Any, axis: int = 0, name: Any = None) -> paddle.Tensor:
        """``paddle.concat``, tensors of no dimension being taken for one number in a row."""
        return paddle.concat([each.reshape([1]) if each.ndim == 0 else each for each in x], axis, name)


def _modules() -> list[Any]:
    from ppdet.modeling import post_process
    from ppdet.modeling.heads import cascade_head
    from ppdet.modeling.proposal_generator import rpn_head, target

    return [rpn_head, target, cascade_head, post_process]


def _counts_fail() -> bool:
    """Whether the boxes of an image cannot be counted, as between the stages of Cascade R-CNN."""
    from ppdet.modeling.heads.cascade_head import CascadeHead

    head = types.SimpleNamespace(training=False)
    try:
        CascadeHead._get_rois_from_boxes(head, [paddle.ones([2, 4])], paddle.ones([1, 2]))
    except Exception:  # whatever Paddle raises: with the patch it does not
        return True
    return False


def _patch_counts() -> None:
    for module in _modules():
        module.paddle = PaddleOfBefore()


def _drawing_fails() -> bool:
    """Whether boxes are drawn with what Pillow 10 has no more, or with a font that is downloaded first."""
    from ppdet.utils import visualizer

    source = inspect.getsource(visualizer.draw_bbox)
    return "font_url" in source or ("draw.textsize" in source and not hasattr(ImageDraw.ImageDraw, "textsize"))


def _patch_drawing() -> None:
    from ppdet.utils import visualizer

    visualizer.draw_bbox = draw_boxes


def draw_boxes(
    image: Image.Image, im_id: int, catid2name: Mapping[int, str], bboxes: Sequence[Mapping[str, Any]], threshold: float
) -> Image.Image:
    """Boxes with class and score over an image, in the colours of :mod:`ppreplk.plugins.pictures`.

    Args:
        image: the image.
        im_id: its number.
        catid2name: {category: name}.
        bboxes: ``{"image_id", "category_id", "bbox": (left, top, width, height), "score"}`` for each box.
        threshold: what has a lower score is left out.
    """
    categories = sorted(catid2name)
    found = [each for each in bboxes if each["image_id"] == im_id and len(each["bbox"]) == 4]
    corners = np.array([each["bbox"] for each in found], float).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    classes = np.array([categories.index(each["category_id"]) for each in found], np.int64)
    scores = np.array([each["score"] for each in found], float)
    names = [catid2name[category] for category in categories]
    pixels = np.asarray(image.convert("RGB"))
    return draw_detections(pixels, Detections(corners, classes, scores), names, threshold=threshold)


PATCHES = (
    Patch(
        "modeling: rpn_head, target, cascade_head and post_process",
        "they concatenate numbers of boxes, which have no dimension in Paddle 3",
        _counts_fail,
        _patch_counts,
    ),
    Patch(
        "utils.visualizer.draw_bbox",
        "it needs a function that Pillow 10 has no more, or downloads a font",
        _drawing_fails,
        _patch_drawing,
    ),
)
