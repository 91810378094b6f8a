"""The layers of channels-last training: values, gradients and statistics against float64."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from helpers import require_depthwise_operators
from paddle import nn

from ppreplk.ops import cpu, training_layers
from ppreplk.utils.cores import available_cores
from ppreplk.utils.device import set_threads

ACTIVATIONS = {"none": lambda z: z, "relu": F.relu, "gelu": F.gelu, "relu6": F.relu6}
SHAPES = [(2, 7, 5, 19), (1, 9, 9, 3), (2, 9, 9, 530), (2, 1, 3, 16), (1, 40, 17, 1)]
STATISTICS = ("_mean", "_variance")


@pytest.fixture(autouse=True)
def operators():
    require_depthwise_operators()
    fastest = cpu.instruction_set()
    yield
    cpu.use_instruction_set(fastest)
    set_threads(available_cores())


def batch_norm(channels, seed, dtype):
    rng = np.random.default_rng(seed)
    bn = nn.BatchNorm2D(channels, momentum=0.9, epsilon=1e-5)
    values = [rng.standard_normal(channels) for _ in range(3)] + [rng.random(channels) + 0.5]
    for tensor, value in zip((bn.weight, bn.bias, bn._mean, bn._variance), values):
        tensor.set_value(value.astype("float32"))
    return bn.to(dtype=dtype)


def nchw(bn, x):
    return bn(x.transpose([0, 3, 1, 2])).transpose([0, 2, 3, 1])


def norm_case(kind, activation, shape, dtype, ours, distance=5.0):
    """y, gradients, running statistics; the mean of x is ``distance`` away from zero, its deviation 3."""
    rng = np.random.default_rng(1)
    arrays = [(3 * rng.standard_normal(shape) + distance).astype("float32") for _ in range(2)]
    gradient = paddle.to_tensor(rng.standard_normal(shape).astype("float32")).astype(dtype)
    x, x2 = (paddle.to_tensor(array).astype(dtype) for array in arrays)
    x.stop_gradient = x2.stop_gradient = False
    keep = paddle.to_tensor(2.0 * (np.arange(shape[0]) % 2 == 0)).astype(dtype)
    bn, bn2 = (batch_norm(shape[-1], seed, dtype) for seed in (0, 1))
    act = ACTIVATIONS[activation]
    if kind == "norm":
        y = training_layers.norm(x, bn, activation) if ours else act(nchw(bn, x))
    elif kind == "sum":
        y = training_layers.norm_sum(x, bn, x2, keep) if ours else x2 + keep.reshape([-1, 1, 1, 1]) * nchw(bn, x)
    else:
        y = training_layers.norm_pair(x, bn, x2, bn2, activation) if ours else act(nchw(bn, x) + nchw(bn2, x2))
    norms = [bn, bn2] if kind == "pair" else [bn]
    inputs = [x, *([x2] if kind != "norm" else []), *(p for norm in norms for p in (norm.weight, norm.bias))]
    gradients = paddle.grad([y], inputs, [gradient])
    return [t.numpy() for t in (y, *gradients, *(getattr(norm, name) for norm in norms for name in STATISTICS))]


def check_norm(kind, activation, shape, distance=5.0):
    """At most twice the error of Paddle's own layers, and some rounding of the sums over pixels."""
    exact, native, ours = (
        norm_case(kind, activation, shape, *how, distance)
        for how in (("float64", False), ("float32", False), ("float32", True))
    )
    pixels = np.prod(shape[:3])
    for right, theirs, received in zip(exact, native, ours):
        assert received.shape == right.shape
        summed = right.ndim == 1  # a cancelled sum has the error of its terms
        slack = 3e-7 * (3 * np.sqrt(pixels) if summed else 1) * max(1.0, np.abs(right).max())
        assert np.abs(received - right).max() <= 2 * np.abs(theirs - right).max() + slack


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["norm", "sum", "pair"])
def test_normalization_with_what_follows(kind, shape):
    for activation in ACTIVATIONS if kind != "sum" else ["none"]:
        check_norm(kind, activation, shape)


@pytest.mark.parametrize("instruction_set", ["portable", "avx2", "avx512"])
def test_every_instruction_set(instruction_set):
    try:
        cpu.use_instruction_set(instruction_set)
    except Exception:
        pytest.skip(f"no {instruction_set} here")
    for activation in ACTIVATIONS:
        check_norm("pair", activation, (2, 9, 8, 37))
    check_norm("sum", "none", (2, 9, 8, 37))


@pytest.mark.parametrize("distance", [1e3, -1e3])
def test_a_mean_far_from_zero_does_not_cancel(distance):
    check_norm("norm", "relu", (2, 33, 9, 20), distance)


def test_gelu_is_exact_in_all_places():
    """Rows of one channel after a normalization that changes nothing: gelu itself and its derivative."""
    z = np.concatenate([np.linspace(-14, 14, 4001), [0.0, -0.0, 1e-20, -1e-20]]).astype("float32")
    x = paddle.to_tensor(np.stack([z, -z]).reshape([2, -1, 1, 1]), stop_gradient=False)
    bn = nn.BatchNorm2D(1, epsilon=0.0)
    bn.weight.set_value(x.numpy().std(keepdims=True).reshape([1]))
    y = training_layers.norm(x, bn, "gelu").numpy().astype("float64")
    exact = F.gelu(x.detach().astype("float64")).numpy()
    assert np.abs(y - exact).max() <= 2e-6 and (np.abs(y - exact) <= 5e-7 * np.maximum(1, np.abs(x.numpy()))).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_bits_for_any_number_of_threads(threads):
    first = [norm_case(kind, "none", (3, 30, 11, 50), "float32", True) for kind in ("norm", "sum", "pair")]
    set_threads(threads)
    again = [norm_case(kind, "none", (3, 30, 11, 50), "float32", True) for kind in ("norm", "sum", "pair")]
    for one, other in zip(first, again):
        assert all((a == b).all() for a, b in zip(one, other))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_in_its_channel(activation):
    x = paddle.randn([2, 5, 5, 20])
    x[1, 2, 3, 7] = float("nan")
    y = training_layers.norm(x, batch_norm(20, 0, "float32"), activation)
    spoilt = paddle.isnan(y).all([0, 1, 2]).numpy()
    assert spoilt[7] and not np.isnan(np.delete(y.numpy(), 7, axis=3)).any()


@pytest.mark.parametrize("kind", ["norm", "sum", "pair"])
def test_no_images_have_zero_gradients(kind):
    channels, shape = 3000, [0, 2, 2, 3000]
    bn, bn2, empty = batch_norm(channels, 0, "float32"), batch_norm(channels, 1, "float32"), paddle.zeros(shape)
    empty.stop_gradient = False
    if kind == "norm":
        y = training_layers.norm(empty, bn)
    elif kind == "sum":
        y = training_layers.norm_sum(empty, bn, empty, paddle.ones([0]))
    else:
        y = training_layers.norm_pair(empty, bn, empty, bn2)
    used = [paddle.full([channels], 7.0) for _ in range(64)]
    del used  # their memory is handed out again
    parameters = [p for norm in ([bn, bn2] if kind == "pair" else [bn]) for p in (norm.weight, norm.bias)]
    for gradient in paddle.grad([y], parameters, [paddle.zeros(shape)]):
        assert (gradient.numpy() == 0).all()


@pytest.mark.parametrize("kind", ["norm", "sum", "depthwise"])
def test_tensors_that_do_not_lie_in_one_piece(kind):
    """What a transposition returns, as input and as gradient."""
    arrays = [np.random.default_rng(seed).standard_normal((2, 6, 5, 7)).astype("float32") for seed in (0, 1)]
    weight = paddle.randn([6, 1, 5, 5])

    def layer(x):
        if kind == "depthwise":
            return training_layers.depthwise(x, weight)
        bn, keep = batch_norm(6, 0, "float32"), paddle.to_tensor([0.0, 2.0])
        return training_layers.norm(x, bn, "gelu") if kind == "norm" else training_layers.norm_sum(x, bn, x, keep)

    results = []
    for in_pieces in (True, False):
        x, gradient = (paddle.to_tensor(array).transpose([0, 2, 3, 1]) for array in arrays)
        assert not x.is_contiguous() and not gradient.is_contiguous()
        x, gradient = (x, gradient) if in_pieces else (x.contiguous(), gradient.contiguous())
        x.stop_gradient = False
        y = layer(x)
        results.append([y, *paddle.grad([y], [x], [gradient])])
    for received, expected in zip(*results):
        assert (received == expected).all()


def test_one_tensor_in_both_places():
    """Its gradient is the sum of both, and that of the output stays as it was."""
    x, gradient = paddle.randn([2, 5, 7, 6]), paddle.randn([2, 5, 7, 6])
    kept, keep = gradient.numpy().copy(), paddle.to_tensor([0.0, 2.0])
    first, second = batch_norm(6, 0, "float32"), batch_norm(6, 1, "float32")
    pairs = [
        (
            lambda x: training_layers.norm_pair(x, first, x, second, "relu"),
            lambda x: F.relu(nchw(first, x) + nchw(second, x)),
        ),
        (
            lambda x: training_layers.norm_sum(x, first, x, keep),
            lambda x: x + keep.reshape([2, 1, 1, 1]) * nchw(first, x),
        ),
    ]
    for ours, theirs in pairs:
        results = []
        for layer in (ours, theirs):
            leaf = x.detach()
            leaf.stop_gradient = False
            y = layer(leaf)
            results.append([y, *paddle.grad([y], [leaf], [gradient])])
        for received, expected in zip(*results):
            assert float((received - expected).abs().max()) <= 1e-5
    assert (gradient.numpy() == kept).all()


# map (N, H, W, C), kernel, stride: spectral, several tiles, Toeplitz, direct
DEPTHWISE = [
    ((2, 14, 13, 19), 13, 1),
    ((2, 56, 56, 16), 31, 1),
    ((2, 130, 70, 3), 31, 1),
    ((1, 7, 7, 33), 13, 1),
    ((2, 12, 60, 16), 3, 1),
    ((5, 50, 49, 17), 5, 1),
    ((1, 1, 1, 2), 3, 1),
    ((2, 1, 9, 18), 1, 1),
    ((3, 9, 11, 5), 3, 2),
    ((2, 28, 28, 16), 3, 2),
    ((1, 57, 57, 17), 5, 3),
    ((9, 10, 10, 8), 5, 2),
]


@pytest.mark.parametrize("shape, kernel, stride", DEPTHWISE, ids=str)
def test_depthwise_convolution_and_its_gradients(shape, kernel, stride):
    rng = np.random.default_rng(0)
    channels, out = shape[-1], [shape[0], *(-(-side // stride) for side in shape[1:3]), shape[-1]]
    arrays = [rng.standard_normal(size).astype("float32") for size in (shape, (channels, 1, kernel, kernel), out)]
    results = []
    for dtype in ("float64", "float32"):
        x, weight, gradient = (paddle.to_tensor(array).astype(dtype) for array in arrays)
        x.stop_gradient = weight.stop_gradient = False
        if dtype == "float32":
            y = training_layers.depthwise(x, weight, stride)
        else:
            y = F.conv2d(x.transpose([0, 3, 1, 2]), weight, None, stride, kernel // 2, 1, channels)
            y = y.transpose([0, 2, 3, 1])
        results.append([tensor.numpy() for tensor in (y, *paddle.grad([y], [x, weight], [gradient]))])
    for right, received in zip(*results):
        assert received.shape == right.shape
        assert np.abs(received - right).max() <= 1e-6 * np.abs(right).max()


@pytest.mark.parametrize("kernel, stride, channels", [(3, 2, 3), (1, 1, 1), (7, 4, 2), (5, 3, 4)])
def test_convolution_of_images(kernel, stride, channels):
    rng = np.random.default_rng(0)
    images = paddle.to_tensor(rng.standard_normal((2, channels, 15, 13)).astype("float32"))
    weight = paddle.to_tensor(rng.standard_normal((6, channels, kernel, kernel)).astype("float32"), stop_gradient=False)
    y = training_layers.images_conv(images, weight, stride)
    right = F.conv2d(images, weight, None, stride, kernel // 2).transpose([0, 2, 3, 1])
    assert y.shape == right.shape and float((y - right).abs().max()) <= 1e-5
    gradient = paddle.to_tensor(rng.standard_normal(y.shape).astype("float32"))
    received, expected = (paddle.grad([output], [weight], [gradient])[0] for output in (y, right))
    assert float((received - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_pointwise_convolution():
    x, weight = paddle.randn([2, 5, 4, 7]), paddle.randn([9, 7, 1, 1])
    y = training_layers.pointwise(x, weight)
    right = F.conv2d(x.transpose([0, 3, 1, 2]), weight).transpose([0, 2, 3, 1])
    assert y.shape == [2, 5, 4, 9] and float((y - right).abs().max()) <= 1e-5


def test_sizes_that_are_not_known_stay_so():
    """In a static graph, whose batch and map may have any size."""
    paddle.enable_static()
    try:
        with paddle.static.program_guard(paddle.static.Program()):
            x = paddle.static.data("x", [None, None, None, 6], "float32")
            weight = paddle.static.data("weight", [6, 1, 3, 3], "float32")
            assert [training_layers.depthwise(x, weight, stride).shape for stride in (1, 2, 3)] == [[-1, -1, -1, 6]] * 3
            images = paddle.static.data("images", [None, 3, None, 9], "float32")
            weight = paddle.static.data("stem", [4, 3, 3, 3], "float32")
            assert training_layers.images_conv(images, weight, 2).shape == [-1, -1, 5, 4]
    finally:
        paddle.disable_static()


def test_what_does_not_fit_is_refused():
    bn, x = batch_norm(4, 0, "float32"), paddle.ones([2, 3, 3, 4])
    for call, message in [
        (lambda: training_layers.norm(paddle.ones([2, 3, 3, 5]), bn), "5 channels"),
        (lambda: training_layers.norm(paddle.ones([2, 4]), bn), "4 dimensions"),
        (lambda: training_layers.norm(x.astype("float64"), bn), "float32"),
        (lambda: training_layers.norm(x, bn, "tanh"), "unknown activation tanh"),
        (lambda: training_layers.norm_sum(x, bn, x, paddle.ones([3])), "number for each image"),
        (lambda: training_layers.depthwise(x, paddle.ones([4, 1, 2, 2])), "odd K"),
        (lambda: training_layers.depthwise(x, paddle.ones([4, 1, 3, 3]), 0), "positive stride"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
