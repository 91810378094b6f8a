"""Merging and folding change the form of a network and not what it computes."""

import numpy as np
import paddle
import pytest
from helpers import random_images, randomise_batch_norms, refused, relative_difference, small_network

import ppreplk
from ppreplk.nn import DepthwiseConv2D, ReparamDepthwiseConv, fold, fuse_relu, layer_report
from ppreplk.weights import load_weights

INPUTS = {"square": (2, 3, 64, 64), "non-square": (1, 3, 40, 72), "maps smaller than the kernels": (2, 3, 16, 20)}
NETWORKS = {
    "small kernel": {},
    "no small kernel": {"small_kernel": None, "dw_ratio": 1.5},
    "kernel of 1": {"small_kernel": 1},
}
BACKBONE = {"out_indices": (0, 2), "norm_intermediate_features": True}


def outputs(model, images):
    out = model(images)
    return out if isinstance(out, list) else [out]


@pytest.mark.parametrize("shape", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("arguments", [*NETWORKS.values(), BACKBONE], ids=[*NETWORKS, "backbone"])
@pytest.mark.parametrize("convert", [ppreplk.reparameterize, ppreplk.fold])
def test_equals_train_form(convert, arguments, shape):
    model = small_network(**arguments)
    randomise_batch_norms(model)
    model.eval()
    images = random_images(*shape)
    for received, expected in zip(outputs(convert(model), images), outputs(model, images)):
        assert relative_difference(received, expected) < 1e-5


def test_uses_running_statistics_and_keeps_the_mode_when_called_in_training():
    model = small_network()
    randomise_batch_norms(model)
    model.train()
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    merged = ppreplk.reparameterize(model)
    assert merged.training and all(layer.training for layer in merged.sublayers())
    assert all((value.numpy() == before[name]).all() for name, value in model.state_dict().items())
    images = random_images(2, 3, 32, 32)
    model.eval()
    merged.eval()
    assert relative_difference(merged(images), model(images)) < 1e-5


@pytest.mark.parametrize("convert", [ppreplk.reparameterize, ppreplk.fold])
def test_second_call_changes_nothing(convert):
    model = small_network()
    randomise_batch_norms(model)
    once = convert(model)
    twice = convert(once)
    assert list(once.state_dict()) == list(twice.state_dict())
    for name, value in once.state_dict().items():
        assert (value.numpy() == twice.state_dict()[name].numpy()).all()


def test_copies_unless_told_otherwise():
    model = small_network()
    names = set(model.state_dict())
    assert ppreplk.reparameterize(model) is not model and set(model.state_dict()) == names
    assert ppreplk.reparameterize(model, inplace=True) is model and set(model.state_dict()) != names


def test_merged_weights_load_into_a_model_built_merged():
    model = small_network()
    randomise_batch_norms(model)
    merged = ppreplk.reparameterize(model)
    built = small_network(merged=True)
    load_weights(built, {name: value.numpy() for name, value in merged.state_dict().items()}, "merged")
    images = random_images(2, 3, 32, 48)
    model.eval()
    built.eval()
    assert relative_difference(built(images), model(images)) < 1e-5


@pytest.mark.parametrize("arguments", [{}, BACKBONE], ids=["classifier", "backbone"])
def test_fold_leaves_no_batch_norm(arguments):
    folded = ppreplk.fold(small_network(**arguments))
    assert not any(isinstance(layer, paddle.nn.BatchNorm2D) for layer in folded.sublayers())
    assert not any(name.endswith(("_mean", "_variance")) for name in folded.state_dict())
    assert not folded.training


@pytest.mark.parametrize("stride", [1, 2])
def test_layer_keeps_stride_and_padding(stride):
    layer = ReparamDepthwiseConv(6, 7, small_kernel=3, stride=stride)
    randomise_batch_norms(layer)
    layer.eval()
    images = random_images(2, 6, 15, 11)
    expected = layer(images)
    layer.re_parameterize()
    assert layer.is_repped
    assert relative_difference(layer(images), expected) < 1e-5


@pytest.mark.parametrize("dilation", [2, 4])
def test_layer_keeps_dilation(dilation):
    layer = ReparamDepthwiseConv(4, 3, dilation=dilation)
    randomise_batch_norms(layer)
    layer.eval()
    images = random_images(1, 4, 13, 17)
    expected = layer(images)
    layer.re_parameterize()
    assert expected.shape == images.shape
    assert relative_difference(layer(images), expected) < 1e-5


def test_merged_layer_against_the_definition_in_float64():
    layer = ReparamDepthwiseConv(3, 5, small_kernel=3)
    randomise_batch_norms(layer)
    layer.eval()
    images = random_images(1, 3, 6, 7)
    expected = np.zeros(images.shape)
    for branch in (layer.lkb_origin, layer.small_conv):
        weight = branch.conv.weight.numpy().astype(np.float64)
        half = weight.shape[-1] // 2
        padded = np.pad(images.numpy().astype(np.float64), ((0, 0), (0, 0), (half, half), (half, half)))
        mean, variance, gamma, beta = (
            tensor.numpy().astype(np.float64).reshape(1, 3, 1, 1)
            for tensor in (branch.bn._mean, branch.bn._variance, branch.bn.weight, branch.bn.bias)
        )
        convolved = np.zeros(images.shape)
        for row in range(2 * half + 1):
            for column in range(2 * half + 1):
                window = padded[:, :, row : row + 6, column : column + 7]
                convolved += window * weight[:, 0, row, column].reshape(1, 3, 1, 1)
        expected += (convolved - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    layer.re_parameterize()
    assert relative_difference(layer(images), expected) < 1e-6


def test_layer_report_names_every_large_kernel():
    model = small_network()
    randomise_batch_norms(model)
    report = layer_report(model, random_images(2, 3, 32, 32))
    assert [entry.kernel_size for entry in report] == [9, 7, 7, 5]
    assert report[0].name == "stages.0.blocks.0.large_kernel"
    assert all(0 <= entry.relative < 1e-5 and entry.largest_output > 0 for entry in report)
    assert model.training and not model.stages[0].blocks[0].large_kernel.is_repped


def test_layer_report_sees_a_wrong_merge(monkeypatch):
    right = ReparamDepthwiseConv.merged_weight_bias

    def wrong(self):
        weight, bias = right(self)
        return weight, bias + 0.5

    monkeypatch.setattr(ReparamDepthwiseConv, "merged_weight_bias", wrong)
    report = layer_report(small_network(), random_images(1, 3, 32, 32))
    assert all(abs(entry.largest_difference - 0.5) < 1e-3 for entry in report)


@pytest.mark.parametrize(
    "arguments, code, part",
    [
        ({"kernel_size": 5, "small_kernel": 7}, "nn.bad-kernel-size", "small_kernel 7"),
        ({"kernel_size": 6}, "nn.bad-kernel-size", "6"),
        ({"kernel_size": 9, "small_kernel": 4}, "nn.bad-kernel-size", "4"),
        ({"kernel_size": 3, "small_kernel": 3, "dilation": 2}, "nn.bad-dilation", "dilation 2"),
        ({"kernel_size": 3, "impl": "magic"}, "ops.unknown-implementation", "magic"),
    ],
)
def test_impossible_layers_are_refused(arguments, code, part):
    with refused(code, part):
        ReparamDepthwiseConv(4, **arguments)


def test_relus_become_part_of_the_depthwise_convolutions():
    model = small_network()
    randomise_batch_norms(model)
    folded = fold(model)
    images = paddle.rand([2, 3, 32, 40])
    expected = folded(images).numpy()
    fuse_relu(model)
    assert any(isinstance(layer, paddle.nn.ReLU) for layer in model.sublayers()), "a model that is not folded stays"
    fuse_relu(folded)
    depthwise = [layer for layer in folded.sublayers() if isinstance(layer, DepthwiseConv2D)]
    assert depthwise and all(layer.relu for layer in depthwise)
    fuse_relu(folded)
    assert relative_difference(folded(images).numpy(), expected) == 0
