"""Our float32 products on AVX-512: pointwise convolutions and feed-forward blocks, against float64."""

import numpy as np
import paddle
import pytest
from helpers import relative_difference, require_channels_last_operators, run_python

from ppreplk.ops import onednn
from ppreplk.utils.cores import available_cores
from ppreplk.utils.device import set_threads

SHAPES = [  # images, height, width, channels in and out
    (1, 14, 14, 64, 96),
    (2, 7, 7, 100, 40),
    (1, 1, 1, 3, 5),
    (1, 13, 1, 17, 1),
    (1, 5, 5, 33, 70),
    (1, 4, 4, 2500, 31),  # several pieces of the depth
    (2, 3, 3, 1030, 64),
    (1, 23, 37, 40, 33),
    (3, 14, 14, 512, 64),  # more rows than stay in the cache at a time
]


@pytest.fixture(autouse=True)
def vectors():
    require_channels_last_operators()
    onednn.choose_form("vectors")
    if not ours((64, 64, 1, 1, 1)):
        onednn.choose_form("automatic")
        pytest.skip("no AVX-512")
    yield
    onednn.choose_form("automatic")
    set_threads(available_cores())


def ours(layer, precision="fp32", size=(1, 14, 14)):
    return onednn.implementation(layer, precision, size) == "vectors avx512 f32"


def activated(y, activation):
    return y if activation == "none" else getattr(paddle.nn.functional, activation)(paddle.to_tensor(y)).numpy()


def pack(weight, size):
    return onednn.pack(paddle.to_tensor(weight[:, :, None, None]), *size, 1, 1)


def run(x, weight, bias, residual, activation):
    residual = None if residual is None else paddle.to_tensor(residual)
    packed = pack(weight, x.shape[1:3])
    return onednn.conv(paddle.to_tensor(x), packed, paddle.to_tensor(bias), residual, 1, 1, 1, activation).numpy()


def numbers(rng, *shape):
    return rng.standard_normal(shape).astype("float32")


def problem(shape):
    rng = np.random.default_rng(0)
    *size, channels, out = shape
    return tuple(numbers(rng, *each) for each in ((*size, channels), (out, channels), (out,), (*size, out)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_float64(shape):
    x, weight, bias, residual = problem(shape)
    for activation in onednn.ACTIVATIONS:
        for added in (None, residual):
            expected = x.astype("float64") @ weight.T.astype("float64") + bias + (0 if added is None else added)
            largest = np.abs(expected).max()
            results = []
            for threads in (1, 2, 3, 5):
                set_threads(threads)
                results.append(run(x, weight, bias, added, activation))
            assert all(np.array_equal(result, results[0]) for result in results), "threads change nothing"
            assert np.abs(results[0] - activated(expected, activation)).max() < 2e-6 * largest


@pytest.mark.parametrize("rows", range(1, 33))
def test_any_number_of_rows(rows):
    """Each row is the same as alone, in blocks of every height."""
    x, weight, bias, residual = problem((1, 1, rows, 37, 64))
    y = run(x, weight, bias, residual, "gelu")
    for row in range(rows):
        alone = run(x[:, :, row : row + 1], weight, bias, residual[:, :, row : row + 1], "gelu")
        np.testing.assert_array_equal(y[:, :, row : row + 1], alone)


@pytest.mark.parametrize(
    "shape",
    [(1, 7, 7, 64, 256), (1, 3, 3, 5, 7), (1, 25, 33, 32, 70), (1, 4, 4, 70, 3000), (11, 14, 14, 40, 520)],
    ids=str,
)
def test_feed_forward(shape):
    rng = np.random.default_rng(0)
    *size, channels, hidden = shape
    x, bias1, bias2 = numbers(rng, *size, channels), numbers(rng, hidden), numbers(rng, channels)
    weights = numbers(rng, hidden, channels), numbers(rng, channels, hidden)
    inner = activated(x.astype("float64") @ weights[0].T.astype("float64") + bias1, "gelu")
    expected = x + inner @ weights[1].T.astype("float64") + bias2
    packed = [pack(weight, size[1:]) for weight in weights]
    biases = paddle.to_tensor(bias1), paddle.to_tensor(bias2)
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        results.append(onednn.feed_forward(paddle.to_tensor(x), packed[0], biases[0], packed[1], biases[1]).numpy())
    assert all(np.array_equal(result, results[0]) for result in results), "threads change nothing"
    assert relative_difference(results[0], expected) < 2e-6
    alone = onednn.feed_forward(paddle.to_tensor(x[:1]), packed[0], biases[0], packed[1], biases[1]).numpy()
    np.testing.assert_array_equal(alone, results[0][:1], "neither does the batch")


def test_weights_serve_maps_of_any_size_and_batches_of_none():
    x, weight, bias, _ = problem((1, 9, 6, 64, 96))
    packed, bias = pack(weight, (28, 28)), paddle.to_tensor(bias)
    y = onednn.conv(paddle.to_tensor(x), packed, bias, None, 1, 1, 1, "relu").numpy()
    np.testing.assert_array_equal(y, run(x, weight, bias.numpy(), None, "relu"))
    assert onednn.conv(paddle.to_tensor(x[:0]), packed, bias, None, 1, 1, 1, "relu").shape == [0, 9, 6, 96]


def test_numbers_that_are_none_stay_in_their_row():
    x, weight, bias, _ = problem((1, 1, 8, 40, 35))
    weight = np.abs(weight) + 0.5
    for activation, of_infinity in (("none", np.inf), ("relu", np.inf), ("gelu", np.inf), ("relu6", 6.0)):
        good = run(x, weight, bias, None, activation)
        for value, expected in ((np.nan, np.nan), (np.inf, of_infinity)):
            bad = x.copy()
            bad[0, 0, 3, 5] = value
            y = run(bad, weight, bias, None, activation)
            np.testing.assert_array_equal(np.delete(y, 3, 2), np.delete(good, 3, 2))
            np.testing.assert_array_equal(y[0, 0, 3], np.full(35, expected, "float32"))


def test_gelu_over_its_range():
    x = np.linspace(-12, 12, 4001, dtype="float32").reshape(1, 1, -1, 1)
    y = run(x, np.ones((1, 1), "float32"), np.zeros(1, "float32"), None, "gelu")
    assert np.abs(y - activated(x.astype("float64"), "gelu")).max() < 4e-7


def test_weights_in_large_pages_are_the_same():
    """They move at their first use, and in the whole of what surrounds them."""
    cases = [problem((1, 2, 2, 1024, 1024)) for _ in range(3)]
    packed = [pack(weight, (2, 2)) for _, weight, _, _ in cases]
    before = [each.numpy() for each in packed]
    for _ in range(2):
        for (x, weight, bias, _), each in zip(cases, packed):
            y = onednn.conv(paddle.to_tensor(x), each, paddle.to_tensor(bias), None, 1, 1, 1, "none").numpy()
            assert relative_difference(y, x.astype("float64") @ weight.T + bias) < 2e-6
    header = 16
    for old, new in zip(before, packed):
        np.testing.assert_array_equal(new.numpy()[header:], old[header:])


def test_packed_weights_are_checked():
    x, weight, bias, _ = problem((1, 4, 4, 16, 24))
    x, bias, good = paddle.to_tensor(x), paddle.to_tensor(bias), pack(weight, (4, 4))

    def conv(packed, x=x, kernel=1):
        return onednn.conv(x, packed, bias, None, kernel, 1, 1, "none")

    conv(good)
    for place, value, message in (
        (0, 1, "no packed weights"),
        (8, 99, "another version"),
        (16, 64, "another size"),
        (24, 17, "another layer"),
        (32, 25, "another layer"),
    ):
        data = good.numpy().view(np.uint8).copy()
        data[place : place + 4].view(np.int32)[0] = value
        with pytest.raises(ValueError, match=message):
            conv(paddle.to_tensor(data.view(np.float32)))
    with pytest.raises(ValueError, match="another size"):
        conv(good[:-16])
    with pytest.raises(ValueError, match="another layer"):
        conv(good, x.astype("bfloat16"))
    with pytest.raises(ValueError, match="another layer"):
        conv(good, kernel=3)


def test_feed_forward_checks_its_weights():
    x, biases = paddle.zeros([1, 4, 4, 16]), (paddle.zeros([24]), paddle.zeros([16]))
    shapes = ((24, 16), (16, 24))
    packed = [onednn.pack(paddle.zeros([*shape, 1, 1]), 4, 4, 1, 1) for shape in shapes]
    assert onednn.feed_forward(x, packed[0], biases[0], packed[1], biases[1]).shape == x.shape
    with pytest.raises(ValueError, match="another layer"):
        onednn.feed_forward(x, packed[1], biases[0], packed[0], biases[1])
    assert onednn.feed_forward(x[:0], packed[0], biases[0], packed[1], biases[1]).shape == [0, 4, 4, 16]
    onednn.choose_form("matmul")
    mixed = onednn.pack(paddle.zeros([16, 24, 1, 1]), 4, 4, 1, 1)
    assert onednn.feed_forward(x, packed[0], biases[0], mixed, biases[1]).shape == x.shape, "each by its own kernels"


RULE = """
from ppreplk.ops import load_ops, onednn

load_ops("channels_last")
print(onednn.implementation((512, 2048, 1, 1, 1), "fp32", (1, 14, 14)))
"""


def test_the_rule():
    """Which layers are ours."""
    onednn.choose_form("automatic")
    wide = (512, 2048, 1, 1, 1)
    assert ours(wide) and ours(wide, size=(8, 28, 28)) and not ours(wide, size=(1, 56, 56))
    assert not ours((64, 256, 1, 1, 1)) and not ours((256, 64, 1, 1, 1))
    if onednn.tiles_backend() == "none":
        assert ours(wide, "fp32-bf16x3")
    for precision in ("bf16", "int8"):
        assert not ours(wide, precision)
    for other in ((512, 512, 3, 1, 1), (512, 512, 1, 2, 1), (512, 512, 1, 1, 2)):
        assert not ours(other)
    onednn.choose_form("matmul")
    assert not ours(wide)


def test_what_restricts_onednn_restricts_us():
    assert run_python(RULE).splitlines()[-1] == "vectors avx512 f32"
    restricted = run_python('import os; os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"\n' + RULE)
    assert "avx2" in restricted.splitlines()[-1]
