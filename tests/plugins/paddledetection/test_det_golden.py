"""PaddleDetection's detectors on a backbone of ours, with converted checkpoints, against MMDetection's outputs.

tests/golden/README.md says how these were made. With PADDLEDETECTION naming a checkout, in an environment for it:
python -m pytest -s tests/plugins/paddledetection/test_det_golden.py
"""

import json

import numpy as np
import paddle
import pytest
from detection_helpers import open_suite
from helpers import GOLDEN, relative_difference

from ppreplk.plugins.paddledetection.det_names import PADDLEDETECTION
from ppreplk.plugins.whole_checkpoints import convert_whole

TOLERANCE = 1e-5
WEIGHTS = [[1 / xy, 1 / xy, 1 / wh, 1 / wh] for xy, wh in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))]


class Case:
    """Arrays of MMDetection, and PaddleDetection's model with the converted weights, in eval mode."""

    def __init__(self, name: str, folder, config: dict):
        from ppdet.core.workspace import create, global_config, merge_config
        from ppdet.utils.checkpoint import load_weight

        self.arrays = dict(np.load(GOLDEN / f"{name}.npz"))
        described = json.loads((GOLDEN / f"{name}.json").read_text())
        keys = ("large_kernel_sizes", "layers", "channels", "small_kernel")
        backbone = {**{key: described["backbone"][key] for key in keys}, **config.pop("backbone", {})}
        merge_config({**config, "num_classes": described["head"]["num_classes"], "RepLKNet": backbone}, global_config)
        self.model = create(config["architecture"])
        convert_whole(GOLDEN / f"{name}.pth", folder / f"{name}.pdparams", PADDLEDETECTION)
        weights = paddle.load(str(folder / f"{name}.pdparams"))
        assert {key: list(value.shape) for key, value in weights.items()} == {
            key: list(value.shape) for key, value in self.model.state_dict().items()
        }
        load_weight(self.model, str(folder / f"{name}.pdparams"))
        self.model.eval()
        image = paddle.to_tensor(self.arrays["input"])
        self.sides = list(self.arrays["input"].shape[2:])
        self.inputs = {
            "image": image,
            "im_shape": paddle.to_tensor([self.sides], dtype="float32"),
            "scale_factor": paddle.ones([1, 2]),
        }

    def pyramid(self) -> list[paddle.Tensor]:
        return self.model.neck(self.model.backbone(self.inputs))

    def check(self, received, name: str) -> float:
        difference = relative_difference(received, self.arrays[name])
        assert difference < TOLERANCE, name
        return difference

    def masks(self, boxes: np.ndarray) -> paddle.Tensor:
        """(N, 4) boxes of MMDetection's classes -> (N, 28, 28) probabilities."""
        rows = np.concatenate([np.stack([self.arrays["labels"], self.arrays["scores"]], axis=1), boxes], axis=1)
        number = paddle.to_tensor([len(rows)], dtype="int32")
        return self.model.mask_head(self.pyramid(), paddle.to_tensor(rows.astype("float32")), number, self.inputs)

    def pasted(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) boxes -> (N, H, W) probabilities of the image's pixels."""
        from ppdet.modeling.post_process import paste_mask

        return paste_mask(self.masks(boxes).unsqueeze(1), paddle.to_tensor(boxes), *self.sides).numpy()

    def detections(self, prediction: dict) -> tuple[np.ndarray, np.ndarray]:
        """The order of the rows that puts them beside MMDetection's, and the rows (label, score, box) in it."""
        found = prediction["bbox"].numpy()
        assert len(found) == len(self.arrays["scores"])
        order = np.argsort(-found[:, 1], kind="stable")
        rows = found[order]
        assert (rows[:, 0] == self.arrays["labels"]).all()
        difference = relative_difference(rows[:, 1], self.arrays["scores"])
        boxes = float(np.abs(rows[:, 2:] - self.arrays["boxes"]).max() / max(self.sides))
        print(f"{len(rows)} detections: scores differ by {difference:.1e}, boxes by {boxes:.1e} of the longer side")
        assert max(difference, boxes) < TOLERANCE
        return order, rows


@pytest.fixture(scope="module")
def cascade(tmp_path_factory) -> Case:
    open_suite()
    limits = {"pre_nms_top_n": 60, "post_nms_top_n": 40, "nms_thresh": 0.7, "min_size": 0.0, "topk_after_collect": True}
    nms = {"name": "MultiClassNMS", "keep_top_k": 12, "score_threshold": 0.05, "nms_threshold": 0.5}
    config = {
        "architecture": "CascadeRCNN",
        "CascadeRCNN": {
            "backbone": "RepLKNet",
            "neck": "FPN",
            "rpn_head": "RPNHead",
            "bbox_head": "CascadeBoxHead",
            "mask_head": "CascadeMaskHead",
            "bbox_post_process": "BBoxPostProcess",
            "mask_post_process": "MaskPostProcess",
        },
        "FPN": {"out_channel": 8},
        "RPNHead": {
            "anchor_generator": {
                "aspect_ratios": [0.5, 1.0, 2.0],
                "anchor_sizes": [[32], [64], [128], [256], [512]],
                "strides": [4, 8, 16, 32, 64],
            },
            "test_proposal": limits,
        },
        "CascadeBoxHead": {"head": "CascadeXConvNormHead", "bbox_assigner": "BBoxAssigner", "bbox_weight": WEIGHTS},
        "CascadeXConvNormHead": {"num_convs": 4, "conv_dim": 8, "out_channel": 16, "norm_type": "bn"},
        "BBoxPostProcess": {"decode": {"name": "RCNNBox", "prior_box_var": WEIGHTS[2]}, "nms": nms},
        "CascadeMaskHead": {"head": "MaskFeat", "mask_assigner": "MaskAssigner"},
        "MaskFeat": {"num_convs": 4, "out_channel": 8},
        "MaskPostProcess": {"binary_thresh": 0.5},
    }
    return Case("tiny_cascade", tmp_path_factory.mktemp("cascade"), config)


def test_pyramid_and_proposals_of_the_cascade(cascade):
    pyramid = cascade.pyramid()
    differences = [cascade.check(level, f"fpn_{number}") for number, level in enumerate(pyramid)]
    head = cascade.model.rpn_head
    for number, features in enumerate(head.rpn_feat(pyramid)):
        differences.append(cascade.check(head.rpn_rois_score(features), f"rpn_score_{number}"))
        differences.append(cascade.check(head.rpn_rois_delta(features), f"rpn_delta_{number}"))
    rois, numbers, _ = head(pyramid, cascade.inputs)
    expected = cascade.arrays["rpn_boxes"]
    received = rois[0].numpy()
    assert received.shape == expected.shape
    boxes = float(np.abs(received - expected).max() / max(cascade.sides))
    print(f"pyramid, scores and deltas differ by {max(differences):.1e}, {len(expected)} proposals by {boxes:.1e}")
    assert boxes < TOLERANCE


def test_box_and_mask_heads_of_every_stage_on_the_same_boxes(cascade):
    pyramid, boxes = cascade.pyramid(), paddle.to_tensor(cascade.arrays["fixed_boxes"])
    head, masks, differences = cascade.model.bbox_head, cascade.model.mask_head, []
    number = paddle.to_tensor([boxes.shape[0]], dtype="int32")
    regions = head.roi_extractor(pyramid, [boxes], number)
    few = paddle.to_tensor([4], dtype="int32")
    mask_regions = masks.roi_extractor(pyramid, [boxes[:4]], few)
    for stage in range(3):
        features = head.head(regions, stage)
        differences.append(cascade.check(head.bbox_score_list[stage](features), f"box_score_{stage}"))
        differences.append(cascade.check(head.bbox_delta_list[stage](features), f"box_delta_{stage}"))
        own = masks.heads[stage]
        differences.append(cascade.check(own.mask_fcn_logits(own.head(mask_regions)), f"mask_logits_{stage}"))
    print(f"box and mask heads differ by {max(differences):.1e}")


def test_boxes_and_masks_of_the_whole_cascade(cascade):
    prediction = cascade.model(cascade.inputs)
    order, rows = cascade.detections(prediction)
    own = cascade.masks(rows[:, 2:]).numpy()
    same = cascade.masks(cascade.arrays["boxes"])  # a change of a box moves all values of its mask
    expected = cascade.arrays["mask_probabilities"]
    difference, moved = cascade.check(same, "mask_probabilities"), np.abs(own - expected).max()
    print(f"masks differ by {difference:.1e} on the same boxes, by {moved:.1e} on those found")
    assert moved < 1e-3
    pasted = cascade.pasted(rows[:, 2:])
    expected = np.unpackbits(cascade.arrays["masks"])[: pasted.size].reshape(pasted.shape).astype(bool)
    different = (pasted > 0.5) != expected
    print(f"{different.sum()} of {expected.size} pixels of the pasted masks differ, {expected.sum()} are set")
    assert (np.abs(pasted[different] - 0.5) < 1e-4).all()  # only where rounding decides
    assert different.sum() < 10
    assert (prediction["mask"].numpy()[order] == (pasted >= 0.5)).all()


@pytest.fixture(scope="module")
def fcos(tmp_path_factory) -> Case:
    open_suite()
    features = {"name": "FCOSFeat", "feat_in": 8, "feat_out": 256, "num_convs": 1, "norm_type": "gn", "use_dcn": False}
    nms = {"name": "MultiClassNMS", "nms_top_k": 1000, "keep_top_k": 20, "score_threshold": 0.0, "nms_threshold": 0.5}
    config = {
        "architecture": "ClippedFCOS",
        "ClippedFCOS": {"backbone": "RepLKNet", "neck": "FPN", "fcos_head": "ClippedFCOSHead"},
        "backbone": {"out_indices": [1, 2, 3]},
        "FPN": {"out_channel": 8, "extra_stage": 2, "has_extra_convs": True, "use_c5": False},
        "ClippedFCOSHead": {
            "fcos_feat": features,
            "fpn_stride": [8, 16, 32, 64, 128],
            "norm_reg_targets": False,
            "centerness_on_reg": False,
            "fcos_loss": {"name": "FCOSIoULoss"},
            "nms": nms,
        },
    }
    return Case("tiny_fcos", tmp_path_factory.mktemp("fcos"), config)


def test_pyramid_and_heads_of_fcos(fcos):
    pyramid = fcos.pyramid()
    differences = [fcos.check(level, f"fpn_{number}") for number, level in enumerate(pyramid)]
    _, classes, distances, centernesses = fcos.model.fcos_head(pyramid)
    for number in range(5):
        differences.append(fcos.check(classes[number], f"cls_{number}"))
        differences.append(fcos.check(distances[number], f"reg_{number}"))
        differences.append(fcos.check(centernesses[number], f"centerness_{number}"))
    print(f"pyramid and heads differ by {max(differences):.1e}")


def test_boxes_of_the_whole_fcos(fcos):
    fcos.detections(fcos.model(fcos.inputs))
