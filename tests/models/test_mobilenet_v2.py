"""MobileNetV2 with large kernels: published sizes, which layers change, forms, how its layers are computed."""

import numpy as np
import paddle
import pytest
from helpers import random_images, randomise_batch_norms, refused, relative_difference, require_depthwise_operators

import ppreplk
from ppreplk.nn import DepthwiseConv2D
from ppreplk.weights import load_weights

SMALL = {"width": 0.25, "class_num": 5}
VARIANTS = {
    "plain": {},
    "large kernels": {"kernel_size": 9},
    "parallel kernels": {"kernel_size": 7, "small_kernel": 3},
    "last stage": {"kernel_size": 13, "small_kernel": 3, "large_kernel_blocks": (14, 15, 16)},
    "dilated": {"dilation": 4},
    "no shortcut": {"kernel_size": 5, "shortcut": False},
}


def build(**arguments):
    paddle.seed(0)
    return ppreplk.build_model("MobileNetV2LK", **{**SMALL, **arguments})


def depthwise_layers(model) -> list[DepthwiseConv2D]:
    return [layer for layer in model.sublayers() if isinstance(layer, DepthwiseConv2D)]


@pytest.mark.parametrize(
    "arguments, millions",
    [
        ({}, 3.505),
        ({"kernel_size": 9}, 4.019),
        ({"kernel_size": 13}, 4.647),
        ({"dilation": 4}, 3.505),
        ({"shortcut": False}, 3.505),
    ],
)
def test_published_parameters(arguments, millions):
    model = ppreplk.build_model("MobileNetV2LK", **arguments)
    parameters = sum(p.size for p in model.parameters() if not p.stop_gradient)
    assert round(parameters / 1e6, 3) == millions


def test_multiply_adds_of_the_plain_network():
    counted = ppreplk.complexity.count(ppreplk.build_model("MobileNetV2LK"), (1, 3, 224, 224))
    assert round(counted.macs / 1e6) == 301  # Sandler et al., table 4: 300M


def test_kernels_go_where_they_are_asked_for():
    everywhere = depthwise_layers(build(kernel_size=9))
    assert [layer.kernel_size for layer in everywhere] == [9] * 17
    assert [i for i, layer in enumerate(everywhere) if layer.stride == 2] == [1, 3, 6, 13]
    last = depthwise_layers(build(kernel_size=13, small_kernel=3, large_kernel_blocks=[14, 15, 16]))
    assert [layer.kernel_size for layer in last] == [3] * 14 + [13, 3] * 3
    dilated = depthwise_layers(build(dilation=6))
    assert {layer.dilation for layer in dilated} == {6}


def test_shortcuts():
    def count(**arguments):
        return sum(block.shortcut for stage in build(width=1.0, **arguments).stages for block in stage)

    assert count() == 10 and count(shortcut=False) == 0


@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("convert", [ppreplk.reparameterize, ppreplk.fold])
def test_merging_and_folding_keep_the_outputs(convert, arguments):
    model = build(**arguments)
    randomise_batch_norms(model)
    model.eval()
    converted = convert(model)
    images = random_images(2, 3, 48, 64)
    assert relative_difference(converted(images), model(images)) < 1e-4
    left = any(isinstance(layer, paddle.nn.BatchNorm2D) for layer in converted.sublayers())
    assert left == (convert is ppreplk.reparameterize)


def test_merged_weights_load_into_a_network_built_merged():
    arguments = VARIANTS["parallel kernels"]
    model = build(**arguments)
    randomise_batch_norms(model)
    merged = ppreplk.reparameterize(model)
    built = build(**arguments, merged=True)
    load_weights(built, {name: value.numpy() for name, value in merged.state_dict().items()}, "merged")
    model.eval()
    built.eval()
    images = random_images(1, 3, 64, 64)
    assert relative_difference(built(images), model(images)) < 1e-4


@pytest.mark.parametrize(
    "arguments, code, parts",
    [
        ({"large_kernel_blocks": [3, 17]}, "models.bad-argument", ["large_kernel_blocks", "[3, 17]"]),
        ({"strides": [2, 1]}, "models.bad-argument", ["strides", "[2, 1]"]),
        ({"width": 0}, "models.bad-argument", ["width", "got 0"]),
        ({"dilation": 0}, "models.bad-argument", ["dilation", "got 0"]),
        ({"class_num": 0}, "models.bad-argument", ["class_num", "got 0"]),
        ({"kernel_size": 4}, "nn.bad-kernel-size", ["got 4"]),
        ({"small_kernel": 5}, "nn.bad-kernel-size", ["small_kernel 5", "kernel_size 3"]),
        ({"small_kernel": 3, "dilation": 2}, "nn.bad-dilation", ["dilation 2"]),
    ],
)
def test_bad_arguments_are_refused(arguments, code, parts):
    with refused(code, *parts):
        build(**arguments)


def gradients(layer, x):
    x = x.detach()
    x.stop_gradient = False
    y = layer(x)
    return [y, *paddle.grad((y * y).sum(), [x, layer.weight])]


@pytest.mark.parametrize("size", [(14, 14), (15, 12), (40, 30)])
@pytest.mark.parametrize("kernel, stride, dilation", [(3, 1, 1), (3, 2, 1), (13, 2, 1), (3, 1, 4), (3, 2, 6)])
def test_every_layer_computes_the_same_through_the_cpp_operator(kernel, stride, dilation, size):
    require_depthwise_operators()
    paddle.seed(0)
    layer = DepthwiseConv2D(6, kernel, stride, dilation, bias=True)
    x = random_images(2, 6, *size)
    received = {}
    for impl in ("native", "cpu"):
        layer.impl = impl
        received[impl] = gradients(layer, x)
    for ours, expected in zip(received["cpu"], received["native"]):
        assert relative_difference(ours, expected) < 1e-5
    assert np.isfinite(received["cpu"][0].numpy()).all()
