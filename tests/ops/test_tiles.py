"""Our kernels for AMX, on emulated tile registers: pointwise convolutions and feed-forward blocks, against float64."""

import numpy as np
import paddle
import pytest
from helpers import randomise_batch_norms, relative_difference, require_channels_last_operators
from packed_weights import HEADER, check_refusals

from ppreplk.deploy.lowering import lower
from ppreplk.models import build_model
from ppreplk.ops import onednn
from ppreplk.utils.cores import available_cores
from ppreplk.utils.device import set_threads

# (precision, whether float32 in three parts): what is multiplied
PRODUCTS = {"bf16": "bf16", "bf16x3": "fp32-bf16x3", "bf16x6": "fp32"}
SHAPES = [  # images, height, width, channels in and out
    (1, 14, 14, 64, 96),
    (2, 7, 7, 100, 40),
    (1, 1, 1, 3, 5),
    (1, 13, 1, 17, 1),
    (1, 5, 5, 33, 70),
    (1, 4, 4, 1200, 31),  # several slices of the depth
    (1, 23, 37, 40, 33),  # threads share out the rows
]


@pytest.fixture(params=["emulated", "emulated plain"])
def backend(request):
    require_channels_last_operators()
    if not onednn.choose_tiles_backend(request.param):
        pytest.skip("no AVX-512 BF16")
    onednn.choose_form("tiles")
    yield request.param
    onednn.choose_form("automatic")
    onednn.choose_tiles_backend("none")
    set_threads(available_cores())


def rounded(x):
    """To the nearest bfloat16."""
    return paddle.to_tensor(x).astype("bfloat16").astype("float32").numpy()


def activated(y, activation):
    return y if activation == "none" else getattr(paddle.nn.functional, activation)(paddle.to_tensor(y)).numpy()


def run(x, weight, bias, residual, activation, products):
    dtype = "bfloat16" if products == "bf16" else "float32"
    packed = onednn.pack(paddle.to_tensor(weight[:, :, None, None]), *x.shape[1:3], 1, 1, PRODUCTS[products])
    tensors = [None if value is None else paddle.to_tensor(value).astype(dtype) for value in (x, residual)]
    y = onednn.conv(tensors[0], packed, paddle.to_tensor(bias), tensors[1], 1, 1, 1, activation)
    assert y.dtype == getattr(paddle, dtype)
    return y.astype("float32").numpy()


def numbers(rng, *shape):
    return rng.standard_normal(shape).astype("float32")


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_float64(backend, shape, products):
    rng = np.random.default_rng(0)
    *size, channels, out = shape
    x, weight, bias, residual = (numbers(rng, *s) for s in ((*size, channels), (out, channels), (out,), (*size, out)))
    if products == "bf16":
        x, weight, residual = rounded(x), rounded(weight), rounded(residual)
    for activation in onednn.ACTIVATIONS if backend == "emulated" else ["gelu"]:
        for added in (None, residual):
            expected = x.astype("float64") @ weight.T.astype("float64") + bias + (0 if added is None else added)
            largest, mean = np.abs(expected).max(), np.sqrt((expected**2).mean())
            expected = activated(expected, activation)
            results = []
            for threads in (1, 2, 3):
                set_threads(threads)
                results.append(run(x, weight, bias, added, activation, products))
            assert all(np.array_equal(result, results[0]) for result in results), "threads change nothing"
            error = np.abs(results[0] - expected)
            if products == "bf16":  # exact products of rounded numbers, one rounding of the result
                assert np.all(error <= 2**-8 * np.abs(expected) + 1e-5 * largest)
            elif products == "bf16x3":
                terms = np.abs(x).astype("float64") @ np.abs(weight).T
                assert np.all(error <= 2**-15 * terms + 1e-6 * largest)  # 2**-16 left out, 2**-17 twice lost
                assert channels * out < 1000 or np.sqrt((error**2).mean()) < 5e-6 * mean
                assert channels * out < 1000 or error.max() < 8e-6 * largest
            else:
                assert error.max() < 1e-6 * largest


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize(
    "shape", [(1, 7, 7, 64, 256), (1, 3, 3, 5, 7), (1, 25, 33, 32, 70), (1, 4, 4, 70, 3000)], ids=str
)
def test_feed_forward(backend, shape, products):
    rng = np.random.default_rng(0)
    *size, channels, hidden = shape
    x, bias1, bias2 = numbers(rng, *size, channels), numbers(rng, hidden), numbers(rng, channels)
    weights = numbers(rng, hidden, channels), numbers(rng, channels, hidden)
    if products == "bf16":
        x, weights = rounded(x), tuple(map(rounded, weights))
    inner = activated(x.astype("float64") @ weights[0].T.astype("float64") + bias1, "gelu")
    inner = rounded(inner.astype("float32")).astype("float64") if products == "bf16" else inner
    expected = x + inner @ weights[1].T.astype("float64") + bias2
    packed = [onednn.pack(paddle.to_tensor(w[:, :, None, None]), *size[1:], 1, 1, PRODUCTS[products]) for w in weights]
    biases = paddle.to_tensor(bias1), paddle.to_tensor(bias2)
    input = paddle.to_tensor(x).astype("bfloat16" if products == "bf16" else "float32")
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        y = onednn.feed_forward(input, packed[0], biases[0], packed[1], biases[1])
        results.append(y.astype("float32").numpy())
    assert all(np.array_equal(result, results[0]) for result in results), "threads change nothing"
    bound = {"bf16": 2**-8, "bf16x3": 1.2e-5, "bf16x6": 1e-6}[products]
    assert np.abs(results[0] - expected).max() < bound * np.abs(expected).max()


def test_both_emulations_round_alike(backend):
    """Where no activation is computed, to the last bit."""
    if backend == "emulated":
        rng = np.random.default_rng(0)
        case = numbers(rng, 1, 5, 5, 70), numbers(rng, 40, 70), numbers(rng, 40), numbers(rng, 1, 5, 5, 40)
        for products in PRODUCTS:
            onednn.choose_tiles_backend("emulated")
            first = run(*case, "relu", products)
            onednn.choose_tiles_backend("emulated plain")
            np.testing.assert_array_equal(first, run(*case, "relu", products))


LARGE, TINY = 3.397e38, 1e-39  # finite as float32, infinite or a denormal number as bfloat16


@pytest.mark.parametrize("products", PRODUCTS)
def test_numbers_beyond_the_others(backend, products):
    """NaN and Inf stay visible in their row and nowhere else; what AMX takes for zero is zero."""
    rng = np.random.default_rng(0)
    x, weight = numbers(rng, 1, 1, 8, 40), np.abs(numbers(rng, 3, 40)) + 0.5
    bias = np.zeros(3, "float32")
    weight[2] = 0.0
    activations = ("none", "relu", "gelu", "relu6")
    good = {activation: run(x, weight, bias, None, activation, products) for activation in activations}
    for activation in activations:
        for value in (np.nan, np.inf, -np.inf, LARGE):
            bad = x.copy()
            bad[0, 0, 3, 5] = value
            y = run(bad, weight, bias, None, activation, products)
            others = np.arange(8) != 3
            np.testing.assert_array_equal(y[0, 0, others], good[activation][0, 0, others])
            if products == "bf16" and value != LARGE:
                with np.errstate(invalid="ignore"):
                    expected = bad[0, 0, 3].astype("float64") @ weight.T.astype("float64")
                kept = np.isnan(y[0, 0, 3]) == np.isnan(expected)
                assert kept.all(), "as in float32; -Inf before an activation is finite behind it"
            elif products != "bf16":
                assert np.isnan(y[0, 0, 3]).all(), "Inf minus Inf, in whichever part"
    tiny = np.full((1, 1, 1, 40), TINY, "float32")
    y = run(tiny, np.full((3, 40), 1e30, "float32"), bias, None, "none", products)
    assert (y == 0).all(), "denormal inputs are zero"
    y = run(np.full((1, 1, 1, 40), 1e30, "float32"), np.full((3, 40), TINY, "float32"), bias, None, "none", products)
    assert (y == 0).all(), "denormal weights are zero"


def test_gelu_over_its_range(backend):
    x = np.linspace(-12, 12, 4001, dtype="float32").reshape(1, 1, -1, 1)
    y = run(x, np.ones((1, 1), "float32"), np.zeros(1, "float32"), None, "gelu", "bf16x6")
    assert np.abs(y - activated(x.astype("float64"), "gelu")).max() < 4e-7


def test_packed_weights_are_checked(backend):
    rng = np.random.default_rng(0)
    x, bias = paddle.to_tensor(numbers(rng, 1, 4, 4, 16)), paddle.zeros([24])
    good = onednn.pack(paddle.to_tensor(numbers(rng, 24, 16, 1, 1)), 4, 4, 1, 1, "fp32-bf16x3")
    of_terms = ((40, 2, "broken header"), (40, 6, "another size"), (40, 1, "another size"))
    conv = check_refusals(good, x, bias, (*HEADER, *of_terms))
    onednn.choose_tiles_backend("none")
    if onednn.tiles_backend() == "none":
        with pytest.raises(ValueError, match="another processor"):
            conv(good)


def test_feed_forward_checks_its_weights(backend):
    x, biases = paddle.zeros([1, 4, 4, 16]), (paddle.zeros([24]), paddle.zeros([16]))
    packed = [onednn.pack(paddle.zeros([*shape, 1, 1]), 4, 4, 1, 1) for shape in ((24, 16), (16, 24))]
    assert onednn.feed_forward(x, packed[0], biases[0], packed[1], biases[1]).shape == x.shape
    with pytest.raises(ValueError, match="another layer"):
        onednn.feed_forward(x, packed[1], biases[0], packed[0], biases[1])
    with pytest.raises(ValueError, match="second bias .* each channel"):
        onednn.feed_forward(x, packed[0], biases[0], packed[1], biases[0])
    assert onednn.feed_forward(x[:0], packed[0], biases[0], packed[1], biases[1]).shape == [0, 4, 4, 16]


def test_the_rule(backend):
    """Which layers are ours."""
    onednn.choose_form("automatic")
    pointwise, small, large = (64, 256, 1, 1, 1), (1, 14, 14), (1, 56, 56)

    def ours(layer, precision, size):
        return onednn.implementation(layer, precision, size).startswith("tiles emulated")

    assert ours(pointwise, "fp32-bf16x3", small) and ours(pointwise, "fp32-bf16x3", large)
    assert ours(pointwise, "bf16", small) and not ours(pointwise, "bf16", large)
    assert not ours(pointwise, "fp32", small)
    for other in ((64, 64, 3, 1, 1), (64, 64, 1, 2, 1), (64, 64, 1, 1, 2)):
        assert not any(ours(other, precision, small) for precision in onednn.PRECISIONS)
    onednn.choose_form("matmul")
    assert not ours(pointwise, "fp32-bf16x3", small)
    onednn.choose_form("automatic")
    onednn.choose_tiles_backend("none")
    if onednn.tiles_backend() == "none":
        assert "tiles" not in onednn.implementation(pointwise, "fp32-bf16x3", small)
        assert not onednn.choose_tiles_backend("hardware")


@pytest.mark.parametrize("precision", ["fp32", "fp32-bf16x3", "bf16"])
def test_feed_forward_over_onednn(precision):
    """Image by image or several at a time: the same as two convolutions."""
    require_channels_last_operators()
    rng = np.random.default_rng(0)
    dtype = "bfloat16" if precision == "bf16" else "float32"
    for size, channels, hidden in (((5, 3, 4), 8, 24), ((3, 56, 56), 16, 1500)):
        x = paddle.to_tensor(numbers(rng, *size, channels)).astype(dtype)
        weights = [paddle.to_tensor(numbers(rng, *s, 1, 1)) for s in ((hidden, channels), (channels, hidden))]
        packed = [onednn.pack(weight, *size[1:], 1, 1, precision) for weight in weights]
        biases = paddle.to_tensor(numbers(rng, hidden)), paddle.to_tensor(numbers(rng, channels))
        inner = onednn.conv(x, packed[0], biases[0], None, 1, 1, 1, "gelu")
        expected = onednn.conv(inner, packed[1], biases[1], x, 1, 1, 1, "none").astype("float32").numpy()
        y = onednn.feed_forward(x, packed[0], biases[0], packed[1], biases[1]).astype("float32").numpy()
        atol = (2**-7 if precision == "bf16" else 1e-5) * np.abs(expected).max()
        np.testing.assert_allclose(y, expected, rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_whole_network(seed):
    """RepLKNet-31B at 224x224, as far from float32 as docs/performance.md says. A minute each."""
    require_channels_last_operators()
    paddle.seed(seed)
    model = build_model("RepLKNet31B")
    randomise_batch_norms(model, seed)
    model.eval()
    images = paddle.to_tensor(numbers(np.random.default_rng(seed), 1, 3, 224, 224))
    forms = lower(model, "channels_last", ["fp32", "fp32-bf16x3", "bf16"])
    with paddle.no_grad():
        exact = forms["fp32"](images).numpy()
        if not onednn.choose_tiles_backend("emulated"):
            pytest.skip("no AVX-512 BF16")
        try:
            for precision, bound in (("fp32-bf16x3", 5e-6), ("bf16", 5e-3)):
                difference = relative_difference(forms[precision](images).numpy(), exact)
                print(f"seed {seed}, {precision}: {difference:.1e}")
                assert difference < bound
        finally:
            onednn.choose_tiles_backend("none")
