"""Merging and folding networks that are not quite as they were built: right, or refused in one line."""

import os

import paddle
import pytest
from helpers import random_images, randomise_batch_norms, refused, relative_difference, small_network
from paddle import nn

import ppreplk
from ppreplk.nn import Conv2D, ConvBN, DepthwiseConv2D

FORMS = [ppreplk.reparameterize, ppreplk.fold]


def network(**changes):
    model = small_network(**changes)
    randomise_batch_norms(model)
    model.eval()
    return model


@pytest.mark.parametrize("convert", FORMS)
def test_batch_norms_of_another_epsilon(convert):
    model = network()
    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer._epsilon = 1e-2
            layer._variance.set_value(layer._variance * 0.02)
    images = random_images(2, 3, 40, 40)
    assert relative_difference(convert(model)(images), model(images)) < 1e-5


@pytest.mark.parametrize("convert", FORMS)
def test_batch_norms_without_an_affine_map(convert):
    model = network()
    bare = nn.BatchNorm2D(4, weight_attr=False, bias_attr=False)
    bare._mean.set_value(paddle.to_tensor([0.1, -0.3, 0.2, 0.4]))
    bare._variance.set_value(paddle.to_tensor([0.5, 1.5, 2.0, 0.1]))
    bare.eval()
    model.stages[0].blocks[0].large_kernel.lkb_origin.bn = bare
    images = random_images(2, 3, 40, 40)
    assert relative_difference(convert(model)(images), model(images)) < 1e-5


@pytest.mark.parametrize("convert", FORMS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_stay_one(convert, dtype):
    model = network()
    model.to(dtype=dtype)
    converted = convert(model)
    assert {str(parameter.dtype) for parameter in converted.parameters()} == {f"paddle.{dtype}"}
    if dtype == "float64":
        images = random_images(2, 3, 40, 40).astype(dtype)
        assert relative_difference(converted(images), model(images)) < 1e-12


def test_a_backbones_norms_keep_the_dtype():
    model = network(out_indices=(0, 2), norm_intermediate_features=True)
    model.to(dtype="float64")
    images = random_images(1, 3, 40, 40).astype("float64")
    for received, expected in zip(ppreplk.fold(model)(images), model(images)):
        assert relative_difference(received, expected) < 1e-12


def data_parallel(model):
    """The wrapper without the processes that its constructor asks for."""
    wrapped = paddle.DataParallel.__new__(paddle.DataParallel)
    nn.Layer.__init__(wrapped)
    wrapped._layers = model
    return wrapped


@pytest.mark.parametrize("convert", FORMS)
def test_a_wrapper_of_data_parallel_comes_off(convert):
    model = network()
    wrapped = data_parallel(model)
    images = random_images(2, 3, 40, 40)
    converted = convert(wrapped)
    assert type(converted) is type(model)
    assert relative_difference(converted(images), model(images)) < 1e-5


@pytest.mark.parametrize("convert", FORMS)
def test_what_cannot_be_copied_is_merged_in_place_only(convert):
    model = network()
    with open(os.devnull) as file:
        model.stages[0].register_forward_post_hook(lambda layer, inputs, output, file=file: None)
        model.stages[0].file = file
        with refused("nn.cannot-copy", "inplace=True"):
            convert(model)
        images = random_images(2, 3, 40, 40)
        expected = model(images)
        assert relative_difference(convert(model, inplace=True)(images), expected) < 1e-5


def test_hooks_that_would_be_lost_are_refused():
    changed = network()
    changed.stages[0].blocks[0].large_kernel.lkb_origin.register_forward_post_hook(lambda layer, x, y: y * 2)
    for convert in FORMS:
        with refused("nn.has-hook", "stages.0.blocks.0.large_kernel.lkb_origin"):
            convert(changed)
    normed = network()
    nn.utils.weight_norm(normed.head)
    for model in (normed, data_parallel(normed)):
        with refused("nn.has-hook", "head"):
            ppreplk.fold(model)
    spectral = network()
    nn.utils.spectral_norm(spectral.stages[1].blocks[0].pw1.conv)
    with refused("nn.has-hook", "stages.1.blocks.0.pw1.conv"):
        ppreplk.fold(spectral)


def test_hooks_elsewhere_stay():
    model, seen = network(), []
    model.stages[0].register_forward_post_hook(lambda layer, x, y: seen.append(1))
    ppreplk.fold(model, inplace=True)(random_images(1, 3, 40, 40))
    assert seen == [1]


def test_a_static_network_is_refused():
    model = network()
    static = paddle.jit.to_static(model)
    for convert in FORMS:
        with refused("nn.is-static", "to_static"):
            convert(static)


def test_another_normalization_is_refused():
    layer = ConvBN(Conv2D(4, 4, 1))
    layer.bn = nn.GroupNorm(2, 4)
    with refused("nn.not-a-batch-norm", "GroupNorm"):
        ppreplk.fold(layer)


@pytest.mark.parametrize("size", [4, 0, (7, 7), 7.0])
def test_kernel_sizes_that_are_none(size):
    with refused("nn.bad-kernel-size", str(size)):
        DepthwiseConv2D(4, size)
