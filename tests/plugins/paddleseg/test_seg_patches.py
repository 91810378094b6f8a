"""Patches: what they replace gives what PaddleSeg's newer versions give, and is applied once."""

import sys

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

pytest.importorskip("paddleseg.cvlibs", reason="paddleseg is not installed")

import paddleseg
from paddleseg.core import train
from paddleseg.models.losses import CrossEntropyLoss
from paddleseg.utils import metrics

from ppreplk.plugins.paddleseg import register
from ppreplk.plugins.paddleseg.seg_patches import PATCHES, calculate_area, patch


@pytest.fixture(autouse=True)
def registered():
    register()


def test_nothing_is_needed_after_them():
    assert patch() == [] and not [each.name for each in PATCHES if each.is_needed()]
    assert all(each.reason for each in PATCHES)


WEIGHTS = [0.5, 1.0, 2.0, 0.0]


def labels(rng):
    label = rng.integers(0, 4, (2, 6, 7))
    label[:, :2] = 255
    return label


@pytest.mark.parametrize(("weight", "ignored"), [(None, True), (None, False), (WEIGHTS, True), (WEIGHTS, False)])
def test_the_loss_is_the_average_over_counted_pixels(weight, ignored):
    rng = np.random.default_rng(0)
    logits, label = rng.standard_normal((2, 4, 6, 7)), labels(rng)
    loss = CrossEntropyLoss(weight, avg_non_ignore=ignored)
    received = float(loss(paddle.to_tensor(logits.astype("float32")), paddle.to_tensor(label)))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    counted = label != 255
    chosen = np.take_along_axis(probabilities, np.where(counted, label, 0)[:, None], 1)[:, 0]
    factor = np.ones(4) if weight is None else np.array(weight)
    factors = np.where(counted, factor[np.where(counted, label, 0)], 0)
    expected = (-np.log(chosen) * factors).sum() / (factors.sum() if ignored or weight else label.size)
    assert received == pytest.approx(expected, rel=1e-5)


def test_the_hardest_pixels_alone_may_count():
    rng = np.random.default_rng(1)
    logits, label = paddle.to_tensor(rng.standard_normal((2, 4, 6, 7)).astype("float32")), labels(rng)
    received = CrossEntropyLoss(top_k_percent_pixels=0.25)(logits, paddle.to_tensor(label))
    each = F.cross_entropy(
        logits.transpose([0, 2, 3, 1]), paddle.to_tensor(label), ignore_index=255, reduction="none"
    ).flatten()
    expected = paddle.topk(each, int(0.25 * label.size))[0].mean()
    assert float(received) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("whose", ["ours", "the suite's"])
def test_areas_are_counted_for_each_class(whose):
    area = calculate_area if whose == "ours" else metrics.calculate_area
    rng = np.random.default_rng(2)
    label, predicted = labels(rng), rng.integers(0, 4, (2, 6, 7))
    received = area(paddle.to_tensor(predicted[:, None]), paddle.to_tensor(label[:, None]), 4)
    counted = label != 255
    for index in range(4):
        expected = [
            ((predicted == index) & (label == index)).sum(),
            ((predicted == index) & counted).sum(),
            (label == index).sum(),
        ]
        assert [int(each[index]) for each in received] == expected
    with pytest.raises(ValueError, match="[Ss]hape"):
        area(paddle.zeros([1, 1, 2, 2], "int64"), paddle.zeros([1, 1, 2, 3], "int64"), 2)


@pytest.mark.skipif(paddleseg.__version__ != "2.8.0", reason="newer versions need no patch")
def test_a_loss_in_training_has_an_element():
    module = sys.modules[train.__module__]
    loss = {"types": [CrossEntropyLoss()], "coef": [1]}
    rng = np.random.default_rng(3)
    logits = [paddle.to_tensor(rng.standard_normal((1, 4, 6, 7)).astype("float32"))]
    losses = module.loss_computation(logits, paddle.to_tensor(labels(rng)[:1]), None, loss)
    assert [each.shape for each in losses] == [[1]]
