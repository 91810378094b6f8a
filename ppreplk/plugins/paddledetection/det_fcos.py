"""FCOS that predicts as mmdet's does, with which the published file was evaluated.

PaddleDetection's lets boxes reach beyond the image, where no true box does, and drops a box when the product of class
score and centerness is low. mmdet ends boxes at the image before it suppresses overlapping ones, and drops a box when
its class score is low. Training is PaddleDetection's. Parameter names are those of its ``FCOS`` and ``FCOSHead``.

Importing this module registers them, so :func:`.register` alone imports it: PaddleDetection must be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
import paddle.nn.functional as F
from ppdet.core.workspace import register
from ppdet.modeling.architectures.fcos import FCOS
from ppdet.modeling.heads.fcos_head import FCOSHead


@register
class ClippedFCOS(FCOS):
    """FCOS whose head, a :class:`ClippedFCOSHead`, knows the size of the image. Arguments are those of ``FCOS``."""

    def _forward(self) -> Any:
        if not self.training:
            self.fcos_head.image_shapes = [self.inputs["im_shape"]]  # Paddle would make a tensor a buffer
        return super()._forward()


@register
class ClippedFCOSHead(FCOSHead):
    """FCOS's head with boxes that end at the image. Arguments are those of ``FCOSHead``.

    ``nms.score_threshold``, which sees the product with the centerness, belongs to 0: class scores are compared here.

    Source: mmdet's FCOS, ``score_thr`` of its configuration.
    """

    min_class_score = 0.05
    image_shapes: Sequence[paddle.Tensor] = ()  # one, (N, 2), height and width

    def _post_process_by_level(
        self,
        locations: paddle.Tensor,
        box_cls: paddle.Tensor,
        box_reg: paddle.Tensor,
        box_ctn: paddle.Tensor,
        sqrt_score: bool = False,
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Outputs for one level of the pyramid -> scores (N, P, classes) and boxes (N, P, 4) in pixels."""
        scores, boxes = super()._post_process_by_level(locations, box_cls, box_reg, box_ctn, sqrt_score)
        classes = F.sigmoid(box_cls).flatten(2).transpose([0, 2, 1])
        scores = scores * (classes > self.min_class_score).astype(scores.dtype)
        for shapes in self.image_shapes:
            limits = paddle.concat([shapes[:, 1:], shapes[:, :1]], axis=1).tile([1, 2]).unsqueeze(1)
            boxes = paddle.minimum(paddle.clip(boxes, min=0.0), limits.astype(boxes.dtype))
        return scores, boxes
