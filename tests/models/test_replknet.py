"""Architectures: published sizes, forms, stochastic depth, recomputation, layer ids."""

import numpy as np
import paddle
import pytest
from helpers import random_images, refused, relative_difference, small_network

import ppreplk
from ppreplk.nn import DropPath

# FACTS: train-form and merged parameters in millions, and multiply-adds in billions at each input size
PUBLISHED = {
    "RepLKNet31B": (79.864, 79.527, {224: 15.354, 384: 45.119}),
    "RepLKNet31L": (172.671, 172.166, {384: 95.989}),
    "RepLKNetXL": (335.436, 335.400, {320: 128.73}),
}
# Table 5: parameters with every BN folded, multiply-adds at 224; recomputed, and as printed there
KERNEL_STUDY = {
    "RepLKNet3B": (71.76, 12.939, 71.8, 12.9),
    "RepLKNet7B": (72.24, 13.063, 72.2, 13.1),
    "RepLKNet13B": (73.68, 13.436, 73.7, 13.4),
    "RepLKNet25B": (78.23, 14.809, 78.2, 14.8),
    "RepLKNet31B": (79.39, 15.354, 79.3, 15.3),
}


def parameters(model) -> float:
    return sum(p.size for p in model.parameters() if not p.stop_gradient) / 1e6


def four_digits(value: float) -> str:
    return f"{value:.4g}"


def macs(model, size: int) -> float:
    """Billions for one image, counted on a small one: all but the head's grow with the area."""
    head, small = model.head.weight.size, 64
    counted = ppreplk.complexity.count(model, (1, 3, small, small)).macs
    return ((counted - head) * size**2 / small**2 + head) / 1e9


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    train_params, merged_params, expected = PUBLISHED[name]
    model = ppreplk.build_model(name)
    assert four_digits(parameters(model)) == four_digits(train_params)
    ppreplk.reparameterize(model, inplace=True)
    assert four_digits(parameters(model)) == four_digits(merged_params)
    for size, billions in expected.items():
        assert four_digits(macs(model, size)) == four_digits(billions)


@pytest.mark.parametrize("name", KERNEL_STUDY)
def test_kernel_size_study(name):
    folded_params, folded_macs, printed_params, printed_macs = KERNEL_STUDY[name]
    folded = ppreplk.fold(ppreplk.build_model(name), inplace=True)
    received = macs(folded, 224)
    assert four_digits(parameters(folded)) == four_digits(folded_params)
    assert four_digits(received) == four_digits(folded_macs)
    assert abs(parameters(folded) - printed_params) < 0.1 and abs(received - printed_macs) < 0.1


def test_counting_scales_with_the_images_and_leaves_the_model_alone():
    model = small_network()
    model.train()
    one, three, large = (
        ppreplk.complexity.count(model, (n, 3, size, size)) for n, size in ((1, 32), (3, 32), (1, 224))
    )
    assert three.macs == 3 * one.macs and large.macs / 1e9 == macs(model, 224)
    assert one.params == three.params == large.params == round(parameters(model) * 1e6)
    assert model.training and all(layer.training for layer in model.sublayers())


def test_backbone_returns_the_chosen_stages():
    model = small_network(out_indices=[2, 0])
    features = model(random_images(2, 3, 64, 96))
    assert [tuple(feature.shape) for feature in features] == [(2, 4, 16, 24), (2, 8, 4, 6)]
    assert model.feat_channels == [4, 8]
    assert not any(name.startswith(("norm", "head")) for name in model.state_dict())


def test_drop_path_rates_rise_linearly_and_a_pair_shares_one():
    model = small_network(drop_path_rate=0.3)
    rates = [block.drop_path.rate for stage in model.stages for block in stage.blocks]
    np.testing.assert_allclose(rates, np.repeat(np.linspace(0, 0.3, 4), 2))


def test_drop_path_statistics():
    paddle.seed(0)
    layer = DropPath(0.25)
    x = paddle.ones([20000, 2, 1, 1])
    out = layer(x).numpy()
    assert (out[:, 0] == out[:, 1]).all(), "a sample is kept or dropped as a whole"
    assert set(np.unique(out)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    assert abs((out[:, 0] == 0).mean() - 0.25) < 0.02
    layer.eval()
    assert (layer(x).numpy() == 1).all()


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_recomputation_changes_neither_gradients_nor_running_statistics(rate):
    images = random_images(4, 3, 32, 32)
    results = []
    for use_checkpoint in (False, True):
        model = small_network(drop_path_rate=rate, use_checkpoint=use_checkpoint)
        model.train()
        paddle.seed(7)
        model(images).square().sum().backward()
        gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if not p.stop_gradient}
        statistics = {n: v.numpy() for n, v in model.state_dict().items() if n.endswith(("_mean", "_variance"))}
        results.append({**gradients, **statistics})
    plain, recomputed = results
    assert set(plain) == set(recomputed)
    scale = max(np.abs(value).max() for value in plain.values())
    for name, value in plain.items():
        assert np.abs(recomputed[name] - value).max() <= 1e-6 * scale, name


def test_layer_ids_of_any_depth():
    model = small_network(layers=(3, 2, 5), out_indices=(0, 1, 2), norm_intermediate_features=True)
    ids = ppreplk.optim.layer_ids(model)
    assert ids["stem.3.bn.bias"] == 0
    assert [ids[f"stages.0.blocks.{b}.pw1.conv.weight"] for b in range(6)] == [1, 1, 1, 1, 2, 2]
    assert ids["transitions.0.1.conv.weight"] == 2
    assert ids["stages.1.blocks.3.preffn_bn.weight"] == 3
    assert [ids[f"stages.2.blocks.{b}.pw1.conv.weight"] for b in (0, 3, 4, 7, 8, 9)] == [4, 4, 5, 5, 6, 6]
    assert ids["stages.0.norm.weight"] == 2
    classifier = ppreplk.optim.layer_ids(small_network(layers=(3, 2, 5)))
    assert classifier["head.weight"] == classifier["norm.bias"] == 7


def test_layer_decay_scales_each_parameters_learning_rate():
    model = small_network(layer_decay=0.5)
    ids = model.layer_ids()
    head = max(ids.values())
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            assert parameter.optimize_attr["learning_rate"] == 0.5 ** (head - ids[name]), name


def test_layer_decay_by_stage_puts_the_stem_with_the_first_stage():
    model = small_network(layers=(1, 3, 1), layer_decay=0.4, layer_decay_by="stage")
    scales = {name: p.optimize_attr["learning_rate"] for name, p in model.named_parameters() if not p.stop_gradient}
    expected = {
        "stem": 3,
        "stages.0": 3,
        "transitions.0": 3,
        "stages.1": 2,
        "transitions.1": 2,
        "stages.2": 1,
        "head": 0,
    }
    for prefix, power in expected.items():
        found = {scale for name, scale in scales.items() if name.startswith(prefix)}
        assert found == {0.4**power}, prefix


def test_unknown_model_names_the_nearest():
    with refused("models.unknown-model", "'replknet31'", "RepLKNet31B"):
        ppreplk.build_model("replknet31")
    assert {"RepLKNet31B", "RepLKNet31L", "RepLKNetXL"} <= set(ppreplk.list_models())


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"out_indices": ()}, "[]"),
        ({"out_indices": (3,)}, "[3]"),
        ({"layers": (1, 1)}, "[1, 1]"),
        ({"layers": (1, 0, 1)}, "[1, 0, 1]"),
        ({"in_channels": 0}, "in_channels"),
        ({"dw_ratio": 0.1}, "dw_ratio 0.1"),
        ({"ffn_ratio": 0.1}, "ffn_ratio 0.1"),
        ({"class_num": 0}, "class_num"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"norm_intermediate_features": True}, "out_indices"),
        ({"layer_decay": 1.5}, "layer_decay"),
    ],
)
def test_impossible_networks_are_refused(changes, part):
    with refused("models.bad-argument", part):
        small_network(**changes)


def test_initialisation_is_pytorchs_uniform():
    paddle.seed(1)
    model = ppreplk.models.RepLKNet((13,), (1,), (64,), 5, class_num=100)
    for name, fan_in in {
        "stem.0.conv.weight": 27,
        "stages.0.blocks.0.large_kernel.lkb_origin.conv.weight": 169,
        "stages.0.blocks.0.pw1.conv.weight": 64,
        "head.weight": 64,
        "head.bias": 64,
    }.items():
        value = model.state_dict()[name].numpy()
        bound = fan_in**-0.5
        assert np.abs(value).max() <= bound and np.abs(value).max() > 0.9 * bound
        assert abs(value.std() / (bound / 3**0.5) - 1) < 0.15, name


def test_depthwise_conv_function_checks_shapes_and_matches_conv2d():
    x, weight, bias = random_images(2, 4, 9, 7), random_images(4, 1, 5, 5, seed=1), random_images(4, seed=2)
    expected = paddle.nn.functional.conv2d(x, weight, bias, padding=2, groups=4)
    assert relative_difference(ppreplk.depthwise_conv2d(x, weight, bias), expected) < 1e-6
    for bad in ({"weight": weight[:3]}, {"weight": weight[:, :, :4, :4]}, {"bias": bias[:2]}, {"x": x[0]}):
        with refused("ops.bad-shape"):
            ppreplk.depthwise_conv2d(**{"x": x, "weight": weight, "bias": bias, **bad})
    with refused("ops.unknown-implementation", "'nope'"):
        ppreplk.depthwise_conv2d(x, weight, impl="nope")
