"""Networks whose pointwise convolutions multiply 8-bit integers, and their ranges from images."""

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from helpers import randomise_batch_norms, refused, require_channels_last_operators, small_network

from ppreplk.models import graph_of
from ppreplk.nn import Conv2D, fold
from ppreplk.nn.channels_last import ChannelsLastNetwork, ConvNHWC, FeedForwardNHWC, InputRange
from ppreplk.nn.quantization import MIN_CHANNELS, calibrate, quantizable_parts, quantize


@pytest.fixture(scope="module")
def graph():
    require_channels_last_operators()
    network = small_network(channels=(32, 64, 96))
    randomise_batch_norms(network)
    return graph_of(fold(network))


def images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32), np.float32)


@paddle.no_grad()
def run(network, batch):
    return network(paddle.to_tensor(batch)).numpy()


def quantized(graph, ranges):
    network = ChannelsLastNetwork(graph, "bf16", keep=True)
    quantize(network, ranges)
    return network


def test_outputs_are_close_to_those_in_float32(graph):
    float32 = ChannelsLastNetwork(graph, "fp32", keep=True)
    ranges = calibrate(float32, [images(4), images(4, seed=1)])
    network = quantized(graph, ranges)
    batch = images(16, seed=2)
    expected, received = run(float32, batch), run(network, batch)
    errors = np.abs(received - expected) / np.abs(expected).max()
    bfloat16 = np.abs(run(ChannelsLastNetwork(graph, "bf16", keep=True), batch) - expected) / np.abs(expected).max()
    assert bfloat16.mean() < errors.mean() < 0.02 and errors.max() < 0.1
    assert np.mean(received.argmax(1) == expected.argmax(1)) >= 0.9
    np.testing.assert_array_equal(run(network, batch[3:4]), received[3:4])


def test_which_layers(graph):
    """Pointwise ones with enough channels, feed-forward blocks among them; depthwise and 3x3 ones stay."""
    network = ChannelsLastNetwork(graph, "bf16")
    parts = quantizable_parts(network)
    assert any(isinstance(part, FeedForwardNHWC) for part in parts)
    pointwise = [part for part in network.parts if isinstance(part, ConvNHWC) and part.weight.shape[1:] != [1, 3, 3]]
    pointwise = [part for part in pointwise if part.weight.shape[2:] == [1, 1]]
    assert [part for part in parts if isinstance(part, ConvNHWC)] == pointwise
    narrow = small_network(channels=(MIN_CHANNELS // 2, MIN_CHANNELS, MIN_CHANNELS))
    widths = {
        (part.weight if isinstance(part, ConvNHWC) else part.weight1).shape[1]
        for part in quantizable_parts(ChannelsLastNetwork(graph_of(fold(narrow)), "bf16"))
    }
    assert min(widths) == MIN_CHANNELS


@pytest.mark.parametrize(
    "channels, arguments, is_one",
    [
        (64, {}, True),
        (64, {"stride": 2}, False),
        (128, {"groups": 2}, False),
        (64, {"kernel_size": 3}, False),
    ],
)
def test_strided_and_grouped_layers_stay(channels, arguments, is_one):
    layer = ConvNHWC(Conv2D(channels, 64, **{"kernel_size": 1, **arguments}), "none", "bf16")
    assert bool(quantizable_parts(SimpleNamespace(parts=[layer]))) == is_one


def test_a_network_that_has_run_before(graph):
    """Weights that it has packed are packed again."""
    ranges = calibrate(ChannelsLastNetwork(graph, "fp32", keep=True), [images(4)])
    network = ChannelsLastNetwork(graph, "bf16", keep=True)
    run(network, images(2))
    quantize(network, ranges)
    np.testing.assert_array_equal(run(network, images(2)), run(quantized(graph, ranges), images(2)))


def test_ranges_are_those_of_the_inputs(graph):
    float32 = ChannelsLastNetwork(graph, "fp32", keep=True)
    parts, seen = quantizable_parts(float32), {}

    def see(part, inputs):
        seen.setdefault(id(part), inputs[0].numpy())

    for part in parts:
        part.register_forward_pre_hook(see)
    batch = images(5)
    ranges = calibrate(float32, [batch])
    for part, found in zip(parts, ranges):
        x = seen[id(part)]
        assert found[0] == (x.min(), x.max())
        assert len(found) == (2 if isinstance(part, FeedForwardNHWC) else 1)
        if isinstance(part, FeedForwardNHWC):
            hidden = np.tensordot(x, part.weight1.numpy()[:, :, 0, 0], ([3], [1])) + part.bias1.numpy()
            gelu = paddle.nn.functional.gelu(paddle.to_tensor(hidden)).numpy()
            np.testing.assert_allclose(found[1], (gelu.min(), gelu.max()), rtol=1e-4)
    for order in ([batch[:2], batch[2:]], [batch[4:], batch[:4]]):  # of any batches
        np.testing.assert_allclose(np.concatenate(calibrate(float32, order)), np.concatenate(ranges), rtol=1e-5)


def test_images_that_give_no_ranges(graph):
    float32 = ChannelsLastNetwork(graph, "fp32", keep=True)
    with refused("nn.no-calibration-images", "at least one image"):
        calibrate(float32, [])
    bad = images(2)
    bad[1, 0] = np.nan
    with refused("nn.not-finite", "calibration images hold NaN or infinite values"):
        calibrate(float32, [bad[:1], bad[1:], images(1)])
    with refused("nn.not-finite", "network computes NaN or infinite values from the calibration images"):
        calibrate(float32, [np.full((1, 3, 32, 32), 3e38, np.float32)])
    assert np.isfinite(run(float32, images(1))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_no_integers_stand_for(graph, value):
    """Outputs may be finite all the same: a ReLU of NaN is zero."""
    for kind, name in ((ConvNHWC, "weight"), (FeedForwardNHWC, "weight1"), (FeedForwardNHWC, "weight2")):
        network = ChannelsLastNetwork(graph, "bf16")
        parts = quantizable_parts(network)
        ranges = [[InputRange(-1.0, 1.0)] * (2 if isinstance(part, FeedForwardNHWC) else 1) for part in parts]
        weight = getattr([part for part in parts if isinstance(part, kind)][-1], name)
        kept = weight.numpy()
        spoilt = kept.copy()
        spoilt[0, 1] = value
        weight.set_value(spoilt)
        try:
            with refused("nn.not-finite", "weights that are NaN or infinite", "earlier checkpoint"):
                quantize(network, ranges)
        finally:
            weight.set_value(kept)


def test_constant_images_and_layers_that_are_zero(graph):
    float32 = ChannelsLastNetwork(graph, "fp32", keep=True)
    batch = np.full((1, 3, 32, 32), 0.3, np.float32)
    network = quantized(graph, calibrate(float32, [batch]))
    expected = run(float32, batch)
    assert np.abs(run(network, batch) - expected).max() < 0.05 * np.abs(expected).max()
    ranges = [[InputRange(0.0, 0.0) for _ in found] for found in calibrate(float32, [batch])]
    assert np.isfinite(run(quantized(graph, ranges), images(2))).all()
