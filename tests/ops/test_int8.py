"""Pointwise convolutions with 8-bit integers, against the same integers in NumPy."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import paddle
import pytest
from helpers import require_channels_last_operators, run_python

from ppreplk.ops import onednn
from ppreplk.utils.cores import available_cores
from ppreplk.utils.device import set_threads


@pytest.fixture(autouse=True)
def operators():
    require_channels_last_operators()
    yield
    set_threads(available_cores())


def quantization(low, high):
    """Scale and zero of a range."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255) if high > low else np.float32(1)
    return scale, np.rint(-low / np.float64(scale))


def quantized(x, low, high):
    """Numbers minus zero, of which ``scale`` times that is the value."""
    scale, zero = quantization(low, high)
    return np.rint(np.clip(np.nan_to_num(x, nan=0.0) * (np.float32(1) / scale), -zero, 255 - zero)).astype(np.int64)


def quantized_weights(weight):
    """Numbers (out, in), and the scale of each output channel."""
    matrix = weight[:, :, 0, 0].astype(np.float64)
    largest = np.abs(matrix).max(axis=1)
    scale = np.where(largest > 0, largest / 127, 1.0)
    return np.rint(matrix / scale[:, None]).astype(np.int64), scale


def sums(x, weight, low, high):
    """What a layer computes before its bias, in float64."""
    numbers, scales = quantized_weights(weight)
    return quantized(x, low, high) @ numbers.T * (scales * quantization(low, high)[0])


def activated(y, activation):
    return y if activation == "none" else getattr(paddle.nn.functional, activation)(paddle.to_tensor(y)).numpy()


def rounded(x):
    """To the nearest bfloat16."""
    return paddle.to_tensor(x).astype("bfloat16").astype("float32").numpy()


def problem(batch=2, size=(9, 6), channels=(16, 24), residual=False):
    rng = np.random.default_rng(0)
    x = rounded(rng.standard_normal((batch, *size, channels[0])).astype("float32"))
    weight = rng.standard_normal((channels[1], channels[0], 1, 1)).astype("float32")
    bias = rng.standard_normal(channels[1]).astype("float32")
    added = rounded(rng.standard_normal((batch, *size, channels[1])).astype("float32"))
    return x, weight, bias, added if residual else None


def run(x, weight, bias, residual=None, low=-2.0, high=2.5, activation="none", dtype="float32", packed_for=None):
    packed = onednn.pack_int8(paddle.to_tensor(weight), *(packed_for or x.shape[1:3]), low, high)
    tensors = [None if value is None else paddle.to_tensor(value).astype(dtype) for value in (x, residual)]
    y = onednn.conv(tensors[0], packed, paddle.to_tensor(bias), tensors[1], 1, 1, 1, activation)
    assert y.dtype == getattr(paddle, dtype)
    return y.astype("float32").numpy()


CASES = [
    {},
    {"batch": 1, "size": (14, 14), "channels": (64, 256), "residual": True},
    {"batch": 5, "size": (7, 7), "channels": (100, 40)},
    {"size": (1, 1), "channels": (3, 5), "residual": True},
    {"size": (13, 1), "channels": (17, 1)},
    {"size": (5, 5), "channels": (33, 70), "residual": True},
    {"batch": 1, "size": (3, 3), "channels": (2000, 65)},
]


@pytest.mark.parametrize("activation", onednn.ACTIVATIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_same_integers_in_float64(case, activation):
    x, weight, bias, residual = problem(**case)
    expected = sums(x, weight, -2.0, 2.5) + bias + (0 if residual is None else residual)
    scale = np.abs(expected).max()
    expected = activated(expected, activation)
    received = run(x, weight, bias, residual, activation=activation)
    np.testing.assert_allclose(received, expected, rtol=0, atol=2e-6 * scale)
    narrow = run(x, weight, bias, residual, activation=activation, dtype="bfloat16")
    np.testing.assert_allclose(narrow, expected, rtol=2**-8, atol=1e-5 * scale)


def integers(rng, *shape):
    """Weights that are their own numbers: the largest of each output channel is 127, so that its scale is one."""
    weight = rng.integers(-127, 128, (*shape, 1, 1))
    weight[:, 0] = np.where(rng.random((shape[0], 1, 1)) < 0.5, 127, -127)
    return weight.astype("float32")


@pytest.mark.parametrize("channels", [(16, 24), (257, 70), (4096, 33)])
@pytest.mark.parametrize("low", [0.0, -100.0, -255.0])
def test_integers_are_exact(channels, low):
    """Scales of one: every output is an integer, the largest that the sums can take among them."""
    rng = np.random.default_rng(1)
    x = rng.integers(int(low), int(low) + 256, (2, 5, 3, channels[0])).astype("float32")
    weight, bias = integers(rng, channels[1], channels[0]), rng.integers(-9, 9, channels[1]).astype("float32")
    x[0, 0, 0] = np.where(weight[0, :, 0, 0] > 0, low + 255, low)
    expected = (x.astype(np.int64) @ weight[:, :, 0, 0].T.astype(np.int64) + bias.astype(np.int64)).astype("float32")
    received = run(x, weight, bias, low=low, high=low + 255)
    if channels[0] < 500:  # sums below 2**24, which float32 holds
        return np.testing.assert_array_equal(received, expected)
    zero = np.abs(low * weight.sum(axis=(1, 2, 3))).max()
    np.testing.assert_allclose(received, expected, rtol=2**-23, atol=zero * 2**-23)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("batch", "size", "channels", "hidden"), [(1, (14, 14), 64, 256), (3, (5, 3), 33, 70)])
def test_a_feed_forward_block(batch, size, channels, hidden, dtype):
    x, weight1, bias1, _ = problem(batch, size, (channels, hidden))
    weight1 /= channels**0.5
    _, weight2, bias2, _ = problem(batch, size, (hidden, channels))
    ranges = (-2.0, 2.5), (-0.2, 3.0)
    between = activated(sums(x, weight1, *ranges[0]) + bias1, "gelu")
    expected = x + sums(between, weight2, *ranges[1]) + bias2
    packed = [onednn.pack_int8(paddle.to_tensor(w), *size, *r) for w, r in zip((weight1, weight2), ranges)]
    biases = [paddle.to_tensor(bias) for bias in (bias1, bias2)]
    received = onednn.feed_forward(paddle.to_tensor(x).astype(dtype), packed[0], biases[0], packed[1], biases[1])
    difference = np.abs(received.astype("float32").numpy() - expected)
    # a hidden value in the middle of two numbers may become either, which moves a pixel by one step of one weight
    step = quantization(*ranges[1])[0] * np.abs(weight2).max()
    assert np.mean(difference > 2**-8 * np.abs(expected) + 1e-4) < (0.02 if dtype == "float32" else 0.04)
    assert difference.max() < 2 * step + 2**-8 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_threads_batches_and_maps_give_the_same_bits(dtype):
    x, weight, bias, residual = problem(9, (14, 14), (96, 192), residual=True)
    expected = run(x, weight, bias, residual, activation="gelu", dtype=dtype)
    for threads in (1, 2, 3):
        set_threads(threads)
        for packed_for in (None, (56, 56), (1, 1)):
            received = run(x, weight, bias, residual, activation="gelu", dtype=dtype, packed_for=packed_for)
            np.testing.assert_array_equal(received, expected)
        for image in (0, 8):
            one = slice(image, image + 1)
            received = run(x[one], weight, bias, residual[one], activation="gelu", dtype=dtype)
            np.testing.assert_array_equal(received, expected[one])
        tall = x.reshape(3, 42, 14, 96), weight, bias, residual.reshape(3, 42, 14, 192)
        received = run(*tall, activation="gelu", dtype=dtype)
        np.testing.assert_array_equal(received.reshape(expected.shape), expected)


def test_threads_of_python_do_not_disturb_each_other():
    sizes = ((1, (14, 14), (64, 128)), (3, (9, 9), (64, 128)), (1, (28, 28), (128, 64)), (2, (7, 7), (96, 96)))
    cases = [problem(*size, residual=True) for size in sizes]
    expected = [run(*case, activation="gelu", dtype="bfloat16") for case in cases]

    def repeat(case, result):
        for _ in range(20):
            np.testing.assert_array_equal(run(*case, activation="gelu", dtype="bfloat16"), result)

    with ThreadPoolExecutor(len(cases)) as pool:
        for done in [pool.submit(repeat, *pair) for pair in zip(cases, expected)]:
            done.result(timeout=120)


def test_values_beyond_the_range_become_its_ends():
    values = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 3.0, -3.0, 0.0, -0.0, 1e-40], np.float32)
    ends = np.array([0, 2.5, -2, 2.5, -2, 2.5, -2, 0, 0, 0], np.float32)
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((8, 4, 1, 1)).astype("float32"), np.zeros(8, "float32")
    x, bounded = (np.repeat(each[:, None], 4, 1).reshape(1, 2, 5, 4) for each in (values, ends))
    for dtype in ("float32", "bfloat16"):
        received = run(x, weight, bias, dtype=dtype)
        np.testing.assert_array_equal(received, run(bounded, weight, bias, dtype=dtype))
        assert np.isfinite(received).all()


def test_a_residual_is_added_as_it_is():
    x, weight, bias, residual = problem(residual=True)
    residual[0, 0, 0, :3] = [np.nan, np.inf, -np.inf]
    received = run(x, weight, bias, residual)[0, 0, 0, :3]
    np.testing.assert_array_equal(received, [np.nan, np.inf, -np.inf])


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (5.0, 5.0), (-5.0, -5.0), (-1e-38, 1e-38), (-1e30, 1e30)])
def test_ranges_of_one_value_and_of_all(low, high):
    """The range is extended to zero. One that holds nothing else takes small integers."""
    weight, bias = np.full((1, 1, 1, 1), 127, "float32"), np.full(1, 0.5, "float32")
    rounding = 127e-6 * max(abs(low), abs(high))
    middle = np.float32(low / 2 + high / 2)
    received = run(np.full((1, 1, 1, 1), middle), weight, bias, low=low, high=high)
    np.testing.assert_allclose(received[0, 0, 0, 0], 127 * np.float64(middle) + 0.5, rtol=0.01, atol=rounding)
    zero = run(np.zeros((1, 1, 1, 1), "float32"), weight, bias, low=low, high=high)
    assert abs(zero[0, 0, 0, 0] - 0.5) <= rounding


def test_an_output_channel_of_zeros():
    x, weight, bias, _ = problem()
    weight[3] = 0
    np.testing.assert_array_equal(run(x, weight, bias)[..., 3], np.broadcast_to(bias[3], x.shape[:3]))


@pytest.mark.parametrize(
    ("low", "high", "shape", "message"),
    [
        (float("nan"), 1.0, (8, 8, 1, 1), "finite numbers in order"),
        (0.0, float("inf"), (8, 8, 1, 1), "finite numbers in order"),
        (1.0, 0.0, (8, 8, 1, 1), "finite numbers in order"),
        (-3e38, 3e38, (8, 1000, 1, 1), "too large for float32"),
        (0.0, 1.0, (8, 8, 3, 3), "for pointwise layers"),
    ],
)
def test_what_is_refused_at_packing(low, high, shape, message):
    with pytest.raises(ValueError, match=message):
        onednn.pack_int8(paddle.ones(shape), 4, 4, low, high)
    weight = np.ones((8, 8, 1, 1), "float32")
    weight[1, 2] = np.inf
    with pytest.raises(ValueError, match="must be finite"):
        onednn.pack_int8(paddle.to_tensor(weight), 4, 4, 0.0, 1.0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 2007000, "another version of oneDNN"),
        ("bytes", 64, "another size"),
        ("in", 17, "another layer"),
        ("out", 25, "another layer"),
        ("scales", 0, "broken header"),
    ],
)
def test_a_damaged_header(field, value, message):
    x, weight, bias, _ = problem()
    packed = onednn.pack_int8(paddle.to_tensor(weight), 9, 6, -1.0, 1.0).numpy()
    packed.view(np.int64)[["magic", "version", "bytes", "in", "out", "scales"].index(field)] = value
    with pytest.raises(ValueError, match=message):
        onednn.conv(paddle.to_tensor(x), paddle.to_tensor(packed), paddle.to_tensor(bias), None, 1, 1, 1, "none")


def test_weights_of_another_layer():
    x, weight, bias, _ = problem()
    packed = onednn.pack_int8(paddle.to_tensor(weight), 9, 6, -1.0, 1.0)
    for kernel, stride, channels in ((3, 1, 16), (1, 2, 16), (1, 1, 8)):
        with pytest.raises(ValueError, match="another layer"):
            x_of = paddle.to_tensor(x[..., :channels])
            onednn.conv(x_of, packed, paddle.to_tensor(bias), None, kernel, stride, 1, "none")


OTHER_PROCESSOR = """
import os, sys
os.environ["ONEDNN_MAX_CPU_ISA"] = sys.argv[1]
from ops import test_int8 as tests
from ppreplk.ops import load_ops, onednn

load_ops("channels_last")
print(onednn.has_int8(), onednn.implementation((64, 256, 1, 1, 1), "int8", (2, 14, 14)))
for case in tests.CASES:
    for activation in onednn.ACTIVATIONS:
        tests.test_equals_the_same_integers_in_float64(case, activation)
for dtype in ("float32", "bfloat16"):
    tests.test_a_feed_forward_block(3, (5, 3), 33, 70, dtype)
tests.test_values_beyond_the_range_become_its_ends()
tests.test_a_residual_is_added_as_it_is()
"""


SOME = [pytest.param(name, marks=pytest.mark.slow) for name in ("AVX2_VNNI", "AVX512_CORE_VNNI")]


@pytest.mark.parametrize("instructions", ["AVX2", *SOME])
def test_processors_without_some_instructions(instructions):
    """Without VNNI, the same integers are multiplied in float32. oneDNN uses no more than the environment allows.

    Those with VNNI: ``python -m pytest -m slow tests/ops/test_int8.py``, 10 s.
    """
    has_int8, implementation = run_python(OTHER_PROCESSOR, instructions).split(maxsplit=1)
    if instructions == "AVX2":
        assert has_int8 == "False" and implementation.rstrip().endswith("f32")
    elif has_int8 == "True":
        assert implementation.rstrip().endswith("vnni int8")
