"""What the published FCOS needs and PaddleDetection lacks, under the names that its YAML files use.

| name | instead of | what differs |
|-|-|-|
| ``ClippedFCOS``, ``ClippedFCOSHead`` | ``FCOS``, ``FCOSHead`` | predictions are mmdet's |
| ``FCOSIoULoss`` | ``FCOSLoss`` | the IoU loss of the published detector |
| ``ConstantWarmup`` | ``LinearWarmup`` | the learning rate stays at a share of itself, then jumps |

PaddleDetection's FCOS lets boxes reach beyond the image, where no true box does, and drops a box when the product of
class score and centerness is low. mmdet ends boxes at the image before it suppresses overlapping ones, and drops a box
when its class score is low. Parameter names are those of PaddleDetection's ``FCOS`` and ``FCOSHead``.

Importing this module registers them, so :func:`.register` alone imports it: PaddleDetection must be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import paddle
import paddle.nn.functional as F
from ppdet.core.workspace import register, serializable
from ppdet.modeling.architectures.fcos import FCOS
from ppdet.modeling.heads.fcos_head import FCOSHead
from ppdet.modeling.losses.fcos_loss import FCOSLoss
from ppdet.optimizer import optimizer

MIN_IOU = 1e-6


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


@register
class FCOSIoULoss(FCOSLoss):
    """FCOS's losses with the IoU loss of the published detector: -log(IoU), the IoU at least 1e-6.

    PaddleDetection's ``iou_loss_type: iou`` takes the logarithm of 0 wherever there is no object: it is always NaN.

    Args:
        loss_alpha, loss_gamma, reg_weights, quality: see PaddleDetection's FCOSLoss.
    """

    def __init__(
        self,
        loss_alpha: float = 0.25,
        loss_gamma: float = 2.0,
        reg_weights: float = 1.0,
        quality: str = "centerness",
    ):
        super().__init__(loss_alpha, loss_gamma, "iou", reg_weights, quality)

    def forward(
        self,
        cls_logits: Sequence[paddle.Tensor],
        bboxes_reg: Sequence[paddle.Tensor],
        centerness: Sequence[paddle.Tensor],
        tag_labels: Sequence[paddle.Tensor],
        tag_bboxes: Sequence[paddle.Tensor],
        tag_center: Sequence[paddle.Tensor],
    ) -> dict[str, paddle.Tensor]:
        """The losses of classes, boxes and centerness, as PaddleDetection's, from lists with an entry for each level.

        Where no point lies in an object that divides by 0. The loss of classes is not divided then, as in mmdet, and
        the others are 0.
        """
        if any(bool((labels > 0).any()) for labels in tag_labels):
            return super().forward(cls_logits, bboxes_reg, centerness, tag_labels, tag_bboxes, tag_center)
        losses = [F.sigmoid_focal_loss(each, paddle.zeros_like(each), reduction="sum") for each in cls_logits]
        nothing = paddle.add_n([each.sum() * 0.0 for each in [*bboxes_reg, *centerness]])
        return {"loss_cls": paddle.add_n(losses), "loss_box": nothing, "loss_quality": nothing}

    def _iou_loss(
        self,
        pred: paddle.Tensor,
        targets: paddle.Tensor,
        positive_mask: paddle.Tensor,
        weights: Optional[paddle.Tensor] = None,
        return_iou: bool = False,
    ) -> paddle.Tensor:
        """(N,) losses of distances (N, 4) to the left, top, right and bottom edge; 0 where the mask (N,) is.

        With ``return_iou`` the IoUs instead.
        """
        positive = positive_mask.unsqueeze(-1)
        pred, targets = pred * positive, (targets * positive).detach()
        common = paddle.minimum(pred, targets)
        area, true, overlap = (_area(distances) for distances in (pred, targets, common))
        iou = overlap / paddle.clip(area + true - overlap, min=MIN_IOU)
        if return_iou:
            return iou * positive_mask
        loss = -paddle.log(paddle.clip(iou, min=MIN_IOU)) * positive_mask
        return loss if weights is None else loss * weights

    _FCOSLoss__iou_loss = _iou_loss  # its name in wheel 2.6.0


def _area(distances: paddle.Tensor) -> paddle.Tensor:
    """(N, 4) distances to the left, top, right and bottom edge -> (N,)."""
    return (distances[:, 0] + distances[:, 2]) * (distances[:, 1] + distances[:, 3])


@serializable
class ConstantWarmup:
    """The learning rate stays at a share of itself, then jumps to all of it: the warm-up of the published FCOS.

    Args:
        steps: iterations with the smaller one.
        factor: the share.
    """

    def __init__(self, steps: int = 500, factor: float = 1 / 3):
        self.steps = steps
        self.factor = factor

    def __call__(self, base_lr: float, step_per_epoch: int) -> tuple[list[int], list[float]]:
        """Iterations and the values between them, as PaddleDetection's schedules go on with them.

        There is one for each iteration: CosineDecay takes their number for the length of the warm-up.
        """
        steps = max(self.steps, 1)
        return list(range(1, steps + 1)), [base_lr * self.factor] * steps + [base_lr]


optimizer.ConstantWarmup = ConstantWarmup  # where LearningRate looks for ``- name: ConstantWarmup``
