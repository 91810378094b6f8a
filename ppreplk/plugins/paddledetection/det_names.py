"""What MMDetection's Cascade Mask R-CNN and FCOS are called in PaddleDetection.

| MMDetection | PaddleDetection |
|-|-|
| ``neck.lateral_convs.i.conv`` | ``neck.fpn_inner_res{i+2}_sum_lateral``, the last ``neck.fpn_inner_res5_sum`` |
| ``neck.fpn_convs.i.conv`` | ``neck.fpn_res{i+2}_sum`` |
| ``rpn_head.rpn_conv`` | ``rpn_head.rpn_feat.rpn_conv`` |
| ``rpn_head.rpn_cls``, ``rpn_reg`` | ``rpn_head.rpn_rois_score``, ``rpn_rois_delta`` |
| ``roi_head.bbox_head.s.shared_convs.j.{conv,bn}`` | ``bbox_head.head.s.stage{s}_bbox_head_conv{j}.{conv,norm}`` |
| ``roi_head.bbox_head.s.shared_fcs.0`` | ``bbox_head.head.s.fc6``, transposed |
| ``roi_head.bbox_head.s.fc_cls``, ``fc_reg`` | ``bbox_head.bbox_score_stage{s}``, ``bbox_delta_stage{s}``, transposed |
| ``roi_head.mask_head.s.convs.j.conv`` | ``mask_head.heads.s.head.upsample.mask_inter_feat_{j+1}`` |
| ``roi_head.mask_head.s.upsample`` | ``mask_head.heads.s.head.upsample.conv5_mask`` |
| ``roi_head.mask_head.s.conv_logits`` | ``mask_head.heads.s.mask_fcn_logits`` |

PaddleDetection has one mask head for all stages; the published models have one per stage, ``CascadeMaskHead`` here.
FCOS's pyramid begins at stride 8, so its laterals are ``res3`` to ``res5``, and two more convolutions follow:

| MMDetection | PaddleDetection |
|-|-|
| ``neck.fpn_convs.{3,4}.conv`` | ``neck.fpn_{6,7}`` |
| ``bbox_head.{cls,reg}_convs.j.{conv,gn}`` | ``fcos_head.fcos_feat.fcos_head_{cls,reg}_tower_conv_{j}.{conv,norm}`` |
| - | the bias of each of these convolutions, zero |
| ``bbox_head.conv_{cls,reg,centerness}`` | ``fcos_head.fcos_head_{cls,reg,centerness}`` |
| ``bbox_head.scales.i.scale`` | ``fcos_head.p{i+3}_feat.scale_reg`` |
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np

from ..whole_checkpoints import Model, Place, Places, Sizes, SuiteNames, conv, conv_bn, linear

STAGES = 3  # of the cascade
BACKBONE_LEVELS = 4  # which the names of PaddleDetection's pyramid, res2 to res5, are about
NECK, RPN, BOXES, MASKS, HEAD = "neck", "proposals", "box heads", "mask heads", "head"  # parts
FCOS_LEVEL = 1  # stage of the backbone at which the pyramid of FCOS begins
FCOS_LEVELS = 5
BOX = "roi_head.bbox_head"
TOWERS = ("cls", "reg")


def _pyramid(widths: Sequence[int], channels: int, extra: int) -> Places:
    """Laterals, convolutions behind them, and ``extra`` ones of stride 2 on top."""
    places: Places = {}
    first = BACKBONE_LEVELS - len(widths)
    for i, width in enumerate(widths):
        level = first + i + 2
        lateral = "fpn_inner_res5_sum" if i == len(widths) - 1 else f"fpn_inner_res{level}_sum_lateral"
        places.update(conv(f"neck.lateral_convs.{i}.conv", f"neck.{lateral}", (channels, width, 1, 1), NECK))
    for i in range(len(widths) + extra):
        ours = f"neck.fpn_res{first + i + 2}_sum" if i < len(widths) else f"neck.fpn_{first + i + 2}"
        places.update(conv(f"neck.fpn_convs.{i}.conv", ours, (channels, channels, 3, 3), NECK))
    return places


# ----------------------------------------------------------------------------------------------------------------------
# Cascade Mask R-CNN


def _cascade_settings(sizes: Sizes, widths: Sequence[int]) -> dict[str, int]:
    return {
        "num_classes": sizes.of(f"{BOX}.0.fc_cls.bias", 0, 1) - 1,
        "channels": sizes.of("neck.lateral_convs.0.conv.weight", 0, 4),
        "anchors": sizes.of("rpn_head.rpn_cls.weight", 0, 4),
        "conv_dim": sizes.of(f"{BOX}.0.shared_convs.0.conv.weight", 0, 4),
        "num_convs": sizes.count(f"{BOX}.0.shared_convs."),
        "fc": sizes.of(f"{BOX}.0.shared_fcs.0.weight", 0, 2),
        "mask_channels": sizes.of("roi_head.mask_head.0.conv_logits.weight", 1, 4),
        "mask_convs": sizes.count("roi_head.mask_head.0.convs."),
    }


def _cascade_places(sizes: Sizes, widths: Sequence[int]) -> Places:
    classes, channels, anchors, dim, convs, hidden, masks, mask_convs = _cascade_settings(sizes, widths).values()
    side = isqrt(sizes.of(f"{BOX}.0.shared_fcs.0.weight", 1, 2) // dim)
    places = _pyramid(widths, channels, extra=0)
    places.update(conv("rpn_head.rpn_conv", "rpn_head.rpn_feat.rpn_conv", (channels, channels, 3, 3), RPN))
    places.update(conv("rpn_head.rpn_cls", "rpn_head.rpn_rois_score", (anchors, channels, 1, 1), RPN))
    places.update(conv("rpn_head.rpn_reg", "rpn_head.rpn_rois_delta", (4 * anchors, channels, 1, 1), RPN))
    for s in range(STAGES):
        theirs, ours = f"{BOX}.{s}", f"bbox_head.head.{s}"
        for j in range(convs):
            shape = (dim, channels if j == 0 else dim, 3, 3)
            layer = f"{ours}.stage{s}_bbox_head_conv{j}"
            places.update(conv_bn(f"{theirs}.shared_convs.{j}", layer, shape, BOXES, norm="norm"))
        places.update(linear(f"{theirs}.shared_fcs.0", f"{ours}.fc6", (hidden, dim * side * side), BOXES))
        places.update(linear(f"{theirs}.fc_cls", f"bbox_head.bbox_score_stage{s}", (classes + 1, hidden), BOXES))
        places.update(linear(f"{theirs}.fc_reg", f"bbox_head.bbox_delta_stage{s}", (4 * classes, hidden), BOXES))
    for s in range(STAGES):
        theirs, ours = f"roi_head.mask_head.{s}", f"mask_head.heads.{s}"
        for j in range(mask_convs):
            shape = (masks, channels if j == 0 else masks, 3, 3)
            places.update(
                conv(f"{theirs}.convs.{j}.conv", f"{ours}.head.upsample.mask_inter_feat_{j + 1}", shape, MASKS)
            )
        places.update(conv(f"{theirs}.upsample", f"{ours}.head.upsample.conv5_mask", (masks, masks, 2, 2), MASKS))
        places.update(conv(f"{theirs}.conv_logits", f"{ours}.mask_fcn_logits", (classes, masks, 1, 1), MASKS))
    return places


# ----------------------------------------------------------------------------------------------------------------------
# FCOS


def _fcos_settings(sizes: Sizes, widths: Sequence[int]) -> dict[str, int]:
    return {
        "num_classes": sizes.of("bbox_head.conv_cls.bias", 0, 1),
        "channels": sizes.of("neck.lateral_convs.0.conv.weight", 0, 4),
        "feat_out": sizes.of("bbox_head.conv_cls.weight", 1, 4),
        "num_convs": sizes.count("bbox_head.cls_convs."),
    }


def _fcos_places(sizes: Sizes, widths: Sequence[int]) -> Places:
    classes, channels, features, convs = _fcos_settings(sizes, widths).values()
    levels = widths[FCOS_LEVEL:]
    places = _pyramid(levels, channels, extra=FCOS_LEVELS - len(levels))
    for tower in TOWERS:
        for j in range(convs):
            theirs, ours = f"bbox_head.{tower}_convs.{j}", _tower(tower, j)
            shape = (features, channels if j == 0 else features, 3, 3)
            places[f"{theirs}.conv.weight"] = Place(f"{ours}.conv.weight", shape, HEAD)
            for leaf in ("weight", "bias"):
                places[f"{theirs}.gn.{leaf}"] = Place(f"{ours}.norm.{leaf}", (features,), HEAD)
    for output, length in {"cls": classes, "reg": 4, "centerness": 1}.items():
        shape = (length, features, 3, 3)
        places.update(conv(f"bbox_head.conv_{output}", f"fcos_head.fcos_head_{output}", shape, HEAD))
    for i in range(FCOS_LEVELS):
        level = FCOS_LEVEL + i + 2
        places[f"bbox_head.scales.{i}.scale"] = Place(f"fcos_head.p{level}_feat.scale_reg", (), HEAD, np.atleast_1d)
    return places


def _tower(tower: str, number: int) -> str:
    return f"fcos_head.fcos_feat.fcos_head_{tower}_tower_conv_{number}"


def _fcos_biases(sizes: Sizes) -> dict[str, int]:
    """Of the towers: PaddleDetection's convolutions have them, MMDetection's before a normalization have none."""
    convs = sizes.count("bbox_head.cls_convs.")
    features = sizes.of("bbox_head.conv_cls.weight", 1, 4)
    return {f"{_tower(tower, j)}.conv.bias": features for tower in TOWERS for j in range(convs)}


CASCADE = Model("CascadeRCNN", "roi_head.", _cascade_places, _cascade_settings)
FCOS = Model("FCOS", "bbox_head.", _fcos_places, _fcos_settings, _fcos_biases)
PADDLEDETECTION = SuiteNames("PaddleDetection", "MMDetection", (CASCADE, FCOS))
