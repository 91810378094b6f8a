"""Our float32 products on AVX-512: pointwise convolutions and feed-forward blocks, against float64."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import relative_difference, require_channels_last_operators, run_python
from packed_weights import HEADER, check_refusals

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
    (1, 15, 15, 2100, 70),  # both
]


@pytest.fixture(autouse=True)
def vectors():
    require_channels_last_operators()
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    if not all(f" {name} " in flags for name in ("avx512f", "avx512bw", "avx512dq", "avx512vl")):
        pytest.skip("no AVX-512")
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        pytest.skip("oneDNN is restricted")
    onednn.choose_form("vectors")
    assert ours((64, 64, 1, 1, 1))
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


@pytest.mark.parametrize("rows", [*range(1, 15), 33, *range(56, 99, 7)])
def test_any_number_of_rows(rows):
    """Blocks have 1 to 14 rows, from 49 rows on a seventh of them. Each row is the same as alone."""
    x, weight, bias, residual = problem((1, 1, rows, 37, 64))
    y = run(x, weight, bias, residual, "gelu")
    packed, bias = pack(weight, (1, rows)), paddle.to_tensor(bias)
    for row in range(rows):
        one = [paddle.to_tensor(value[:, :, row : row + 1]) for value in (x, residual)]
        alone = onednn.conv(one[0], packed, bias, one[1], 1, 1, 1, "gelu").numpy()
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


def test_weights_serve_maps_of_any_size_and_empty_batches():
    x, weight, bias, _ = problem((1, 9, 6, 64, 96))
    packed, bias = pack(weight, (28, 28)), paddle.to_tensor(bias)
    y = onednn.conv(paddle.to_tensor(x), packed, bias, None, 1, 1, 1, "relu").numpy()
    np.testing.assert_array_equal(y, run(x, weight, bias.numpy(), None, "relu"))
    assert onednn.conv(paddle.to_tensor(x[:0]), packed, bias, None, 1, 1, 1, "relu").shape == [0, 9, 6, 96]


def test_nan_and_infinity_stay_in_their_row():
    x, weight, bias, _ = problem((1, 1, 8, 40, 35))
    weight = np.abs(weight) + 0.5
    for activation, highest, lowest in (
        ("none", np.inf, -np.inf),
        ("relu", np.inf, 0),
        ("gelu", np.inf, 0),
        ("relu6", 6, 0),
    ):
        good = run(x, weight, bias, None, activation)
        for value, expected in ((np.nan, np.nan), (np.inf, highest), (-np.inf, lowest)):
            bad = x.copy()
            bad[0, 0, 3, 5] = value
            y = run(bad, weight, bias, None, activation)
            np.testing.assert_array_equal(np.delete(y, 3, 2), np.delete(good, 3, 2))
            np.testing.assert_array_equal(y[0, 0, 3], np.full(35, expected, "float32"))


def test_gelu_over_its_range():
    x = np.linspace(-12, 12, 4001, dtype="float32").reshape(1, 1, -1, 1)
    y = run(x, np.ones((1, 1), "float32"), np.zeros(1, "float32"), None, "gelu")
    assert np.abs(y - activated(x.astype("float64"), "gelu")).max() < 4e-7


def test_packed_weights_are_checked():
    x, weight, bias, _ = problem((1, 4, 4, 16, 24))
    check_refusals(pack(weight, (4, 4)), paddle.to_tensor(x), paddle.to_tensor(bias), HEADER)


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


@pytest.mark.parametrize("backend", ["emulated", "emulated plain"])
def test_feed_forward_of_tiles_and_vectors(backend):
    """Weights packed for different kernels: each by its own."""
    if not onednn.choose_tiles_backend(backend):
        pytest.skip("no AVX-512 BF16")
    try:
        rng = np.random.default_rng(0)
        x, biases = paddle.to_tensor(numbers(rng, 1, 4, 4, 16)), (paddle.zeros([24]), paddle.zeros([16]))
        weights = numbers(rng, 24, 16), numbers(rng, 16, 24)
        expected = None
        for forms in (("vectors", "vectors"), ("vectors", "tiles"), ("tiles", "vectors")):
            packed = []
            for form, weight in zip(forms, weights):
                onednn.choose_form(form)
                packed.append(pack(weight, (4, 4)))
            y = onednn.feed_forward(x, packed[0], biases[0], packed[1], biases[1]).numpy()
            expected = y if expected is None else expected
            assert relative_difference(y, expected) < 2e-6, forms
    finally:
        onednn.choose_tiles_backend("none")


def test_threads_of_python_share_weights():
    rng = np.random.default_rng(0)
    biases = paddle.zeros([256]), paddle.zeros([64])
    packed = [pack(numbers(rng, *shape), (9, 9)) for shape in ((256, 64), (64, 256))]
    inputs = [paddle.to_tensor(numbers(rng, 1, 9, side, 64)) for side in (3, 9, 20, 31)]

    def block(x):
        return onednn.feed_forward(x, packed[0], biases[0], packed[1], biases[1]).numpy()

    expected = [block(x) for x in inputs]

    def repeat(x, result):
        for _ in range(20):
            np.testing.assert_array_equal(block(x), result)

    with ThreadPoolExecutor(len(inputs)) as pool:
        for done in [pool.submit(repeat, *pair) for pair in zip(inputs, expected)]:
            done.result(timeout=120)


LIMITED = """
import numpy as np
import paddle
from ppreplk.ops import load_ops, onednn
from ppreplk.utils.device import set_threads

load_ops("channels_last")
onednn.choose_form("vectors")
rng = np.random.default_rng(0)
x, weight = (paddle.to_tensor(rng.standard_normal(s).astype("float32")) for s in ((1, 5, 5, 64), (96, 64, 1, 1)))
packed, bias = onednn.pack(weight, 5, 5, 1, 1), paddle.zeros([96])
results = []
for threads in (1, 5):
    set_threads(threads)
    results.append(onednn.conv(x, packed, bias, None, 1, 1, 1, "none").numpy())
expected = x.numpy() @ weight.numpy()[:, :, 0, 0].T
print("equal", np.array_equal(*results) and np.allclose(results[0], expected, atol=1e-4))
"""


def test_fewer_threads_than_were_asked_for():
    out = run_python('import os; os.environ["OMP_THREAD_LIMIT"] = "2"\n' + LIMITED)
    assert out.splitlines()[-1] == "equal True"


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
    assert ours(wide, size=(1, 1000, 1)) and not ours(wide, size=(1, 1, 1001)) and not ours(wide, size=(1, 26, 39))
    assert ours((128, 256, 1, 1, 1)) and not ours((127, 256, 1, 1, 1)) and not ours((256, 127, 1, 1, 1))
    if onednn.tiles_backend() == "none":
        assert ours(wide, "fp32-bf16x3")
        weight = paddle.to_tensor(numbers(np.random.default_rng(0), 128, 128, 1, 1))
        both = [onednn.pack(weight, 7, 7, 1, 1, precision).numpy() for precision in ("fp32", "fp32-bf16x3")]
        np.testing.assert_array_equal(*both)
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
