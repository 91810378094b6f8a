"""What PaddleDetection needs to run with the installed Paddle. Its wheel 2.6.0 needs it, the develop branch nothing."""

from __future__ import annotations

import types
from typing import Any

import paddle

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
    from ppdet.modeling.proposal_generator import target

    return [target, cascade_head, post_process]


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


PATCHES = (
    Patch(
        "modeling: target, cascade_head and post_process",
        "they concatenate numbers of boxes, which have no dimension in Paddle 3",
        _counts_fail,
        _patch_counts,
    ),
)
