"""Mixup and CutMix against their definitions."""

import numpy as np
import pytest
from helpers import refused
from image_helpers import RNG

from ppreplk.config import construct, read_ops
from ppreplk.data import build_batch_transforms
from ppreplk.data.mixing import CutmixOperator, MixupCutmixHybrid, MixupOperator, OpSampler


def mixing_batch(n=6):
    images = np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1) * np.ones((1, 3, 16, 16), np.float32)
    return images, np.arange(n) % 4


def test_mixup_mixes_with_the_reversed_batch_and_smooths_labels():
    images, labels = mixing_batch()
    mix = MixupCutmixHybrid(mixup_alpha=0.8, label_smoothing=0.1, num_classes=4)
    mixed, target = mix(images, labels, RNG(3))
    lam = (mixed[0, 0, 0, 0] - 5) / (0 - 5)
    assert 0 < lam < 1
    np.testing.assert_allclose(mixed, images * lam + images[::-1] * (1 - lam), rtol=1e-5)
    smooth = np.eye(4)[labels] * 0.9 + 0.1 / 4
    np.testing.assert_allclose(target, smooth * lam + smooth[::-1] * (1 - lam), atol=1e-6)


def test_cutmix_pastes_one_box_and_weighs_labels_by_its_area():
    images, labels = mixing_batch()
    mix = MixupCutmixHybrid(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=4)
    for seed in range(50):
        mixed, target = mix(images, labels, RNG(seed))
        pasted = mixed[0, 0] == 5
        assert ((mixed[0, 0] == 0) | pasted).all()
        rows, columns = pasted.any(1).sum(), pasted.any(0).sum()
        assert pasted.sum() == rows * columns
        lam = 1 - pasted.mean()
        np.testing.assert_allclose(target[0], np.eye(4)[0] * lam + np.eye(4)[1] * (1 - lam), atol=1e-6)
        assert (mixed[5, 0] == np.where(pasted, 0, 5)).all()


def test_mixing_probability_and_switch():
    images, labels = mixing_batch()
    mix = MixupCutmixHybrid(0.8, 1.0, prob=0.6, switch_prob=0.25, label_smoothing=0.0, num_classes=4)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(2000):
        values = np.unique(mix(images, labels, RNG(seed))[0][0])
        kinds["none" if (values == 0).all() else "cutmix" if set(values) <= {0.0, 5.0} else "mixup"] += 1
    assert kinds["mixup"] / 2000 == pytest.approx(0.6 * 0.75, abs=0.04)
    assert kinds["cutmix"] / 2000 == pytest.approx(0.6 * 0.25, abs=0.04)  # less the boxes of no area


def test_mixup_operator():
    images, labels = mixing_batch()
    mixed, target = MixupOperator(4, alpha=0.8)(images, labels, RNG(1))
    other, lam = RNG(1).permutation(6), None
    for index in range(6):
        if other[index] != index:
            lam = (mixed[index, 0, 0, 0] - other[index]) / (index - other[index])
    assert 0 < lam < 1
    np.testing.assert_allclose(mixed, images * lam + images[other] * (1 - lam), rtol=1e-5)
    np.testing.assert_allclose(target, np.eye(4)[labels] * lam + np.eye(4)[labels[other]] * (1 - lam), atol=1e-6)


def test_cutmix_operator():
    images, labels = mixing_batch()
    for seed in range(20):
        mixed, target = CutmixOperator(4, alpha=1.0)(images, labels, RNG(seed))
        other = RNG(seed).permutation(6)
        for index in np.flatnonzero(other != np.arange(6)):
            pasted = (mixed[index, 0] == other[index]).mean()
            expected = np.eye(4)[labels[index]] * (1 - pasted) + np.eye(4)[labels[other[index]]] * pasted
            np.testing.assert_allclose(target[index], expected, atol=1e-6)


def test_op_sampler_chooses_by_probability():
    ops = {"MixupOperator": {"alpha": 0.8, "prob": 0.5}, "CutmixOperator": {"alpha": 1.0, "prob": 0.2}}
    sampler = construct(OpSampler, ops, "OpSampler", class_num=4)
    images, labels = mixing_batch()
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(2000):
        mixed, target = sampler(images, labels, RNG(seed))
        assert target.shape == (6, 4) and target.dtype == np.float32
        whole = mixed == np.round(mixed)
        kinds["none" if (mixed == images).all() else "cutmix" if whole.all() else "mixup"] += 1
    assert kinds["mixup"] / 2000 == pytest.approx(0.5, abs=0.04)
    assert kinds["cutmix"] / 2000 == pytest.approx(0.2, abs=0.04)


def test_bad_arguments_are_quoted():
    with refused("data.bad-argument", "alpha", "0"):
        MixupOperator(4, alpha=0)
    with refused("data.bad-argument", "at most 1", "1.5"):
        OpSampler({"CutmixOperator": {"prob": 1.5}}, 4)
    with refused("data.bad-argument", "mixup_alpha", "-1"):
        MixupCutmixHybrid(mixup_alpha=-1)
    with refused("data.bad-argument", "switch_prob", "2"):
        MixupCutmixHybrid(switch_prob=2)
    with refused("config.unknown-name", "batch transform 'MixupOp'"):
        OpSampler({"MixupOp": {"prob": 0.5}}, 4)


def test_what_is_not_served_says_so():
    with refused("data.not-served", "cutmix_minmax"):
        MixupCutmixHybrid(cutmix_minmax=[0.2, 0.8])
    ops = read_ops([{"MixupOperator": {"alpha": 0.8}}, {"CutmixOperator": {"alpha": 1.0}}], "batch_transform_ops")
    with refused("data.not-served", "batch_transform_ops[1].CutmixOperator", "found 2"):
        build_batch_transforms(ops, class_num=4)


def test_mixing_must_know_the_class_count():
    with refused("data.class-count", "num_classes is 4", "Arch.class_num is 10"):
        MixupCutmixHybrid(class_num=10)
