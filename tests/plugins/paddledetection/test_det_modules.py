"""What the published detectors need and PaddleDetection lacks, against references in NumPy."""

import types

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from detection_helpers import open_suite
from helpers import refused

open_suite()  # skips the module without PaddleDetection

from ppreplk.plugins.paddledetection import det_fcos, det_modules  # noqa: E402

RNG = np.random.default_rng
LEVELS = [types.SimpleNamespace(channels=8, stride=stride) for stride in (4, 8, 16, 32)]


def tensor(array, dtype="float32"):
    return paddle.to_tensor(np.asarray(array, dtype))


# ----------------------------------------------------------------------------------------------------------------------
# FCOS


def iou_loss(distances, targets, mask, weights=None):
    """-log(IoU) of boxes around a point, in float64."""
    distances, targets = np.asarray(distances, np.float64), np.asarray(targets, np.float64)
    overlap = np.minimum(distances, targets)
    area, true, common = ((x[:, 0] + x[:, 2]) * (x[:, 1] + x[:, 3]) for x in (distances, targets, overlap))
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = np.where(np.asarray(mask) > 0, -np.log(np.maximum(common / (area + true - common), 1e-6)), 0.0)
    return loss if weights is None else loss * weights


def test_iou_loss_and_its_gradient_are_those_of_the_formula():
    rng = RNG(0)
    distances, targets = rng.uniform(0.5, 3, (6, 4)), rng.uniform(0.5, 3, (6, 4))
    mask, weights = np.array([1, 1, 0, 1, 1, 0.0]), rng.uniform(0.2, 1, 6)
    targets[2] = targets[5] = -1  # of points in no object
    predicted = tensor(distances)
    predicted.stop_gradient = False
    loss = det_fcos.FCOSIoULoss()._iou_loss(predicted, tensor(targets), tensor(mask), tensor(weights))
    assert np.abs(loss.numpy() - iou_loss(distances, targets, mask, weights)).max() < 1e-5
    loss.sum().backward()
    step = 1e-6
    expected = np.zeros_like(distances)
    for place in np.ndindex(*distances.shape):
        moved = [distances.copy() for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        upper, lower = (iou_loss(each, targets, mask, weights).sum() for each in moved)
        expected[place] = (upper - lower) / (2 * step)
    assert np.abs(predicted.grad.numpy() - expected).max() < 1e-4


def test_iou_loss_is_finite_where_boxes_do_not_overlap_and_where_there_is_no_object():
    predicted = tensor([[0, 0, 0, 0], [1, 1, 1, 1], [0, 2, 0, 2]])
    predicted.stop_gradient = False
    targets, mask = tensor([[1, 1, 1, 1], [0, 0, 0, 0], [3, 0, 3, 0]]), tensor([1, 0, 1])
    loss = det_fcos.FCOSIoULoss()._iou_loss(predicted, targets, mask)
    assert loss.numpy()[[0, 2]] == pytest.approx(-np.log(1e-6), rel=1e-5) and loss.numpy()[1] == 0
    loss.sum().backward()
    assert np.isfinite(predicted.grad.numpy()).all()


def test_whole_fcos_loss_uses_it_and_the_old_one_is_not_a_number():
    from ppdet.modeling.losses.fcos_loss import FCOSLoss

    rng = RNG(1)
    scores, centers = tensor(rng.normal(size=(1, 3, 2, 2))), tensor(rng.normal(size=(1, 1, 2, 2)))
    distances = tensor(rng.uniform(0.5, 2, (1, 4, 2, 2)))
    labels = tensor(np.array([1, 0, 2, 0]).reshape(1, 2, 2, 1), "int32")
    targets, centerness = rng.uniform(0.5, 2, (1, 2, 2, 4)), rng.uniform(0.3, 1, (1, 2, 2, 1))
    arguments = [[scores], [distances], [centers], [labels], [tensor(targets)], [tensor(centerness)]]
    losses = det_fcos.FCOSIoULoss()(*arguments)
    points = distances.numpy()[0].reshape(4, -1).T
    inside, weights = labels.numpy().reshape(-1) > 0, centerness.reshape(-1)
    expected = iou_loss(points, targets.reshape(-1, 4), inside, weights).sum() / weights[inside].sum()
    assert float(losses["loss_box"]) == pytest.approx(expected, rel=1e-5)
    assert np.isnan(float(FCOSLoss(iou_loss_type="iou")(*arguments)["loss_box"]))


def test_images_without_an_object_have_a_loss_and_gradients():
    rng = RNG(1)
    maps = [tensor(rng.normal(size=(1, channels, 2, 2))) for channels in (3, 4, 1)]
    for each in maps:
        each.stop_gradient = False
    targets = [paddle.zeros([1, 2, 2, 1], "int32"), paddle.zeros([1, 2, 2, 4]), paddle.zeros([1, 2, 2, 1])]
    losses = det_fcos.FCOSIoULoss()(*([each] for each in [*maps, *targets]))
    likely = 1 / (1 + np.exp(-maps[0].numpy().astype(np.float64)))
    assert float(losses["loss_cls"]) == pytest.approx((-0.75 * likely**2 * np.log(1 - likely)).sum(), rel=1e-5)
    assert float(losses["loss_box"]) == float(losses["loss_quality"]) == 0
    paddle.add_n(list(losses.values())).backward()
    assert all(np.isfinite(each.grad.numpy()).all() for each in maps)


def test_constant_warmup_stays_and_jumps_as_a_section_of_a_configuration():
    from ppdet.optimizer.optimizer import LearningRate

    schedulers = [
        {"name": "PiecewiseDecay", "gamma": 0.1, "milestones": [2, 3]},
        {"name": "ConstantWarmup", "steps": 5, "factor": 0.25},
    ]
    schedule = LearningRate(base_lr=0.8, schedulers=schedulers)(step_per_epoch=10)
    rates = []
    for _ in range(32):
        rates.append(schedule())
        schedule.step()
    assert rates == pytest.approx([0.2] * 5 + [0.8] * 15 + [0.08] * 10 + [0.008] * 2)


def test_constant_warmup_goes_before_a_cosine():
    from ppdet.optimizer.optimizer import LearningRate

    schedulers = [{"name": "CosineDecay", "max_epochs": 2}, {"name": "ConstantWarmup", "steps": 4, "factor": 0.5}]
    schedule = LearningRate(base_lr=1.0, schedulers=schedulers)(step_per_epoch=10)
    rates = []
    for _ in range(20):
        rates.append(schedule())
        schedule.step()
    assert rates[:5] == pytest.approx([0.5] * 4 + [1.0])
    assert all(one >= other for one, other in zip(rates[4:], rates[5:]))


# ----------------------------------------------------------------------------------------------------------------------
# Cascade Mask R-CNN


def roi_align(feature, box, scale, bins, aligned):
    """(C, H, W), one box -> (C, bins, bins), in float64: each bin is the mean of a grid of points, read bilinearly."""
    channels, height, width = feature.shape
    shift = 0.5 if aligned else 0.0
    left, top, right, bottom = (value * scale - shift for value in box)
    sizes = [bottom - top, right - left]
    if not aligned:
        sizes = [max(size, 1.0) for size in sizes]
    points = [int(np.ceil(size / bins)) for size in sizes]
    grids = []
    for start, size, count in zip((top, left), sizes, points):
        grids.append(start + (np.arange(bins * count) + 0.5) * size / bins / count)
    out = np.zeros((channels, bins, bins))
    for row, y in enumerate(grids[0]):
        for column, x in enumerate(grids[1]):
            out[:, row // points[0], column // points[1]] += _bilinear(feature, y, x) / (points[0] * points[1])
    return out


def _bilinear(feature, y, x):
    _, height, width = feature.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(feature))
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    dy, dx = y - top, x - left
    four = feature[:, top : top + 2, left : left + 2]
    return (
        four[:, 0, 0] * (1 - dy) * (1 - dx)
        + four[:, 0, 1] * (1 - dy) * dx
        + four[:, 1, 0] * dy * (1 - dx)
        + four[:, 1, 1] * dy * dx
    )


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_is_that_of_the_formula(aligned):
    rng = RNG(2)
    features = [rng.normal(size=(1, 3, 64 // stride, 64 // stride)) for stride in (4, 8, 16, 32)]
    boxes = np.array([[5.0, 7.0, 33.0, 40.0], [10.0, 2.0, 21.0, 29.0], [30.5, 31.0, 60.0, 62.0]])
    layer = det_modules.AlignedRoIAlign(resolution=7, spatial_scale=[1 / 4, 1 / 8, 1 / 16, 1 / 32], aligned=aligned)
    found = layer([tensor(each) for each in features], [tensor(boxes)], tensor([3], "int32")).numpy()
    for index, box in enumerate(boxes):  # all are small enough for the first level
        expected = roi_align(features[0][0], box, 1 / 4, 7, aligned)
        assert np.abs(found[index] - expected).max() < 1e-4


def mask_head(stages=3, classes=4):
    from ppdet.modeling.heads.mask_head import MaskFeat

    paddle.seed(1)
    heads = [MaskFeat(in_channel=8, out_channel=6, num_convs=2) for _ in range(stages)]
    extractor = det_modules.AlignedRoIAlign(resolution=14, spatial_scale=[1 / level.stride for level in LEVELS])
    weights = (1.0, 0.5, 0.25)[:stages]
    return det_modules.CascadeMaskHead(heads, extractor, fixed_targets, classes, weights)


def fixed_targets(rois, labels, indices, inputs):
    """In the place of the suite's assigner: RoIs, their number, classes, masks, places, weights."""
    count = sum(len(each) for each in rois)
    masks = tensor(RNG(count).integers(0, 2, (count, 28, 28)), "int32")
    numbers = tensor([len(each) for each in rois], "int32")
    return rois, numbers, paddle.concat(labels), masks, None, paddle.ones([count])


def pyramid(seed=3):
    return [tensor(RNG(seed).normal(size=(1, 8, 64 // level.stride, 64 // level.stride))) for level in LEVELS]


def test_masks_are_the_mean_of_the_stages():
    head = mask_head()
    head.eval()
    boxes = tensor([[2, 0.9, 4, 5, 40, 44], [0, 0.8, 20, 3, 60, 30], [3, 0.7, 1, 1, 30, 62]])
    masks = head(pyramid(), boxes, tensor([3], "int32"), {"scale_factor": paddle.ones([1, 2])}).numpy()
    features = head.roi_extractor(pyramid(), [boxes[:, 2:]], tensor([3], "int32"))
    expected = np.zeros((3, 28, 28))
    for each in head.heads:
        logits = each.mask_fcn_logits(each.head(features)).numpy().astype(np.float64)
        expected += 1 / (1 + np.exp(-logits[np.arange(3), [2, 0, 3]])) / 3
    assert np.abs(masks - expected).max() < 1e-6
    assert head(pyramid(), boxes[:0], tensor([0], "int32"), {"scale_factor": None}).numpy().max() == -1


def test_each_mask_head_learns_from_its_own_stage_with_its_weight():
    head = mask_head()
    head.train()
    boxes = [tensor([[4, 5, 40, 44], [20, 3, 60, 30]]), tensor([[1, 1, 30, 62]]), tensor([[8, 9, 50, 40]])]
    labels = [tensor([1, 3], "int32"), tensor([0], "int32"), tensor([2], "int32")]
    numbers = [tensor([len(each)], "int32") for each in boxes]
    targets = [([each], None, [None]) for each in labels]
    losses = head(pyramid(), [[each] for each in boxes], numbers, {}, targets)
    assert list(losses) == ["loss_mask_stage0", "loss_mask_stage1", "loss_mask_stage2"]
    for stage, weight in enumerate((1.0, 0.5, 0.25)):
        each = head.heads[stage]
        features = head.roi_extractor(pyramid(), [boxes[stage]], numbers[stage])
        logits = each.mask_fcn_logits(each.head(features)).numpy().astype(np.float64)
        chosen = logits[np.arange(len(labels[stage])), labels[stage].numpy()]
        true = fixed_targets([boxes[stage]], [labels[stage]], None, None)[3].numpy()
        expected = weight * np.mean(np.log1p(np.exp(chosen)) - true * chosen)
        assert float(losses[f"loss_mask_stage{stage}"]) == pytest.approx(expected, rel=1e-5)
    losses["loss_mask_stage1"].backward()
    moved = [each.mask_fcn_logits.weight.grad is not None for each in head.heads]
    assert moved == [False, True, False]


def test_a_configuration_makes_three_mask_heads_with_names_of_their_own(monkeypatch):
    from ppdet.core.workspace import create, global_config

    monkeypatch.setitem(global_config["CascadeMaskHead"], "head", "MaskFeat")
    for key, value in {"num_convs": 2, "out_channel": 6}.items():
        monkeypatch.setitem(global_config["MaskFeat"], key, value)
    head = create("CascadeMaskHead", input_shape=LEVELS)
    names = list(head.state_dict())
    for stage in range(3):
        assert f"heads.{stage}.head.upsample.mask_inter_feat_1.weight" in names
        assert f"heads.{stage}.mask_fcn_logits.weight" in names
    assert len(names) == 3 * 8
    assert head.roi_extractor.aligned and head.roi_extractor.spatial_scale == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


class Pooled(paddle.nn.Layer):
    """Features of RoIs in the place of the convolutions: another projection in each stage."""

    def __init__(self, width=5):
        super().__init__()
        self.layers = paddle.nn.LayerList([paddle.nn.Linear(8, width) for _ in range(3)])

    def forward(self, features, stage):
        return self.layers[stage](features.mean([2, 3]))


class KeepAll:
    """In the place of the suite's assigner: the RoIs as they are, some of them foreground."""

    cascade_iou = (0.5, 0.6, 0.7)
    fg_thresh = bg_thresh = 0.5
    seen: list = []

    def __call__(self, rois, numbers, inputs):
        type(self).seen.append(self.fg_thresh)
        count = len(rois[0])
        labels = tensor((np.arange(count) % 4 + stage_of(self)) % 4, "int32")  # 3 is background
        boxes = inputs["gt_bbox"][0][:1].expand([count, 4])
        return rois, tensor([count], "int32"), ([labels], [boxes], [paddle.zeros([count], "int32")])


def stage_of(assigner):
    return assigner.cascade_iou.index(assigner.fg_thresh)


def box_head(classes=3):
    paddle.seed(2)
    extractor = det_modules.AlignedRoIAlign(resolution=7, spatial_scale=[1 / level.stride for level in LEVELS])
    head = det_modules.CascadeBoxHead(Pooled(), 5, extractor, KeepAll(), classes)
    for layer in head.bbox_delta_list:  # begins near zero
        layer.weight.set_value(tensor(RNG(4).normal(0, 0.5, layer.weight.shape)))
    return head


INPUTS = {"im_shape": tensor([[64, 64]]), "gt_bbox": [tensor([[8, 8, 40, 40], [30, 20, 60, 50]])]}
ROIS = np.array([[5, 7, 33, 40], [10, 2, 41, 39], [30, 31, 60, 62], [4, 4, 50, 50], [20, 1, 44, 60], [9, 9, 30, 39.0]])


def moved(boxes, deltas, weights):
    """Boxes (N, 4) moved by deltas (N, 4), float64."""
    deltas = deltas / np.asarray(weights)
    size, centre = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    centre, size = centre + deltas[:, :2] * size, size * np.exp(np.minimum(deltas[:, 2:], np.log(1000 / 16)))
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def giou(boxes, true):
    common = np.clip(np.minimum(boxes[:, 2:], true[:, 2:]) - np.maximum(boxes[:, :2], true[:, :2]), 0, None).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (true[:, 2:] - true[:, :2]).prod(1) - common
    hull = (np.maximum(boxes[:, 2:], true[:, 2:]) - np.minimum(boxes[:, :2], true[:, :2])).prod(1)
    return common / union - (hull - union) / hull


def test_boxes_are_trained_by_stage_with_the_deltas_of_their_true_class():
    head = box_head()
    head.train()
    KeepAll.seen.clear()
    losses, _ = head(pyramid(), [tensor(ROIS)], tensor([6], "int32"), INPUTS)
    assert KeepAll.seen == [0.5, 0.6, 0.7]
    (all_rois, numbers), all_targets = head.get_assigned_rois(), head.get_assigned_targets()
    assert len(all_rois) == len(numbers) == len(all_targets) == 3
    for stage, weight in enumerate((1.0, 0.5, 0.25)):
        rois, labels = all_rois[stage][0], all_targets[stage][0][0].numpy()
        features = head.head(head.roi_extractor(pyramid(), [rois], tensor([len(rois)], "int32")), stage)
        scores = head.bbox_score_list[stage](features).numpy().astype(np.float64)
        deltas = head.bbox_delta_list[stage](features).numpy().astype(np.float64).reshape(-1, 3, 4)
        crossed = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(labels)), labels]
        assert float(losses[f"loss_bbox_cls_stage{stage}"]) == pytest.approx(weight * crossed.mean(), rel=1e-4)
        fore = np.flatnonzero(labels < 3)
        boxes = moved(rois.numpy()[fore].astype(np.float64), deltas[fore, labels[fore]], det_modules.BOX_WEIGHTS[stage])
        true = np.repeat(INPUTS["gt_bbox"][0].numpy()[:1].astype(np.float64), len(fore), axis=0)
        expected = weight * 10 * (1 - giou(boxes, true)).sum() / len(labels)
        assert float(losses[f"loss_bbox_reg_stage{stage}"]) == pytest.approx(expected, rel=1e-4)
        if stage < 2:  # what the next stage gets
            classes = np.where(labels < 3, labels, scores[:, :3].argmax(1))
            after = moved(
                rois.numpy().astype(np.float64), deltas[np.arange(len(labels)), classes], head.bbox_weight[stage]
            )
            after = np.clip(after, 0, 64)
            kept = ((after[:, 2:] - after[:, :2]) > 0).all(1)
            assert np.abs(all_rois[stage + 1][0].numpy() - after[kept]).max() < 1e-3


@pytest.mark.parametrize("part, what", [("rois", "RoIs"), ("weight", "scores and deltas")])
def test_a_training_that_has_diverged_ends_in_one_line(part, what):
    head = box_head()
    head.train()
    rois = ROIS * np.nan if part == "rois" else ROIS
    if part == "weight":
        head.bbox_delta_list[0].weight.set_value(head.bbox_delta_list[0].weight * np.inf)
    with refused("plugins.diverged", f"{what} of stage 0"):
        head(pyramid(), [tensor(rois)], tensor([6], "int32"), INPUTS)


def test_true_boxes_among_the_rois_are_not_handed_on():
    head = box_head()
    head.train()
    rois = np.concatenate([ROIS, INPUTS["gt_bbox"][0].numpy()])
    head(pyramid(), [tensor(rois)], tensor([8], "int32"), INPUTS)
    assert [len(each[0]) for each in head.get_assigned_rois()[0]][0] == 8
    assert len(head.get_assigned_rois()[0][1][0]) <= 6


def test_probabilities_are_those_of_the_mean_logits_and_rois_move_by_the_likeliest_class():
    head = box_head()
    head.eval()
    (deltas, probabilities), _ = head(pyramid(), [tensor(ROIS)], tensor([6], "int32"), INPUTS)
    rois, logits = ROIS, []
    for stage in range(3):
        features = head.head(head.roi_extractor(pyramid(), [tensor(rois)], tensor([6], "int32")), stage)
        scores = head.bbox_score_list[stage](features).numpy().astype(np.float64)
        moves = head.bbox_delta_list[stage](features).numpy().astype(np.float64)
        logits.append(scores)
        if stage < 2:
            chosen = moves.reshape(-1, 3, 4)[np.arange(6), scores[:, :3].argmax(1)]
            rois = np.clip(moved(rois, chosen, head.bbox_weight[stage]), 0, 64)
    expected = F.softmax(tensor(np.mean(logits, axis=0)), axis=-1).numpy()
    assert np.abs(probabilities.numpy() - expected).max() < 1e-5
    assert np.abs(deltas.numpy() - moves).max() < 1e-4
    assert np.abs(head.get_refined_rois()[0].numpy() - rois).max() < 1e-3


def test_without_foreground_the_loss_of_boxes_is_zero_and_has_a_gradient():
    head = box_head()
    labels, boxes = tensor([3, 3], "int32"), tensor([[0, 0, 1, 1]] * 2)
    deltas = tensor(RNG(5).normal(size=(2, 12)))
    deltas.stop_gradient = False
    losses = head._stage_losses(0, tensor(RNG(6).normal(size=(2, 4))), deltas, [boxes], ([labels], [boxes], None))
    assert float(losses["loss_bbox_reg"]) == 0
    losses["loss_bbox_reg"].backward()
    assert float(deltas.grad.abs().max()) == 0
