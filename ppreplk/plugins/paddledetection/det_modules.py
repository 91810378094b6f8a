"""What the published Cascade Mask R-CNN needs and PaddleDetection lacks, under the names that its YAML files use.

| name | instead of | what differs |
|-|-|-|
| ``CascadeBoxHead`` | ``CascadeHead`` | the stages are trained and averaged as in mmdet, RoIs aligned |
| ``CascadeMaskHead`` | ``MaskHead`` | one mask head for each stage, RoIs aligned |
| ``AlignedRoIAlign`` | ``RoIAlign`` | ``aligned`` is honoured |

``FCOSIoULoss`` and ``ConstantWarmup`` are in :mod:`.det_fcos`.

Importing this module registers them, so :func:`.register` alone imports it: PaddleDetection must be there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import paddle
import paddle.nn.functional as F
from paddle import nn
from ppdet.core.workspace import create, register
from ppdet.modeling.bbox_utils import clip_bbox, delta2bbox, nonempty_bbox
from ppdet.modeling.heads.cascade_head import CascadeHead
from ppdet.modeling.heads.mask_head import MaskHead
from ppdet.modeling.heads.roi_extractor import RoIAlign
from ppdet.modeling.losses.iou_loss import GIoULoss

from ...utils.errors import UserError

STAGE_LOSS_WEIGHTS = (1.0, 0.5, 0.25)
# 1 / standard deviations of (dx, dy, dw, dh): 0.1 and 0.2, 0.05 and 0.1, 0.033 and 0.067
BOX_WEIGHTS = tuple((1 / xy, 1 / xy, 1 / wh, 1 / wh) for xy, wh in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067)))


@register
class AlignedRoIAlign(RoIAlign):
    """PaddleDetection's RoIAlign, which honours ``aligned``. Its own takes the argument and then sets False.

    Aligned, a RoI is shifted by half a pixel, so that (0, 0) is the corner of the first pixel and not its centre.

    Args:
        aligned: whether it is. mmdet's detectors are trained so.
        others: see PaddleDetection's RoIAlign.
    """

    def __init__(
        self,
        resolution: int = 14,
        spatial_scale: Any = 0.0625,
        sampling_ratio: int = 0,
        canconical_level: int = 4,  # so spelt in PaddleDetection
        canonical_size: int = 224,
        start_level: int = 0,
        end_level: int = 3,
        aligned: bool = True,
    ):
        super().__init__(
            resolution, spatial_scale, sampling_ratio, canconical_level, canonical_size, start_level, end_level
        )
        self.aligned = aligned


def _roi_align(settings: Any, input_shape: Sequence[Any] = ()) -> nn.Layer:
    """The RoIAlign of a head's section ``roi_extractor``, for these feature maps; or the layer that stands there."""
    if isinstance(settings, nn.Layer):
        return settings
    scales = RoIAlign.from_config(settings, input_shape) if input_shape else {}
    return AlignedRoIAlign(**{**settings, **scales})


@register
class CascadeBoxHead(CascadeHead):
    """The three box heads of Cascade R-CNN, trained and averaged as in mmdet.

    Parameter names are those of PaddleDetection's ``CascadeHead``. That differs in what the published detectors were
    not trained with: in stages 1 and 2 it trains the deltas of the class it predicts, not of the true one; it decodes
    all stages with the weights of the first before it takes the GIoU, and multiplies that by the number of classes; it
    samples RoIs in the first stage only; and it averages probabilities where mmdet averages logits.

    Args:
        head: features of RoIs, ``CascadeXConvNormHead`` in the published detectors.
        in_channel: width of those features.
        roi_extractor: arguments of :class:`AlignedRoIAlign`.
        bbox_assigner: labels and samples RoIs. Its ``cascade_iou`` holds the threshold of each stage.
        num_classes: classes, without background.
        bbox_weight: by stage, what (dx, dy, dw, dh) are multiplied with: 1 / standard deviation.
        num_cascade_stages: stages.
        bbox_loss: takes two times (N, 4) boxes; its sum over the foreground is divided by the number of RoIs. GIoU,
            weight 10, unless given.
        stage_loss_weights: weight of the losses of each stage.

    Source: Cai and Vasconcelos, 2018; paper section 4.5.
    """

    __shared__ = ["num_classes", "num_cascade_stages"]
    __inject__ = ["bbox_assigner", "bbox_loss"]

    def __init__(
        self,
        head: nn.Layer,
        in_channel: int,
        roi_extractor: Any = {"resolution": 7, "sampling_ratio": 0, "aligned": True},  # noqa: B006 - as the suite does
        bbox_assigner: Any = "BBoxAssigner",
        num_classes: int = 80,
        bbox_weight: Sequence[Sequence[float]] = BOX_WEIGHTS,
        num_cascade_stages: int = 3,
        bbox_loss: Any = None,
        stage_loss_weights: Sequence[float] = STAGE_LOSS_WEIGHTS,
    ):
        super().__init__(
            head,
            in_channel,
            roi_extractor=_roi_align(roi_extractor),
            bbox_assigner=bbox_assigner,
            num_classes=num_classes,
            bbox_weight=[list(weights) for weights in bbox_weight],
            num_cascade_stages=num_cascade_stages,
            bbox_loss=bbox_loss or GIoULoss(loss_weight=10.0, eps=1e-6, reduction="none"),
            reg_class_agnostic=False,
            stage_loss_weights=list(stage_loss_weights),
            add_gt_as_proposals=[True] * num_cascade_stages,
        )
        self.assigned_targets: list = []

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any], input_shape: Sequence[Any]) -> dict[str, Any]:
        head = create(cfg["head"], input_shape=input_shape)
        return {
            "roi_extractor": _roi_align(cfg["roi_extractor"], input_shape),
            "head": head,
            "in_channel": head.out_shape[0].channels,
        }

    def forward(
        self, body_feats: Any = None, rois: Any = None, rois_num: Any = None, inputs: Any = None
    ) -> tuple[Any, Any]:
        """Feature maps and RoIs -> losses and features in training, else ((deltas, probabilities), head).

        In training :meth:`get_assigned_rois` and :meth:`get_assigned_targets` have what each stage was trained on, for
        :class:`CascadeMaskHead`.

        Raises:
            UserError: RoIs, scores or deltas are not finite in training. On a CPU RoIAlign would end the process.
        """
        stages, losses = [], {}
        all_rois, all_numbers, all_targets = [], [], []
        for stage in range(self.num_cascade_stages):
            if self.training:
                _check_finite("RoIs", stage, rois)
                rois, rois_num, targets = self._assigner(stage)(rois, rois_num, inputs)
                all_rois.append(rois)
                all_numbers.append(rois_num)
                all_targets.append(targets)
            features = self.head(self.roi_extractor(body_feats, rois, rois_num), stage)
            scores, deltas = self.bbox_score_list[stage](features), self.bbox_delta_list[stage](features)
            stages.append([scores, deltas, rois])
            if self.training:
                _check_finite("scores and deltas", stage, [scores, deltas])
                for name, loss in self._stage_losses(stage, scores, deltas, rois, targets).items():
                    losses[f"{name}_stage{stage}"] = loss * self.stage_loss_weights[stage]
            if stage < self.num_cascade_stages - 1:
                if self.training:
                    rois = self._refined_in_training(stage, scores, deltas, rois, targets, inputs)
                else:
                    deltas = self._of_class(deltas, scores[:, :-1].argmax(axis=-1))
                    boxes = self._get_pred_bbox(deltas, rois, self.bbox_weight[stage])
                    rois, rois_num = self._get_rois_from_boxes(boxes, inputs["im_shape"])
        if self.training:
            self.assigned_rois, self.assigned_targets = (all_rois, all_numbers), all_targets
            return losses, features
        scores, deltas, self.refined_rois = self.get_prediction(stages)
        return (deltas, scores), self.head

    def get_prediction(self, head_out_list: Sequence[Sequence[Any]]) -> tuple[Any, Any, Any]:
        """The mean of the stages' logits as probabilities (N, classes + 1); deltas and RoIs of the last stage."""
        logits = paddle.add_n([scores for scores, _, _ in head_out_list]) / self.num_cascade_stages
        _, deltas, rois = head_out_list[-1]
        return F.softmax(logits), deltas, rois

    def _assigner(self, stage: int) -> Any:
        """Labels by the threshold of a stage, and samples as in the first one."""
        assigner = copy.copy(self.bbox_assigner)
        if stage > 0:
            assigner.fg_thresh = assigner.bg_thresh = assigner.cascade_iou[stage]
        return assigner

    def _of_class(self, deltas: paddle.Tensor, classes: paddle.Tensor) -> paddle.Tensor:
        """(N, 4 * classes), (N,) -> (N, 4)."""
        deltas = deltas.reshape([-1, self.num_classes, 4])
        rows = paddle.arange(paddle.shape(deltas)[0], dtype="int64")
        return paddle.gather_nd(deltas, paddle.stack([rows, classes.cast("int64")], axis=1))

    def _stage_losses(
        self, stage: int, scores: paddle.Tensor, deltas: paddle.Tensor, rois: Sequence[Any], targets: Sequence[Any]
    ) -> dict[str, paddle.Tensor]:
        labels = paddle.concat(targets[0]).cast("int64")
        losses = {"loss_bbox_cls": F.cross_entropy(scores, labels, ignore_index=-1)}
        foreground = paddle.nonzero((labels >= 0) & (labels < self.num_classes)).flatten()
        if foreground.shape[0] == 0:
            return {**losses, "loss_bbox_reg": deltas.sum() * 0.0}
        deltas = self._of_class(paddle.gather(deltas, foreground), paddle.gather(labels, foreground))
        boxes = delta2bbox(deltas, paddle.gather(paddle.concat(rois), foreground), self.bbox_weight[stage])
        true = paddle.gather(paddle.concat(targets[1]), foreground)
        loss = self.bbox_loss(boxes.reshape([-1, 4]), true).sum() / labels.shape[0]
        return {**losses, "loss_bbox_reg": loss}

    @paddle.no_grad()
    def _refined_in_training(
        self,
        stage: int,
        scores: paddle.Tensor,
        deltas: paddle.Tensor,
        rois: Sequence[Any],
        targets: Sequence[Any],
        inputs: Mapping[str, Any],
    ) -> list[paddle.Tensor]:
        """The RoIs of the next stage: moved by the deltas of their true class, background by those of the likeliest.

        True boxes among them are left out, since the next stage adds them again.
        """
        labels = paddle.concat(targets[0]).cast("int64")
        is_background = (labels < 0) | (labels >= self.num_classes)
        classes = paddle.where(is_background, scores[:, :-1].argmax(axis=-1), labels)
        moved = self._get_pred_bbox(self._of_class(deltas, classes), rois, self.bbox_weight[stage])
        refined = []
        for index, (boxes, before) in enumerate(zip(moved, rois)):
            boxes = clip_bbox(boxes, inputs["im_shape"][index])
            keep, true = nonempty_bbox(boxes, return_mask=True), inputs["gt_bbox"][index]
            if true.shape[0]:
                is_true = (before.unsqueeze(1) == true.unsqueeze(0)).all(axis=-1).any(axis=-1)
                keep = keep & ~is_true
            kept = paddle.nonzero(keep).flatten()
            refined.append(paddle.gather(boxes, kept if kept.shape[0] else paddle.zeros([1], "int64")))
        return refined


def _check_finite(what: str, stage: int, tensors: Sequence[paddle.Tensor]) -> None:
    if not all(bool(paddle.isfinite(each).all()) for each in tensors):
        raise UserError(
            f"the {what} of stage {stage} are not finite: the training has diverged; a smaller learning rate, a longer "
            "warm-up or clip_grad_by_norm may help",
            code="plugins.diverged",
            where="CascadeBoxHead",
        )


@register
class CascadeMaskHead(nn.Layer):
    """One mask head for each stage of Cascade R-CNN, as in mmdet. PaddleDetection has one for all.

    In training each head learns from the RoIs of its stage, which needs :class:`CascadeBoxHead`. In inference a mask is
    the mean of what the heads say. Parameters are ``heads.STAGE.`` and the names of PaddleDetection's ``MaskHead``.

    Args:
        head: convolutions of each stage, ``MaskFeat`` by name in a YAML file.
        roi_extractor: arguments of :class:`AlignedRoIAlign`.
        mask_assigner: the true masks of RoIs.
        num_classes: classes.
        stage_loss_weights: weight of the loss of each stage; there are as many heads.
        export_onnx: whether programs are exported for ONNX.

    Source: Cai and Vasconcelos, 2018; paper section 4.5.
    """

    __shared__ = ["num_classes", "export_onnx"]
    __inject__ = ["mask_assigner"]

    def __init__(
        self,
        head: Sequence[nn.Layer],
        roi_extractor: Any = {"resolution": 14, "sampling_ratio": 0, "aligned": True},  # noqa: B006 - as the suite does
        mask_assigner: Any = "MaskAssigner",
        num_classes: int = 80,
        stage_loss_weights: Sequence[float] = STAGE_LOSS_WEIGHTS,
        export_onnx: bool = False,
    ):
        super().__init__()
        self.stage_loss_weights = list(stage_loss_weights)
        self.num_classes = num_classes
        self.export_onnx = export_onnx
        self.roi_extractor = _roi_align(roi_extractor)
        self.heads = nn.LayerList(
            [MaskHead(each, self.roi_extractor, mask_assigner, num_classes, export_onnx=export_onnx) for each in head]
        )

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any], input_shape: Sequence[Any]) -> dict[str, Any]:
        return {
            "roi_extractor": _roi_align(cfg["roi_extractor"], input_shape),
            "head": [create(cfg["head"], input_shape=input_shape) for _ in cfg["stage_loss_weights"]],
        }

    def forward(
        self,
        body_feats: Sequence[paddle.Tensor],
        rois: Any,
        rois_num: Any,
        inputs: Mapping[str, Any],
        targets: Optional[Sequence[Any]] = None,
        bbox_feat: Any = None,
        feat_func: Any = None,
    ) -> Any:
        """What ``CascadeRCNN`` calls: RoIs of each stage -> losses in training, else (N, 6) boxes -> (N, 28, 28)."""
        if self.training:
            assert targets is not None and len(targets) == len(self.heads), "use CascadeBoxHead as bbox_head"
            losses = {}
            for stage, (head, weight) in enumerate(zip(self.heads, self.stage_loss_weights)):
                loss = head.forward_train(body_feats, rois[stage], rois_num[stage], inputs, targets[stage], None)
                losses[f"loss_mask_stage{stage}"] = loss["loss_mask"] * weight
            return losses
        if not self.export_onnx and rois.shape[0] == 0:
            return paddle.full([1, 1, 1], -1)
        return self._masks(self.roi_extractor(body_feats, [rois[:, 2:]], rois_num), rois[:, 0].cast("int64"))

    def _masks(self, features: paddle.Tensor, classes: paddle.Tensor) -> paddle.Tensor:
        """(N, C, 14, 14) features of RoIs and their classes -> (N, 28, 28) probabilities."""
        rows = paddle.arange(paddle.shape(classes)[0], dtype="int64")
        index = paddle.stack([rows, classes], axis=1)
        masks = [F.sigmoid(paddle.gather_nd(each.mask_fcn_logits(each.head(features)), index)) for each in self.heads]
        return paddle.add_n(masks) / len(masks)
